"""Writes outlines for other programs: `.seg.nrrd`, DICOM-SEG, RTSTRUCT, STL, made of a label map with names and colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from qnet.dataloaders.dicom import Stack, slices_of, stack
from qnet.dataloaders.outlines.extras import highdicom
from qnet.dataloaders.outlines.formats import DICOM_SEG, ENDING, FORMATS, NIFTI, RTSTRUCT, SEG_NRRD, STL
from qnet.dataloaders.outlines.seg_nrrd import write_seg_nrrd
from qnet.dataloaders.reading import is_slice, scan_name
from qnet.util.base.classes import ALIKE_RULE, alike, file_name
from qnet.util.base.errors import InputError

ON_SERIES = (DICOM_SEG, RTSTRUCT)       # refer to the scan's own DICOM files


def expect_formats(formats: Sequence[str], scans: Iterable[Path], names: Iterable[str], option: str) -> None:
    """Check that outlines of scans can be written in some formats, before any work.

    Args:
        names: of the classes.
        option: what the program calls the formats.
    Raises:
        InputError: a format is not known, needs a library that is missing, or refers to DICOM, which no scan is; or two names
            would be the same in names of files.
    """
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise InputError(f"{option}: got {unknown[0]!r}, allowed: {', '.join(FORMATS)}")
    if STL in formats and (two := alike(names)):
        raise InputError(f"{option}: {STL} has a file for each class, got {two[0]!r} and {two[1]!r}; allowed: {ALIKE_RULE}")
    if DICOM_SEG in formats:
        highdicom(f"{option} {DICOM_SEG}")
    scans = list(scans)
    if scans and (of_series := [one for one in formats if one in ON_SERIES]) and not any(map(is_series, scans)):
        raise InputError(f"{option}: {of_series[0]} refers to the files of a DICOM series, but {scans[0]} is none; allowed for "
                         f"these scans: {', '.join(one for one in FORMATS if one not in ON_SERIES)}")


def formats_of(formats: Iterable[str], scan: Path) -> list[str]:
    """Return which of some formats outlines of a scan can be written in: of one that is no DICOM series, those that need none."""
    return [one for one in formats if one not in ON_SERIES or is_series(scan)]


def is_series(scan: Path) -> bool:
    """Return whether a scan is read from DICOM files."""
    return scan.is_dir() or is_slice(scan)


def files_in(formats: Iterable[str], target: Path, names: Iterable[str]) -> list[Path]:
    """Return the files beside a label map that hold the same outlines in other formats.

    Args:
        target: the path of the label map.
        names: of the classes. STL has a file for each.
    """
    stem, names = scan_name(target), list(names)
    return [path for one in formats if one != NIFTI
            for path in ([target.with_name(f"{stem}_{file_name(name)}.stl") for name in names] if one == STL
                         else [target.with_name(stem + ENDING[one])])]


def write_formats(formats: Sequence[str], label_map: np.ndarray, image: sitk.Image, scan: Path | None, names: Mapping[int, str],
                  colours: Mapping[int, str], target: Path) -> None:
    """Write a (D, H, W) label map beside `target` in other formats (`files_in`).

    Args:
        image: the scan on whose grid the label map is.
        scan: its path; for formats that refer to a DICOM series.
        names, colours: of all classes, by value.
    Raises:
        InputError: a format cannot hold these outlines. Those that need no DICOM series are written before.
        OSError: a file cannot be written.
    """
    for one in sorted(formats, key=lambda one: one in ON_SERIES):
        paths = files_in([one], target, names.values())
        if one == SEG_NRRD:
            write_seg_nrrd(label_map, image, names, colours, paths[0])
        elif one in ON_SERIES:
            if scan is None or not is_series(scan):
                raise InputError(f"{one} refers to the files of a DICOM series, allowed: a scan that is read from one")
            _write_on_series(one, label_map, stack(slices_of(scan), scan), names, colours, paths[0])
        elif one == STL:
            from qnet.dataloaders.outlines.stl import write_stl
            for path, value in zip(paths, names, strict=True):
                write_stl(label_map == value, image, path)


def _write_on_series(kind: str, label_map: np.ndarray, slices: Stack, names: Mapping[int, str], colours: Mapping[int, str],
                     path: Path) -> None:
    """Write a format that refers to DICOM files. Few runs need these modules."""
    if kind == DICOM_SEG:
        from qnet.dataloaders.outlines.dicom_seg import write_dicom_seg as write
    else:
        from qnet.dataloaders.outlines.rtstruct import write_rtstruct as write
    write(label_map, slices, names, colours, path)
