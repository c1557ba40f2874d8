"""Reading and writing NIfTI files. Arrays are (D, H, W): slice, row, column of the file's grid."""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel import Nifti1Header, Nifti1Image, Nifti2Header, Nifti2Image, imageglobals
from nibabel.affines import voxel_sizes
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import HeaderDataError

from dataloaders.itk import last_line, plain_spacing, quiet
from util.base.errors import InputError
from util.base.files import replacing
from util.base.inputs import expect_file

MAX_VOXELS = 2**30          # largest volume; 2000 CT slices of 512×512 have half as many
GZIP_RATIO = 1032           # largest compression by deflate
imageglobals.logger.setLevel(logging.CRITICAL)      # its messages about headers name no file; errors are raised as well
UNREADABLE = (OSError, EOFError, ValueError, KeyError, OverflowError, zlib.error, HeaderDataError)


@np.errstate(all="ignore")       # what a hostile header makes of its numbers is checked, and no warning
def read_header(path: Path) -> Nifti1Header:
    """Return the header of a NIfTI file (.nii or .nii.gz, version 1 or 2) that can hold the volume it claims.

    Only the bytes of the header are read. So a damaged or hostile file cannot make this allocate memory.

    Raises:
        InputError: the file is missing or not NIfTI; the volume has not three axes, more than MAX_VOXELS voxels, or more bytes
            than fit into the file; its values are not numbers; or the header gives the voxels no place in space.
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


@np.errstate(all="ignore")
def read_array(path: Path) -> np.ndarray:
    """Return a NIfTI file's values as (D, H, W) in the stored type, scaled if the header says so.

    Raises:
        InputError: as `read_header`, or the file is truncated or damaged.
    """
    header = read_header(path)
    try:
        array = np.asanyarray(ArrayProxy(str(path), header))
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as NIfTI ({one_line(error)})") from None
    return np.ascontiguousarray(array.transpose(2, 1, 0))


def one_line(error: Exception) -> str:
    """Return the message of an error on one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def read_affine(path: Path) -> np.ndarray:
    """Return a NIfTI file's (4, 4) matrix from voxel (x, y, z) to millimetres."""
    return read_header(path).get_best_affine()


def read_spacing_mm(path: Path) -> tuple[float, float, float]:
    """Return a NIfTI file's spacing in mm, (z, y, x)."""
    x_mm, y_mm, z_mm = (float(s) for s in voxel_sizes(read_affine(path)))
    return z_mm, y_mm, x_mm


def read_nifti(path: Path) -> sitk.Image:
    """Return a NIfTI volume as a SimpleITK image with its geometry.

    Raises:
        InputError: as `read_array`, or the axes are not at right angles.
    """
    array = read_array(path)    # by nibabel, as ITK reads a truncated file without an error
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
    return plain_spacing(image)


def write_like(reference: Path, array: np.ndarray, path: Path) -> None:
    """Write (D, H, W) values as NIfTI on the grid of the NIfTI file `reference`.

    Raises:
        ValueError: the shape of the array differs from the grid.
        InputError: as `read_header` of `reference`.
    """
    header = read_header(reference)
    values = array.transpose(2, 1, 0)
    if values.shape != header.get_data_shape():
        raise ValueError(f"array: expected shape {header.get_data_shape()[::-1]}, got {array.shape}")
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    image_type = Nifti2Image if isinstance(header, Nifti2Header) else Nifti1Image
    with replacing(path) as partial:
        nibabel.save(image_type(values, header.get_best_affine(), header), partial)


def save(image: sitk.Image, path: Path) -> None:
    """Write an image as NIfTI."""
    with replacing(path) as partial:
        sitk.WriteImage(image, partial)
