"""Which support slice serves which slice of a volume, from the images alone.

Slices of two scans are matched by what the encoder sees in them, in order: dynamic programming finds the path through the
similarities of all slice pairs that climbs through both scans at about the same pace. docs/whole_volume.md says what else
was tried.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from models.encoder import Features

CELLS = 4            # a slice is described by its coarse features, averaged in CELLS × CELLS fields
MAX_STEP = 3         # support slices that the path may pass over at once, less one
STEP_COST = 0.3      # of a step that is not one slice, per slice that it differs, in units of 1 − cosine


def describe_slices(features: Features) -> Tensor:
    """Return (D, K) unit vectors for the D slices of one volume: pooled coarse features, less their mean over the volume.

    What all slices share, such as the scanner's look, so counts for nothing. Slices that are all alike give zeros.
    """
    pooled = F.adaptive_avg_pool2d(features.maps[-1], CELLS).flatten(1)
    return F.normalize(pooled - pooled.mean(dim=0), dim=1)


def align_slices(query: Tensor, support: Tensor) -> np.ndarray:
    """Return the support slice that each query slice matches, (D,) and never descending.

    The path may begin and end anywhere in the support, and may stay on a slice or pass over up to two.

    Args:
        query: (D, K) descriptors from `describe_slices`.
        support: (S, K), of a volume with the same spacing.
    """
    cost = (1 - query @ support.T).cpu().double().numpy()     # (D, S)
    n_slices, n_support = cost.shape
    total, came_from = cost[0].copy(), np.zeros(cost.shape, int)
    for z in range(1, n_slices):
        choices = np.full((MAX_STEP + 1, n_support), np.inf)
        for step in range(min(MAX_STEP + 1, n_support)):
            choices[step, step:] = total[:n_support - step] + STEP_COST * abs(step - 1)
        steps = choices.argmin(axis=0)
        came_from[z] = np.arange(n_support) - steps
        total = cost[z] + choices.min(axis=0)
    path = [int(total.argmin())]
    for z in range(n_slices - 1, 0, -1):
        path.append(int(came_from[z, path[-1]]))
    return np.array(path[::-1])


def choose_support_slices(matches: np.ndarray, holds_class: np.ndarray, margin: int) -> np.ndarray:
    """Return the support slice to segment each query slice from, (D,); −1 where the class is not expected.

    A query slice that matches a support slice without the class takes the nearest one with it, `margin` slices away at most.

    Args:
        matches: (D,) support slice that each query slice matches.
        holds_class: (S,) bool, which support slices hold the class.
        margin: 0 or more.
    """
    present = np.flatnonzero(holds_class)
    if not len(present):
        return np.full(len(matches), -1)
    distance = np.abs(matches[:, None] - present)
    return np.where(distance.min(axis=1) <= margin, present[distance.argmin(axis=1)], -1)
