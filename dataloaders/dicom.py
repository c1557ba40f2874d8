"""Reading a folder of DICOM slices as one volume."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataloaders.itk import last_line, plain_spacing, quiet
from dataloaders.nifti import GZIP_RATIO, MAX_VOXELS
from util.base.errors import InputError
from util.base.inputs import expect_utf8


def read_dicom(folder: Path) -> sitk.Image:
    """Return the series in a folder as one image. Names and order of the files do not matter.

    Raises:
        InputError: files are missing or damaged, there are several series, or the slices are not evenly stacked.
    """
    slices = dict(enumerate(path for path in sorted(folder.iterdir())
                            if path.is_file() and not path.name.startswith(".") and path.name != "DICOMDIR"))
    if not slices:
        raise InputError(f"{folder}: no DICOM file in it")
    return read_series([slices[number] for number in by_position(folder, slices)])


def by_position(folder: Path, slices: dict[int, Path]) -> list[int]:
    """Return the numbers of slices in the order of their DICOM positions along the slice normal.

    Raises:
        InputError: a file is damaged, there are several series, or the slices are not evenly stacked.
    """
    headers = {number: _read_header(path) for number, path in slices.items()}
    for what, fact in (("series", lambda header: header.GetMetaData("0020|000e")),
                       ("slice orientations", lambda header: tuple(np.round(header.GetDirection(), 4))),
                       ("pixel spacings", lambda header: tuple(np.round(header.GetSpacing()[:2], 4))),
                       ("slice sizes", lambda header: header.GetSize())):
        if (n_kinds := len({fact(header) for header in headers.values()})) > 1:
            raise InputError(f"{folder}: expected one series of equal slices, found {n_kinds} {what}")
    first = next(iter(headers.values()))
    normal = np.reshape(first.GetDirection(), (3, 3))[:, 2]
    numbers = sorted(headers, key=lambda number: normal @ headers[number].GetOrigin())
    steps = np.diff([headers[number].GetOrigin() for number in numbers], axis=0)     # (slices - 1, 3)
    if len(steps) == 0:
        raise InputError(f"{folder}: expected several slices, found one")
    claimed, in_files = len(numbers) * math.prod(first.GetSize()), sum(path.stat().st_size for path in slices.values())
    if claimed > min(MAX_VOXELS, GZIP_RATIO * in_files):      # no compression of DICOM is stronger
        raise InputError(f"{folder}: {len(numbers)} slices of {first.GetSize()[:2]} pixels do not fit into {in_files} bytes")
    step_mm = float(np.median(steps @ normal))
    if step_mm <= 0 or (off := np.linalg.norm(steps - step_mm * normal, axis=1)).max() > 0.1 * step_mm:
        worst = 0 if step_mm <= 0 else int(off.argmax())
        lower, upper = (slices[number].name for number in numbers[worst:worst + 2])
        raise InputError(f"{folder}: slices are not evenly stacked: {steps[worst] @ normal:.2f} mm from {lower} to "
                         f"{upper}, usually {step_mm:.2f} mm")
    return numbers


@quiet()
def read_series(paths: list[Path]) -> sitk.Image:
    """Return DICOM slices, ordered by position, as one image.

    Raises:
        InputError: a file is damaged.
    """
    try:
        return plain_spacing(sitk.ReadImage(paths, imageIO="GDCMImageIO"))
    except RuntimeError as error:
        raise InputError(f"{paths[0].parent}: cannot be read as a DICOM series ({last_line(error)})") from None


@quiet()
def _read_header(path: Path) -> sitk.ImageFileReader:
    header = sitk.ImageFileReader()
    header.SetFileName(expect_utf8(path))
    header.SetImageIO("GDCMImageIO")
    try:
        header.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be read as DICOM ({last_line(error)})") from None
    for key, name in (("0020|000e", "SeriesInstanceUID"), ("0020|0032", "ImagePositionPatient"),
                      ("0020|0037", "ImageOrientationPatient")):
        if not header.HasMetaDataKey(key):
            raise InputError(f"{path}: has no {name}, so its place in the patient is not known")
    return header
