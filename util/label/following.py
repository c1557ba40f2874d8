"""What a person corrected in some slices of a class, taken to the other slices of the outlines that the computer found.

In each corrected slice the correction is the difference of two signed distances to the border: of the slice as it is now, and of
the slice as it was found. Between corrected slices it is interpolated and added to what was found there. Near a corrected slice
the shape between two of them is the better guess, so that both are mixed (docs/label_page.md has what each of them reaches).
Beyond the outermost corrected slices the correction fades away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from scipy.ndimage import distance_transform_edt

from qnet.dataloaders.gaps import box_of, fill_between, signed_distance, width_mm

NEAR = 0.1      # widths of the class: the shape's weight falls to 1/e so far away from a corrected slice
FADE = 1.0      # widths of the class: so far beyond the outermost corrected slice nothing changes


def follow(found: np.ndarray, mask: np.ndarray, drawn: Sequence[int], axis: int, spacing_mm: Sequence[float],
           ) -> tuple[np.ndarray, list[int]]:
    """Return a mask whose other slices follow the corrected ones, and which of them changed or lie between.

    Args:
        found: (D, H, W) bool, as the computer outlined the class; what the other slices start from.
        mask: (D, H, W) bool, as it is now.
        drawn: the slices that are as they should be.
        axis: across the slices.
        spacing_mm: (z, y, x).
    """
    whole, (start, now) = np.moveaxis(mask.copy(), axis, 0), (np.moveaxis(one, axis, 0) for one in (found, mask))
    in_slice = [mm for other, mm in enumerate(spacing_mm) if other != axis]
    box = (slice(None), *_room(np.asarray((start | now).any(axis=0)), now[sorted(drawn)], in_slice))
    correction = Correction(start[box], now[box], sorted(drawn), spacing_mm[axis], in_slice)
    shape = np.moveaxis(fill_between(mask, drawn, axis, spacing_mm)[0], axis, 0)[box]
    numbers, after = [], whole[box]
    for number in correction.numbers():
        after[number] = correction.corrected(number, shape[number])
        if correction.is_filled(number, bool(after[number].any())) or (after[number] != now[box][number]).any():
            numbers.append(number)
    return np.moveaxis(whole, 0, axis), numbers


def _room(used: np.ndarray, corrected: np.ndarray, spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    """Return the box around a (H, W) mask that has room for the class to grow by the depth of the corrected slices, (n, H, W)."""
    margins = [int(_depth_mm(corrected, spacing_mm) / mm) + 1 for mm in spacing_mm]
    return tuple(slice(max(one.start - by, 0), one.stop + by) for one, by in zip(box_of(used), margins, strict=True))


def _depth_mm(masks: Iterable[np.ndarray], spacing_mm: Sequence[float]) -> float:
    """Return how deep the deepest voxel of (H, W) masks lies inside of its mask; 0 if all are empty."""
    return max((float(distance_transform_edt(one, spacing_mm).max()) for one in masks), default=0.0)


class Correction:
    """The correction of the drawn slices, and what it is in the others.

    Args:
        found, now: (D, H, W) bool, with the slices along the first axis.
        drawn: the corrected slices, ascending.
        between_mm: from slice to slice.
        spacing_mm: (y, x).
    """

    def __init__(self, found: np.ndarray, now: np.ndarray, drawn: Sequence[int], between_mm: float, spacing_mm: Sequence[float]):
        self.found, self.drawn, self.between_mm, self.spacing_mm = found, list(drawn), between_mm, spacing_mm
        shapes = [*now[self.drawn], *found[self.drawn]]
        self.width_mm = max((width_mm(one, np.asarray(spacing_mm)) for one in shapes), default=0.0)
        self.depth_mm = _depth_mm(shapes, spacing_mm)
        self.holds = {number: bool(now[number].any()) for number in self.drawn}
        self.of_slice = {number: self._distance(now[number]) - self._distance(found[number]) for number in self.drawn}

    def _distance(self, mask: np.ndarray) -> np.ndarray:
        """Return signed distances in mm, (H, W), of at most the depth of the class: so a slice without it is as far as that."""
        far = np.full(mask.shape, self.depth_mm)
        return np.clip(signed_distance(mask, self.spacing_mm), -self.depth_mm, self.depth_mm) if mask.any() else far

    def numbers(self) -> list[int]:
        """Return the slices that follow: those between, and those with the class that are near enough beyond."""
        if not self.drawn or not self.width_mm:
            return []
        first, last = self.drawn[0], self.drawn[-1]
        reach = int(FADE * self.width_mm / self.between_mm)
        near = range(max(first - reach, 0), min(last + reach + 1, len(self.found)))
        return [number for number in near
                if number not in self.of_slice and (first < number < last or self.found[number].any())]

    def is_filled(self, number: int, holds: bool) -> bool:
        """Return whether a slice lies between drawn ones, and it or one of these holds the class: so it follows, if empty.

        Args:
            holds: whether the class is in it.
        """
        is_between = self.drawn[0] < number < self.drawn[-1]
        return is_between and (holds or any(self.holds[one] for one in self._around(number)))

    def _around(self, number: int) -> tuple[int, int]:
        """Return the drawn slices before and after one that lies between drawn ones."""
        return next((one, other) for one, other in pairwise(self.drawn) if one < number < other)

    def corrected(self, number: int, shape: np.ndarray) -> np.ndarray:
        """Return a slice that follows, (H, W) bool.

        Args:
            shape: of the class in it, (H, W), by the drawn slices alone; only used between them.
        """
        moved = self._distance(self.found[number])
        first, last = self.drawn[0], self.drawn[-1]
        if first < number < last:
            before, after = self._around(number)
            share = (number - before) / (after - before)
            moved = moved + (1 - share) * self.of_slice[before] + share * self.of_slice[after]
            weight = float(np.exp(-min(number - before, after - number) * self.between_mm / (NEAR * self.width_mm)))
            return weight * self._distance(shape) + (1 - weight) * moved < 0
        nearest = first if number < first else last
        weight = 1 - abs(number - nearest) * self.between_mm / (FADE * self.width_mm)
        return moved + weight * self.of_slice[nearest] < 0
