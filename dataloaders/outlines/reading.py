"""The outlines of a scan from any kind of file: label maps with a table of names, `.seg.nrrd`, DICOM-SEG, RTSTRUCT."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from qnet.dataloaders.dicom import SEGMENTATIONS, STRUCTURES, read_slices, slices_of
from qnet.dataloaders.outlines.name_tables import of_present, table_of, tables_beside
from qnet.dataloaders.outlines.seg_nrrd import read_seg_nrrd
from qnet.dataloaders.outlines.segments import Outlines, expect_names
from qnet.dataloaders.reading import is_slice, names_segments, stored_labels
from qnet.util.base.errors import InputError

Reader = Callable[[Path, sitk.Image, Path | str, str | None], Outlines]


def stored_outlines(path: Path, image: sitk.Image, image_name: Path | str) -> Outlines:
    """Return the outlines of a scan. A label map is returned as it is stored, of the size of the scan in whatever order of axes.

    Args:
        path: of a label map, maybe with a table of names beside it (`name_tables`); or of segments.
        image: the scan.
        image_name: its path, or its name in messages.
    Raises:
        InputError: the file is damaged, or does not belong to the scan.
    """
    if names_segments(path):
        return read_seg_nrrd(path, image, image_name)
    if is_slice(path) and (reader := _reader_of(_class_of(path))):
        series = _series_of(image_name) if isinstance(image_name, Path) else None
        return reader(path, image, image_name, series)
    labels = stored_labels(path, image, image_name)
    table, told = table_of(path)
    if not table[0]:
        return Outlines(labels, told=told)
    present = set(np.unique(sitk.GetArrayViewFromImage(labels)).tolist())
    names, colours = of_present(table, present)
    return replace(Outlines(labels), names=expect_names(names, tables_beside(path)[0]), colours=colours, told=told)


def _reader_of(sop_class: str) -> Reader | None:
    """Return what reads the outlines of a class of DICOM files; None if it holds none. Few runs need these modules."""
    if sop_class in SEGMENTATIONS:
        from qnet.dataloaders.outlines.dicom_seg import read_dicom_seg
        return read_dicom_seg
    if sop_class == STRUCTURES:
        from qnet.dataloaders.outlines.rtstruct import read_rtstruct
        return read_rtstruct
    return None


def _class_of(path: Path) -> str:
    """Return the class of a DICOM file; "" if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return str(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).get("SOPClassUID", ""))
    except Exception:       # whatever a damaged file leads to; it is named when it is read as a scan
        return ""


def _series_of(scan: Path) -> str | None:
    """Return the number of a scan's series; None if it is no DICOM."""
    try:
        if scan.is_dir():
            return slices_of(scan)[0].series or None
        return read_slices(scan)[0].series or None if is_slice(scan) else None
    except InputError:
        return None


def files_with(labels: Path) -> list[Path]:
    """Return all files that outlines are read from: the file itself, and tables of names beside it."""
    return [labels, *tables_beside(labels)]
