"""Finds slices that were left out between outlined ones, describes them in a warning, and fills them by shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import distance_transform_edt

AXES = ("slices", "rows", "columns")
SHOWN = 12      # slices that a message names


def sparse_axis(label_map: np.ndarray) -> int | None:
    """Return the axis across which a person outlined some slices and left out others between them; None if there is none.

    Two organs may leave rows or columns free between them. So rows and columns count only if there are three or more groups of
    outlined ones, and as many are left out as are outlined.

    Args:
        label_map: (D, H, W) whole numbers.
    """
    for axis in range(3):
        used = label_map.any(axis=tuple(other for other in range(3) if other != axis))
        if axis == 0 and any(_left_out(label_map == value) for value in np.unique(label_map[label_map > 0])):
            return 0
        places = np.flatnonzero(used)
        if axis > 0 and len(places) and np.count_nonzero(np.diff(places) > 1) > 1 and np.ptp(places) + 1 >= 2 * len(places):
            return axis
    return None


def _left_out(mask: np.ndarray) -> list[int]:
    """Return the slices without the mask between those that have it."""
    places = np.flatnonzero(mask.any(axis=(1, 2)))
    return sorted(set(range(places[0], places[-1] + 1)) - set(places.tolist())) if len(places) else []


def gaps_of(label_map: np.ndarray) -> tuple[int, dict[int, list[int]]]:
    """Return the sparse axis, and for each label that is left out in between, in which slices of that axis.

    Args:
        label_map: (D, H, W) whole numbers.
    Returns:
        Slices are counted from 0. The dictionary is empty if no slice is left out.
    """
    axis = sparse_axis(label_map)
    if axis is None:
        return 0, {}
    turned = np.moveaxis(label_map, axis, 0)
    found = {int(value): _left_out(turned == value) for value in np.unique(label_map[label_map > 0])}
    return axis, {value: slices for value, slices in found.items() if slices}


def described(axis: int, gaps: Mapping[int, Sequence[int]]) -> str:
    """Return a message about gaps. Slices are counted from 1 in it, as viewers do."""
    numbers = sorted({number + 1 for slices in gaps.values() for number in slices})
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return (f"label{'s' * (len(gaps) > 1)} {', '.join(map(str, gaps))}: not outlined in the {AXES[axis]} "
            f"{', '.join(map(str, numbers[:SHOWN]))}{more}, which lie between outlined ones")


def fill(label_map: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return a label map in which the slices that were left out are filled by shape.

    Between two outlined slices, the signed distances to a label's border are interpolated, and the label is where they are
    negative. So shapes grow, shrink and move from one slice to the other. Between two shapes that do not overlap
    nothing is filled. Where several labels meet, a voxel gets the label in which it lies deepest. Outlined slices stay so.

    Args:
        label_map: (D, H, W) whole numbers.
        spacing_mm: (z, y, x).
    """
    axis, gaps = gaps_of(label_map)
    turned, filled = np.moveaxis(label_map, axis, 0), np.moveaxis(label_map.copy(), axis, 0)
    in_slice = [mm for other, mm in enumerate(spacing_mm) if other != axis]
    for number in sorted({number for slices in gaps.values() for number in slices}):
        depth = np.zeros(turned.shape[1:])
        for value, slices in gaps.items():
            if number not in slices:
                continue
            mask = turned == value
            places = np.flatnonzero(mask.any(axis=(1, 2)))
            before, after = places[places < number].max(), places[places > number].min()
            share = (number - before) / (after - before)
            distance = (1 - share) * _signed_distance(mask[before], in_slice) + share * _signed_distance(mask[after], in_slice)
            inside = (distance < depth) & (turned[number] == 0)
            filled[number][inside] = value
            depth[inside] = distance[inside]
    return np.moveaxis(filled, 0, axis)


def _signed_distance(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the distance in mm from the border of a mask, (H, W), negative inside."""
    return distance_transform_edt(~mask, spacing_mm) - distance_transform_edt(mask, spacing_mm)
