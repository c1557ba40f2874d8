"""Reading and writing volumes. Arrays are (D, H, W): slice, row, column of the file's own grid."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError

from dataloaders.datasets import Case, DatasetSpec
from util.errors import InputError


@dataclass(frozen=True)
class LabelledVolume:
    """A case of the test fold: z-scored image and label map, both (D, H, W)."""

    case: Case
    image: np.ndarray
    label_map: np.ndarray


def read_array(path: Path) -> np.ndarray:
    """Return a NIfTI file's values as (D, H, W), in the stored type (scaled when the header says so).

    Raises:
        InputError: the file is missing, truncated, not NIfTI, or not a volume of three axes.
    """
    try:
        array = np.asanyarray(nibabel.load(path).dataobj)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise InputError(f"{path}: cannot be read as NIfTI ({' '.join(str(error).split())})") from None
    if array.ndim != 3 or 0 in array.shape:
        raise InputError(f"{path}: expected a volume with 3 axes, got shape {array.shape}")
    return np.ascontiguousarray(array.transpose(2, 1, 0))


def read_image(path: Path) -> np.ndarray:
    """Return an image as float32 (D, H, W).

    Raises:
        InputError: as `read_array`; also when a value is not finite or all are equal, as both cannot be normalised.
    """
    image = read_array(path).astype(np.float32)
    if not np.isfinite(image).all():
        raise InputError(f"{path}: holds {np.count_nonzero(~np.isfinite(image))} values that are NaN or infinite")
    if image.min() == image.max():
        raise InputError(f"{path}: every voxel has the value {image.min()}; a constant image cannot be normalised")
    return image


def read_spacing_mm(path: Path) -> tuple[float, float, float]:
    """Return a NIfTI file's spacing in mm, (z, y, x)."""
    return tuple(float(s) for s in voxel_sizes(nibabel.load(path).affine)[::-1])


def normalise(image: np.ndarray) -> np.ndarray:
    """Z-score over the whole volume, with the population standard deviation."""
    mean, std = image.mean(dtype=np.float64), image.std(dtype=np.float64)
    return ((image - mean) / std).astype(np.float32)


def read_label(path: Path, spec: DatasetSpec) -> np.ndarray:
    """Return a label map as uint8 (D, H, W), stored values turned into label values.

    Raises:
        InputError: as `read_array`; also when a value is neither 0, a stored value nor a label value of the dataset.
    """
    stored = read_array(path)
    label_map = np.zeros(stored.shape, np.uint8)
    for value in np.unique(stored):
        label = spec.file_values.get(value, value)
        if label != 0 and label not in spec.labels:
            allowed = [0, *(spec.file_values or spec.labels)]
            raise InputError(f"{path}: holds the value {value:g}, allowed for {spec.name}: {allowed}")
        label_map[stored == value] = label
    return label_map


def read_supervoxels(path: Path) -> np.ndarray:
    """Return a supervoxel map as int32 (D, H, W); 0 is outside the body."""
    return read_array(path).astype(np.int32)


def expect_same_shape(case: Case, image: np.ndarray, other: np.ndarray, path: Path) -> None:
    """Raise InputError when a label or supervoxel map does not have its image's shape."""
    if image.shape != other.shape:
        raise InputError(f"{path}: shape (D, H, W) = {other.shape}, but {case.image} has {image.shape}")


def write_like(reference: Path, array: np.ndarray, path: Path) -> None:
    """Write (D, H, W) values as NIfTI on the grid and with the geometry of `reference`, by way of a temporary name."""
    source = nibabel.load(reference)
    values = array.transpose(2, 1, 0)
    if values.shape != source.shape:
        raise ValueError(f"array: expected shape {source.shape[::-1]}, got {array.shape}")
    header = source.header.copy()
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    nibabel.save(type(source)(values, source.affine, header), partial)
    partial.replace(path)
