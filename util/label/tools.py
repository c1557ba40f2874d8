"""What the page's tools would change in a scan's outlines. Nothing is saved here: the page shows it, and it can be undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct
from scipy.ndimage import binary_erosion, binary_fill_holes, find_objects, gaussian_filter, label

from qnet.dataloaders.gaps import fill_between
from qnet.dataloaders.geometry import spacing_of
from qnet.dataloaders.nifti import read_affine, read_array
from qnet.util.base.classes import MAX_DRAWN
from qnet.util.base.errors import InputError
from qnet.util.label.following import follow
from qnet.util.label.growing import STILL, arrival, likeness
from qnet.util.label.session import Session
from qnet.util.label.stored import Hand, Slices
from qnet.util.label.strokes import changes_between, pack

SMOOTH_PX = 1.0     # standard deviation of the smoothing, in pixels of the finest axis
HALF = 0.5
MARGIN = 4          # voxels around a class

GROW_MM = 12.0      # that a class grows at once in voxels just like it
WIDER = 1.25        # the spread of likeness, in spreads of the drawn voxels

Number = Annotated[int, Meta(ge=0, le=2**15)]
Tool = Literal["fill", "copy", "grow", "largest", "holes", "smooth"]


class Proposal(Struct, forbid_unknown_fields=True):
    """What a tool is asked for.

    Attributes:
        drawn: how often the drawing was saved.
        value: of the class.
        axis: of the (D, H, W) label map, across the slices.
        slice: at hand.
        slices: those that a person drew or looked at.
    """

    drawn: Annotated[int, Meta(ge=0, le=2**31)]
    tool: Tool
    value: Annotated[int, Meta(ge=1, le=MAX_DRAWN)]
    axis: Literal[0, 1, 2] = 0
    slice: Number = 0
    slices: list[Number] = []


@dataclass(frozen=True)
class Scene:
    """What a tool works on.

    Attributes:
        mask: (D, H, W) bool, of the class.
        found: (D, H, W) bool, of the class as the computer found it; nothing if it did not outline the scan.
        filled: slices that were filled.
        others: (D, H, W) bool, what a person made of other classes.
        spacing_mm: (z, y, x).
        image: returns the scan's values, (D, H, W).
        asked: what the tool is asked for.
    """

    mask: np.ndarray
    found: np.ndarray
    filled: Sequence[int]
    others: np.ndarray
    spacing_mm: Sequence[float]
    image: Callable[[], np.ndarray]
    asked: Proposal


def proposed(session: Session, name: str, asked: Proposal) -> bytes:
    """Return the changes that a tool makes as a message (`qnet.util.label.strokes`), with the "filled" slices.

    Raises:
        MissingError: there is no such scan.
        ConflictError: the drawing was saved since.
        InputError: the tool has nothing to work on.
    """
    label_map, note = session.present(name, asked.drawn)
    if max(asked.slice, *asked.slices, 0) >= label_map.shape[asked.axis]:
        raise InputError(f"slices: allowed: less than {label_map.shape[asked.axis]}")
    path = session.image_file(name)
    kept = made_by_hand(label_map, note)
    of_axes: dict[Any, Slices] = (note.slices or {}).get(str(asked.value), {})
    filled = of_axes.get(str(asked.axis), Slices()).filled
    scene = Scene(label_map == asked.value, session.found(name) == asked.value, filled, kept & (label_map != asked.value),
                  spacing_of(read_affine(path))[::-1].tolist(), lambda: image_values(path), asked)
    mask, filled = TOOLS[asked.tool](scene)
    return pack({"filled": filled}, changes_between(label_map, with_mask(label_map, mask, asked.value, kept)))


def image_values(path: Path) -> np.ndarray:
    """Return the values of a scan, (D, H, W), not to be written to. Those of the scan that is drawn on stay in memory."""
    return _values(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)       # of the scan that is drawn on
def _values(path: Path, _changed_ns: int) -> np.ndarray:
    return read_array(path)


def with_mask(label_map: np.ndarray, mask: np.ndarray, value: int, kept: np.ndarray) -> np.ndarray:
    """Return a label map in which a class has a mask. Voxels of other classes stay where `kept` says so, as a person made them.

    Args:
        label_map, mask, kept: (D, H, W).
    """
    after = np.where(label_map == value, 0, label_map).astype(np.uint8)
    after[mask & ((after == 0) | ~kept)] = value
    return after


def made_by_hand(label_map: np.ndarray, note: Hand) -> np.ndarray:
    """Return the (D, H, W) voxels of slices that a person drew, looked at or filled, for the class that they have."""
    if note.slices is None:
        return label_map > 0
    made = np.zeros(label_map.shape, bool)
    for value, of_axes in note.slices.items():
        made |= _in_slices(label_map, int(value), of_axes)
    return made


def _in_slices(label_map: np.ndarray, value: int, of_axes: dict) -> np.ndarray:
    chosen = np.zeros(label_map.shape, bool)
    for axis, slices in of_axes.items():
        numbers = [number for number in (*slices.drawn, *slices.filled) if number < label_map.shape[int(axis)]]
        np.moveaxis(chosen, int(axis), 0)[numbers] = True
    return chosen & (label_map == value)


def _fill(scene: Scene) -> tuple[np.ndarray, list[int]]:
    """Fill the slices between the drawn ones; on what the computer found, let the other slices follow the drawn ones."""
    if scene.found.any():
        return _follow(scene)
    filled, numbers = fill_between(scene.mask, scene.asked.slices, scene.asked.axis, scene.spacing_mm)
    if not numbers:
        raise InputError("There is no slice between two drawn ones. Draw the class in two slices or more, some apart.")
    return filled, numbers


def _follow(scene: Scene) -> tuple[np.ndarray, list[int]]:
    axis, start = scene.asked.axis, scene.mask.copy()
    again = [number for number in (*scene.asked.slices, *scene.filled) if number < start.shape[axis]]      # once, and not twice
    np.moveaxis(start, axis, 0)[again] = np.moveaxis(scene.found, axis, 0)[again]
    followed, numbers = follow(start, scene.mask, scene.asked.slices, axis, scene.spacing_mm)
    if not numbers:
        raise InputError("No slice follows. Correct the class in a slice, and press again.")
    return followed, numbers


def _copy(scene: Scene) -> tuple[np.ndarray, list[int]]:
    number, turned = scene.asked.slice, np.moveaxis(scene.mask.copy(), scene.asked.axis, 0)
    held = [other for other in np.flatnonzero(turned.any(axis=(1, 2))) if other != number]
    if not held:
        raise InputError("No other slice holds the class. Draw it in one.")
    turned[number] = turned[min(held, key=lambda other: abs(other - number))]
    return np.moveaxis(turned, 0, scene.asked.axis), []


def _grow(scene: Scene) -> tuple[np.ndarray, list[int]]:
    """Grow a class by some mm, where the scan's values are like those in the slices that a person drew.

    A front moves from the border of the class, the slower the less a voxel is like them. So it stops at borders, and goes on
    where it is asked again.
    """
    box = _box(scene.mask, [int(GROW_MM / mm) + 2 for mm in scene.spacing_mm])
    if box is None:
        raise InputError("The class has no voxel to grow from. Draw a stroke inside of it first.")
    axis, mask = scene.asked.axis, scene.mask[box]
    sample = np.zeros(scene.mask.shape, bool)
    np.moveaxis(sample, axis, 0)[scene.asked.slices] = True
    drawn = mask & sample[box]
    like = likeness(scene.image()[box], drawn if drawn.any() else mask, scene.spacing_mm, WIDER)
    times = arrival(np.where(scene.others[box], STILL, like), mask & ~binary_erosion(mask), scene.spacing_mm, GROW_MM)
    grown = scene.mask.copy()
    grown[box] |= np.isfinite(times)
    held = np.flatnonzero(grown.any(axis=tuple(other for other in range(3) if other != axis))).tolist()
    return grown, sorted(set(held) - set(scene.asked.slices))


def _largest(scene: Scene) -> tuple[np.ndarray, list[int]]:
    parts, _ = label(scene.mask, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    return (parts == sizes.argmax()) & scene.mask, []


def _holes(scene: Scene) -> tuple[np.ndarray, list[int]]:
    turned = np.moveaxis(scene.mask, scene.asked.axis, 0)
    return np.moveaxis(np.stack([binary_fill_holes(one) for one in turned]), 0, scene.asked.axis), []


def _smooth(scene: Scene) -> tuple[np.ndarray, list[int]]:
    sigma = SMOOTH_PX * min(scene.spacing_mm) / np.asarray(scene.spacing_mm)
    return gaussian_filter(scene.mask.astype(np.float32), sigma) > HALF, []


def _near(tool: Callable[[Scene], tuple[np.ndarray, list[int]]]) -> Callable[[Scene], tuple[np.ndarray, list[int]]]:
    """Return a tool that looks only near the class."""
    def near(scene: Scene) -> tuple[np.ndarray, list[int]]:
        box = _box(scene.mask, [MARGIN] * 3)
        if box is None:
            return scene.mask, []
        whole = scene.mask.copy()
        whole[box], filled = tool(replace(scene, mask=scene.mask[box]))
        return whole, filled

    return near


def _box(mask: np.ndarray, margins: Sequence[int]) -> tuple[slice, ...] | None:
    """Return the smallest box around a (D, H, W) mask with a margin; None if it is empty."""
    found = find_objects(mask.astype(np.uint8))
    if not found:
        return None
    return tuple(slice(max(one.start - by, 0), one.stop + by) for one, by in zip(found[0], margins, strict=True))


TOOLS: dict[Tool, Callable[[Scene], tuple[np.ndarray, list[int]]]] = {
    "fill": _fill, "copy": _copy, "grow": _grow, "largest": _near(_largest), "holes": _near(_holes), "smooth": _near(_smooth)}
