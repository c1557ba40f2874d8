"""A 4D file, as a cine or a dynamic series, is a folder of phases: outline one, get all, joined to 4D with volumes over time.

The phases are unpacked into `phases/` of the output folder, as "phase 01", "phase 02", …, and are scans like any others. Stepping
stones are spread evenly along time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import SimpleITK as sitk

from qnet.dataloaders.dicom import Stack, read_stacks
from qnet.dataloaders.dicom_times import in_time
from qnet.dataloaders.geometry import affine_of, voxel_ml
from qnet.dataloaders.nifti import MAX_VOXELS, is_series, phase_like, read_array, read_header, save_series, write_like
from qnet.dataloaders.reading import scan_name
from qnet.util.base.device import resolve_device
from qnet.util.base.distributed import main_does, meet
from qnet.util.base.errors import InputError
from qnet.util.base.guard import claim
from qnet.util.base.tables import significant, write_rows

PHASES, OUTLINED, VOLUMES = "phases", "outlined_phases", "volumes.csv"
COLUMNS = ("phase", "seconds", "label", "label_name", "volume_ml")
T = TypeVar("T")
TO_SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}


def of_dicom(source: Path, output: Path, *, overwrite: bool, remedy: str) -> Path | None:
    """Write a DICOM series of several times as a 4D file into the folder of the results; return its path, None if it is none.

    Args:
        source: a folder or a file, as `in_time` takes it.
        overwrite, remedy: as `claim` takes them.
    Raises:
        InputError: as `in_time`, or the file may not be written.
    """
    found = in_time(source)
    if found is None:
        return None
    return _for_all(lambda: _as_file(source, output, *found, overwrite, remedy))


def _for_all(work: Callable[[], T]) -> T:
    """Let the main process do something, and return what it got. The device is the command's, which has no option for it."""
    meet(resolve_device("auto"))
    return main_does(work)


def _as_file(source: Path, output: Path, stacks: Sequence[Stack], step_s: float | None, overwrite: bool, remedy: str) -> Path:
    path = output / f"{scan_name(source.resolve())}.nii.gz"
    claim([path], [source], overwrite=overwrite, remedy=remedy)
    if sum(len(one.paths) * math.prod(one.size) for one in stacks) > MAX_VOXELS:
        raise InputError(f"{source}: expected at most {MAX_VOXELS} voxels, got {len(stacks)} volumes of {stacks[0].size} pixels")
    save_series(np.stack([*map(sitk.GetArrayFromImage, read_stacks(stacks))]), stacks[0].affine, step_s, path)
    return path


@dataclass(frozen=True)
class Series:
    """A 4D file whose phases are outlined.

    Attributes:
        source: the file.
        output: the folder of the results.
        n_phases: how many phases it has.
        step_s: seconds from a phase to the next; None if the header does not say.
        pair: numbers of the phases, from 1, between which the stroke volume is told: end of diastole and of systole. None: it
            is not told.
    """

    source: Path
    output: Path
    n_phases: int
    step_s: float | None
    pair: tuple[int, int] | None = None

    @classmethod
    def of(cls, source: Path, output: Path, pair: tuple[int, int] | None = None) -> Series:
        """Return the series of a file.

        Raises:
            InputError: it is no series of volumes, or a number of the pair is none of a phase.
        """
        header = read_header(source, 4)
        n_phases, step = int(header.get_data_shape()[3]), float(header["pixdim"][4])
        try:
            unit = header.get_xyzt_units()[1]
        except KeyError:        # a code that NIfTI does not know
            unit = "unknown"
        step_s = step * TO_SECONDS[unit] if unit in TO_SECONDS and np.isfinite(step) and step > 0 else None
        for number in pair or ():
            if not 1 <= number <= n_phases:
                raise InputError(f"--ejection: got {number}, allowed: a number of a phase, from 1 to {n_phases}")
        return cls(source, output, n_phases, step_s, pair)

    @property
    def folder(self) -> Path:
        """The folder of the phases."""
        return self.output / PHASES

    @property
    def joined(self) -> Path:
        """The path of the label maps of all phases in one file."""
        return self.output / f"{scan_name(self.source)}_outlines.nii.gz"

    @property
    def files(self) -> tuple[Path, Path]:
        """The files of all phases together."""
        return self.joined, self.output / VOLUMES

    def name(self, number: int) -> str:
        """Return the name of a phase. They are sorted as the numbers, which count from 1."""
        return f"phase {number:0{max(2, len(str(self.n_phases)))}d}"

    def scan(self, number: int) -> Path:
        """Return the path of a phase."""
        return self.folder / f"{self.name(number)}.nii.gz"

    def unpack(self, outlined: Mapping[int, Path], *, overwrite: bool, remedy: str) -> list[tuple[Path, Path]]:
        """Write the phases, and return (phase, outlines) of each outlined one. One process does so for all.

        Args:
            outlined: files of outlines by number of the phase. Of one that holds all phases, that phase is written too.
            overwrite, remedy: as `claim` takes them.
        Raises:
            InputError: a file is damaged or may not be written, or outlines are of another number of phases.
        """
        return _for_all(lambda: self._unpack(outlined, overwrite, remedy))

    def _unpack(self, outlined: Mapping[int, Path], overwrite: bool, remedy: str) -> list[tuple[Path, Path]]:
        of_all = {number: labels for number, labels in outlined.items() if is_series(labels)}
        labels_of = {number: self.output / OUTLINED / f"{self.name(number)}.nii.gz" for number in of_all}
        phases = range(1, self.n_phases + 1)
        claim([*map(self.scan, phases), *labels_of.values()], [self.source, *outlined.values()], overwrite=overwrite,
              remedy=remedy)
        array = read_array(self.source, 4)
        if array.dtype.kind == "f":     # of a slope; phases of a series have one
            array = array.astype(np.float32)
        for number in phases:
            phase_like(self.source, array[number - 1], self.scan(number))
        for number, labels in of_all.items():
            whole = read_array(labels, 4)
            if len(whole) != self.n_phases:
                raise InputError(f"{labels}: holds {len(whole)} phases, but {self.source} has {self.n_phases}")
            phase_like(labels, whole[number - 1], labels_of[number])
        return [(self.scan(number), labels_of.get(number, labels)) for number, labels in outlined.items()]

    def write(self, label_maps: Mapping[str, np.ndarray], names: Mapping[int, str],
              colours: Mapping[int, str]) -> tuple[dict[str, str], list[dict[str, str]]]:
        """Join label maps to one file of the series' form, write the volumes of all phases, and return facts and plots of them.

        Args:
            label_maps: (D, H, W) by name of the phase. Phases that are missing stay empty.
            names, colours: of the labels, by value.
        Raises:
            OSError: a file cannot be written.
        """
        header = read_header(self.source, 4)
        whole = np.zeros(header.get_data_shape()[::-1], np.uint8 if max(names) < 256 else np.int16)
        found = {number: label_maps[name] for number in range(1, self.n_phases + 1) if (name := self.name(number)) in label_maps}
        for number, label_map in found.items():
            whole[number - 1] = label_map
        write_like(self.source, whole, self.joined)
        rows = self._rows(found, names, voxel_ml(affine_of(header, self.source)))
        write_rows(rows, COLUMNS, self.output / VOLUMES)
        curves = {name: [row["volume_ml"] for row in rows if row["label"] == value] for value, name in names.items()}
        at = [number if self.step_s is None else (number - 1) * self.step_s for number in found]
        from qnet.util.results.figures import volume_curves  # Matplotlib, which few runs need
        image = volume_curves(at, curves, {names[value]: colour for value, colour in colours.items() if value in names},
                              "phase" if self.step_s is None else "seconds")
        return self._facts(rows), [{"image": image, "text": "Volume of each label over time, outlined phases included."}]

    def _rows(self, found: Mapping[int, np.ndarray], names: Mapping[int, str], ml: float) -> list[dict[str, Any]]:
        return [{"phase": number, "seconds": None if self.step_s is None else significant((number - 1) * self.step_s),
                 "label": value, "label_name": name, "volume_ml": significant(np.count_nonzero(label_map == value) * ml)}
                for number, label_map in found.items() for value, name in names.items()]

    def _facts(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Return stroke volume and ejection fraction of each label, in words."""
        if self.pair is None:
            return {}
        told = []
        for value, name in dict.fromkeys((row["label"], row["label_name"]) for row in rows):
            at = {row["phase"]: float(row["volume_ml"]) for row in rows if row["label"] == value}
            full, empty = (at.get(number) for number in self.pair)
            if full and empty is not None:
                told.append(f"{name}: {full:.4g} − {empty:.4g} = {full - empty:.4g} ml, {(full - empty) / full:.0%}")
        first, second = map(self.name, self.pair)
        return {f"stroke volume and ejection fraction, {first} to {second}": "; ".join(told) or "a phase is missing"}


def outlines_of(supports: Sequence[Any]) -> dict[str, np.ndarray]:
    """Return the (D, H, W) outlines of supports on their own grids, by name of the scan."""
    return {support.scan.name: sitk.GetArrayFromImage(support.outlines.labels) for support in supports}
