"""Positions, grids and trilinear sampling in volumes. Positions are in mm: index × spacing, along (D, H, W)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_CELLS = 3                     # along each axis; the smoothing of displacements needs them


class WorkingGrid:
    """A grid of about `n_points` over a box, in whole cells, on which scans are compared.

    Its spacing follows the box. No axis is finer than `finest` voxels of the scan: an axis of thick slices keeps a coarser
    spacing, and the others share out the points that this saves.

    Args:
        low, high: corners of the box in mm, (3,) each.
        voxel_mm: the scan's spacing (D, H, W).
        cell: voxels of the grid that make a cell, along each axis; a multiple of 4.
    """

    def __init__(self, low: Tensor, high: Tensor, voxel_mm: Sequence[float], n_points: int, finest: float, cell: int,
                 device: torch.device):
        low, high = low.double().cpu(), high.double().cpu()
        self.spacing = spacing_over(high - low, finest * torch.tensor(tuple(voxel_mm), dtype=torch.float64), n_points)
        cells = ((high - low) / self.spacing / cell - 0.15).ceil().clamp_min(MIN_CELLS)
        d, h, w = (int(n) * cell for n in cells)
        self.shape = d, h, w
        self.origin = (low + high) / 2 - self.spacing * (torch.tensor(self.shape) - 1) / 2
        self.points = grid_mm(self.shape, self.spacing.tolist(), device) + column(self.origin.tolist(), self.spacing, device)


def spacing_over(extent_mm: Tensor, finest_mm: Tensor, n_points: int) -> Tensor:
    """Return the spacing (3,) of a grid of `n_points` over a box: equal along the axes, but none finer than `finest_mm`."""
    free = torch.ones(3, dtype=torch.bool)
    spacing = finest_mm.clone()
    while free.any():
        taken = (extent_mm[~free] / finest_mm[~free]).prod()
        equal = (extent_mm[free].prod() * taken / n_points) ** (1 / int(free.sum()))
        spacing[free] = finest_mm[free].clamp_min(equal)
        fixed = free & (finest_mm > equal)
        if not fixed.any():
            break
        free &= ~fixed
    return spacing


def grid_mm(shape: Sequence[int], spacing_mm: Sequence[float], device: torch.device | None = None) -> Tensor:
    """(3, D, H, W) positions index × spacing."""
    axes = [torch.arange(n, device=device, dtype=torch.float32) * s for n, s in zip(shape, spacing_mm, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def column(values: Sequence[float], like: Tensor, device: torch.device | None = None) -> Tensor:
    """Return three numbers as (3, 1, 1, 1), on the device of a tensor or on a given one."""
    return torch.tensor(tuple(map(float, values)), device=device or like.device).view(3, 1, 1, 1)


def mapped(affine: Tensor, points: Tensor) -> Tensor:
    """Apply a (3, 4) affine map to (3, D, H, W) positions."""
    affine = affine.to(points)
    return torch.einsum("ij,jdhw->idhw", affine[:, :3], points) + affine[:, 3].view(3, 1, 1, 1)


def sample(maps: Tensor, index: Tensor, padding_mode: str = "zeros") -> Tensor:
    """Trilinear values of (K, D, H, W) maps at (3, …) voxel indices: (K, …)."""
    size = column(maps.shape[1:], index)
    points = ((2 * index + 1) / size - 1).flip(0).movedim(0, -1)
    return grid_sample(maps[None], points[None], padding_mode)[0]


def grid_sample(maps: Tensor, points: Tensor, padding_mode: str = "zeros") -> Tensor:
    """`F.grid_sample` of (1, K, D, H, W) maps at (1, d, h, w, 3) points: (1, K, d, h, w).

    Slices are given as a batch, since on a CPU each sample of a batch gets one thread.
    """
    by_slice = F.grid_sample(maps.expand(points.shape[1], -1, -1, -1, -1), points[0, :, None], padding_mode=padding_mode,
                             align_corners=False)
    return by_slice.permute(2, 1, 0, 3, 4)


def bounds_of(mask: Tensor) -> list[tuple[int, int]] | None:
    """Return the first voxel and the one behind the last, along each axis, of a (D, H, W) mask; None of an empty one."""
    spans = []
    for axis in range(3):
        one, other = (a for a in range(3) if a != axis)
        found = torch.nonzero(mask.any(dim=other).any(dim=one)).flatten()
        if not len(found):
            return None
        spans.append((int(found[0]), int(found[-1]) + 1))
    return spans


def margin_box(spans: Sequence[tuple[int, int]], spacing_mm: Sequence[float], margin_mm: Sequence[float],
               shape: Sequence[int]) -> tuple[slice, slice, slice]:
    """Return voxel spans with a margin, cut to a scan."""
    d, h, w = (slice(max(0, first - math.ceil(margin / spacing)), min(n, last + math.ceil(margin / spacing)))
               for (first, last), spacing, margin, n in zip(spans, spacing_mm, margin_mm, shape, strict=True))
    return d, h, w
