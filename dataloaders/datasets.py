"""The entries of the dataset table, and the files of a prepared dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qnet.util.base.errors import InputError

SUPERPIXELS = "superpixels_{n_sp}/superpix-MIDDLE_{case}.nii.gz"   # below data_dir, for every dataset


@dataclass(frozen=True)
class Grid:
    """The grid to which preparation brought every scan of a dataset. configs/base.json5 explains it, at `grid` of an entry."""

    spacing_mm: tuple[float, float, float]       # (x, y, z)
    size_px: int
    orientation: str | None
    window: tuple[float, float] | None


@dataclass(frozen=True)
class DatasetSpec:
    """One entry of `datasets` in configs/base.json5, which explains the fields."""

    name: str
    image: str
    label: str
    supervoxels: str
    labels: Mapping[int, str]
    file_values: Mapping[int, int]
    n_folds: int
    grid: Grid | None = None


@dataclass(frozen=True)
class Case:
    """The files of one scan. `image` exists, the others may be missing."""

    name: str
    image: Path
    label: Path
    supervoxels: Path
    superpixels: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them, whether they exist or not."""
        return self.image, self.label, self.supervoxels, self.superpixels


def find_cases(spec: DatasetSpec, data_dir: Path | str, n_sv: int, n_sp: int = 0) -> list[Case]:
    """Return the cases whose image exists, in the order of `case_order`.

    Args:
        spec: the dataset.
        data_dir: its folder.
        n_sv, n_sp: smallest supervoxel in voxels and smallest superpixel in pixels, part of their folders' names. 0 where none
            are read.

    Raises:
        InputError: the folder is missing, or no image in it has the expected name.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise InputError(f"path.{spec.name}.data_dir: no folder {root}; data/README.md of the repository says how to "
                         "get the data")
    folder, _, file_name = spec.image.rpartition("/")
    prefix, suffix = file_name.split("{case}")
    names = [path.name[len(prefix):len(path.name) - len(suffix)] for path in (root / folder).glob(f"{prefix}*{suffix}")]
    if not names:
        raise InputError(f"path.{spec.name}.data_dir: no file {spec.image.replace('{case}', '*')} below {root}")

    def path(pattern: str, name: str) -> Path:
        return root / pattern.format(case=name, n_sv=n_sv, n_sp=n_sp)

    files = (spec.image, spec.label, spec.supervoxels, SUPERPIXELS)
    return [Case(name, *(path(pattern, name) for pattern in files))
            for name in sorted(names, key=case_order)]


def case_order(name: str) -> tuple:
    """Return the key that sorts cases by the numbers in their names: 2 before 10, "b2" before "b10"."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part)
