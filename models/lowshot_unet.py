"""A U-Net (Ronneberger et al. 2015), trained from random weights on the one outlined scan: the plain low-shot baseline.

It sees nothing else: no unlabelled scans, no photographs, no other class. Slices are deformed and their contrast is changed, as
is usual. The network is MONAI's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qnet.models.settings import UNetSettings
from qnet.util.base.shapes import expect_shape

CHANNELS = (16, 16, 32, 64, 128, 16)       # of the stages, and of the last layer
LEAST_PX = 32            # a side of a slice; a smaller one is padded
ROTATION_RAD, SCALE, SHIFT = 0.25, 0.2, 0.1          # most of each random affine map; the shift as a share of half a side
WAVE, WAVE_CELLS = 0.06, 6                           # a smooth displacement: its deviation, in half a side, on so coarse a grid
GAMMA = 0.4              # contrast: an exponent between e^−0.4 and e^0.4
NOISE = 0.05


class LowShotUNet:
    """Trains a network on an outlined scan, and segments others with it.

    Args:
        settings: of the training.
        seed: of weights and augmentation: the same scan gives the same network on the same kind of device.
        device: where it computes.
    """

    def __init__(self, settings: UNetSettings, seed: int, device: torch.device):
        self.settings, self.seed, self.device = settings, seed, device

    def trained(self, image: Tensor, classes: Tensor, n_classes: int,
                each_step: Callable[[], object] = lambda: None) -> nn.Module:
        """Return a network that is trained on an outlined scan.

        Half of each batch are slices with a class, half any slices.

        Args:
            image: (D, H, W), z-scored.
            classes: (D, H, W) int64, 0 for background, 1 … n_classes.
            each_step: called after each step.
        Raises:
            ValueError: the axes are wrong or disagree, or there is no class.
        """
        # these imports take seconds, and nothing else needs them
        from monai.losses.dice import DiceCELoss
        from monai.networks.nets.basic_unet import BasicUNet

        n = expect_shape("image", image, "D H W")
        expect_shape("classes", classes, "D H W", **n)
        held = classes.flatten(1).any(dim=1).nonzero()[:, 0]
        if not len(held):
            raise ValueError("classes: expected at least one slice with a class")
        random = torch.Generator().manual_seed(self.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = BasicUNet(2, 1, n_classes + 1, CHANNELS).to(self.device)
        loss_of = DiceCELoss(to_onehot_y=True, softmax=True)
        optimizer = torch.optim.AdamW(network.parameters(), self.settings.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, self.settings.n_steps))
        image, classes = padded(image).to(self.device), padded(classes).to(self.device)
        for _ in range(self.settings.n_steps):
            half = self.settings.batch_size // 2
            chosen = torch.cat([held[torch.randint(len(held), (self.settings.batch_size - half,), generator=random)],
                                torch.randint(n["D"], (half,), generator=random)]).to(self.device)
            slices, target = augmented(image[chosen][:, None], classes[chosen], random)
            loss = loss_of(network(slices), target[:, None])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            each_step()
        return network.eval()

    @torch.no_grad()
    def probabilities(self, network: nn.Module, image: Tensor) -> Tensor:
        """Return the (K, D, H, W) probabilities of the classes in a scan (D, H, W), z-scored; on the CPU."""
        H, W = image.shape[1:]
        slices = padded(image)[:, None].split(self.settings.batch_size)
        probs = torch.cat([network(batch.to(self.device)).softmax(dim=1).cpu() for batch in slices])
        return probs[:, 1:, :H, :W].movedim(1, 0)


def padded(slices: Tensor) -> Tensor:
    """(D, H, W) slices with at least LEAST_PX pixels a side, zeros after the last ones."""
    _, H, W = slices.shape
    return F.pad(slices, (0, max(0, LEAST_PX - W), 0, max(0, LEAST_PX - H)))


def augmented(slices: Tensor, classes: Tensor, random: torch.Generator, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return slices and their classes, both deformed in one way, and the slices with another contrast and noise.

    Args:
        slices: (B, C, H, W).
        classes: (B, H, W) whole numbers.
        strength: of the deformation and of the contrast, in ROTATION_RAD and the like.
    """
    B, C, H, W = slices.shape

    def uniform(most: float, *shape: int) -> Tensor:
        return strength * most * (2 * torch.rand(B, *shape, generator=random) - 1)

    angle, scale, shift = uniform(ROTATION_RAD), 1 + uniform(SCALE), uniform(SHIFT, 2)
    rows = torch.stack([torch.stack([scale * angle.cos(), -scale * angle.sin()], dim=1),
                        torch.stack([scale * angle.sin(), scale * angle.cos()], dim=1)], dim=1)
    places = F.affine_grid(torch.cat([rows, shift[:, :, None]], dim=2), [B, 1, H, W], align_corners=False)
    wave = strength * WAVE * torch.randn(B, 2, WAVE_CELLS, WAVE_CELLS, generator=random)
    places = places + F.interpolate(wave, size=(H, W), mode="bicubic", align_corners=False).movedim(1, -1)
    places = places.to(slices.device)
    moved = F.grid_sample(slices, places, padding_mode="border", align_corners=False)
    target = F.grid_sample(classes[:, None].float(), places, mode="nearest", align_corners=False)[:, 0].long()
    low, high = moved.amin(dim=(2, 3), keepdim=True), moved.amax(dim=(2, 3), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    gamma = uniform(GAMMA, 1, 1, 1).exp().to(slices.device)
    noise = NOISE * torch.randn(B, C, H, W, generator=random).to(slices.device)
    return low + span * ((moved - low) / span).clamp(0, 1) ** gamma + noise, target
