"""What of the outlines by hand is an example: finished classes alone, and what is told of the others before a run.

A class is finished in a scan if a person drew or looked at each slice of it, or filled it between two such slices. Slices that
were left out between drawn ones are filled for the run. A class with other slices is no example, be they found, grown or changed
as they followed a correction: nobody looked at them, and they may be wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qnet.dataloaders.gaps import fill_between
from qnet.dataloaders.geometry import spacing_of
from qnet.dataloaders.nifti import read_affine, write_like
from qnet.util.label.session import Session
from qnet.util.label.stored import Slices

FEW = 1         # slices of a class that are told
WIDE = 0.7      # of the area of the widest slice; organs rarely end so wide


@dataclass(frozen=True)
class Made:
    """How far a class is in a scan.

    Attributes:
        axis: across its slices.
        drawn: slices that a person drew or looked at.
        between: those between them that nobody drew, looked at or filled.
        beyond: others of the class that nobody drew or looked at.
    """

    axis: int
    drawn: tuple[int, ...]
    between: tuple[int, ...]
    beyond: tuple[int, ...]


def made_of(mask: np.ndarray, of_axes: Mapping[Any, Slices]) -> Made:
    """Return how far a class is, by its (D, H, W) mask and the slices that a person made."""
    axis = max(of_axes, key=lambda one: len(of_axes[one].drawn), default="0")
    slices = of_axes.get(axis, Slices())
    drawn = sorted(number for number in slices.drawn if number < mask.shape[int(axis)])
    held = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != int(axis)))).tolist()
    span = range(drawn[0], drawn[-1] + 1) if drawn else range(0)
    gaps = {number for number in span if is_left_out(number, drawn, held)}
    between, beyond = ((gaps | set(held)) & set(span)) - {*drawn, *slices.filled}, set(held) - set(span)
    return Made(int(axis), tuple(drawn), tuple(sorted(between)), tuple(sorted(beyond)))


def is_left_out(number: int, drawn: Sequence[int], held: Sequence[int]) -> bool:
    """Return whether a drawn slice next to this one holds the class: between two that are empty nothing is left out."""
    return max(one for one in drawn if one <= number) in held or min(one for one in drawn if one >= number) in held


def example(session: Session, name: str) -> tuple[np.ndarray, list[str]]:
    """Return what of a scan's outlines is an example, (D, H, W) uint8, and a line for each class that is not as it should be.

    Raises:
        MissingError: there is no such scan.
        ConflictError, InputError: its outlines cannot be read.
    """
    label_map, note = session.present(name, session.saved(name))
    if note.slices is None:
        return label_map, []
    spacing_mm = spacing_of(read_affine(session.image_file(name)))[::-1].tolist()
    taught, told, by_computer = label_map.copy(), [], session.has_found(name)
    for one in session.classes:
        value, of_axes = one["value"], note.slices.get(str(one["value"]), {})
        mask = label_map == value
        made = made_of(mask, of_axes)
        if made.beyond:
            taught[mask] = 0
        elif made.between:
            filled, _ = fill_between(mask, made.drawn, made.axis, spacing_mm)
            taught[filled & (taught == 0)] = value
        told += [f"{name}: {one['name']}: {words}" for words in _words(mask, made, by_computer)]
    return taught, told


def _words(mask: np.ndarray, made: Made, by_computer: bool) -> Iterator[str]:
    n_held = int(mask.any(axis=tuple(other for other in range(3) if other != made.axis)).sum())
    if made.beyond:
        yield (f"nobody looked at {len(made.beyond) + len(made.between)} of its {n_held} slices; it is no example of this class "
               "until you draw them or say that they are right")
    elif made.between:
        yield f"{len(made.between)} slices between drawn ones are left out; the run fills them by shape"
    elif not n_held and not by_computer and not made.drawn:
        yield "nothing is drawn"
    elif n_held <= FEW and not by_computer:
        yield f"is drawn in {n_held} slice only"
    elif made.drawn:
        yield from _wide_ends(mask, made)


def _wide_ends(mask: np.ndarray, made: Made) -> Iterator[str]:
    """Yield a line for each end of a class that is as wide as if it went on there. At the border of the scan it cannot."""
    areas = np.moveaxis(mask, made.axis, 0).sum(axis=(1, 2))
    for which, number, border in (("first", made.drawn[0], 0), ("last", made.drawn[-1], len(areas) - 1)):
        if number != border and areas[number] > WIDE * areas.max():
            yield (f"is still wide in the {which} slice that is drawn ({100 * areas[number] / areas.max():.0f} % of the widest); "
                   "draw on, or say that the next slice is right without it")


def unfinished(session: Session) -> list[str]:
    """Return a line for each class of an example that is not finished."""
    return [line for name in session.supports() for line in example(session, name)[1]]


def lend_examples(session: Session, folder: Path) -> list[tuple[str, Path]]:
    """Return name and label map of each scan that is an example of some class. The label maps are written into a work folder."""
    lent = []
    for name in session.supports():
        label_map, _ = example(session, name)
        if label_map.any():
            lent.append((name, folder / f"{name}.nii.gz"))
            write_like(session.image_file(name), label_map, lent[-1][1])
    return lent
