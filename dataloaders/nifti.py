"""Reading and writing NIfTI files. Arrays are (D, H, W): slice, row, column of the file's grid."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel import AnalyzeHeader, Nifti1Header, Nifti1Image, Nifti2Header, Nifti2Image, imageglobals
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import HeaderDataError

from qnet.dataloaders.geometry import (
    affine_of,
    affine_of_image,
    expect_usable_axes,
    has_other_unit,
    is_straight,
    place,
    qform_of,
    spacing_of,
)
from qnet.util.base.errors import InputError
from qnet.util.base.files import replacing
from qnet.util.base.inputs import expect_file

MAX_VOXELS = 2**30          # largest volume; 2000 CT slices of 512×512 have half as many
GZIP_RATIO = 1032           # largest compression by deflate
MAX_SIDE = 2**15 - 1        # of NIfTI-1
imageglobals.logger.setLevel(logging.CRITICAL)      # its messages about headers name no file; errors are raised as well
UNREADABLE = (OSError, EOFError, ValueError, KeyError, OverflowError, zlib.error, HeaderDataError)
KINDS = (Nifti1Header, Nifti2Header)


def files_of(path: Path) -> tuple[Path, Path]:
    """Return the file of the header and the file of the values: the same one, or the two of a pair .hdr and .img."""
    for header, values in ((".hdr", ".img"), (".hdr.gz", ".img.gz")):
        for ending in (header, values):
            if path.name.lower().endswith(ending):
                stem = path.name[:-len(ending)]
                return _sibling(path, stem, header), _sibling(path, stem, values)
    return path, path


def _sibling(path: Path, stem: str, ending: str) -> Path:
    """Return the file beside `path` with another ending, in capital or small letters, gzipped or not."""
    endings = (ending, ending.removesuffix(".gz"), f"{ending.removesuffix('.gz')}.gz")
    names = [stem + other for one in endings for other in (one, one.upper())]
    return next((found for name in names if (found := path.with_name(name)).exists()), path.with_name(stem + ending))


def is_gzipped(path: Path) -> bool:
    """Return whether a file is gzipped, by its name."""
    return path.name.lower().endswith(".gz")


@np.errstate(all="ignore")       # what a hostile header makes of its numbers is checked, and no warning
def read_header(path: Path, n_axes: int = 3) -> Nifti1Header:
    """Return the header of a NIfTI file (.nii, .nii.gz, or a pair .hdr and .img; version 1 or 2) that can hold what it claims.

    Only the bytes of the header are read. So a damaged or hostile file cannot make this allocate memory. Axes of one beyond the
    third are left out of the header that is returned.

    Args:
        n_axes: of the values: 3 of a volume, 4 of a series.

    Raises:
        InputError: the file is missing or not NIfTI; the values have other axes, more than MAX_VOXELS voxels, or more bytes
            than fit into the file; its values are not numbers; or the header gives the voxels no place in space.
    """
    header_file, values_file = map(expect_file, files_of(path))
    try:
        with (gzip.open if is_gzipped(header_file) else open)(header_file, "rb") as file:
            head = file.read(Nifti2Header.sizeof_hdr)
        kind = next(kind for kind in KINDS if kind.may_contain_header(head))
        header = kind(head[:kind.sizeof_hdr])
        shape, dtype, start = header.get_data_shape(), header.get_data_dtype(), int(header.get_data_offset())
        header.get_slope_inter()
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        header.set_data_shape(shape)
    except StopIteration:
        raise InputError(f"{path}: cannot be read as NIfTI ({_what_begins(head)})") from None
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as NIfTI ({one_line(error)})") from None
    if len(shape) != n_axes or min(shape) < 1:
        raise InputError(f"{path}: expected a {'volume' if n_axes == 3 else 'series'} with {n_axes} axes, got shape {shape}")
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(f"{path}: expected at most {MAX_VOXELS} voxels, got shape {shape}")
    if dtype.kind not in "iuf":
        raise InputError(f"{path}: expected whole or real numbers, got values of type {header.get_value_label('datatype')}")
    n_bytes, in_file = max(0, start) + math.prod(shape) * dtype.itemsize, values_file.stat().st_size
    if n_bytes > in_file * (GZIP_RATIO if is_gzipped(values_file) else 1):
        raise InputError(f"{path}: cannot be read as NIfTI (shape {shape} takes {n_bytes} bytes, the file has {in_file})")
    affine_of(header, path)
    return header


def is_plain(path: Path) -> bool:
    """Return whether every program that reads NIfTI places a file alike: version 1, sizes in mm, and forms that agree.

    Raises:
        InputError: as `read_header`.
    """
    if not path.is_file() or not path.name.lower().endswith((".nii", ".nii.gz")):
        return False
    header = read_header(path)
    affine, sizes = affine_of(header, path), header["pixdim"][1:4]
    stored: Any = nibabel.load(path)
    if isinstance(header, Nifti2Header) or len(stored.shape) != 3:
        return False
    if not is_straight(affine) or has_other_unit(header):
        return False
    if (header["sform_code"] <= 0 and header["qform_code"] <= 0) or not np.allclose(sizes, spacing_of(affine), rtol=1e-3, atol=0):
        return False
    return header["qform_code"] <= 0 or np.allclose(qform_of(header), affine, rtol=1e-3, atol=1e-2)


def _what_begins(head: bytes) -> str:
    if AnalyzeHeader.may_contain_header(head):
        return "it begins with a header of Analyze 7.5, which does not say where left and right are"
    return "it does not begin with a NIfTI header"


@np.errstate(all="ignore")
def read_array(path: Path, n_axes: int = 3) -> np.ndarray:
    """Return a NIfTI file's values as (D, H, W) in the stored type, scaled if the header says so; of a series, (T, D, H, W).

    Raises:
        InputError: as `read_header`, or the file is truncated or damaged.
    """
    header, (_, values_file) = read_header(path, n_axes), files_of(path)
    try:
        if is_gzipped(values_file):
            with gzip.open(values_file, "rb") as file:
                array = np.asanyarray(ArrayProxy(file, header, mmap=False))
                _read_to_the_end(file)
        else:
            array = np.asanyarray(ArrayProxy(str(values_file), header))
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as NIfTI ({one_line(error)})") from None
    return np.ascontiguousarray(array.transpose())


def _read_to_the_end(file: gzip.GzipFile) -> None:
    """Read what is left of a gzipped file, where its check sum is. What other programs appended to the file is left alone.

    Raises:
        OSError: the check sum is wrong.
    """
    try:
        while file.read(2**20):
            pass
    except gzip.BadGzipFile as error:
        if "Not a gzipped file" not in str(error):
            raise OSError("its check sum is wrong: it was damaged after it was written") from None


def one_line(error: Exception) -> str:
    """Return the message of an error on one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def read_affine(path: Path) -> np.ndarray:
    """Return a NIfTI file's (4, 4) matrix from voxel (x, y, z) to millimetres."""
    return affine_of(read_header(path), path)


def read_spacing_mm(path: Path) -> tuple[float, float, float]:
    """Return a NIfTI file's spacing in mm, (z, y, x)."""
    x_mm, y_mm, z_mm = (float(s) for s in spacing_of(read_affine(path)))
    return z_mm, y_mm, x_mm


def read_nifti(path: Path) -> sitk.Image:
    """Return a NIfTI volume as a SimpleITK image with its geometry, which may be sheared.

    Raises:
        InputError: as `read_array`, or its axes are too far from right angles.
    """
    header, array = read_header(path), read_array(path)
    affine = affine_of(header, path)
    expect_usable_axes(affine, path)
    try:
        image = sitk.GetImageFromArray(array.astype(array.dtype.newbyteorder("=")))
    except (TypeError, KeyError) as error:      # float128, of which ITK knows nothing
        raise InputError(f"{path}: values of type {array.dtype}: {one_line(error)}") from None
    return place(image, affine, header["pixdim"][1:4])


def is_series(path: Path) -> bool:
    """Return whether a NIfTI file holds several volumes on a fourth axis. No value is read."""
    if not path.is_file() or not path.name.lower().endswith((".nii", ".nii.gz")):
        return False
    try:
        read_header(path, 4)
    except InputError:
        return False
    return True


def save_series(array: np.ndarray, affine: np.ndarray, step_s: float | None, path: Path) -> None:
    """Write (T, D, H, W) values as a series.

    Args:
        step_s: seconds from a volume to the next; None if they are not known.
    """
    image = (Nifti1Image if max(array.shape) <= MAX_SIDE else Nifti2Image)(array.transpose(), affine, dtype=array.dtype)
    image.set_qform(affine, 1 if is_straight(affine) else 0)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm", None if step_s is None else "sec")
    image.header["pixdim"][4] = step_s or 1.0
    with replacing(path) as partial:
        nibabel.save(image, partial)


def phase_like(reference: Path, array: np.ndarray, path: Path) -> None:
    """Write (D, H, W) values as a volume on the grid of a NIfTI series, with all that its header says of their place."""
    _write(read_header(reference, 4), array, path)


def write_like(reference: Path, array: np.ndarray, path: Path) -> None:
    """Write (D, H, W) values as NIfTI on the grid of the NIfTI file `reference`, with all that its header says of their place.

    (T, D, H, W) values are written as a series, like the series `reference`.

    Raises:
        ValueError: the shape of the array differs from the grid.
        InputError: as `read_header` of `reference`.
    """
    header = read_header(reference, array.ndim)
    if array.shape[::-1] != header.get_data_shape():
        raise ValueError(f"array: expected shape {header.get_data_shape()[::-1]}, got {array.shape}")
    _write(header, array, path)


def _write(header: Nifti1Header, array: np.ndarray, path: Path) -> None:
    values = array.transpose()
    header.set_data_shape(values.shape)
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    image_type = Nifti2Image if isinstance(header, Nifti2Header) else Nifti1Image
    with replacing(path) as partial:
        nibabel.save(image_type(values, None, header), partial)     # without an affine, sform, qform and pixdim stay as they are


def save(image: sitk.Image, path: Path) -> None:
    """Write an image as NIfTI."""
    with replacing(path) as partial:
        nibabel.save(to_nifti(sitk.GetArrayViewFromImage(image), affine_of_image(image)), partial)


def to_nifti(array: np.ndarray, affine: np.ndarray) -> Nifti1Image:
    """Return (D, H, W) values as a nibabel image. Its sform is the affine, and so is its qform, unless the affine is sheared."""
    values = array.transpose(2, 1, 0)
    image = (Nifti1Image if max(values.shape) <= MAX_SIDE else Nifti2Image)(values, affine, dtype=array.dtype)
    image.set_qform(affine, 1 if is_straight(affine) else 0)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    return image
