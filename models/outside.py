"""A door for networks from elsewhere: support slices, their masks and a query slice go in, a soft mask comes out.

Whatever fits this door is evaluated by the same protocol as the methods here. Nothing of it is trained here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qnet.models.base import FewShotModel
from qnet.models.encoder import Features
from qnet.util.base.errors import InputError
from qnet.util.base.shapes import expect_shape

Network = Callable[[Tensor, Tensor, Tensor], Tensor]


class Support(NamedTuple):
    """The support of one episode: (S, H, W) images, z-scored over their volumes, and (S, H, W) masks of 0 and 1."""

    images: Tensor
    masks: Tensor


class OutsideModel(FewShotModel):
    """A method whose features are the images themselves, and whose prototypes are the support slices with their masks.

    Args:
        network: takes (S, H, W) support images, z-scored over their volumes, (S, H, W) masks of 0 and 1, and an (H, W) query
            image; returns the (H, W) probability of foreground, or a mask of 0 and 1. All are on the device of the run. If it is
            an nn.Module, it is moved there, too, and put into evaluation mode.
    """

    def __init__(self, network: Network):
        super().__init__(nn.Identity(), background_weight=1.0, ignore_label=255)      # of losses, which it has not
        self.network = network if isinstance(network, nn.Module) else _Shared(network)

    def encode(self, images: Tensor) -> Features:
        """Return (B, 1, H, W) grey images of (B, 3, H, W) images.

        Raises:
            ValueError: the axes are wrong.
        """
        size = expect_shape("images", images, "B C H W", C=3)
        return Features((images[:, :1],), None, (size["H"], size["W"]))

    def prototypes(self, support_features: Features, support_masks: Tensor) -> list[Support]:
        """Return one Support for each of B episodes.

        Args:
            support_features: of B·S support slices.
            support_masks: (B, S, H, W) of 0 and 1.
        Raises:
            ValueError: the axes are wrong, or features and masks disagree on the number of slices.
        """
        n = expect_shape("support_masks", support_masks, "B S H W")
        images = support_features.maps[0][:, 0]
        expect_shape("support_features", images, "N H W", N=n["B"] * n["S"], H=n["H"], W=n["W"])
        return [Support(*of_one) for of_one in zip(images.unflatten(0, (n["B"], n["S"])), support_masks, strict=True)]

    def segment(self, query_features: Features, prototypes: list[Support]) -> Tensor:
        """Return the (B, 2, H, W) soft mask [1 − P, P] of B query slices, one after the other.

        Raises:
            ValueError: there are neither B supports nor one.
            InputError: the network returns no probabilities of an image's shape.
        """
        images = query_features.maps[0][:, 0]
        supports = prototypes * len(images) if len(prototypes) == 1 else prototypes
        found = [_checked(self.network(*support, image), image) for support, image in zip(supports, images, strict=True)]
        foreground = torch.stack(found)
        return torch.stack([1 - foreground, foreground], dim=1)


class _Shared:
    """A callable that copies of the model share: nobody knows whether it can be copied."""

    def __init__(self, network: Network):
        self.network = network

    def __call__(self, *arguments: Tensor) -> Tensor:
        return self.network(*arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


def _checked(found: Any, image: Tensor) -> Tensor:
    """Return what a network returned as float32 on the image's device.

    Raises:
        InputError: it is of another shape, or not in 0 to 1.
    """
    found = torch.as_tensor(found, device=image.device).to(torch.float32)
    if found.shape != image.shape:
        raise InputError(f"outside.network: it returned shape {tuple(found.shape)}, allowed: {tuple(image.shape)}")
    if not ((found >= 0) & (found <= 1)).all():
        low, high = found.min().item(), found.max().item()
        raise InputError(f"outside.network: it returned values from {low:g} to {high:g}, allowed: probabilities, or a mask")
    return found


class UniverSeg(nn.Module):
    """UniverSeg (Butoi et al. 2023, arXiv 2304.06131) behind the door: 128×128 pixels, intensities from 0 to 1 in each slice.

    Args:
        network: of the package `universeg`: takes (B, 1, h, w) images, (B, S, 1, h, w) support images and (B, S, 1, h, w) masks,
            and returns (B, 1, h, w) logits.
    """

    SIDE_PX = 128

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, support_images: Tensor, support_masks: Tensor, query_image: Tensor) -> Tensor:
        """Return the (H, W) probability of foreground. OutsideModel explains the arguments."""
        images = scaled(self._small(torch.cat([support_images, query_image[None]])))             # (S + 1, h, w)
        masks = (self._small(support_masks.float()) > 0.5).float()
        logits = self.network(images[None, -1:], images[None, :-1, None], masks[None, :, None])  # (1, 1, h, w)
        return F.interpolate(logits, size=query_image.shape, mode="bilinear", align_corners=False)[0, 0].sigmoid()

    def _small(self, images: Tensor) -> Tensor:
        """Resize (N, H, W) images to (N, h, w)."""
        size = (self.SIDE_PX, self.SIDE_PX)
        return F.interpolate(images[:, None], size=size, mode="bilinear", align_corners=False, antialias=True)[:, 0]


def scaled(images: Tensor) -> Tensor:
    """Return (N, H, W) images, each from 0 to 1; zeros for a constant one."""
    low, high = (reduce(images, dim=(1, 2), keepdim=True) for reduce in (torch.amin, torch.amax))
    return (images - low) / (high - low).clamp_min(1e-6)
