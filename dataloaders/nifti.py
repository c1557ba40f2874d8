"""NIfTI files, read and written. Arrays are (D, H, W): slice, row, column of the file's own grid."""

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

MAX_VOXELS = 2**30          # of a volume; 2000 CT slices of 512×512 have half as many
GZIP_RATIO = 1032           # deflate makes nothing smaller than this
imageglobals.logger.setLevel(logging.CRITICAL)      # its remarks on headers name no file, and what matters is raised too
UNREADABLE = (OSError, EOFError, ValueError, KeyError, OverflowError, zlib.error, HeaderDataError)


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


def read_affine(path: Path) -> np.ndarray:
    """Return a NIfTI file's (4, 4) matrix from voxel (x, y, z) to millimetres."""
    return read_header(path).get_best_affine()


def read_spacing_mm(path: Path) -> tuple[float, float, float]:
    """Return a NIfTI file's spacing in mm, (z, y, x)."""
    x_mm, y_mm, z_mm = (float(s) for s in voxel_sizes(read_affine(path)))
    return z_mm, y_mm, x_mm


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
    return plain_spacing(image)


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


def save(image: sitk.Image, path: Path) -> None:
    """Write as NIfTI."""
    with replacing(path) as partial:
        sitk.WriteImage(image, partial)
