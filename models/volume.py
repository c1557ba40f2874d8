"""What the methods share that segment whole volumes and need no training: registration, guided."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qnet.models.guided import Trial
from qnet.models.registration import ZOOM_MARGIN, ZOOM_MARGIN_CELLS, PreparedScan, Registration
from qnet.models.sampling import bounds_of, column, grid_mm, margin_box, sample
from qnet.util.base.shapes import expect_shape

Box = tuple[Tensor, Tensor]      # lower and upper corner (3,) in mm
STUDENT = "student"              # what trials of a Voice are called, and borders where it counted
PRESENT = 0.1                    # a class may be where its carried map is above this


@dataclass(frozen=True)
class Outlines:
    """Maps of K classes on a scan, to be carried over to others: the outlined scan's, or those that were found on a stone.

    Args:
        scan: the scan.
        maps: (K, d, h, w) uint8, 255 inside, in a box of it.
        box: the voxels of the box.
        chain: the registration from this scan to the outlined one; empty for that one itself.
    """

    scan: PreparedScan
    maps: Tensor
    box: tuple[slice, slice, slice]
    chain: tuple[Registration, ...] = ()

    def of_classes(self, which: Sequence[int]) -> Outlines:
        """Return the outlines of some of the classes, given by their positions."""
        return replace(self, maps=self.maps[list(which)])

    def at(self, places: Tensor) -> Tensor:
        """Return the maps, (K, …) of 0 to 1, at (3, …) places in mm; 0 outside the box."""
        first = column([of_axis.start for of_axis in self.box], places)
        return sample(self.maps.float() / 255, places / column(self.scan.spacing_mm, places) - first)


@dataclass(frozen=True)
class Support:
    """An outlined scan.

    Args:
        scan: the scan.
        masks: (K, D, H, W) bool.
        outlines: the masks, in a box around them.
        trials: of each class, what drawing its border does to displaced truths (`qnet.models.guided.tried`).
        thickness_mm: of each class (`qnet.models.guided.thickness_mm`).
    """

    scan: PreparedScan
    masks: Tensor
    outlines: Outlines
    trials: Sequence[Sequence[Trial]]
    thickness_mm: Sequence[float]

    def of_classes(self, which: Sequence[int]) -> Support:
        """Return the support with some of its classes, given by their positions."""
        return Support(self.scan, self.masks[list(which)], self.outlines.of_classes(which), [self.trials[k] for k in which],
                       [self.thickness_mm[k] for k in which])

    @cached_property
    def around(self) -> Box:
        """The box around its classes into which registrations to it are zoomed."""
        D, H, W = self.scan.image.shape
        affine = torch.eye(3, 4, device=self.scan.image.device)
        itself = Registration(affine, (), (self.scan.wide_mm,) * 3, (1.0,), (D, H, W), self.scan.spacing_mm, self.scan.spacing_mm)
        box = box_of(self.scan, [Route(self.outlines, itself)], 0.0)
        assert box is not None      # no class is empty
        return box


class Route(NamedTuple):
    """A route by which outlines reach a query: outlines, and the registration from the query to their scan, wide or zoomed."""

    outlines: Outlines
    registration: Registration

    def places(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(3, …) places in the scan of the outlines and in the outlined scan, of points in the query."""
        places = self.registration.places(points)
        of_support = places
        for registration in self.outlines.chain:
            of_support = registration.places(of_support)
        return places, of_support


class Voice(NamedTuple):
    """What a network that was trained for a support says of a query (`qnet.models.student`).

    Args:
        maps: (K, d, h, w) uint8 of 0 to 255, in the box of the query.
        trials: of each class, what the voice did to displaced truths on the outlined scan; it is heard where it gained.
        share: of the voice, where it is heard, 0 to 1.
    """

    maps: Tensor
    trials: Sequence[Sequence[Trial]]
    share: float

    def of_classes(self, which: Sequence[int]) -> Voice:
        """Return the same of some of the classes, given by their positions."""
        return Voice(self.maps[list(which)], [self.trials[k] for k in which], self.share)


class Guide(NamedTuple):
    """A support, the routes by which its outlines reach a query, and the registration back.

    Args:
        routes: with registrations that are zoomed into a box of the query; the direct one comes first.
        back: from the support to the query, zoomed into the support's classes; it tells how far to trust the outlines.
        voice: of a network that was trained for the support, in the same box; None if there is none.
    """

    support: Support
    routes: Sequence[Route]
    back: Registration
    voice: Voice | None = None

    def of_classes(self, which: Sequence[int]) -> Guide:
        """Return the same with some of the classes, given by their positions."""
        support, voice = self.support.of_classes(which), None if self.voice is None else self.voice.of_classes(which)
        routes = [Route(route.outlines.of_classes(which), route.registration) for route in self.routes]
        return Guide(support, routes, self.back, voice)


@dataclass(frozen=True)
class VolumeSegmentation:
    """What is found of K classes in a query volume.

    Attributes:
        probs: (K, D, H, W) probability of each class.
        registered: (K, D, H, W) probabilities carried over from the support.
        confidence: (K,) expected Dice, 0 to 1; 0 for a class of which nothing is left.
        warped: (D, H, W) image of the support (its first channel), carried over to the query, 0…1.
        borders: of each class, how its border was drawn.
        evidence: (K, …) the numbers that the confidence is made of, `qnet.models.confidence.EVIDENCE`.
    """

    probs: Tensor
    registered: Tensor
    confidence: Tensor
    warped: Tensor
    borders: tuple[str, ...]
    evidence: Tensor


class VolumeModel(nn.Module, ABC):
    """A method that segments a query volume from one or several support volumes. It has no weights that are trained.

    The support's outlines reach the query by one or several routes: the direct one, from the query to the support, and others
    over stepping stones, which are unlabelled scans (Wolz et al. 2010; Chakravarty et al. 2013). Each registration is made twice:
    wide, over all contents of the query, and then zoomed, in a box around what the wide ones carried over.
    """

    @abstractmethod
    def prepared(self, volume: Tensor, spacing_mm: Sequence[float]) -> PreparedScan:
        """Return a scan that can be registered. Axes of all scans run the same anatomical way; sizes are free.

        Args:
            volume: (D, H, W), of any intensity range; or (C, D, H, W), its channels.
            spacing_mm: (z, y, x).
        Raises:
            ValueError: the axes are wrong, the volume is empty or not finite, or a spacing is not positive.
        """

    @abstractmethod
    def support(self, scan: PreparedScan, masks: Tensor) -> Support:
        """Return an outlined scan.

        Args:
            masks: (K, D, H, W) of 0 and 1. None of them is empty.
        Raises:
            ValueError: the axes are wrong, or a mask is empty.
        """

    @abstractmethod
    def on_stone(self, stone: PreparedScan, support: Support, found: Registration) -> Outlines | None:
        """Outline a stepping stone, from which the outlines are carried on; None if no class reaches it.

        Args:
            found: the wide registration from the stone to the support.
        """

    @abstractmethod
    def box(self, scan: PreparedScan, routes: Sequence[Route]) -> Box | None:
        """Return the box of a scan, with a margin, that holds all classes that routes carry there; None if there are none."""

    @abstractmethod
    def back(self, query: PreparedScan, support: Support) -> Registration:
        """Return the registration from a support to a query, zoomed into the support's classes: the registration back."""

    @abstractmethod
    def segment(self, query: PreparedScan, guides: Sequence[Guide], box: Box) -> VolumeSegmentation:
        """Segment a query from a support, or from several together.

        Args:
            guides: one for each support. All hold the same classes in the same order.
            box: of the query, which holds all classes.
        Raises:
            ValueError: there is no guide, or one without a route.
        """


def outlines_of(scan: PreparedScan, masks: Tensor) -> Outlines:
    """Return the outlines of an outlined scan. ValueError: the axes are wrong, or a mask is empty."""
    n = expect_shape("masks", masks, "K D H W", **dict(zip("DHW", scan.image.shape, strict=True)))
    if not n["K"] or not masks.flatten(1).any(dim=1).all():
        raise ValueError("masks: expected at least one class, and no empty one")
    spans = bounds_of(masks.any(dim=0))
    assert spans is not None
    box = margin_box(spans, scan.spacing_mm, scan.spacing_mm, scan.image.shape)
    return Outlines(scan, masks[(slice(None), *box)].byte() * 255, box)


def region(scan: PreparedScan, box: Box) -> tuple[tuple[slice, slice, slice], Tensor]:
    """Return the voxels of a scan in a box, and their (3, d, h, w) positions in mm."""
    spans = []
    for low, high, spacing, n in zip(box[0].tolist(), box[1].tolist(), scan.spacing_mm, scan.image.shape, strict=True):
        first = min(max(0, round(low / spacing)), n - 1)
        spans.append(slice(first, max(first + 1, min(n, round(high / spacing) + 1))))
    d, h, w = spans
    return (d, h, w), points_of(scan, (d, h, w))


def points_of(scan: PreparedScan, voxels: tuple[slice, slice, slice]) -> Tensor:
    """Return the (3, d, h, w) positions in mm of the voxels in a box of a scan."""
    points = grid_mm([of_axis.stop - of_axis.start for of_axis in voxels], scan.spacing_mm, scan.image.device)
    return points + column([of_axis.start * mm for of_axis, mm in zip(voxels, scan.spacing_mm, strict=True)], points)


def corners(scan: PreparedScan, voxels: tuple[slice, slice, slice]) -> Box:
    """Return the box, in mm, around the voxels in a box of a scan."""
    spacing = torch.tensor(scan.spacing_mm)
    low, high = (torch.tensor(ends) - 0.5 for ends in zip(*((of_axis.start, of_axis.stop) for of_axis in voxels), strict=True))
    return low * spacing, high * spacing


def box_of(scan: PreparedScan, routes: Sequence[Route], power: float) -> Box | None:
    """Return the box of a scan, with a margin, to which the classes are carried by some routes; None if they are carried nowhere.

    Every second voxel is looked at, and the classes are taken a voxel larger.
    """
    steps = [2 if n > 8 else 1 for n in scan.image.shape]
    spacing = [mm * step for mm, step in zip(scan.spacing_mm, steps, strict=True)]
    points = grid_mm([-(-n // step) for n, step in zip(scan.image.shape, steps, strict=True)], spacing, scan.image.device)
    maps = []
    for route in routes:
        anywhere = F.max_pool3d(route.outlines.maps.amax(dim=0)[None].float(), 3, stride=1, padding=1).byte()
        grown = Outlines(route.outlines.scan, anywhere, route.outlines.box)
        maps.append(grown.at(route.registration.places(points)))
    spans = bounds_of(fuse(maps, power)[0] > PRESENT)
    if spans is None:
        return None
    low, high = ((torch.tensor(ends) - 0.5) * torch.tensor(spacing) for ends in zip(*spans, strict=True))
    margin = ZOOM_MARGIN * (high - low) + ZOOM_MARGIN_CELLS * torch.tensor(routes[0].registration.spacing_mm)
    edge = torch.tensor(scan.spacing_mm) / 2
    field = torch.tensor(scan.image.shape) * torch.tensor(scan.spacing_mm) - edge
    return torch.maximum(low - margin, -edge), torch.minimum(high + margin, field)


def join_boxes(boxes: Sequence[Box]) -> Box:
    """Return the box around some boxes."""
    lows, highs = zip(*boxes, strict=True)
    return torch.stack(lows).amin(dim=0), torch.stack(highs).amax(dim=0)


def fuse(maps: Sequence[Tensor], power: float, n_rounds: int = 3,
         local: Sequence[Tensor] | None = None) -> Tensor:
    """Return the mean of several (K, D, H, W) maps of the same classes, those that agree with the others counting more.

    The weight of a map, for each class, is its soft Dice with the mean so far to the power `power`. That leaves out what a
    registration that failed says, as in SIMPLE (Langerak et al. 2010), without a threshold. It is taken at half the resolution
    in the plane. Power 0 gives the plain mean.

    Args:
        maps: of 0 to 1, or uint8 of 0 to 255.
        local: (D, H, W) further weights of the voxels of each map, above 0.
    """
    if len(maps) == 1:
        return _unit(maps[0])
    small = torch.stack([F.avg_pool3d(_unit(of_one), (1, 2, 2), ceil_mode=True) for of_one in maps])
    weights = torch.full(small.shape[:2], 1 / len(maps), device=small.device)
    for _ in range(n_rounds if power else 0):
        weights = soft_dice(small, torch.einsum("nk,nkdhw->kdhw", weights, small)) ** power
        weights = weights / weights.sum(dim=0)
    mean, total = (torch.zeros_like(maps[0], dtype=torch.float32) for _ in range(2))
    for k, (of_one, weight) in enumerate(zip(maps, weights, strict=True)):
        by_voxel = weight.view(-1, 1, 1, 1) if local is None else weight.view(-1, 1, 1, 1) * local[k].float()
        mean += by_voxel * _unit(of_one)
        total += by_voxel
    return mean / total


def _unit(maps: Tensor) -> Tensor:
    """Maps as float32 of 0 to 1."""
    return maps.float() / 255 if maps.dtype == torch.uint8 else maps.float()


def soft_dice(maps: Tensor, other: Tensor) -> Tensor:
    """Soft Dice of (…, D, H, W) maps with others: twice the sum of the smaller over the sum of both; 1 where both are empty."""
    shared = torch.minimum(maps, other).sum((-3, -2, -1))
    return (2 * shared + 1) / (maps.sum((-3, -2, -1)) + other.sum((-3, -2, -1)) + 1)
