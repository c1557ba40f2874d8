"""SimpleITK images: checks of their values, labels on their grid, ITK's own messages. Sizes and spacings are (x, y, z)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from qnet.dataloaders.geometry import affine_of_image, grid_distance_mm, same_order
from qnet.util.base.classes import MAX_VALUE
from qnet.util.base.errors import InputError

ROUNDING = 1e-3     # of labels that another program scaled


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


def check_image(image: sitk.Image, path: Path | str) -> sitk.Image:
    """Return the image. Raise InputError, which names `path`, if a value is not finite as float32 or all values are equal."""
    with np.errstate(over="ignore"):      # large values become infinite
        array = sitk.GetArrayViewFromImage(image).astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{path}: holds {np.count_nonzero(~np.isfinite(array))} values that are NaN or infinite")
    if array.min() == array.max():
        raise InputError(f"{path}: every voxel has the value {array.min():g}; a constant image cannot be normalised")
    return image


class PlaceError(InputError):
    """Labels lie elsewhere than their image, by their own header."""


def labels_on(image: sitk.Image, labels: sitk.Image, image_name: Path | str, label_name: Path | str, *,
              trust_image_geometry: bool = False) -> sitk.Image:
    """Return labels as whole numbers on the grid of their image. Voxels in another order are brought to the image's.

    Args:
        image, labels: of one scan.
        image_name, label_name: their names in errors.
        trust_image_geometry: ignore the labels' own geometry.
    Raises:
        InputError: the labels are not whole numbers, or their size differs from the image.
        PlaceError: their place in the patient does; or their geometry is to be ignored, though it is right and tells of another
            order of voxels.
    """
    turned, as_stored, away_mm = _in_order_of(image, labels)
    same_size = turned.shape == image.GetSize()[::-1]
    in_place = same_size and away_mm <= min(image.GetSpacing()) / 2
    array = sitk.GetArrayViewFromImage(labels)
    if trust_image_geometry:
        if labels.GetSize() != image.GetSize():
            raise InputError(f"{label_name}: size (x, y, z) = {labels.GetSize()}, but {image_name} has {image.GetSize()}")
        if in_place and not as_stored:
            raise PlaceError(f"{label_name}: its own header puts it where {image_name} lies, with voxels in another order, so it "
                             "must not be ignored")
    elif in_place:
        array = turned
    elif not same_size:
        raise InputError(f"{label_name}: size (x, y, z) = {labels.GetSize()}, but {image_name} has {image.GetSize()}")
    else:
        raise PlaceError(f"{label_name}: lies up to {away_mm:.1f} mm away from {image_name} in the patient; "
                         "allowed: half a voxel")
    return with_geometry(whole_numbers(array, label_name), image)


def channel_on(image: sitk.Image, channel: sitk.Image, image_name: Path | str, channel_name: Path | str) -> sitk.Image:
    """Return a further channel of a scan on the scan's grid. Voxels in another order are brought to the scan's.

    Raises:
        InputError: its size or its place in the patient is another.
    """
    array, _, away_mm = _in_order_of(image, channel)
    if array.shape != image.GetSize()[::-1]:
        raise InputError(f"{channel_name}: size (x, y, z) = {channel.GetSize()}, but {image_name} has {image.GetSize()}; "
                         "allowed: channels of a patient on the same voxels")
    if away_mm > min(image.GetSpacing()) / 2:
        raise InputError(f"{channel_name}: lies up to {away_mm:.1f} mm away from {image_name} in the patient; allowed: channels "
                         "of a patient on the same voxels, within half of one")
    return with_geometry(array, image)


def _in_order_of(image: sitk.Image, other: sitk.Image) -> tuple[np.ndarray, bool, float]:
    """Return (D, H, W) values in the order of another image's voxels, whether that is theirs, and how many mm off they lie."""
    affine = affine_of_image(image)
    order, flips, reordered = same_order(affine, affine_of_image(other), other.GetSize())
    array = sitk.GetArrayViewFromImage(other).transpose([2 - axis for axis in order[::-1]])
    array = array[tuple(slice(None, None, -1 if flipped else 1) for flipped in flips[::-1])]
    return array, order == (0, 1, 2) and not any(flips), grid_distance_mm(affine, reordered, array.shape[::-1])


def whole_numbers(array: np.ndarray, path: Path | str) -> np.ndarray:
    """Return labels as int16. Values that are whole but for rounding, as 0.99999994 or 51 times a slope of 1/51, are rounded.

    Raises:
        InputError: which names `path`: a value is no whole number, or not from 0 to MAX_VALUE.
    """
    with np.errstate(invalid="ignore"):
        whole = (np.rint(array) if array.dtype.kind == "f" else array).astype(np.int16)
        strange = ~(np.abs(whole - array) <= ROUNDING) | (whole < 0)        # too large, broken or NaN; negative
    if strange.any():
        worst = array[strange].min()
        shown = f"{worst:g}" if float(f"{worst:g}") % 1 or worst % 1 == 0 else f"{worst:.9g}"
        raise InputError(f"{path}: holds {shown}, allowed in labels: whole numbers from 0 to {MAX_VALUE}")
    return whole
