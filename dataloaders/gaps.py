"""Finds slices that were left out between outlined ones, describes them in a warning, and fills them by shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.ndimage import center_of_mass, distance_transform_edt, find_objects, label, shift

from qnet.util.base.errors import listed

AXES = ("slices", "rows", "columns")
EIGHT = np.ones((3, 3))     # neighbours of a pixel
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
    return (f"label{'s' * (len(gaps) > 1)} {', '.join(map(str, gaps))}: not outlined in the {AXES[axis]} "
            f"{listed(list(map(str, numbers)), SHOWN)}, which lie between outlined ones")


def fill(label_map: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return a label map in which the slices that were left out are filled by shape, as `Between` says.

    Where several labels meet, a voxel gets the label in which it lies deepest. Outlined slices stay so.

    Args:
        label_map: (D, H, W) whole numbers.
        spacing_mm: (z, y, x).
    """
    axis, gaps = gaps_of(label_map)
    turned, filled = np.moveaxis(label_map, axis, 0), np.moveaxis(label_map.copy(), axis, 0)
    in_slice = [mm for other, mm in enumerate(spacing_mm) if other != axis]
    shapes = {value: Between(turned == value, None, in_slice) for value in gaps}
    for number in sorted({number for slices in gaps.values() for number in slices}):
        depth = np.zeros(turned.shape[1:])
        for value, slices in gaps.items():
            if number in slices:
                distance = shapes[value].distance(number)
                inside = (distance < depth) & (turned[number] == 0)
                filled[number][inside] = value
                depth[inside] = distance[inside]
    return np.moveaxis(filled, 0, axis)


def fill_between(mask: np.ndarray, drawn: Sequence[int], axis: int, spacing_mm: Sequence[float]) -> tuple[np.ndarray, list[int]]:
    """Return a mask in which the slices between the drawn ones are filled by shape, as `Between` says, and which these are.

    Args:
        mask: (D, H, W) bool.
        drawn: the slices that are as they should be. One without the mask says that the shape has ended there.
        axis: across the slices.
        spacing_mm: (z, y, x).
    """
    filled = np.moveaxis(mask.copy(), axis, 0)
    shape = Between(filled.copy(), sorted(drawn), [mm for other, mm in enumerate(spacing_mm) if other != axis])
    numbers = shape.gaps()
    for number in numbers:
        filled[number] = shape.distance(number) < 0
    return np.moveaxis(filled, 0, axis), numbers


class Between:
    """The shape of a mask in the slices between those that are outlined.

    Parts of two neighbouring outlined slices belong together where they overlap: so a shape may fork, and forks may meet.
    Between them the signed distances to the border are interpolated. If there is one part on either side, it moves from one to
    the other, by their centres. A part that overlaps none belongs to the nearest such part of the other slice, if it is no
    further away than both are wide. A part without any other ends half way.

    Args:
        mask: (D, H, W) bool.
        drawn: the outlined slices, ascending; None for all that hold the mask.
        spacing_mm: (y, x).
    """

    def __init__(self, mask: np.ndarray, drawn: Sequence[int] | None, spacing_mm: Sequence[float]):
        self.shape, self.spacing_mm = mask.shape[1:], np.asarray(spacing_mm, float)
        self.box = box_of(np.asarray(mask.any(axis=0)))       # nothing is filled outside of it
        self.mask = mask[:, *self.box]
        self.drawn = np.flatnonzero(mask.any(axis=(1, 2))) if drawn is None else np.asarray(drawn, int)
        self._pairs: dict[tuple[int, int], list[_Pair]] = {}

    def gaps(self) -> list[int]:
        """Return the slices between outlined ones that hold a shape on either side."""
        held = [bool(self.mask[number].any()) for number in self.drawn]
        return [number for k, (one, other) in enumerate(pairwise(self.drawn)) if held[k] or held[k + 1]
                for number in range(one + 1, other)]

    def distance(self, number: int) -> np.ndarray:
        """Return the signed distances in mm, (H, W), to the shape's border in a slice between outlined ones, negative inside."""
        before, after = self.drawn[self.drawn < number].max(), self.drawn[self.drawn > number].min()
        if (before, after) not in self._pairs:
            self._pairs[before, after] = _pairs(self.mask[before], self.mask[after], self.spacing_mm)
        share = (number - before) / (after - before)
        found = np.full(self.shape, np.inf)
        for pair in self._pairs[before, after]:
            np.minimum(found[self.box], pair.distance(share), out=found[self.box])
        return found


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest rectangle around a (H, W) mask, with a margin of a pixel."""
    found = find_objects(mask.astype(np.uint8))
    return tuple(slice(max(one.start - 1, 0), one.stop + 1) for one in found[0]) if found else (slice(0, 0), slice(0, 0))


@dataclass(frozen=True)
class _Pair:
    """Parts of two slices that belong together, each (H, W) signed distances in mm.

    Attributes:
        shift: from the first to the second in pixels, (2,), along which they move.
    """

    before: np.ndarray
    after: np.ndarray
    shift: np.ndarray

    def distance(self, share: float) -> np.ndarray:
        """Return the signed distances in mm at a share of the way."""
        if not self.shift.any():
            return (1 - share) * self.before + share * self.after
        return ((1 - share) * shift(self.before, share * self.shift, order=1, mode="nearest")
                + share * shift(self.after, (share - 1) * self.shift, order=1, mode="nearest"))


def _pairs(before: np.ndarray, after: np.ndarray, spacing_mm: np.ndarray) -> list[_Pair]:
    """Return the parts of two (H, W) masks that belong together."""
    groups, n_groups = label(before | after, EIGHT)
    pairs: list[_Pair] = []
    left: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for group in range(1, n_groups + 1):
        one, other = before & (groups == group), after & (groups == group)
        if (one & other).any():
            pairs.append(_pair(one, other, spacing_mm, moves=_n_parts(one) == _n_parts(other) == 1))
        else:       # touching parts may be of both slices
            left[0].extend([one] if one.any() else [])
            left[1].extend([other] if other.any() else [])
    return pairs + _moved(*left, spacing_mm)


def _pair(one: np.ndarray, other: np.ndarray, spacing_mm: np.ndarray, *, moves: bool) -> _Pair:
    way = np.subtract(center_of_mass(other), center_of_mass(one)) if moves else np.zeros(2)
    return _Pair(signed_distance(one, spacing_mm), signed_distance(other, spacing_mm), way)


def _n_parts(mask: np.ndarray) -> int:
    return label(mask, EIGHT)[1]


def _moved(before: list[np.ndarray], after: list[np.ndarray], spacing_mm: np.ndarray) -> list[_Pair]:
    """Return pairs of parts that overlap none: the nearest ones move, and the others end."""
    before, after, pairs = list(before), list(after), []
    while before and after:
        centres = [[np.array(center_of_mass(part)) for part in parts] for parts in (before, after)]
        away = [[float(np.hypot(*((other - one) * spacing_mm))) for other in centres[1]] for one in centres[0]]
        one, other = np.unravel_index(np.argmin(away), (len(before), len(after)))
        if away[one][other] > width_mm(before[one], spacing_mm) + width_mm(after[other], spacing_mm):
            break
        pairs.append(_pair(before.pop(one), after.pop(other), spacing_mm, moves=True))
    return pairs + [_ending(part, spacing_mm, is_first) for is_first, parts in ((True, before), (False, after)) for part in parts]


def _ending(part: np.ndarray, spacing_mm: np.ndarray, is_first: bool) -> _Pair:
    """Return a part of one slice, and on the other side what makes it shrink to nothing half way."""
    inside = signed_distance(part, spacing_mm)
    nothing = np.full(part.shape, -inside.min())
    before, after = (inside, nothing) if is_first else (nothing, inside)
    return _Pair(before, after, np.zeros(2))


def width_mm(mask: np.ndarray, spacing_mm: np.ndarray) -> float:
    """Return the diameter in mm of a disc of the same area."""
    return 2 * float(np.sqrt(mask.sum() * np.prod(spacing_mm) / np.pi))


def signed_distance(mask: np.ndarray, spacing_mm: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the distance in mm from the border of a mask, (H, W), negative inside."""
    return distance_transform_edt(~mask, spacing_mm) - distance_transform_edt(mask, spacing_mm)
