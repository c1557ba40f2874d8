"""The intensity that a class should have in a query, and how much less probable a voxel is that has another one.

A registered map may lie partly on a neighbour, and the query's own contrast (`qnet.models.guided`) then learns the neighbour as
well. The outlined scan tells more: how bright the class is there, and how much its intensities vary. Registration carries its
intensities to the query, so those of one scan are known in terms of the other's, whatever the contrast. What was found has one
most frequent intensity near the expected one. What is far from that, by the class's own variation, is probably something else.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SAME_SHARE = 1 / 24    # of the voxels: those whose carried intensity is nearest to the class's tell what it is in the query
QUANTILES = (0.16, 0.5, 0.84)      # of a class: the median and, on either side, a deviation
LEAST_DEVIATION = 0.04             # of the range from black to white: noise
N_BINS, SMOOTH_BINS = 100, 2.5     # of the histogram in which the most frequent intensity is found, and how it is blurred (σ)
FAR = 3.0              # deviations; an intensity that is further from the expected one is as improbable as this
USUAL = 2.0            # deviations; an intensity that is nearer to the most frequent one is none that the class lacks
MOST = 8.0             # the highest cost
CERTAIN = 1e-4         # probabilities are clipped to this … 1 − this
KEPT = 0.7             # of the volume that was found: if less would stay, the class is not as it should be, and is left as it is


class Usual(NamedTuple):
    """The intensities of a class in the outlined scan, 0 to 1: the median, and a deviation below and above it."""

    median: float
    below: float
    above: float

    @classmethod
    def of(cls, image: Tensor, mask: Tensor) -> Usual:
        """Those of a mask, which is not empty, in an image; both (D, H, W)."""
        low, median, high = (_ranked(image[mask].float(), share) for share in QUANTILES)
        return cls(median, max(LEAST_DEVIATION, median - low), max(LEAST_DEVIATION, high - median))


def in_query(intensity: float, image: Tensor, carried: Tensor) -> float:
    """Return the intensity in a query of what has an intensity in the outlined scan.

    Args:
        image: (N,) intensities of a query's voxels, of which there is at least one.
        carried: (N,) those of the outlined scan, carried there.
    """
    distance = (carried - intensity).abs()
    return _ranked(image[distance <= _ranked(distance, SAME_SHARE)], 0.5)


def most_frequent(found: Tensor, expected: float, deviation: float) -> float:
    """Return the most frequent of (N,) intensities, 0 to 1, those near an expected one being the more probable."""
    bins = torch.bincount((found * N_BINS).long().clamp(0, N_BINS - 1), minlength=N_BINS).float()
    centres = (torch.arange(N_BINS, device=found.device) + 0.5) / N_BINS
    blurred = torch.exp(-((centres[:, None] - centres) * N_BINS / SMOOTH_BINS).square() / 2) @ bins
    away = ((centres - expected) / deviation).clamp(-FAR, FAR)
    return float(centres[(blurred * torch.exp(-away.square() / 2)).argmax()])


def cost(image: Tensor, found: Tensor, usual: Usual, expected: float) -> Tensor:
    """Return by how much the logit of a class falls in each voxel, (d, h, w), 0 or more, because of its intensity.

    Args:
        image: (d, h, w), 0 to 1.
        found: (d, h, w) bool, what was found of the class; not empty.
        usual: the class's intensities in the outlined scan.
        expected: its median in this scan, as `in_query` gives it.
    """
    centre = most_frequent(image[found], expected, (usual.below + usual.above) / 2)
    deviations = (image - centre) / torch.where(image < centre, usual.below, usual.above)
    return ((deviations.square() - USUAL**2) / 2).clamp(0, MOST)


def without_unlike(probs: Tensor, costs: Tensor) -> Tensor:
    """Return (d, h, w) probabilities of a class after their costs; unchanged if too little of the class would stay (KEPT)."""
    lowered = (probs.logit(CERTAIN) - costs).sigmoid()
    stays = (lowered > 0.5).sum() >= KEPT * (probs > 0.5).sum()
    return torch.where(costs > 0, torch.minimum(lowered, probs), probs) if stays else probs


def _ranked(values: Tensor, share: float) -> float:
    """Return the value below which a share of (N,) values lies; one of them. `torch.quantile` takes sixteen million at most."""
    return float(values.sort().values[min(len(values) - 1, int(share * len(values)))])
