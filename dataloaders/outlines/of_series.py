"""What outlines in DICOM say of the series that they belong to, and its slices as they refer to them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from qnet.dataloaders.dicom import Stack
from qnet.dataloaders.geometry import spacing_of
from qnet.util.base.errors import InputError

MAKER = "qnet"
SHORT = 64
PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID",
           "AccessionNumber", "ReferringPhysicianName")      # that another object of the same study has to have, maybe empty


def series_named(head: pydicom.Dataset) -> set[str]:
    """Return the numbers of the series that a DICOM segmentation or a set of structures refers to."""
    found = {str(one.get("SeriesInstanceUID", "")) for one in head.get("ReferencedSeriesSequence") or []}
    for frame in head.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            found |= {str(one.get("SeriesInstanceUID", "")) for one in study.get("RTReferencedSeriesSequence") or []}
    return found - {""}


def expect_series(named: set[str], series: str | None, path: Path, image_name: Path | str) -> None:
    """Raise InputError if outlines name other series than that of their scan.

    Args:
        named: `series_named`; if it is empty, nothing is said.
        series: of the scan; None if it is no DICOM series, or names none.
    """
    if series and named and series not in named:
        raise InputError(f"{path}: its outlines are of the series {sorted(named)[0]}, but {image_name} is {series}; allowed: the "
                         "series that it names")


def sources_of(stack: Stack) -> tuple[list[pydicom.Dataset], list[int]]:
    """Return the files of a series without their pixels, and which planes of a volume (D, H, W) their frames are, in order.

    What the standard asks of every object, and an anonymised file lacks, is there and empty.
    """
    paths = list(dict.fromkeys(stack.paths))
    in_order = sorted(range(len(stack.paths)), key=lambda k: (paths.index(stack.paths[k]), stack.frames[k] or 0))
    heads: list[pydicom.Dataset] = [pydicom.dcmread(path, stop_before_pixels=True, force=True) for path in paths]
    thickness_mm = abs(float(np.linalg.det(stack.affine[:3, :3] / [*spacing_of(stack.affine)[:2], 1])))
    for head in heads:
        for name in PATIENT:
            if name not in head:
                setattr(head, name, "")
        for of_measures in (head, *_measures(head)):
            if not of_measures.get("SliceThickness"):
                of_measures.SliceThickness = f"{thickness_mm:.6g}"
        if not head.get("FrameOfReferenceUID"):     # of slices that do not name one: their series'
            head.FrameOfReferenceUID = _uid(f"frame of reference of {head.get('SeriesInstanceUID')}")
    return heads, in_order


def _measures(head: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Return what a file of frames says of the sizes of pixels, for all frames or for each."""
    groups = [*(head.get("SharedFunctionalGroupsSequence") or []), *(head.get("PerFrameFunctionalGroupsSequence") or [])]
    return [one for group in groups for one in group.get("PixelMeasuresSequence") or []]


def short_text(name: str) -> str:
    """Return a name as DICOM's short texts may be: 64 characters, without the sign that separates values."""
    return name.replace("\\", "/")[:SHORT]


def uid_of(source: Any, label_map: np.ndarray, what: str) -> str:
    """Return a unique identifier. The same outlines of the same series have the same one."""
    return _uid(f"{source.SeriesInstanceUID} {what} {hashlib.sha256(np.ascontiguousarray(label_map).tobytes()).hexdigest()}")


def _uid(text: str) -> str:
    return str(generate_uid(entropy_srcs=[text]))
