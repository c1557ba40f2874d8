"""Pure steps from a scan to the model's grid and back, on SimpleITK images. Sizes and spacings are (x, y, z).

Each step keeps a voxel's place in the patient, which is `TransformIndexToPhysicalPoint` of the result.
The published preparation of CHAOS and CMR clips, resamples, then crops or pads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from qnet.dataloaders.geometry import STRAIGHT, affine_of_image, is_straight, voxel_to_patient
from qnet.dataloaders.itk import with_geometry
from qnet.dataloaders.nifti import MAX_VOXELS
from qnet.util.base.errors import InputError

IN_PLANE_PX = 256


def clip_at_percentile(image: sitk.Image, percentile: float = 99.5) -> sitk.Image:
    """Clip the brightest voxels. An image of an integer type keeps its type, so the threshold is truncated."""
    array = sitk.GetArrayViewFromImage(image)
    highest = array.dtype.type(np.percentile(array, percentile))
    return with_geometry(np.minimum(array, highest), image)


def window_to_255(image: sitk.Image, low: float, high: float) -> sitk.Image:
    """Clip to low…high, then scale by the minimum and maximum of the result to 0…255 (float32).

    A volume that is constant inside the window becomes 0 everywhere.
    """
    windowed = np.clip(sitk.GetArrayViewFromImage(image).astype(np.float32), low, high)
    span = np.ptp(windowed) or 1.0
    return with_geometry((windowed - windowed.min()) / span * np.float32(255), image)


def resampled_size(image: sitk.Image, spacing_mm: Sequence[float]) -> list[int]:
    """Return the size in voxels at a new spacing, int(size · spacing / new spacing + 1) per axis.

    Raises:
        InputError: it has more than MAX_VOXELS voxels.
    """
    size = [int(size * old / new + 1) for size, old, new in zip(image.GetSize(), image.GetSpacing(), spacing_mm, strict=True)]
    if math.prod(size) > MAX_VOXELS:
        raise InputError(f"size (x, y, z) = {image.GetSize()} of {image.GetSpacing()} mm would become {size} voxels, allowed: "
                         f"{MAX_VOXELS} in all")
    return size


def resample_image(image: sitk.Image, spacing_mm: Sequence[float], size: Sequence[int] | None = None) -> sitk.Image:
    """Resample linearly to a new spacing with the same origin, direction and pixel type.

    Args:
        image: a volume.
        spacing_mm: (x, y, z), each above 0.
        size: (x, y, z) in voxels; default: `resampled_size`. Voxels outside the volume become 0, or the volume's minimum if
            that is negative, as in CT.
    """
    outside = min(0.0, float(sitk.GetArrayViewFromImage(image).min()))
    return sitk.Resample(image, list(size or resampled_size(image, spacing_mm)), sitk.Transform(), sitk.sitkLinear,
                         image.GetOrigin(), [float(s) for s in spacing_mm], image.GetDirection(), outside)


def resample_labels(labels: sitk.Image, spacing_mm: Sequence[float], size: Sequence[int] | None = None) -> sitk.Image:
    """Resample a label map of whole numbers, one value at a time, to int16. The arguments are those of `resample_image`.

    A voxel takes the value that covers more than half of it after linear interpolation, or 0 if none does.
    """
    values = np.unique(sitk.GetArrayViewFromImage(labels))
    result = sitk.Cast(resample_image(labels, spacing_mm, size) * 0, sitk.sitkInt16)
    array = sitk.GetArrayFromImage(result)
    for value in values[values != 0]:
        share = resample_image(sitk.Cast(labels == int(value), sitk.sitkFloat32), spacing_mm, size)
        array[sitk.GetArrayViewFromImage(share) > 0.5] = value
    return with_geometry(array, result)


def crop_or_pad_in_plane(image: sitk.Image, size_px: int = IN_PLANE_PX, pad_value: float = 0) -> sitk.Image:
    """Crop or pad x and y to `size_px`. Index N//2 of N becomes size_px//2. The origin moves accordingly."""
    starts = [n // 2 - size_px // 2 for n in image.GetSize()[:2]]
    ends = [n - size_px - start for n, start in zip(image.GetSize()[:2], starts, strict=True)]
    cropped = sitk.Crop(image, [*(max(0, start) for start in starts), 0], [*(max(0, end) for end in ends), 0])
    return sitk.ConstantPad(cropped, [*(max(0, -start) for start in starts), 0], [*(max(0, -end) for end in ends), 0],
                            float(pad_value))


def to_model_grid(image: sitk.Image, spacing_mm: Sequence[float], size_px: int = IN_PLANE_PX) -> sitk.Image:
    """Clip at the 99.5th percentile, then go to the grid by `image_to_grid`."""
    return image_to_grid(clip_at_percentile(image), spacing_mm, size_px)


def image_to_grid(image: sitk.Image, spacing_mm: Sequence[float], size_px: int = IN_PLANE_PX) -> sitk.Image:
    """Resample to `spacing_mm`, then crop or pad in-plane with the minimum of the resampled volume."""
    resampled = resample_image(image, spacing_mm)
    return crop_or_pad_in_plane(resampled, size_px, sitk.GetArrayViewFromImage(resampled).min())


def labels_to_grid(labels: sitk.Image, spacing_mm: Sequence[float], size_px: int = IN_PLANE_PX) -> sitk.Image:
    """Bring labels to the grid of `image_to_grid` for their image, padded with 0."""
    return crop_or_pad_in_plane(resample_labels(labels, spacing_mm), size_px)


def straight_grid(image: sitk.Image, frame: np.ndarray | None = None, max_turn: float = 0.0,
                  max_voxels: int = MAX_VOXELS, max_cosine: float = STRAIGHT) -> sitk.Image:
    """Return a grid whose axes are at right angles and run about like those of `frame`.

    It is the image itself, if the image's axes do. Otherwise it is an empty image around it. Along each new axis, its voxels
    are as long as the image's own are in that direction.

    Args:
        image: with axes in the order of the frame's.
        frame: (3, 3), directions of axes at right angles, a column each; None: any.
        max_turn: degrees by which the image may be turned within its slices. An image whose slices lie in other planes than the
            frame's, by more than that, stays as it is: such planes are chosen by the organ, as in scans of hearts, and thick
            slices would blur.
        max_voxels: of the new grid, which is made coarser if it would have more.
        max_cosine: between two axes of the image that count as being at right angles.
    """
    own = np.reshape(image.GetDirection(), (3, 3))
    straight = is_straight(affine_of_image(image), max_cosine)
    direction = own if straight else _right_angled(own)
    if frame is not None and _is_turned(direction, image.GetSpacing(), frame, max_turn):
        direction = frame
    elif straight:
        return image
    matrix = voxel_to_patient(image)
    steps = direction.T @ matrix[:3, :3]                                       # of the image's voxels along the new axes
    spacing_mm = np.sqrt((steps**2).sum(axis=1))
    ends = np.array([[-0.5, n - 0.5] for n in image.GetSize()])
    corners = np.array(list(itertools.product(*ends))) @ steps.T               # (8, 3) in mm, from the first voxel
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = np.maximum(1, np.ceil((high - low) / spacing_mm - 1e-6)).astype(int)
    if (coarser := (math.prod(size.tolist()) / max_voxels) ** (1 / 3)) > 1:
        spacing_mm, size = spacing_mm * coarser, np.maximum(1, np.ceil(size / coarser)).astype(int)
    middle = matrix[:3, 3] + direction @ ((low + high) / 2)
    target = sitk.Image(size.tolist(), sitk.sitkUInt8)
    target.SetSpacing(spacing_mm.tolist())
    target.SetDirection(direction.ravel().tolist())
    target.SetOrigin((middle - direction @ ((size - 1) / 2 * spacing_mm)).tolist())
    return target


def _right_angled(direction: np.ndarray) -> np.ndarray:
    """Return the axes in the plane of the slices, and the normal of that in place of the third."""
    x = direction[:, 0]
    y = direction[:, 1] - (direction[:, 1] @ x) * x
    y /= np.linalg.norm(y)
    z = np.cross(x, y)
    return np.stack([x, y, z if z @ direction[:, 2] > 0 else -z], axis=1)


def _is_turned(direction: np.ndarray, spacing_mm: Sequence[float], frame: np.ndarray, max_turn: float) -> bool:
    """Return whether axes are turned by more than `max_turn` degrees within the slices, which lie in the planes of the frame's.

    Slices lie across the longest side of the voxels, the last of those that are equal.
    """
    normal = max(range(3), key=lambda axis: (round(spacing_mm[axis], 3), axis))
    first, second = (axis for axis in range(3) if axis != normal)
    if abs(direction[:, normal] @ frame[:, normal]) < math.cos(math.radians(max_turn)):
        return False
    along, across = np.abs(direction[:, first] @ frame[:, [first, second]])
    return math.degrees(math.atan2(across, along)) > max_turn


def straightened(image: sitk.Image, labels: sitk.Image | None) -> tuple[sitk.Image, sitk.Image | None]:
    """Return an image and its labels on a grid with axes at right angles. If the image's axes are, both stay as they are."""
    target = straight_grid(image)
    if target is image:
        return image, labels
    darkest = float(sitk.GetArrayViewFromImage(image).min())
    straight = sitk.Resample(image, target, sitk.Transform(), sitk.sitkLinear, darkest)
    if labels is None:
        return straight, None
    array = np.zeros(target.GetSize()[::-1], np.int16)
    for value in np.unique(sitk.GetArrayViewFromImage(labels)).tolist():
        share = sitk.Resample(sitk.Cast(labels == value, sitk.sitkFloat32), target, sitk.Transform(), sitk.sitkLinear, 0.0)
        array[sitk.GetArrayViewFromImage(share) > 0.5] = value
    return straight, with_geometry(array, target)
