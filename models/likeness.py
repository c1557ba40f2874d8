"""How unlike two scans are, by coarse registrations of each to the other. Nothing is outlined for that."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from qnet.models.contents import CONTENT_LEVEL
from qnet.models.registration import FEATURES, MIN_CONTENT_POINTS, PreparedScan
from qnet.models.settings import RegistrationSettings, Search, Searches

COARSE = Searches(affine=Search(30_000, cell=4, reach=5), wide=Search(100_000, cell=4, reach=2))
N_STEPS = 20


def coarse(settings: RegistrationSettings) -> RegistrationSettings:
    """Return the settings of a registration that takes about half a second."""
    return replace(settings, searches=COARSE, n_steps=min(N_STEPS, settings.n_steps))


def unlikeness(one: PreparedScan, other: PreparedScan) -> float:
    """Return how unlike two scans are: 0, the same, to 1, nothing alike. Both have `coarse` settings."""
    return 1 - (correlation(one, other) + correlation(other, one)) / 2


@torch.no_grad()
def correlation(query: PreparedScan, support: PreparedScan) -> float:
    """Return how well the intensities of a support, registered to a query, correlate with the query's: 0 to 1.

    It is taken in what both have of contents, and is the mean over channels. A negative one, as between two contrasts, counts 0.
    """
    found = query.register(support)
    grid, features = query.prepared(query.settings.searches.wide, query.box)
    of_support = support.features(found.places(grid.points), query.settings)
    intensities = (of_one[0, FEATURES - 1::FEATURES] for of_one in (features, of_support))
    of_channels = [_correlation(a, b) for a, b in zip(*intensities, strict=True)]
    return sum(of_channels) / len(of_channels)


def _correlation(a: Tensor, b: Tensor) -> float:
    both = (a > CONTENT_LEVEL) & (b > CONTENT_LEVEL)
    if both.sum() <= MIN_CONTENT_POINTS:
        return 0.0
    rho = float(torch.corrcoef(torch.stack([a[both], b[both]]))[0, 1])
    return max(0.0, rho) if math.isfinite(rho) else 0.0       # where one of both is constant, there is none
