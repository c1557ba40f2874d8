"""Sets of scans and labels in a folder, and which of their cases are outlined."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from qnet.dataloaders.folds import stepping_stones
from qnet.dataloaders.reading import is_nifti, scan_name
from qnet.scripts.tables.own_scans import IMAGES, LABELS
from qnet.util.base.errors import InputError

CHAOS = "CHAOS-T2"
NAMES: Mapping[str, Mapping[int, str]] = {      # of the public sets of docs/organs.md, by the set's name; of others "label 1", …
    CHAOS: LABELS,
    "hippocampus": {1: "anterior", 2: "posterior"},
    "mouse_brain": {1: "hippocampus", 2: "caudate putamen", 3: "thalamus", 4: "cerebellum", 5: "neocortex", 6: "olfactory bulb",
                    7: "brain stem", 8: "ventricles"},
    "spine": {value: f"L{value}" for value in range(1, 6)}}


class Case(NamedTuple):
    """A scan and its labels."""

    name: str
    image: Path
    labels: Path


class OrganSet(NamedTuple):
    """The cases of a set, in the order of their names, numbers by value."""

    name: str
    cases: Sequence[Case]


class Job(NamedTuple):
    """One outlined case of a set, and those that are outlined like it."""

    set: OrganSet
    support: Case
    queries: Sequence[Case]
    stones: Sequence[Case]

    def key(self, query: Case) -> tuple[str, str, str]:
        """Return what a query's rows are found by."""
        return self.set.name, self.support.name, query.name


def sets_in(folder: Path, chosen: Sequence[str] = ()) -> list[OrganSet]:
    """Return the sets of a folder: those of its sub-folders that have images and labels, or the folder itself.

    Args:
        chosen: names of sub-folders; none: all.
    Raises:
        InputError: there is no such set, or images and labels of one cannot be paired.
    """
    folders = [folder] if _is_set(folder) else sorted(path for path in folder.glob("*") if _is_set(path))
    if missing := sorted(set(chosen) - {path.name for path in folders}):
        raise InputError(f"--sets: {missing[0]}: no such set in {folder}; allowed: {', '.join(path.name for path in folders)}")
    if not folders:
        raise InputError(f"--data-dir: no set in {folder}; allowed: a folder with images/ and labels/, or one of such folders")
    return [OrganSet(path.name, paired(_scans_in(path / "images"), _scans_in(path / "labels"), path))
            for path in folders if not chosen or path.name in chosen]


def _is_set(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "labels").is_dir()


def _scans_in(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if is_nifti(path) and not path.name.startswith("."))
    return sorted(found, key=_order)


def _order(path: Path) -> list[tuple[int, str]]:
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", scan_name(path))]


def paired(images: Sequence[Path], labels: Sequence[Path], folder: Path) -> list[Case]:
    """Return the cases of a set. Images and labels of equal names belong together, the rest by its order.

    Raises:
        InputError: the rest differs in number, or there are fewer than two cases.
    """
    by_name = {scan_name(path): path for path in labels}
    rest_of_labels = [path for path in labels if scan_name(path) not in {scan_name(image) for image in images}]
    rest = [image for image in images if scan_name(image) not in by_name]
    if len(rest) != len(rest_of_labels) or len(images) < 2:
        raise InputError(f"{folder}: {len(images)} images and {len(labels)} labels; allowed: equally many, at least two")
    by_order = dict(zip(rest, rest_of_labels, strict=True))
    return [Case(scan_name(image), image, by_order.get(image) or by_name[scan_name(image)]) for image in images]


def chaos_set(folder: Path) -> OrganSet:
    """Return CHAOS-T2 as a set, from its own layout.

    Raises:
        InputError: it has fewer than two images, or one has no labels.
    """
    images = sorted((folder / IMAGES).glob("image_*.nii.gz"), key=_order)
    cases = [Case(name, image, image.with_name(f"label_{name}.nii.gz"))
             for image in images for name in [scan_name(image).removeprefix("image_")]]
    if len(cases) < 2 or not all(case.labels.is_file() for case in cases):
        raise InputError(f"--chaos: {folder / IMAGES}: allowed: a folder with image_N and label_N of at least two cases")
    return OrganSet(CHAOS, cases)


def jobs_of(organs: OrganSet, outlined: Sequence[int], n_stones: int) -> list[Job]:
    """Return a job for each outlined case.

    Args:
        outlined: positions of cases, the first is 1.
        n_stones: how many of the other cases are stepping stones, spread evenly.
    Raises:
        InputError: there is no such case.
    """
    jobs = []
    for position in outlined:
        if not 1 <= position <= len(organs.cases):
            raise InputError(f"--outlined: {organs.name} has no case {position}; allowed: 1 to {len(organs.cases)}")
        queries = [case for k, case in enumerate(organs.cases, 1) if k != position]
        stones = [queries[k] for k in stepping_stones(len(queries), (), n_stones)]
        jobs.append(Job(organs, organs.cases[position - 1], queries, stones))
    return jobs
