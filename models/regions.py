"""Regions of a set of cells, about points that lie far from each other."""

from __future__ import annotations

import numpy as np

SEED = 1289


def farthest_points(places: np.ndarray, n_points: int) -> np.ndarray:
    """Return points of a set, each the farthest from those before it.

    The first is drawn at random by a seed that depends on the places, so the result does not depend on what was drawn before.

    Args:
        places: (n, 2) whole numbers, at least one.
        n_points: most points wanted.
    Returns:
        (k, 2), k ≤ n_points. There are fewer where `places` has fewer different ones.
    """
    rng = np.random.default_rng([SEED, len(places), *places.sum(axis=0).tolist()])
    chosen = [int(rng.integers(len(places)))]
    nearest = _square_distances(places, places[chosen[0]])
    while len(chosen) < n_points and nearest.max() > 0:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, _square_distances(places, places[chosen[-1]]))
    return places[chosen]


def nearest_centre(places: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the (n,) number of the centre that is nearest to each of (n, 2) places, and the number of centres.

    The first of equally near ones wins. Every centre is one of the places, so none is left without.
    """
    return _square_distances(places[:, None], centres).argmin(axis=1), len(centres)


def _square_distances(places: np.ndarray, other: np.ndarray) -> np.ndarray:
    return ((places - other) ** 2).sum(axis=-1)
