"""What a scan holds: its intensities from black to white, and the box around its contents.

Scanners and programs fill what they did not measure with values far below black (−3024 in CT), and a damaged voxel may have any
value. So black is not the minimum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from qnet.util.base.shapes import expect_shape

CONTENT_LEVEL = 0.06       # of the range from black to the 99.5th percentile; what is above is no background
MIN_CONTENT_SHARE = 0.02   # a plane with less content than this lies outside the box
N_BINS = 200               # of the histogram in which filling values are found
GAP = 0.25                 # of the range: no voxels for so long, and what lies below may be filling
ODD_SHARE = 0.002          # of the voxels: fewer below a gap are odd ones; more are filling only if they have one value


def scaled(volume: Tensor) -> Tensor:
    """Map a volume from black … 99.5th percentile to 0…1, float32; a constant volume is all 0. See `black`."""
    volume = volume.float()
    rank = max(1, math.ceil(0.995 * volume.numel()))
    white = volume.flatten().kthvalue(rank).values
    low = black(volume, white)
    return ((volume - low) / (white - low)).clamp(0, 1) if white > low else torch.zeros_like(volume)


def black(volume: Tensor, white: Tensor) -> Tensor:
    """Return the lowest value that was measured: the minimum, less what was filled in and odd voxels.

    Both lie below a wide gap of the histogram. Voxels below it are odd if they are few, and filling if they have one value.
    """
    low = volume.min()
    for _ in range(3):      # filling may lie below filling
        above = _above_gap(volume, low, white) if white > low else None
        if above is None or above >= white:     # a scan of two values would be left with none
            break
        low = above
    return low


def _above_gap(volume: Tensor, low: Tensor, white: Tensor) -> Tensor | None:
    """Return the lowest value above a gap of the histogram below which there is no measured value; None if there is none."""
    bins = ((volume.flatten() - low) / (white - low) * N_BINS).clamp(0, N_BINS - 1).long()
    shares = torch.bincount(bins, minlength=N_BINS).double() / bins.numel()
    empty = (shares < ODD_SHARE / 20).tolist()
    first = next((k for k in range(N_BINS) if all(empty[k:k + int(GAP * N_BINS)])), None)
    if first is None or first + int(GAP * N_BINS) > N_BINS:
        return None
    below = shares[:first]
    if (below.sum() > ODD_SHARE and below.max() < 0.5 * below.sum()) or first > N_BINS / 20:
        return None
    behind = next((k for k in range(first, N_BINS) if not empty[k]), N_BINS)
    inside = volume.flatten()[bins >= behind]
    return inside.min() if len(inside) and inside.min() > low else None


def content_box_mm(volume: Tensor, spacing_mm: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Lower and upper corner (3,) in mm (index × spacing) of the contents of a scaled volume; all of it if there are none."""
    expect_shape("volume", volume, "D H W")
    content = (volume > CONTENT_LEVEL).float()
    spans = []
    for axis, size in enumerate(volume.shape):
        others = [a for a in range(3) if a != axis]
        found = torch.nonzero(content.mean(dim=others) > MIN_CONTENT_SHARE).flatten()
        spans.append((int(found[0]), int(found[-1]) + 1) if len(found) else (0, size))
    bounds = torch.tensor(spans, dtype=torch.float32, device=volume.device)
    spacing = torch.tensor(tuple(map(float, spacing_mm)), device=volume.device)
    return (bounds[:, 0] - 0.5) * spacing, (bounds[:, 1] - 0.5) * spacing
