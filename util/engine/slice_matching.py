"""Slice matching: finds the support slice for each query slice, without the query's labels.

Slices are compared by the encoder's features. Dynamic programming then finds the path of matches that keeps the order of the
slices and prefers to advance by one support slice per query slice. docs/whole_volume.md lists what else was tried.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from qnet.models.encoder import Features

CELLS = 4            # coarse features are averaged over CELLS × CELLS cells of a slice
MAX_STEP = 3         # most support slices that the path advances per query slice
STEP_COST = 0.3      # cost per slice by which a step differs from one slice, in units of 1 − cosine


def describe_slices(features: Features) -> Tensor:
    """Return (D, K) unit vectors for the D slices of one volume: pooled coarse features minus their mean over the volume.

    The mean removes what all slices share, such as the scanner's contrast. If all slices are equal, the result is zero.
    """
    pooled = F.adaptive_avg_pool2d(features.maps[-1], CELLS).flatten(1)
    return F.normalize(pooled - pooled.mean(dim=0), dim=1)


def align_slices(query: Tensor, support: Tensor) -> np.ndarray:
    """Return (D,) the support slice that matches each query slice, in ascending order, repeats allowed.

    The path may begin and end anywhere in the support. It may stay on a slice, or skip up to two.

    Args:
        query: (D, K) descriptors from `describe_slices`.
        support: (S, K) descriptors of a volume with the same spacing.
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
    """Return (D,) the support slice that each query slice is segmented from; −1 where the class is not expected.

    If the matching support slice lacks the class, the nearest one with the class is taken, at most `margin` slices away.

    Args:
        matches: (D,) support slice that matches each query slice.
        holds_class: (S,) bool, whether a support slice holds the class.
        margin: 0 or more, in slices.
    """
    present = np.flatnonzero(holds_class)
    if not len(present):
        return np.full(len(matches), -1)
    distance = np.abs(matches[:, None] - present)
    return np.where(distance.min(axis=1) <= margin, present[distance.argmin(axis=1)], -1)
