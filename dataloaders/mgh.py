"""Reading MGH and MGZ files, as FreeSurfer writes them. The header is of 284 bytes, big endian, and the values follow."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import SimpleITK as sitk
from nibabel.freesurfer.mghformat import DATA_OFFSET, MGHHeader, header_dtype

from qnet.dataloaders.geometry import expect_usable_axes, place
from qnet.dataloaders.nifti import GZIP_RATIO, MAX_VOXELS, UNREADABLE, one_line
from qnet.util.base.errors import InputError
from qnet.util.base.inputs import expect_file

GZIPPED = b"\x1f\x8b"


@np.errstate(all="ignore")       # what a hostile header makes of its numbers is checked, and no warning
def read_header(path: Path) -> tuple[MGHHeader, np.ndarray]:
    """Return the header of a volume that fits into its file, and the affine (RAS+). No value is read.

    Raises:
        InputError: the file is missing or damaged, has other than one volume of real numbers, or does not say where it lies.
    """
    packed = _is_gzipped(path)
    try:
        with _opened(path, packed) as file:
            head = file.read(DATA_OFFSET)
        if len(head) < DATA_OFFSET:
            raise ValueError(f"its header has {len(head)} bytes, allowed: {DATA_OFFSET}")
        says_where = bool(np.frombuffer(head[:header_dtype.itemsize], header_dtype)[0]["goodRASFlag"])
        header = MGHHeader(head)
        shape, dtype = tuple(map(int, header.get_data_shape())), header.get_data_dtype()
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as MGH ({one_line(error)})") from None
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"{path}: expected a volume with 3 axes, got shape {shape}")
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(f"{path}: expected at most {MAX_VOXELS} voxels, got shape {shape}")
    n_bytes, in_file = DATA_OFFSET + math.prod(shape) * dtype.itemsize, path.stat().st_size
    if n_bytes > in_file * (GZIP_RATIO if packed else 1):
        raise InputError(f"{path}: cannot be read as MGH (shape {shape} takes {n_bytes} bytes, the file has {in_file})")
    affine = np.asarray(header.get_affine(), float)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not says_where or not np.isfinite(affine).all() or sizes.min() <= 1e-9 or np.abs(affine).max() >= 1e15:
        raise InputError(f"{path}: its header gives the voxels no place in space")
    if np.linalg.matrix_rank(affine[:3, :3] / sizes, 1e-3) < 3:
        raise InputError(f"{path}: its header gives the voxels no place in space, affine {affine[:3].round(3).tolist()}")
    expect_usable_axes(affine, path)
    return header, affine


def _is_gzipped(path: Path) -> bool:
    with expect_file(path).open("rb") as file:
        return file.read(2) == GZIPPED


def _opened(path: Path, packed: bool) -> BinaryIO:
    open_file = cast(Callable[..., Any], gzip.open if packed else open)
    return cast(BinaryIO, open_file(path, "rb"))


def read_mgh(path: Path) -> sitk.Image:
    """Return an MGH or MGZ volume as a SimpleITK image with its geometry.

    Raises:
        InputError: as `read_header`, or the file is truncated or damaged.
    """
    header, affine = read_header(path)
    dtype, shape = header.get_data_dtype(), header.get_data_shape()
    n_bytes = math.prod(map(int, shape)) * dtype.itemsize
    try:
        with _opened(path, _is_gzipped(path)) as file:
            file.seek(DATA_OFFSET)
            content = file.read(n_bytes)
            while file.read(2**20):     # to the check sum
                pass
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read as MGH ({one_line(error)})") from None
    if len(content) < n_bytes:
        raise InputError(f"{path}: cannot be read as MGH (it ends too early)")
    array = np.frombuffer(content, dtype).reshape(shape[::-1])       # x runs fastest
    return place(sitk.GetImageFromArray(array.astype(dtype.newbyteorder("="))), affine, header["delta"])
