"""Volumes of a dataset: images, label maps, supervoxels. Arrays are (D, H, W): slice, row, column of the file's grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qnet.dataloaders.datasets import Case, DatasetSpec
from qnet.dataloaders.geometry import grid_distance_mm
from qnet.dataloaders.itk import ROUNDING
from qnet.dataloaders.nifti import read_affine, read_array, read_header, read_spacing_mm
from qnet.util.base.errors import InputError

MAX_SUPERVOXEL = 2**16 - 1


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan on a grid of its own. It is equal to itself alone, and so may be the key of what is kept about it.

    Attributes:
        name: of the case, or of the file for a user's own scan.
        image: (D, H, W) float32, z-scored.
        label_map: (D, H, W) whole numbers, 0 for background. None if nobody has outlined the scan.
        spacing_mm: (z, y, x).
        case: its files, if it belongs to a dataset.
        others: further channels of the same patient on the same voxels, as `image`. Methods that register take them.
    Raises:
        ValueError: the image has not three axes, the label map or a channel has another shape, or the spacing is not three
            positive numbers.
    """

    name: str
    image: np.ndarray
    label_map: np.ndarray | None
    spacing_mm: tuple[float, float, float]
    case: Case | None = None
    others: tuple[np.ndarray, ...] = ()

    def __post_init__(self) -> None:
        if self.image.ndim != 3:
            raise ValueError(f"image: expected axes (D H W), got shape {self.image.shape}")
        if wrong := [one.shape for one in self.others if one.shape != self.image.shape]:
            raise ValueError(f"others: expected the image's shape {self.image.shape}, got {wrong[0]}")
        if self.label_map is not None and self.label_map.shape != self.image.shape:
            raise ValueError(f"label_map: expected the image's shape {self.image.shape}, got {self.label_map.shape}")
        if len(self.spacing_mm) != 3 or min(self.spacing_mm) <= 0:
            raise ValueError(f"spacing_mm: expected three numbers (z, y, x) above 0, got {self.spacing_mm}")

    @property
    def labels(self) -> np.ndarray:
        """The label map, where the caller needs one. Raises ValueError if there is none."""
        if self.label_map is None:
            raise ValueError(f"label_map: expected one for {self.name}, got None")
        return self.label_map


def read_volume(case: Case, spec: DatasetSpec, *, labels: bool = True) -> Volume:
    """Read a case of a dataset.

    Args:
        case: its files.
        spec: the dataset.
        labels: read its label file as well.
    Raises:
        InputError: a file is missing or broken, or the label file differs from its image in shape or place.
    """
    image = read_image(case.image)
    label_map = read_label_of(case, spec, image) if labels else None
    return Volume(case.name, normalise(image), label_map, read_spacing_mm(case.image), case)


def read_image(path: Path) -> np.ndarray:
    """Return an image as float32 (D, H, W).

    Raises:
        InputError: as `read_array`, or a value is not finite, or all values are equal, so that they cannot be normalised.
    """
    with np.errstate(over="ignore"):      # large values become infinite, which is refused below
        image = read_array(path).astype(np.float32)
    if not np.isfinite(image).all():
        raise InputError(f"{path}: holds {np.count_nonzero(~np.isfinite(image))} values that are NaN or infinite")
    if image.min() == image.max():
        raise InputError(f"{path}: every voxel has the value {image.min()}; a constant image cannot be normalised")
    return image


def normalise(image: np.ndarray) -> np.ndarray:
    """Return the z-scores of an image over the whole volume, float32. The standard deviation is that of the population."""
    mean, std = image.mean(dtype=np.float64), image.std(dtype=np.float64)
    return ((image - mean) / std).astype(np.float32)


def read_label(path: Path, spec: DatasetSpec) -> np.ndarray:
    """Return a label map as uint8 (D, H, W). Stored values become label values.

    Raises:
        InputError: as `read_array`, or a value is neither 0 nor a stored value nor a label value of the dataset.
    """
    stored = read_array(path)
    label_map = np.zeros(stored.shape, np.uint8)
    if stored.dtype.kind == "f":        # 0.99999994, or 51 times a slope of 1/51
        near = np.rint(stored)
        stored = np.where(np.abs(stored - near) <= ROUNDING, near, stored)
    for value in np.unique(stored):
        label = spec.file_values.get(value, value)
        if label != 0 and label not in spec.labels:
            allowed = [0, *(spec.file_values or spec.labels)]
            raise InputError(f"{path}: holds the value {value:g}, allowed for {spec.name}: {allowed}")
        label_map[stored == value] = label
    return label_map


def read_supervoxels(path: Path) -> np.ndarray:
    """Return a supervoxel map as int32 (D, H, W); 0 is outside the body.

    Raises:
        InputError: as `read_array`, or a value is not a whole number from 0 to MAX_SUPERVOXEL.
    """
    stored = read_array(path)
    wrong = ~((stored >= 0) & (stored <= MAX_SUPERVOXEL))      # NaN too
    if stored.dtype.kind == "f":
        wrong |= stored != np.floor(stored)
    if wrong.any():
        raise InputError(f"{path}: holds the value {stored[wrong][0]:g}, allowed for supervoxels: whole numbers from 0 (outside "
                         f"the body) to {MAX_SUPERVOXEL}")
    return stored.astype(np.int32)


def read_label_of(case: Case, spec: DatasetSpec, image: np.ndarray) -> np.ndarray:
    """Return the label map of a case as uint8 (D, H, W), for its image (D, H, W).

    Raises:
        InputError: as `read_label`, or the label file has another shape than the image or another place in the patient.
    """
    expect_same_shape(case, image, case.label)
    label_map = read_label(case.label, spec)
    expect_same_place(case)
    return label_map


def expect_same_place(case: Case) -> None:
    """Raise InputError if the headers of image and label put them at different places. Nothing else of the files is read."""
    distance_mm = label_distance_mm(case)
    if distance_mm > min(read_spacing_mm(case.image)) / 2:
        raise InputError(f"{case.label}: its header puts it up to {distance_mm:.1f} mm away from {case.image}, allowed: half a "
                         "voxel; if only the header is wrong, give it the image's")


def expect_same_shape(case: Case, image: np.ndarray, path: Path) -> None:
    """Raise InputError if a label or supervoxel map has another shape than its image (D, H, W), by its header.

    So no file of maps, however strongly it is compressed, takes more memory than its image lets expect.
    """
    shape = read_header(path).get_data_shape()[::-1]
    if image.shape != shape:
        raise InputError(f"{path}: shape (D, H, W) = {shape}, but {case.image} has {image.shape}")


def label_distance_mm(case: Case) -> float:
    """Return the largest distance in mm between the corners of the volume by the headers of image and label."""
    return grid_distance_mm(read_affine(case.image), read_affine(case.label), read_header(case.image).get_data_shape())
