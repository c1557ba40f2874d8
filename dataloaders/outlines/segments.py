"""Outlines of a scan with names and colours, and segments that become them: on the scan's voxels, each voxel in one class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from qnet.dataloaders.geometry import voxel_to_patient
from qnet.dataloaders.itk import with_geometry
from qnet.util.base.classes import ALIKE_RULE, MAX_VALUE, NAME_RULE, alike, default_name, file_name, is_name, is_value
from qnet.util.base.errors import InputError

OFF = 0.25          # of a voxel: how far segments may lie beside the voxels of their scan
SHOWN_PAIRS = 3


@dataclass(frozen=True)
class Outlines:
    """The outlines of a scan.

    Attributes:
        labels: on the scan's own grid, or as a label map stores them.
        names: of values, as "liver". Values without a name in the file are left out.
        colours: of values, as "#e69f00". The same holds for them.
        told: a line for each thing that the person should know.
    """

    labels: sitk.Image
    names: Mapping[int, str] = field(default_factory=dict)
    colours: Mapping[int, str] = field(default_factory=dict)
    told: tuple[str, ...] = ()


@dataclass(frozen=True)
class Segment:
    """A segment: the number that its file gives, its name (maybe ""), its colour, and its voxels: flat indices (D, H, W)."""

    number: Any
    name: str
    colour: str | None
    voxels: np.ndarray


def flat_voxels(inside: np.ndarray, to_patient: np.ndarray, image: sitk.Image, what: str, image_name: Path | str) -> np.ndarray:
    """Return which voxels of a scan a mask covers, as flat indices into (D, H, W). The axes may run in another order.

    Args:
        inside: (D, H, W) mask.
        to_patient: 4×4, from its index (x, y, z) to millimetres (LPS).
        image: the scan.
        what: the mask in messages.
    Raises:
        InputError: its voxels are not those of the scan, within OFF of a voxel, or some lie outside of the scan.
    """
    to_scan = np.linalg.inv(voxel_to_patient(image)) @ to_patient
    size = np.array(inside.shape[::-1])
    steps = to_scan[:3, :3] * (size > 1)        # an axis of one voxel makes no step
    whole = np.rint(steps)
    corner = to_scan[:3, 3] - np.rint(to_scan[:3, 3])
    off = np.abs(corner) + np.abs(steps - whole) @ (size - 1)
    if (np.abs(whole).sum(axis=0) != (size > 1)).any() or not (off <= OFF).all():
        raise InputError(f"{what}: lies on other voxels than {image_name}; allowed: the scan's own voxels, or a part of them")
    own = np.argwhere(inside)[:, ::-1]
    index = own @ whole.T.astype(np.int64) + np.rint(to_scan[:3, 3]).astype(np.int64)
    return flat_index(index, image, what, image_name)


def flat_index(index: np.ndarray, image: sitk.Image, what: str, image_name: Path | str) -> np.ndarray:
    """Return (n, 3) indices (x, y, z) as flat indices into (D, H, W).

    Raises:
        InputError: some lie outside of the scan.
    """
    outside = int(((index < 0) | (index >= image.GetSize())).any(axis=1).sum())
    if outside:
        raise InputError(f"{what}: {outside} of {len(index)} voxels lie outside of {image_name}; allowed: outlines of this scan")
    return np.ravel_multi_index(tuple(index[:, ::-1].T), image.GetSize()[::-1])


def joined(segments: Sequence[Segment], image: sitk.Image, path: Path | str) -> Outlines:
    """Return segments as outlines, in which each voxel has one value.

    A voxel of several segments goes to the one that has the fewest voxels; of two that have equally many, to the later. `told`
    says so. Numbers that are no values of classes, or not all different, are replaced by 1, 2, … in the order of the file.

    Raises:
        InputError: there is no segment, or a name is not allowed, or two are alike.
    """
    if not any(len(one.voxels) for one in segments):
        raise InputError(f"{path}: holds no outline" + (f"; its segments {_listed(segments)} are empty" if segments else ""))
    if len(segments) > MAX_VALUE:
        raise InputError(f"{path}: holds {len(segments)} segments, allowed: {MAX_VALUE}")
    values = [one.number for one in segments]
    if not all(map(is_value, values)) or len({int(value) for value in values}) < len(values):
        values = list(range(1, len(segments) + 1))
    values = [int(value) for value in values]
    labels = np.zeros(image.GetSize()[::-1], np.int16)
    of_voxel, shared = labels.reshape(-1), Counter[tuple[int, int]]()
    for value, one in sorted(zip(values, segments, strict=True), key=lambda pair: -len(pair[1].voxels)):
        taken = of_voxel[one.voxels]
        shared.update({(int(other), value): int(n) for other, n in zip(*np.unique(taken[taken > 0], return_counts=True),
                                                                       strict=True)})
        of_voxel[one.voxels] = value
    names = expect_names({value: one.name for value, one in zip(values, segments, strict=True) if one.name.strip()}, path)
    colours = {value: one.colour for value, one in zip(values, segments, strict=True) if one.colour}
    return Outlines(with_geometry(labels, image), names, colours, tuple(_said(shared, names, path)))


def _listed(segments: Sequence[Segment]) -> str:
    return ", ".join(repr(one.name or f"number {one.number}") for one in segments[:SHOWN_PAIRS])


def _said(shared: Mapping[tuple[int, int], int], names: Mapping[int, str], path: Path | str) -> Iterable[str]:
    """Yield what is told about voxels of several segments."""
    if not shared:
        return
    def name(value: int) -> str:
        return names.get(value, f"label {value}")
    pairs = [f"{name(of)} and {name(to)} share {n} voxels, which are taken as {name(to)}" for (of, to), n in shared.items()]
    more = f", and so do {len(pairs) - SHOWN_PAIRS} more pairs" if len(pairs) > SHOWN_PAIRS else ""
    yield f"{path}: {'; '.join(pairs[:SHOWN_PAIRS])}{more}: a voxel of several segments goes to the smallest"


def expect_names(names: Mapping[int, str], path: Path | str) -> dict[int, str]:
    """Return names of classes without spaces around them.

    Raises:
        InputError: one is no name, or two are alike.
    """
    stripped = {value: name.strip() for value, name in names.items()}
    if bad := next((name for name in stripped.values() if not is_name(name)), None):
        raise InputError(f"{path}: got the name {bad[:120]!r}, allowed: {NAME_RULE}")
    if two := alike(stripped.values()):
        raise InputError(f"{path}: got the names {two[0]!r} and {two[1]!r}, allowed: {ALIKE_RULE}")
    return stripped


def in_terms_of(known: Mapping[int, str], outlines: Outlines, path: Path | str) -> Outlines:
    """Return outlines with the values that other outlines gave to classes of the same names.

    A class whose name is not known keeps its value, unless a known one has it; then it gets the next free one. Outlines without
    names stay as they are.

    Args:
        known: the names of values so far.
        path: of the outlines in messages.
    Raises:
        InputError: a value without a name is that of a known class that has another value here.
    """
    value_of = {file_name(name): value for value, name in known.items()}
    array = sitk.GetArrayFromImage(outlines.labels)
    present = {int(value) for value in np.unique(array)} - {0}
    used = {*known, *present, *outlines.names}
    new: dict[int, int] = {}
    for value, name in outlines.names.items():
        if (same := value_of.get(file_name(name))) is not None:
            new[value] = same
        elif value in known:
            new[value] = next(free for free in range(1, MAX_VALUE + 1) if free not in used)
            used.add(new[value])
    if all(before == after for before, after in new.items()):
        return outlines
    if mixed := (present - set(outlines.names)) & set(new.values()):
        value = min(mixed)
        raise InputError(f"{path}: its label {value} has no name, and {value} is {known.get(value)} in other outlines; allowed: "
                         "names for all of its labels, or for none")
    moved = array.copy()
    for before, after in new.items():
        moved[array == before] = after
    return replace(outlines, labels=with_geometry(moved, outlines.labels),
                   names={new.get(value, value): name for value, name in outlines.names.items()},
                   colours={new.get(value, value): colour for value, colour in outlines.colours.items()})


def named(values: Iterable[int], names: Mapping[int, str]) -> dict[int, str]:
    """Return a name for each value: the given one, else "label 7"."""
    found = {value: names[value] for value in values if value in names}
    for value in values:
        found.setdefault(value, default_name(value, found.values()))
    return found
