"""Reading and writing volumes. Arrays are (D, H, W): slice, row, column of the file's own grid."""

from __future__ import annotations

import gzip
import itertools
import logging
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel import Nifti1Header, Nifti1Image, Nifti2Header, Nifti2Image, imageglobals
from nibabel.affines import voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import HeaderDataError

from dataloaders.datasets import Case, DatasetSpec
from util.base.errors import InputError
from util.base.files import replacing
from util.base.inputs import expect_file

MAX_VOXELS = 2**30          # of a volume; 2000 CT slices of 512×512 have half as many
GZIP_RATIO = 1032           # deflate makes nothing smaller than this
MAX_SUPERVOXEL = 2**16 - 1
imageglobals.logger.setLevel(logging.CRITICAL)      # its remarks on headers name no file, and what matters is raised too
UNREADABLE = (OSError, EOFError, ValueError, KeyError, OverflowError, zlib.error, HeaderDataError)


@dataclass(frozen=True)
class Volume:
    """A scan on a grid of its own.

    Attributes:
        name: the case's, or for a scan of one's own the file's; different volumes of one evaluation have different names.
        image: (D, H, W) float32, z-scored.
        label_map: (D, H, W) whole numbers, 0 for background; None where nobody has outlined the scan.
        spacing_mm: (z, y, x).
        case: its files, where it is of a data set.
    Raises:
        ValueError: image and label map do not have one shape of three axes, or the spacing is not three numbers above 0.
    """

    name: str
    image: np.ndarray
    label_map: np.ndarray | None
    spacing_mm: tuple[float, float, float]
    case: Case | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 3:
            raise ValueError(f"image: expected axes (D H W), got shape {self.image.shape}")
        if self.label_map is not None and self.label_map.shape != self.image.shape:
            raise ValueError(f"label_map: expected the image's shape {self.image.shape}, got {self.label_map.shape}")
        if len(self.spacing_mm) != 3 or min(self.spacing_mm) <= 0:
            raise ValueError(f"spacing_mm: expected three numbers (z, y, x) above 0, got {self.spacing_mm}")


def read_volume(case: Case, spec: DatasetSpec, *, labels: bool = True) -> Volume:
    """Read a case of a data set.

    Args:
        labels: read its label file as well.
    Raises:
        InputError: a file is missing, broken, or its label file is of another shape or place than its image.
    """
    image = read_image(case.image)
    label_map = read_label_of(case, spec, image) if labels else None
    return Volume(case.name, normalise(image), label_map, read_spacing_mm(case.image), case)


def read_header(path: Path) -> Nifti1Header:
    """Return the header of a NIfTI file (.nii or .nii.gz, version 1 or 2) that can hold the volume it claims.

    Only the header's own bytes are read, so nothing is allocated that a damaged or hostile file asks for.

    Raises:
        InputError: the file is missing or no NIfTI; the volume has not three axes, has more than MAX_VOXELS or more bytes
            than fit into the file; its values are no numbers; or no place in space follows from the header.
    """
    expect_file(path)
    try:
        with (gzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as file:
            head = file.read(Nifti2Header.sizeof_hdr)
        kind = next(kind for kind in (Nifti1Header, Nifti2Header) if kind.may_contain_header(head))
        header = kind(head[:kind.sizeof_hdr])
        shape, dtype, start = header.get_data_shape(), header.get_data_dtype(), int(header.get_data_offset())
        header.get_slope_inter()
        affine = header.get_best_affine()
    except StopIteration:
        raise InputError(f"{path}: cannot be read as NIfTI (it does not begin with a NIfTI header)") from None
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as NIfTI ({one_line(error)})") from None
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"{path}: expected a volume with 3 axes, got shape {shape}")
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(f"{path}: expected at most {MAX_VOXELS} voxels, got shape {shape}")
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: expected whole or real numbers, got values of type {header.get_value_label('datatype')}")
    n_bytes, in_file = start + math.prod(shape) * dtype.itemsize, path.stat().st_size
    if n_bytes > in_file * (GZIP_RATIO if path.name.lower().endswith(".gz") else 1):
        raise InputError(f"{path}: cannot be read as NIfTI (shape {shape} takes {n_bytes} bytes, the file has {in_file})")
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine) < 4:
        raise InputError(f"{path}: its header gives the voxels no place in space, affine {affine[:3].round(3).tolist()}")
    return header


def read_array(path: Path) -> np.ndarray:
    """Return a NIfTI file's values as (D, H, W), in the stored type (scaled when the header says so).

    Raises:
        InputError: as `read_header`; also when the file is truncated or damaged.
    """
    header = read_header(path)
    try:
        array = np.asanyarray(ArrayProxy(str(path), header))
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as NIfTI ({one_line(error)})") from None
    return np.ascontiguousarray(array.transpose(2, 1, 0))


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def read_image(path: Path) -> np.ndarray:
    """Return an image as float32 (D, H, W).

    Raises:
        InputError: as `read_array`; also when a value is not finite or all are equal, as both cannot be normalised.
    """
    with np.errstate(over="ignore"):      # becomes infinite, which is refused
        image = read_array(path).astype(np.float32)
    if not np.isfinite(image).all():
        raise InputError(f"{path}: holds {np.count_nonzero(~np.isfinite(image))} values that are NaN or infinite")
    if image.min() == image.max():
        raise InputError(f"{path}: every voxel has the value {image.min()}; a constant image cannot be normalised")
    return image


def read_affine(path: Path) -> np.ndarray:
    """Return a NIfTI file's (4, 4) matrix from voxel (x, y, z) to millimetres."""
    return read_header(path).get_best_affine()


def read_spacing_mm(path: Path) -> tuple[float, float, float]:
    """Return a NIfTI file's spacing in mm, (z, y, x)."""
    x_mm, y_mm, z_mm = (float(s) for s in voxel_sizes(read_affine(path)))
    return z_mm, y_mm, x_mm


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
    """Return a supervoxel map as int32 (D, H, W); 0 is outside the body.

    Raises:
        InputError: as `read_array`; also when a value is not a whole number from 0 to MAX_SUPERVOXEL.
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
    """Return the label map of a case whose image was read.

    Raises:
        InputError: as `read_label`; also when the label file has another shape than the image, or lies elsewhere in the patient.
    """
    label_map = read_label(case.label, spec)
    expect_same_shape(case, image, label_map, case.label)
    distance_mm = label_distance_mm(case)
    if distance_mm > min(read_spacing_mm(case.image)) / 2:
        raise InputError(f"{case.label}: its header puts it up to {distance_mm:.1f} mm away from {case.image}, allowed: half a "
                         "voxel; where only the header is wrong, give it the image's")
    return label_map


def expect_same_shape(case: Case, image: np.ndarray, other: np.ndarray, path: Path) -> None:
    """Raise InputError when a label or supervoxel map does not have its image's shape."""
    if image.shape != other.shape:
        raise InputError(f"{path}: shape (D, H, W) = {other.shape}, but {case.image} has {image.shape}")


def label_distance_mm(case: Case) -> float:
    """Return how far apart the headers of a case's image and label put the corners of the volume."""
    return grid_distance_mm(read_affine(case.image), read_affine(case.label), read_header(case.image).get_data_shape())


def grid_distance_mm(matrix: np.ndarray, other: np.ndarray, size: Sequence[int]) -> float:
    """Return how far apart two 4×4 voxel-to-patient matrices put the corners of a grid of `size` (x, y, z), at most."""
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in size))], float)
    return float(np.linalg.norm(corners @ (matrix - other).T, axis=1).max())


def write_like(reference: Path, array: np.ndarray, path: Path) -> None:
    """Write (D, H, W) values as NIfTI on the grid and with the geometry of `reference`."""
    header = read_header(reference)
    values = array.transpose(2, 1, 0)
    if values.shape != header.get_data_shape():
        raise ValueError(f"array: expected shape {header.get_data_shape()[::-1]}, got {array.shape}")
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    image_type = Nifti2Image if isinstance(header, Nifti2Header) else Nifti1Image
    with replacing(path) as partial:
        nibabel.save(image_type(values, header.get_best_affine(), header), partial)
