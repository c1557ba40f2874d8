"""A student of `guided`: a network that is trained for the scans at hand, and is one more voice in the fusion.

It learns from the outlined scan; from that scan carried over to each stepping stone, with its own contrast and with the stone's,
so that the outlines fit the image exactly (Zhao et al. 2019); and from what was found on the stones themselves. It sees slices
with both neighbours, in the box of the classes, on a grid whose spacing follows that box. The network is MONAI's.

Not every class gains by it. So it first learns from the stones alone, and is tried on the outlined scan, which it has not seen
then and whose truth is known (`tried`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from skimage.exposure import match_histograms
from torch import Tensor, nn

from qnet.models.carrying import MILD, UNSURE, RegistrationModel, voice_share
from qnet.models.contents import CONTENT_LEVEL
from qnet.models.guided import AMPLITUDES, LEAST_GAIN, SMOOTH_FIELD, Trial, dice, displaced, smooth_field
from qnet.models.lowshot_unet import CHANNELS, LEAST_PX, augmented
from qnet.models.registration import PreparedScan
from qnet.models.sampling import column, grid_mm, sample, spacing_over
from qnet.models.settings import StudentSettings
from qnet.models.volume import STUDENT, Box, Outlines, Support, Voice, corners, region, soft_dice

N_POINTS = 500_000       # of the grid over the classes of the outlined scan; none is finer than its voxels
THICK = 1.5              # slices lie along the axis whose voxels are so many times as long as those along D, if there is one
OUTLINED, CARRIED, FOUND = "outlined", "carried", "found"
SHARES = {OUTLINED: 0.15, CARRIED: 0.45, FOUND: 0.4}      # of the slices of a batch, by where their outlines come from
HOLDING = 0.7            # of the slices hold a class; the others are any slices
ALONE = 1 / 3            # of the steps: on the stones alone, before it is tried
STRENGTH = 0.6           # of the augmentation, in that of the U-Net that has nothing but one scan
SHADE, SHADE_CELLS = 0.1, 4        # deviation of what is added to the brightness, on so coarse a grid
FIELD_SEED = 1           # of the field that displaces the truth; `qnet.models.guided.tried` takes another


class Slicing(NamedTuple):
    """How scans are cut into slices for the network.

    Attributes:
        axis: along which the slices lie, 0 to 2.
        spacing_mm: of the grid, (D, H, W).
    """

    axis: int
    spacing_mm: tuple[float, float, float]

    @classmethod
    def of(cls, support: Support) -> Slicing:
        """Return that for the scans of a support."""
        (low, high), voxel_mm = support.around, support.scan.spacing_mm
        d, h, w = spacing_over((high - low).double().cpu(), torch.tensor(voxel_mm, dtype=torch.float64), N_POINTS).tolist()
        longest = max(voxel_mm)
        return cls(voxel_mm.index(longest) if longest > THICK * voxel_mm[0] else 0, (d, h, w))

    def shape(self, box: Box) -> list[int]:
        """Return the size (D, H, W) of the grid over a box; in the plane of the slices, at least LEAST_PX."""
        sizes = [max(1, round(extent / mm)) for extent, mm in zip((box[1] - box[0]).tolist(), self.spacing_mm, strict=True)]
        return [n if axis == self.axis else max(LEAST_PX, n) for axis, n in enumerate(sizes)]

    def first(self, box: Box, shape: Sequence[int]) -> list[float]:
        """Return the place of the first point, in mm, of a grid of a size whose middle is that of a box."""
        middle = ((box[0] + box[1]) / 2).tolist()
        return [of_box - mm * (n - 1) / 2 for of_box, mm, n in zip(middle, self.spacing_mm, shape, strict=True)]

    def points(self, box: Box, shape: Sequence[int], device: torch.device) -> Tensor:
        """Return the (3, d, h, w) places of its points, in mm."""
        return grid_mm(shape, self.spacing_mm, device) + column(self.first(box, shape), torch.empty(0), device)

    def cut(self, maps: Tensor) -> Tensor:
        """Return (C, d, h, w) maps on the grid as slices, (n, C, …)."""
        return maps.movedim(self.axis + 1, 0)

    def joined(self, slices: Tensor) -> Tensor:
        """Return what `cut` was given."""
        return slices.movedim(0, self.axis + 1)


@dataclass(frozen=True)
class Lesson:
    """A scan on the grid, with outlines.

    Attributes:
        kind: OUTLINED, CARRIED or FOUND.
        slices: (n, C, h, w), with mean 0 and deviation 1 over the contents of the scan.
        classes: (n, h, w) uint8, 0 for background, 1 … K.
        weights: (K + 1,) of the classes in the loss: how far each is to be trusted.
    """

    kind: str
    slices: Tensor
    classes: Tensor
    weights: Tensor


@torch.no_grad()
def lessons_of(support: Support, stones: Sequence[Outlines], slicing: Slicing) -> list[Lesson]:
    """Return what there is to learn from: three lessons for each stone, and one of the outlined scan.

    Args:
        stones: what was found on them, with the zoomed registration from each to the support.
    """
    boxes = [support.around, *(corners(stone.scan, stone.box) for stone in stones)]
    shapes = torch.tensor([slicing.shape(box) for box in boxes])
    plane = shapes.amax(dim=0)      # all slices have one size, so that they make up batches

    def grid(k: int) -> Tensor:
        sizes = [int(shapes[k][axis] if axis == slicing.axis else plane[axis]) for axis in range(3)]
        return slicing.points(boxes[k], sizes, support.scan.image.device)

    certain = torch.ones(1 + len(support.masks), device=support.scan.image.device)
    points = grid(0)
    lessons = [_lesson(OUTLINED, _at(support.scan, points), support.scan, support.outlines.at(points), certain, slicing)]
    for k, stone in enumerate(stones, start=1):
        points = grid(k)
        zoomed, = stone.chain
        places, image = zoomed.places(points), _at(stone.scan, points)
        carried, maps = _at(support.scan, places), support.outlines.at(places)
        trusted = 1 - UNSURE * (1 - soft_dice(support.outlines.at(zoomed.wide.places(points)), maps))
        lessons += [_lesson(CARRIED, carried, support.scan, maps, certain, slicing),
                    _lesson(CARRIED, restyled(carried, image), stone.scan, maps, certain, slicing),
                    _lesson(FOUND, image, stone.scan, stone.at(points), torch.cat([certain[:1], trusted.clamp(0, 1)]), slicing)]
    return lessons


def _at(scan: PreparedScan, places: Tensor) -> Tensor:
    """(C, …) channels of a scan at places in mm; outside of it, those of its edge."""
    return sample(scan.images, places / column(scan.spacing_mm, places), "border")


def _lesson(kind: str, images: Tensor, scan: PreparedScan, maps: Tensor, weights: Tensor, slicing: Slicing) -> Lesson:
    best, which = maps.max(dim=0)
    classes = torch.where(best > 0.5, which + 1, 0).byte()
    return Lesson(kind, slicing.cut(as_in(scan, images)).contiguous(), slicing.cut(classes[None])[:, 0].contiguous(), weights)


def as_in(scan: PreparedScan, images: Tensor) -> Tensor:
    """(C, …) images, 0 to 1, less the mean and over the deviation of the contents of a scan, channel by channel."""
    content = scan.contents if scan.contents.sum() > 1 else torch.ones_like(scan.contents)
    inside = scan.images[:, content]
    mean, deviation = inside.mean(dim=1), inside.std(dim=1, correction=0).clamp_min(1e-6)
    return (images - mean.view(-1, 1, 1, 1)) / deviation.view(-1, 1, 1, 1)


def restyled(images: Tensor, other: Tensor) -> Tensor:
    """(C, …) images whose contents have the histogram of the contents of others, channel by channel."""
    result = images.clone()
    for of_result, of_other in zip(result, other, strict=True):
        here, there = of_result > CONTENT_LEVEL, of_other > CONTENT_LEVEL
        if here.any() and there.any():
            matched = match_histograms(of_result[here].cpu().numpy(), of_other[there].cpu().numpy())
            of_result[here] = torch.from_numpy(matched).to(of_result)
    return result


class Training:
    """The training of a network, which can be interrupted: with the `state` of another of the same, it ends the same.

    The first steps, `n_alone`, are on what was found on the stones alone. Then all lessons follow. Each part has a learning rate
    that falls to 0 by a cosine.

    Args:
        lessons: of `lessons_of`.
        seed: of weights, choice and augmentation.
    """

    def __init__(self, lessons: Sequence[Lesson], settings: StudentSettings, seed: int):
        # this import takes seconds, and nothing else needs it
        from monai.networks.nets.basic_unet import BasicUNet

        self.lessons, self.settings, self.n_done = lessons, settings, 0
        self.n_alone = round(ALONE * settings.n_steps)
        device = lessons[0].slices.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network: nn.Module = BasicUNet(2, 3 * lessons[0].slices.shape[1], len(lessons[0].weights), CHANNELS).to(device)
        self.random = torch.Generator().manual_seed(seed)
        self._begin(self.n_alone)

    def _begin(self, n_steps: int) -> None:
        self.optimizer = torch.optim.AdamW(self.network.parameters(), self.settings.lr)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, max(1, n_steps))

    @torch.enable_grad()
    def step(self) -> None:
        """Do one step."""
        if self.n_done == self.n_alone:
            self._begin(self.settings.n_steps - self.n_alone)
        self.network.train()
        slices, target, weights = self._batch()
        loss = loss_of(self.network(slices), target, weights)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        self.n_done += 1

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return augmented slices (B, 3 C, H, W), their classes (B, H, W), and the weights (B, K + 1) of the classes."""
        kinds = [FOUND] if self.n_done < self.n_alone else list(SHARES)
        chosen = torch.multinomial(torch.tensor([SHARES[kind] for kind in kinds]), self.settings.batch_size, True,
                                   generator=self.random)
        lessons = [self._any([lesson for lesson in self.lessons if lesson.kind == kinds[k]]) for k in chosen.tolist()]
        positions = [self._slice_of(lesson) for lesson in lessons]
        slices = torch.stack([neighbours(lesson.slices, z) for lesson, z in zip(lessons, positions, strict=True)])
        classes = torch.stack([lesson.classes[z] for lesson, z in zip(lessons, positions, strict=True)])
        slices, target = augmented(slices, classes, self.random, STRENGTH)
        return shaded(slices, self.random), target, torch.stack([lesson.weights for lesson in lessons])

    def _slice_of(self, lesson: Lesson) -> int:
        held = lesson.classes.flatten(1).any(dim=1).nonzero()[:, 0].tolist()
        holding = float(torch.rand((), generator=self.random)) < HOLDING
        return self._any(held if held and holding else range(len(lesson.classes)))

    def _any(self, among: Sequence[Any]) -> Any:
        return among[int(torch.randint(len(among), (), generator=self.random))]

    def state(self) -> dict[str, Any]:
        """Return all that the next steps depend on besides the arguments, in types that `torch.load(weights_only=True)` reads."""
        return {"n_done": self.n_done, "network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(), "random": self.random.get_state()}

    def go_on(self, state: dict[str, Any]) -> None:
        """Take a `state`."""
        self.n_done = state["n_done"]
        for part in ("network", "optimizer", "schedule"):
            getattr(self, part).load_state_dict(state[part])
        self.random.set_state(state["random"])


def neighbours(slices: Tensor, z: int) -> Tensor:
    """(3 C, h, w): a slice of (n, C, h, w) between its neighbours; the first and the last one are their own."""
    return torch.cat([slices[max(0, z - 1)], slices[z], slices[min(len(slices) - 1, z + 1)]])


def shaded(slices: Tensor, random: torch.Generator) -> Tensor:
    """Slices (B, C, H, W) with another brightness, which differs smoothly from place to place, as coils make it."""
    shade = SHADE * torch.randn(len(slices), 1, SHADE_CELLS, SHADE_CELLS, generator=random)
    return slices + F.interpolate(shade, size=slices.shape[-2:], mode="bicubic", align_corners=False).to(slices)


def loss_of(logits: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy, and 1 less the mean soft Dice of the classes over a batch; each pixel counts as far as its class is trusted.

    Args:
        logits: (B, K + 1, H, W).
        target: (B, H, W) int64.
        weights: (B, K + 1).
    """
    by_pixel = weights.gather(1, target.flatten(1)).view_as(target)
    entropy = (F.cross_entropy(logits, target, reduction="none") * by_pixel).mean()
    truth = F.one_hot(target, logits.shape[1]).movedim(-1, 1) * by_pixel[:, None]
    probs = logits.softmax(dim=1) * by_pixel[:, None]
    shared, total = ((maps.sum(dim=(0, 2, 3)))[1:] for maps in (probs * truth, probs + truth))
    return entropy + 1 - ((2 * shared + 1) / (total + 1)).mean()


@dataclass(frozen=True)
class Student:
    """A network that was trained for the scans of a support.

    Attributes:
        network: takes slices with their neighbours.
        slicing: how scans are cut into them.
        trials: of each class, what its voice did to displaced truths (`tried`).
        share: of its voice, 0 to 1.
    """

    network: nn.Module
    slicing: Slicing
    trials: Sequence[Sequence[Trial]]
    share: float

    def voice(self, scan: PreparedScan, box: Box, batch_size: int) -> Voice:
        """Return what it says in a box of a scan."""
        maps = probabilities(self.network, self.slicing, scan, box, batch_size)
        return Voice(maps.mul(255).round().byte(), self.trials, self.share)


@torch.no_grad()
def probabilities(network: nn.Module, slicing: Slicing, scan: PreparedScan, box: Box, batch_size: int) -> Tensor:
    """Return the (K, d, h, w) probabilities of the classes in the voxels of a box of a scan (`region`)."""
    network.eval()
    voxels, points = region(scan, box)
    around = corners(scan, voxels)
    shape = slicing.shape(around)
    slices = slicing.cut(as_in(scan, _at(scan, slicing.points(around, shape, points.device))))
    batches = torch.arange(len(slices)).split(batch_size)
    probs = torch.cat([network(torch.stack([neighbours(slices, z) for z in batch.tolist()])).softmax(dim=1)[:, 1:]
                       for batch in batches])
    index = (points - column(slicing.first(around, shape), points)) / column(slicing.spacing_mm, points)
    return sample(slicing.joined(probs), index, "border").clamp(0, 1)


@torch.no_grad()
def tried(model: RegistrationModel, support: Support, probs: Tensor, share: float) -> list[list[Trial]]:
    """Mix a student's voice with displaced truths on the outlined scan, whose borders are drawn anew first, as on a query.

    Args:
        probs: (K, d, h, w) of a student that has not seen the scan, in the box `support.around`.
        share: of its voice.
    Returns:
        For each class a trial for each of `AMPLITUDES`.
    """
    scan = support.scan
    voxels, _ = region(scan, support.around)
    truth = support.masks[(slice(None), *voxels)]
    field = smooth_field(truth.shape[1:], scan.spacing_mm, SMOOTH_FIELD * scan.wide_mm, FIELD_SEED).to(probs)
    trials: list[list[Trial]] = [[] for _ in truth]
    for amplitude in AMPLITUDES:
        moved = torch.stack([displaced(mask, scan.spacing_mm, amplitude * scan.wide_mm * field) for mask in truth])
        before = dices(moved, truth)
        drawn, _ = model.drawn(scan, moved, before, [support], voxels, MILD)
        shares = [voice_share(said, of_class, share, at)
                  for said, of_class, at in zip(probs, drawn, before.tolist(), strict=True)]
        by_class = torch.tensor(shares, device=drawn.device).view(-1, 1, 1, 1)
        gains = dices((1 - by_class) * drawn + by_class * probs, truth) - dices(drawn, truth)
        for of_class, at, gained in zip(trials, before.tolist(), gains.tolist(), strict=True):
            of_class.append(Trial(at, {STUDENT: gained}))
    return trials


def dices(probs: Tensor, truth: Tensor) -> Tensor:
    """Dice (K,) of (K, d, h, w) maps above ½ with masks; 1 where both are empty."""
    return torch.tensor([dice(of_class > 0.5, mask) for of_class, mask in zip(probs, truth, strict=True)], device=probs.device)


def gains_anywhere(trials: Sequence[Sequence[Trial]]) -> bool:
    """Return whether there is a class that gained, at some Dice."""
    return any(trial.gains[STUDENT] > LEAST_GAIN for of_class in trials for trial in of_class)


def lessons_sha256(lessons: Sequence[Lesson]) -> str:
    """Return a checksum of lessons."""
    found = hashlib.sha256()
    for lesson in lessons:
        found.update(lesson.kind.encode())
        for tensor in (lesson.slices, lesson.classes, lesson.weights):
            found.update(repr(tuple(tensor.shape)).encode())
            found.update(tensor.cpu().numpy().tobytes())
    return found.hexdigest()
