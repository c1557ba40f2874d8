"""How unlike two scans are, by coarse registrations of each to the other. Nothing is outlined for that."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import torch

from qnet.models.registration import PreparedScan, correlation
from qnet.models.settings import RegistrationSettings, Search, Searches

COARSE = Searches(affine=Search(30_000, cell=4, reach=5), wide=Search(100_000, cell=4, reach=2))
N_STEPS = 20


def coarse(settings: RegistrationSettings) -> RegistrationSettings:
    """Return the settings of a registration that takes about half a second."""
    return replace(settings, searches=COARSE, n_steps=min(N_STEPS, settings.n_steps))


def unlikeness(one: PreparedScan, other: PreparedScan) -> float:
    """Return how unlike two scans are: 0, the same, to 1, nothing alike. Both have `coarse` settings."""
    return 1 - (likeness(one, other) + likeness(other, one)) / 2


@torch.no_grad()
def likeness(query: PreparedScan, support: PreparedScan) -> float:
    """Return how well the intensities of a support, registered to a query, correlate with the query's: 0 to 1.

    It is taken in what both have of contents, and is the mean over channels. A negative one, as between two contrasts, counts 0.
    """
    found = query.register(support)
    grid, _ = query.prepared(query.settings.searches.wide, query.box)
    here, there = query.intensities(grid.points), support.intensities(found.places(grid.points))
    found_rho = [correlation(a, b) for a, b in zip(here, there, strict=True)]
    return fmean(rho if rho is not None and rho > 0 else 0.0 for rho in found_rho)      # where one is constant, rho is NaN
