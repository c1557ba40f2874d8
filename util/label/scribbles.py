"""A class from scribbles inside and outside of it: a front starts from each of them, and a voxel is of the one that comes first.

The front of the scribbles inside is the faster, the more a voxel is like these and the less it is like those outside; the other
front the other way round. So they meet at borders, and where there is none half way between the scribbles. Neither goes further
than `REACH_PX` pixels. What is asked for holds all scribbles of the class since it was last changed in another way, and what they
have changed since: each scribble starts from what was there before the first of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta, Struct

from qnet.dataloaders.geometry import spacing_of
from qnet.dataloaders.nifti import read_affine
from qnet.util.base.classes import MAX_DRAWN
from qnet.util.base.errors import InputError
from qnet.util.label.growing import STILL, arrival, likeness
from qnet.util.label.session import Session
from qnet.util.label.stored import Hand, OfClasses, Slices
from qnet.util.label.strokes import Changes, pack
from qnet.util.label.tools import image_values, made_by_hand, with_mask

REACH_PX = 30       # of the finest axis, that a front goes
WIDER = 2.5         # the spread of likeness, in spreads of the scribbled voxels

Count = Annotated[int, Meta(ge=0, le=2**31)]


class Scribbles(Struct, forbid_unknown_fields=True):
    """What the message of a scribble says. Its voxels are those of scribbles inside, of those outside, and those that changed.

    Attributes:
        drawn: how often the drawing was saved.
        value: of the class.
        axis: of the (D, H, W) label map, across the slices.
        inside, outside: how many voxels of the message are of scribbles. The values of the others are those before.
    """

    drawn: Count
    value: Annotated[int, Meta(ge=1, le=MAX_DRAWN)]
    axis: Literal[0, 1, 2]
    inside: Count
    outside: Count


def grown(session: Session, name: str, asked: Scribbles, sent: Changes) -> bytes:
    """Return the changes that scribbles make as a message (`qnet.util.label.strokes`), with the "filled" slices.

    Raises:
        MissingError: there is no such scan.
        ConflictError: the drawing was saved since.
        InputError: no scribble is inside, or a voxel is none of the scan.
    """
    label_map, note = session.present(name, asked.drawn)
    n_marks = asked.inside + asked.outside
    if not 0 < asked.inside <= n_marks <= len(sent.voxels):
        raise InputError(f"inside, outside: got {asked.inside} and {asked.outside} of {len(sent.voxels)} voxels; allowed: one "
                         "inside or more, and as many as there are")
    places = np.unravel_index(_within(sent.voxels, label_map), label_map.shape)
    path = session.image_file(name)
    spacing_mm = spacing_of(read_affine(path))[::-1].tolist()
    box = _room(places, label_map.shape, [int(REACH_PX * min(spacing_mm) / mm) + 1 for mm in spacing_mm])
    inner = tuple(place - one.start for place, one in zip(places, box, strict=True))
    before, now, local = label_map[box].copy(), label_map[box], _shifted(note, [one.start for one in box])
    before[tuple(place[n_marks:] for place in inner)] = sent.values[n_marks:]
    marks = np.zeros((2, *now.shape), bool)
    for mark, part in zip(marks, (slice(asked.inside), slice(asked.inside, n_marks)), strict=True):
        mark[tuple(place[part] for place in inner)] = True
    kept = made_by_hand(before, local)
    by_hand = _drawn(local, before == asked.value, str(asked.value))
    mask = _compete(image_values(path)[box], marks, by_hand & (before == asked.value),
                    (kept | by_hand) & (before != asked.value), spacing_mm, before == asked.value)
    mask[by_hand] = before[by_hand] == asked.value
    after = with_mask(before, mask, asked.value, kept)
    return pack({"filled": _changed_slices(before, after, asked, box, by_hand)}, _in_whole(now, after, box, label_map.shape))


def _within(voxels: np.ndarray, label_map: np.ndarray) -> np.ndarray:
    if voxels.max() >= label_map.size:
        raise InputError(f"voxels: got {voxels.max()}, allowed: less than {label_map.size}")
    return voxels


def _room(places: Sequence[np.ndarray], shape: Sequence[int], margins: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(max(int(place.min()) - by, 0), min(int(place.max()) + by + 1, n))
                 for place, n, by in zip(places, shape, margins, strict=True))


def _shifted(note: Hand, starts: Sequence[int]) -> Hand:
    """Return what is known of a part of the outlines that starts at a voxel (z, y, x)."""
    if note.slices is None:
        return note
    moved: OfClasses = {value: {axis: Slices(*([number - starts[int(axis)] for number in numbers if number >= starts[int(axis)]]
                                               for numbers in (slices.drawn, slices.filled))) for axis, slices in of_axes.items()}
                        for value, of_axes in note.slices.items()}
    return Hand(note.saved, note.stroke, moved)


def _drawn(note: Hand, mask: np.ndarray, value: str) -> np.ndarray:
    """Return the voxels of the slices of a class that a person drew or looked at, (D, H, W) bool.

    Args:
        note: of outlines that are known as a whole alone, all slices that hold the class were drawn.
        mask: (D, H, W) bool, of the class.
    """
    chosen = np.zeros(mask.shape, bool)
    if note.slices is None:
        chosen[mask.any(axis=(1, 2))] = True
    for axis, slices in (note.slices or {}).get(value, {}).items():
        np.moveaxis(chosen, int(axis), 0)[[number for number in slices.drawn if number < mask.shape[int(axis)]]] = True
    return chosen


def _compete(image: np.ndarray, marks: np.ndarray, sample: np.ndarray, closed: np.ndarray, spacing_mm: Sequence[float],
             mask: np.ndarray) -> np.ndarray:
    """Return the mask of a class after its scribbles.

    Args:
        image: (D, H, W).
        marks: (2, D, H, W) bool, the scribbles inside and outside.
        sample: (D, H, W) bool, voxels that are of the class for sure.
        closed: (D, H, W) bool, voxels that are not.
        mask: (D, H, W) bool, before the scribbles.
    """
    (inside, outside), reach_mm = marks, REACH_PX * min(spacing_mm)
    speed = likeness(image, inside | sample, spacing_mm, WIDER)
    if outside.any():
        share = speed / (speed + likeness(image, outside, spacing_mm, WIDER))
        away = arrival(np.maximum(1 - share, STILL), outside, spacing_mm, reach_mm)
        speed = np.minimum(speed, np.maximum(share, STILL))
    else:
        away = np.full(image.shape, np.inf)
    near = arrival(np.where(closed, STILL, speed), inside, spacing_mm, reach_mm)
    return (mask | np.isfinite(near)) & ~(np.isfinite(away) & (away <= near))


def _changed_slices(before: np.ndarray, after: np.ndarray, asked: Scribbles, box: Sequence[slice], by_hand: np.ndarray,
                    ) -> list[int]:
    """Return the slices in which the class changed, but for those that a person drew, as the whole label map numbers them."""
    changed = ((before == asked.value) != (after == asked.value)) & ~by_hand
    numbers = np.flatnonzero(changed.any(axis=tuple(other for other in range(3) if other != asked.axis)))
    return (numbers + box[asked.axis].start).tolist()


def _in_whole(before: np.ndarray, after: np.ndarray, box: Sequence[slice], shape: Sequence[int]) -> Changes:
    """Return what makes a part of a label map another, as changes of the whole."""
    places = np.nonzero(before != after)
    whole = tuple(place + one.start for place, one in zip(places, box, strict=True))
    return Changes(np.ravel_multi_index(whole, tuple(shape)).astype("<u4"), after[places].astype(np.uint8))
