"""Reading CHAOS as downloaded: DICOM series with PNG masks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from qnet.data.preparation.raw import RawCase
from qnet.dataloaders.dicom import by_position, read_stack
from qnet.dataloaders.itk import check_image, last_line, quiet, with_geometry
from qnet.util.base.errors import InputError

CHAOS_GREY_LEVELS = {1: (55, 70), 2: (110, 135), 3: (175, 200), 4: (240, 255)}   # label value: first and last grey level in a PNG


def read_chaos(case: RawCase) -> tuple[sitk.Image, sitk.Image]:
    """Return a CHAOS case's image and labels 1…4 in LAS order, for any order and orientation of the DICOM series.

    A PNG belongs to the DICOM slice with the same number in its file name, and has the same rows and columns. The
    slice's place comes from its DICOM position.

    Raises:
        InputError: files are missing or damaged, there are several series, slices are not evenly stacked, slices and masks do
            not pair up, or a mask has another size or an unknown grey level.
    """
    assert case.label is not None      # as `find_chaos` makes it
    slices = _numbered(case.image, "dcm")
    masks = _numbered(case.label, "png")
    if odd := sorted(set(slices) ^ set(masks)):
        raise InputError(f"{case.label}: masks and the slices of {case.image} do not pair up: number "
                         f"{', '.join(map(str, odd))} is on one side only")
    numbers, stack = by_position(case.image, slices)
    image = read_stack(stack)
    labels = np.stack([_read_mask(masks[number], image.GetSize()[:2]) for number in numbers])
    check_image(image, case.image)
    return sitk.DICOMOrient(image, "LAS"), sitk.DICOMOrient(with_geometry(labels, image), "LAS")


def _numbered(folder: Path, ending: str) -> dict[int, Path]:
    """Return the files of a folder, without hidden ones, by the last number in their names."""
    files: dict[int, Path] = {}
    for path in sorted(folder.glob(f"[!.]*.{ending}")):
        digits = re.findall(r"\d+", path.stem)
        if not digits or int(digits[-1]) in files:
            raise InputError(f"{path}: expected a number of its own in the name, as IMG-0004-00001.{ending}")
        files[int(digits[-1])] = path
    if not files:
        raise InputError(f"{folder}: no file *.{ending}")
    return files


@quiet()
def _read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Return a CHAOS PNG as labels (H, W). Grey levels become label values."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(path)
    reader.SetImageIO("PNGImageIO")
    try:
        reader.ReadImageInformation()
        if 0 in reader.GetSize():
            raise InputError(f"{path}: cannot be read as PNG (it does not begin as one)")
        if reader.GetSize() != size or reader.GetNumberOfComponents() != 1:
            raise InputError(f"{path}: {reader.GetNumberOfComponents()} channel(s) of (width, height) = {reader.GetSize()}, "
                             f"expected one of {size}, as its DICOM slice")
        mask = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{path}: cannot be read as PNG ({last_line(error)})") from None
    grey = sitk.GetArrayViewFromImage(mask)
    labels = np.zeros(grey.shape, np.int16)
    for label, (low, high) in CHAOS_GREY_LEVELS.items():
        labels[(grey >= low) & (grey <= high)] = label
    if unknown := np.unique(grey[(labels == 0) & (grey != 0)]).tolist():
        ranges = ", ".join(f"{low}…{high}" for low, high in CHAOS_GREY_LEVELS.values())
        raise InputError(f"{path}: holds the grey level {unknown[0]}, allowed: 0, {ranges}")
    return labels
