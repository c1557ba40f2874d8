"""Where the voxels of a scan lie: the one place that decides it, for reading and writing, volumes in ml, the page and the export.

Affines are 4×4, from voxel (x, y, z) to millimetres in the patient, RAS+ as in NIfTI. SimpleITK's images are LPS+.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nibabel import Nifti1Header
from nibabel.quaternions import quat2mat

from qnet.util.base.errors import InputError

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])      # between RAS+ and LPS+
SCALE_TO_MM = {"meter": 1e3, "micron": 1e-3}        # by the header's unit; all others are taken as mm
SPAN_MM = (1.0, 5000.0)                     # of a scan whose header has another unit than mm
SAME = 1e-4                                 # relative: pixdim and sform are rounded separately
STRAIGHT = 1e-3                             # cosine of the angle between two axes; less is rounding
TINY = 1e-100                               # of a direction; of denormal numbers, ITK prints pages
MAX_COSINE = math.cos(math.radians(45)) + 1e-6      # between two axes of a sheared scan, as of a tilted gantry


def affine_of(header: Nifti1Header, name: Path | str) -> np.ndarray:
    """Return the affine of a NIfTI header, version 1 or 2, as nibabel, FSL and NiiVue choose it.

    It is the sform if the sform's code is not 0. Otherwise it is the qform if the qform's code is not 0, with the size of pixdim
    without its sign. Otherwise it follows pixdim: the first axis runs from right to left, and the origin is the middle.
    Lengths in metres or microns become mm.

    Args:
        header: of a volume with three axes.
        name: of the file in messages.
    Raises:
        InputError: the header gives the voxels no place in space, or the unit gives the scan no size that scans have.
    """
    if header["sform_code"] > 0:
        affine, what = header.get_sform(), "sform"
    elif header["qform_code"] > 0:
        affine, what = qform_of(header), "qform"
    else:
        affine, what = _by_size(header), "pixdim"
    with np.errstate(all="ignore"):
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        placed = np.isfinite(affine).all() and sizes.min() > 1e-9 and max(sizes.max(), np.abs(affine).max()) < 1e15
    if not placed or np.linalg.matrix_rank(affine[:3, :3] / sizes, 1e-3) < 3:
        raise InputError(f"{name}: its header gives the voxels no place in space, {what} {affine[:3].round(3).tolist()}")
    unit = _unit(header)
    if unit in SCALE_TO_MM:
        affine = np.diag([*[SCALE_TO_MM[unit]] * 3, 1.0]) @ affine
        span_mm = float((spacing_of(affine) * header.get_data_shape()[:3]).max())
        if not SPAN_MM[0] <= span_mm <= SPAN_MM[1]:
            raise InputError(f"{name}: its header gives lengths in {unit}s, by which it spans {span_mm:.3g} mm; allowed: "
                             f"{SPAN_MM[0]:g} to {SPAN_MM[1]:g} mm, or lengths in mm")
    return affine


def has_other_unit(header: Nifti1Header) -> bool:
    """Return whether the lengths of a NIfTI header are in another unit than mm."""
    return _unit(header) in SCALE_TO_MM


def _unit(header: Nifti1Header) -> str:
    try:
        return header.get_xyzt_units()[0]
    except KeyError:        # a code that NIfTI does not know
        return "unknown"


def qform_of(header: Nifti1Header) -> np.ndarray:
    """Return the qform. Sizes are those of pixdim without their sign, and a qfac other than -1 is 1, as in NIfTI's own code."""
    b, c, d = (float(header[f"quatern_{letter}"]) for letter in "bcd")
    with np.errstate(all="ignore"):
        square = 1.0 - b * b - c * c - d * d
        if not np.isfinite(square):
            return np.full((4, 4), np.nan)
        if square < 1e-7:       # half a turn, and rounding
            length = math.sqrt(b * b + c * c + d * d)
            quaternion = (0.0, b / length, c / length, d / length)
        else:
            quaternion = (math.sqrt(square), b, c, d)
        affine = np.eye(4)
        sizes = np.abs(header["pixdim"][1:4].astype(float))
        affine[:3, :3] = quat2mat(quaternion) * sizes * (1.0, 1.0, -1.0 if header["pixdim"][0] < 0 else 1.0)
        affine[:3, 3] = [float(header[f"qoffset_{axis}"]) for axis in "xyz"]
    return affine


def _by_size(header: Nifti1Header) -> np.ndarray:
    sizes = np.abs(header["pixdim"][1:4].astype(float)) * (-1.0, 1.0, 1.0)
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = -sizes * (np.array(header.get_data_shape()[:3]) - 1) / 2
    return affine


def spacing_of(affine: np.ndarray) -> np.ndarray:
    """Return the distances (x, y, z) in mm between neighbouring voxels."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def largest_cosine(affine: np.ndarray) -> float:
    """Return the largest cosine between two axes: 0 where all are at right angles."""
    axes = affine[:3, :3] / spacing_of(affine)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def is_straight(affine: np.ndarray, most: float = STRAIGHT) -> bool:
    """Return whether the axes are at right angles. Cosines up to `most`, by default those of rounding, count as right angles."""
    return largest_cosine(affine) < most


def expect_usable_axes(affine: np.ndarray, name: Path | str) -> None:
    """Raise InputError if two axes are closer to each other than any scanner tilts them."""
    if (cosine := largest_cosine(affine)) > MAX_COSINE:
        raise InputError(f"{name}: two of its axes meet at {math.degrees(math.acos(min(1.0, cosine))):.0f} degrees; "
                         "allowed: 45 to 90")


def place(image: sitk.Image, affine: np.ndarray, sizes: Sequence[float] | None = None) -> sitk.Image:
    """Give an image its place, and return it.

    Args:
        affine: of its voxels.
        sizes: (x, y, z) of pixdim. If the affine differs from them only by rounding, they are used, since they are the decimals
            that were meant. They decide sizes after resampling, and labels at exactly one half.
    """
    lps = FLIP @ affine
    spacing = spacing_of(lps)
    direction = lps[:3, :3] / spacing
    direction[np.abs(direction) < TINY] = 0.0       # -0.0 too
    if sizes is not None:
        meant = np.abs(np.array(sizes, float))
        spacing = np.where(np.isclose(meant, spacing, rtol=SAME, atol=0), meant, spacing)
    image.SetSpacing([float(str(np.float32(s))) for s in spacing])      # the shortest decimal: 1.36, not 1.3600000143
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin((lps[:3, 3] + 0.0).tolist())
    return image


def affine_of_image(image: sitk.Image) -> np.ndarray:
    """Return the affine of a SimpleITK image."""
    return FLIP @ voxel_to_patient(image)


def voxel_to_patient(image: sitk.Image) -> np.ndarray:
    """Return the 4×4 matrix from index (x, y, z) to millimetres in the patient (LPS)."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return matrix


def voxel_ml(affine: np.ndarray) -> float:
    """Return the volume of a voxel in ml, also of a sheared one."""
    return float(abs(np.linalg.det(affine[:3, :3]))) / 1000


def grid_distance_mm(matrix: np.ndarray, other: np.ndarray, size: Sequence[int]) -> float:
    """Return the largest distance in mm between corresponding corners of two grids of `size` (x, y, z).

    Args:
        matrix, other: 4×4, from voxel to patient in mm.
    """
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in size))], float)
    return float(np.linalg.norm(corners @ (matrix - other).T, axis=1).max())


def same_order(affine: np.ndarray, other: np.ndarray,
               size: Sequence[int]) -> tuple[tuple[int, ...], tuple[bool, ...], np.ndarray]:
    """Return how to store a grid's voxels so that its axes run like those of `affine`, and the affine that it then has.

    Args:
        affine: of the grid whose order is taken.
        other, size: of the grid that is stored anew.
    Returns:
        For each new axis x, y, z: which axis of `other` it is; whether that is turned round; and the new affine.
    """
    axes = np.linalg.inv(affine[:3, :3] / spacing_of(affine)) @ (other[:3, :3] / spacing_of(other))
    order = max(itertools.permutations(range(3)), key=lambda order: sum(abs(axes[i, order[i]]) for i in range(3)))
    flips = tuple(bool(axes[i, order[i]] < 0) for i in range(3))
    step = np.zeros((4, 4))
    step[3, 3] = 1
    for i, (axis, flipped) in enumerate(zip(order, flips, strict=True)):
        step[axis, i] = -1 if flipped else 1
        step[axis, 3] = size[axis] - 1 if flipped else 0
    return order, flips, other @ step
