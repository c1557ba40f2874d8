"""Raw scans: NIfTI files, and CHAOS's DICOM series with its PNG masks."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataloaders.resampling import voxel_to_patient, with_geometry
from dataloaders.volumes import GZIP_RATIO, MAX_VOXELS, grid_distance_mm, read_array
from util.base.errors import InputError

CHAOS_GREY_LEVELS = {1: (55, 70), 2: (110, 135), 3: (175, 200), 4: (240, 255)}   # label value: its grey levels in a PNG


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep off stderr what ITK and the libraries in it (GDCM, libpng) print about a file, beside the error that they raise."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@dataclass(frozen=True)
class RawCase:
    """One scan of a download: files, or in CHAOS the folders of its DICOM slices and of its PNG masks.

    `label` is None for an own scan that nobody has outlined.
    """

    name: str
    image: Path
    label: Path | None


def read_nifti(path: Path) -> sitk.Image:
    """Return a NIfTI volume with its geometry.

    Raises:
        InputError: the file is missing, damaged, not a volume of three axes, or its axes are not at right angles.
    """
    array = read_array(path)    # nibabel, as ITK reads a truncated file without complaint
    header = sitk.ImageFileReader()
    header.SetFileName(path)
    header.SetImageIO("NiftiImageIO")
    try:
        with quiet():
            header.ReadImageInformation()
        image = sitk.GetImageFromArray(array.astype(array.dtype.newbyteorder("=")))
        image.SetOrigin(header.GetOrigin())
        image.SetDirection(header.GetDirection())
        image.SetSpacing(header.GetSpacing())
    except (RuntimeError, TypeError, KeyError) as error:
        raise InputError(f"{path}: {last_line(error)}") from None
    return _plain_spacing(image)


def _plain_spacing(image: sitk.Image) -> sitk.Image:
    """Give the spacing as the shortest decimal of its float32, 1.36 rather than 1.3600000143.

    The size after resampling, rounded down, and labels at exactly one half hang on such digits.
    """
    image.SetSpacing([float(str(np.float32(s))) for s in image.GetSpacing()])
    return image


def read_nifti_pair(case: RawCase, *, trust_image_geometry: bool = False) -> tuple[sitk.Image, sitk.Image | None]:
    """Return a case's image and its labels, as whole numbers on the image's grid; None where the case has no label file.

    Args:
        case: its NIfTI files.
        trust_image_geometry: give the labels the image's geometry whatever their own file says.
    Raises:
        InputError: as `read_nifti`; an image with values that are not finite, or all equal; labels that are not whole
            numbers, or whose size or place in the patient is not the image's.
    """
    image = check_image(read_nifti(case.image), case.image)
    if case.label is None:
        return image, None
    return image, labels_on(image, read_nifti(case.label), case.image, case.label, trust_image_geometry=trust_image_geometry)


def labels_on(image: sitk.Image, labels: sitk.Image, image_name: Path | str, label_name: Path | str, *,
              trust_image_geometry: bool = False) -> sitk.Image:
    """Return labels as whole numbers with the geometry of their image.

    Args:
        image_name, label_name: what errors call them.
        trust_image_geometry: give the labels the image's geometry whatever they say of their own.
    Raises:
        InputError: labels that are not whole numbers, or whose size or place in the patient is not the image's.
    """
    if labels.GetSize() != image.GetSize():
        raise InputError(f"{label_name}: size (x, y, z) = {labels.GetSize()}, but {image_name} has {image.GetSize()}")
    distance_mm = grid_distance_mm(voxel_to_patient(image), voxel_to_patient(labels), image.GetSize())
    if distance_mm > min(image.GetSpacing()) / 2 and not trust_image_geometry:
        raise InputError(f"{label_name}: lies up to {distance_mm:.1f} mm away from {image_name} in the patient; "
                         "if only its header is wrong, prepare with --trust-image-geometry")
    return with_geometry(_whole_numbers(sitk.GetArrayViewFromImage(labels), label_name), image)


def check_image(image: sitk.Image, path: Path | str) -> sitk.Image:
    """Return the image, or raise InputError when a value is not finite in single precision or all are equal."""
    with np.errstate(over="ignore"):      # becomes infinite
        array = sitk.GetArrayViewFromImage(image).astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{path}: holds {np.count_nonzero(~np.isfinite(array))} values that are NaN or infinite")
    if array.min() == array.max():
        raise InputError(f"{path}: every voxel has the value {array.min():g}; a constant image cannot be normalised")
    return image


def _whole_numbers(array: np.ndarray, path: Path | str) -> np.ndarray:
    values = np.unique(array)
    whole = (values >= 0) & (values < 2**15) & (values % 1 == 0)     # False for NaN
    if not whole.all():
        raise InputError(f"{path}: holds {values[~whole][0]:g}, allowed in labels: whole numbers from 0 to {2**15 - 1}")
    return array.astype(np.int16)


def read_chaos(case: RawCase) -> tuple[sitk.Image, sitk.Image]:
    """Return a CHAOS case's image and labels 1…4 in LAS order, whatever the order and orientation of the DICOM series.

    A PNG belongs to the DICOM slice with the same number in its file name, and has the same rows and columns; the
    slice's place comes from its DICOM position.

    Raises:
        InputError: no or damaged files, several series, slices that are not evenly stacked, a slice without a mask or a
            mask without a slice, a mask of another size or with a grey level that CHAOS gives no meaning.
    """
    slices = _numbered(case.image, "dcm")
    masks = _numbered(case.label, "png")
    if odd := sorted(set(slices) ^ set(masks)):
        raise InputError(f"{case.label}: masks and the slices of {case.image} do not pair up: number "
                         f"{', '.join(map(str, odd))} is on one side only")
    numbers = _by_position(case.image, slices)
    image = _read_series([slices[number] for number in numbers])
    labels = np.stack([_read_mask(masks[number], image.GetSize()[:2]) for number in numbers])
    check_image(image, case.image)
    return sitk.DICOMOrient(image, "LAS"), sitk.DICOMOrient(with_geometry(labels, image), "LAS")


def read_dicom(folder: Path) -> sitk.Image:
    """Return the series whose slices are the files of a folder, whatever their names and order.

    Raises:
        InputError: no or damaged files, several series, or slices that are not evenly stacked.
    """
    slices = dict(enumerate(path for path in sorted(folder.iterdir())
                            if path.is_file() and not path.name.startswith(".") and path.name != "DICOMDIR"))
    if not slices:
        raise InputError(f"{folder}: no DICOM file in it")
    return _read_series([slices[number] for number in _by_position(folder, slices)])


def _numbered(folder: Path, ending: str) -> dict[int, Path]:
    """Return the files of a folder by the last number in their name; hidden ones are left out."""
    files: dict[int, Path] = {}
    for path in sorted(folder.glob(f"[!.]*.{ending}")):
        digits = re.findall(r"\d+", path.stem)
        if not digits or int(digits[-1]) in files:
            raise InputError(f"{path}: expected a number of its own in the name, as IMG-0004-00001.{ending}")
        files[int(digits[-1])] = path
    if not files:
        raise InputError(f"{folder}: no file *.{ending}")
    return files


def _by_position(folder: Path, slices: dict[int, Path]) -> list[int]:
    """Return the slices' numbers in the order of their DICOM positions along the slice normal."""
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
def _read_header(path: Path) -> sitk.ImageFileReader:
    header = sitk.ImageFileReader()
    header.SetFileName(path)
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


@quiet()
def _read_series(paths: list[Path]) -> sitk.Image:
    try:
        return _plain_spacing(sitk.ReadImage(paths, imageIO="GDCMImageIO"))
    except RuntimeError as error:
        raise InputError(f"{paths[0].parent}: cannot be read as a DICOM series ({last_line(error)})") from None


@quiet()
def _read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Return a CHAOS PNG as labels (H, W), grey levels turned into label values by their meaning."""
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


def last_line(error: Exception) -> str:
    """Return an ITK error's last line, which says what happened; the lines before say where in ITK."""
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
