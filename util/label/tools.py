"""What the page's tools would change in a scan's outlines. Nothing is saved here: the page shows it, and it can be undone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta, Struct
from scipy.ndimage import binary_fill_holes, gaussian_filter, label

from qnet.dataloaders.gaps import fill_between
from qnet.dataloaders.geometry import spacing_of
from qnet.dataloaders.nifti import read_affine
from qnet.util.base.classes import MAX_DRAWN
from qnet.util.base.errors import InputError
from qnet.util.label.session import Session
from qnet.util.label.stored import Hand
from qnet.util.label.strokes import changes_between, pack

SMOOTH_PX = 1.0     # standard deviation of the smoothing, in pixels of the finest axis
HALF = 0.5

Number = Annotated[int, Meta(ge=0, le=2**15)]
Tool = Literal["fill", "copy", "largest", "holes", "smooth"]


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
    spacing_mm = spacing_of(read_affine(session.image_file(name)))[::-1].tolist()
    mask, filled = TOOLS[asked.tool](label_map == asked.value, asked, spacing_mm)
    after = with_mask(label_map, mask, asked.value, made_by_hand(label_map, note))
    return pack({"filled": filled}, changes_between(label_map, after))


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


def _fill(mask: np.ndarray, asked: Proposal, spacing_mm: Sequence[float]) -> tuple[np.ndarray, list[int]]:
    filled, numbers = fill_between(mask, asked.slices, asked.axis, spacing_mm)
    if not numbers:
        raise InputError("There is no slice between two drawn ones. Draw the class in two slices or more, some apart.")
    return filled, numbers


def _copy(mask: np.ndarray, asked: Proposal, _spacing_mm: Sequence[float]) -> tuple[np.ndarray, list[int]]:
    turned = np.moveaxis(mask.copy(), asked.axis, 0)
    held = [number for number in np.flatnonzero(turned.any(axis=(1, 2))) if number != asked.slice]
    if not held:
        raise InputError("No other slice holds the class. Draw it in one.")
    turned[asked.slice] = turned[min(held, key=lambda number: abs(number - asked.slice))]
    return np.moveaxis(turned, 0, asked.axis), []


def _largest(mask: np.ndarray, _asked: Proposal, _spacing_mm: Sequence[float]) -> tuple[np.ndarray, list[int]]:
    parts, _ = label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    return (parts == sizes.argmax()) & mask, []


def _holes(mask: np.ndarray, asked: Proposal, _spacing_mm: Sequence[float]) -> tuple[np.ndarray, list[int]]:
    turned = np.moveaxis(mask, asked.axis, 0)
    return np.moveaxis(np.stack([binary_fill_holes(one) for one in turned]), 0, asked.axis), []


def _smooth(mask: np.ndarray, _asked: Proposal, spacing_mm: Sequence[float]) -> tuple[np.ndarray, list[int]]:
    sigma = SMOOTH_PX * min(spacing_mm) / np.asarray(spacing_mm)
    return gaussian_filter(mask.astype(np.float32), sigma) > HALF, []


TOOLS: dict[Tool, Callable[[np.ndarray, Proposal, Sequence[float]], tuple[np.ndarray, list[int]]]] = {
    "fill": _fill, "copy": _copy, "largest": _largest, "holes": _holes, "smooth": _smooth}
