"""SimpleITK images: their geometry, checks of their values, ITK's own messages. Sizes and spacings are (x, y, z)."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from util.base.errors import InputError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress what ITK and its libraries (GDCM, libpng) print to stderr. They raise an error as well."""
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def last_line(error: Exception) -> str:
    """Return the last line of an ITK error. It says what happened; the lines before say where in ITK."""
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


def with_geometry(array: np.ndarray, reference: sitk.Image) -> sitk.Image:
    """Return (D, H, W) values as an image with the geometry of `reference`, which has the same size."""
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(reference)
    return image


def voxel_to_patient(image: sitk.Image) -> np.ndarray:
    """Return the 4×4 matrix from index (x, y, z) to millimetres in the patient (LPS)."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return matrix


def grid_distance_mm(matrix: np.ndarray, other: np.ndarray, size: Sequence[int]) -> float:
    """Return the largest distance in mm between corresponding corners of two grids of `size` (x, y, z).

    Args:
        matrix, other: 4×4, from voxel to patient in mm.
    """
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in size))], float)
    return float(np.linalg.norm(corners @ (matrix - other).T, axis=1).max())


def plain_spacing(image: sitk.Image) -> sitk.Image:
    """Set the spacing to the shortest decimal of its float32, 1.36 instead of 1.3600000143, and return the image.

    Such digits decide the size after resampling, which is rounded down, and labels at exactly one half.
    """
    image.SetSpacing([float(str(np.float32(s))) for s in image.GetSpacing()])
    return image


def check_image(image: sitk.Image, path: Path | str) -> sitk.Image:
    """Return the image. Raise InputError, which names `path`, if a value is not finite as float32 or all values are equal."""
    with np.errstate(over="ignore"):      # large values become infinite
        array = sitk.GetArrayViewFromImage(image).astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{path}: holds {np.count_nonzero(~np.isfinite(array))} values that are NaN or infinite")
    if array.min() == array.max():
        raise InputError(f"{path}: every voxel has the value {array.min():g}; a constant image cannot be normalised")
    return image


def labels_on(image: sitk.Image, labels: sitk.Image, image_name: Path | str, label_name: Path | str, *,
              trust_image_geometry: bool = False) -> sitk.Image:
    """Return labels as whole numbers with the geometry of their image.

    Args:
        image, labels: of one scan.
        image_name, label_name: their names in errors.
        trust_image_geometry: ignore the labels' own geometry.
    Raises:
        InputError: the labels are not whole numbers, or their size or place in the patient differs from the image.
    """
    if labels.GetSize() != image.GetSize():
        raise InputError(f"{label_name}: size (x, y, z) = {labels.GetSize()}, but {image_name} has {image.GetSize()}")
    distance_mm = grid_distance_mm(voxel_to_patient(image), voxel_to_patient(labels), image.GetSize())
    if distance_mm > min(image.GetSpacing()) / 2 and not trust_image_geometry:
        raise InputError(f"{label_name}: lies up to {distance_mm:.1f} mm away from {image_name} in the patient; "
                         "if only its header is wrong, prepare with --trust-image-geometry")
    return with_geometry(_whole_numbers(sitk.GetArrayViewFromImage(labels), label_name), image)


def _whole_numbers(array: np.ndarray, path: Path | str) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        whole = array.astype(np.int16)
    strange = (whole != array) | (whole < 0)        # too large, broken or NaN; negative
    if strange.any():
        raise InputError(f"{path}: holds {array[strange].min():g}, allowed in labels: whole numbers from 0 to {2**15 - 1}")
    return whole
