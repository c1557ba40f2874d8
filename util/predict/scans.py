"""Reads scans, resamples them to a data set's grid, and brings results back to the scan's own grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import nibabel
import numpy as np
import SimpleITK as sitk

from qnet.dataloaders.datasets import Grid
from qnet.dataloaders.gaps import described, fill, gaps_of
from qnet.dataloaders.geometry import FLIP, affine_of_image, expect_usable_axes, place, same_order, voxel_ml
from qnet.dataloaders.itk import channel_on, check_image, labels_on, with_geometry
from qnet.dataloaders.nifti import MAX_VOXELS, save, to_nifti, write_like
from qnet.dataloaders.outlines.reading import stored_outlines
from qnet.dataloaders.outlines.segments import Outlines, in_terms_of
from qnet.dataloaders.reading import is_nifti, read_image, scan_name
from qnet.dataloaders.resampling import clip_at_percentile, straight_grid, window_to_255
from qnet.dataloaders.volumes import normalise
from qnet.util.base.errors import InputError

MAX_OWN_VOXELS = 2**23      # a larger scan that is segmented on its own grid is resampled to coarser voxels
FEW_VALUES = 64             # different values in a file that may hold outlines
MOST_LABELS = 128           # different values in a file of labels; more are those of a scan
FEW_LABELS = 16             # so many are labels, also of an image that has fewer values, as a phantom
MAX_SHEAR = 0.05            # cosine between two axes of a scan; one that is sheared more is resampled
MAX_TURN = 15.0             # degrees; a scan that is turned further within the first support's planes is resampled


Image: TypeAlias = sitk.Image | nibabel.spatialimages.SpatialImage
Given: TypeAlias = Image | Path | str | Sequence[Image | Path | str]        # a sequence: the channels of one patient


@dataclass(frozen=True)
class Scan:
    """A scan on its own grid and on the model's grid.

    Attributes:
        name: of the file without its ending, or of the folder. An image in memory is called "scan" or "support image".
        given: the path of a NIfTI file or of a folder of DICOM slices, or an image in memory.
        original: the scan on its own grid, which may be sheared.
        on_grid: the scan on the model's grid, prepared as the training data. A model without training has the scan's own
            grid, coarser if that has more than MAX_OWN_VOXELS voxels.
        others: further channels of the same patient, on the same grids.
    """

    name: str
    given: Path | Image
    original: sitk.Image
    on_grid: sitk.Image
    others: tuple[Scan, ...] = ()

    @property
    def path(self) -> Path | None:
        """The path that the scan was read from; None for an image in memory."""
        return self.given if isinstance(self.given, Path) else None

    @property
    def files(self) -> list[Path]:
        """The paths that all channels were read from."""
        return [one.path for one in (self, *self.others) if one.path is not None]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """The spacing (z, y, x) of the prepared scan."""
        x_mm, y_mm, z_mm = self.on_grid.GetSpacing()
        return z_mm, y_mm, x_mm

    @property
    def image(self) -> np.ndarray:
        """The prepared scan, (D, H, W) float32, z-scored."""
        return normalise(sitk.GetArrayFromImage(self.on_grid).astype(np.float32))


def read_scan(given: Given, grid: Grid | None, frame: np.ndarray | None = None) -> Scan:
    """Read a scan and prepare it on the model's grid.

    Args:
        given: a file or a folder of DICOM slices (`qnet.dataloaders.reading.read_image`), or an image in memory; or several of
            these, the channels of one patient.
        grid: None keeps the scan's own grid, if its axes are at right angles and run about as those of `frame`.
        frame: `frame_of` the first support: how the axes should run, where the grid does not fix that. None: as in the file.
    Raises:
        InputError: the scan is missing, damaged, constant, or has values that are not finite; or it is a file of outlines; or
            channels lie on different voxels.
    """
    first, others = _channels(given)
    name, path, image = _open(first, "scan")
    return _on_grid(path, _expect_scan(image, path, name), grid, frame, name, others)


def _channels(given: Given) -> tuple[Image | Path | str, Sequence[Image | Path | str]]:
    first, *others = given if isinstance(given, (list, tuple)) else (given,)
    return first, others


def _expect_scan(image: sitk.Image, given: Path | Image, name: str) -> sitk.Image:
    check_image(image, name)
    if isinstance(given, Path) and (n_values := values_of_outlines(image)):
        raise InputError(f"{name}: holds {n_values} different values, all whole, and most voxels are 0: these are "
                         "outlines, not a scan")
    return image


def values_of_outlines(image: sitk.Image) -> int:
    """Return how many different values an image has if it looks like outlines, else 0.

    Those are whole numbers from 0 on, at most FEW_VALUES different ones, and at least half of the voxels are 0.
    """
    array = sitk.GetArrayViewFromImage(image)
    few = array.ravel()[::max(1, array.size // 2**16)]       # most scans are told by these
    if len(np.unique(few)) > FEW_VALUES or np.count_nonzero(array) > array.size / 2:
        return 0
    values = np.unique(array)
    return len(values) if len(values) <= FEW_VALUES and values[0] >= 0 and (np.mod(values, 1) == 0).all() else 0


def _open(given: Path | str | Image, role: str) -> tuple[str, Path | Image, sitk.Image]:
    """Return the name of a scan in messages, `given` with text as a path, and the image."""
    if isinstance(given, sitk.Image):
        if given.GetDimension() != 3 or given.GetNumberOfComponentsPerPixel() != 1:
            raise InputError(f"{role}: expected a volume with 3 axes, got {given.GetDimension()} axes with "
                             f"{given.GetNumberOfComponentsPerPixel()} values a voxel")
        return role, given, given
    if isinstance(given, nibabel.spatialimages.SpatialImage):
        return role, given, from_nibabel(given, role)
    path = Path(given)
    return str(path), path, read_image(path)


def _on_grid(given: Path | Image, original: sitk.Image, grid: Grid | None, frame: np.ndarray | None, name: str,
             others: Sequence[Image | Path | str] = ()) -> Scan:
    _expect_room(original, grid, name)
    prepared = check_image(prepare_image(original, grid, frame), name)
    found = Scan(scan_name(given) if isinstance(given, Path) else name, given, original, prepared)
    return replace(found, others=tuple(_channel(found, name, one, number, grid, frame) for number, one in enumerate(others, 2)))


def _channel(first: Scan, first_name: str, given: Image | Path | str, number: int, grid: Grid | None,
             frame: np.ndarray | None) -> Scan:
    """Return a further channel, on the voxels of the first."""
    name, path, image = _open(given, f"channel {number}")
    on_first = channel_on(first.original, _expect_scan(image, path, name), first_name, name)
    return _on_grid(path, on_first, grid, frame, name)


def from_nibabel(image: nibabel.spatialimages.SpatialImage, name: str) -> sitk.Image:
    """Convert a nibabel image (coordinates RAS+) to SimpleITK (coordinates LPS+).

    Args:
        name: of the image in messages.
    Raises:
        InputError: the image does not have three axes, its values are not real numbers, or its axes are too far from right
            angles.
    """
    if len(image.shape) != 3:
        raise InputError(f"{name}: expected a volume with 3 axes, got shape {image.shape}")
    array = np.asanyarray(image.dataobj)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name}: expected whole or real numbers, got values of type {array.dtype}")
    affine = image.affine
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine) < 4:
        raise InputError(f"{name}: its affine gives the voxels no place in space, {affine[:3].round(3).tolist()}")
    expect_usable_axes(affine, name)
    return place(sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0))), affine)


def prepare_image(image: sitk.Image, grid: Grid | None, frame: np.ndarray | None) -> sitk.Image:
    """Reorient, clip or window, resample, and crop or pad a scan, as the training data were.

    Without a grid, the scan is only reoriented, and resampled if it is sheared, turned by more than MAX_TURN within the planes of
    the frame, or has more than MAX_OWN_VOXELS voxels.

    The grid has the same centre as the scan. So it covers the same anatomy whatever the scan's spacing, and a scan that is
    already prepared keeps its voxels. Cubic splines, clamped to the range of the scan, blur less than the linear
    interpolation of the training data, so a scan that was resampled before changes less.
    """
    turned = _turn(image, grid, frame)
    if grid is None:
        target = _model_grid(turned, None, frame)
        turned_anew = target.GetDirection() != turned.GetDirection()
        return _resampled(sitk.Cast(turned, sitk.sitkFloat32), target, sitk.sitkBSpline3 if turned_anew else sitk.sitkLinear)
    clipped = window_to_255(turned, *grid.window) if grid.window else clip_at_percentile(turned)
    return _resampled(clipped, _model_grid(turned, grid, frame), sitk.sitkBSpline3)


def _resampled(image: sitk.Image, target: sitk.Image, interpolator: int) -> sitk.Image:
    """Bring an image to another grid, clamped to its own range. Outside of it, there is its darkest value."""
    array = sitk.GetArrayViewFromImage(image)
    darkest, brightest = float(array.min()), float(array.max())
    resampled = sitk.Resample(image, target, sitk.Transform(), interpolator, darkest)
    return sitk.Clamp(resampled, resampled.GetPixelID(), darkest, brightest)


def prepare_labels(labels: sitk.Image, grid: Grid | None, frame: np.ndarray | None = None) -> np.ndarray:
    """Return labels on the grid of `prepare_image`, (D, H, W) int16. A voxel has the value that covers more than half of it."""
    turned = _turn(labels, grid, frame)
    target = _model_grid(turned, grid, frame)
    result = np.zeros(target.GetSize()[::-1], np.int16)
    for value in label_values([sitk.GetArrayViewFromImage(turned)]):
        share = sitk.Resample(sitk.Cast(turned == value, sitk.sitkFloat32), target, sitk.Transform(), sitk.sitkLinear, 0.0)
        result[sitk.GetArrayViewFromImage(share) > 0.5] = value
    return result


def _model_grid(image: sitk.Image, grid: Grid | None, frame: np.ndarray | None) -> sitk.Image:
    """Return an empty image on the model's grid around `image`. Without a grid: on its own, with MAX_OWN_VOXELS at most."""
    image = straight_grid(image, frame, MAX_TURN, MAX_OWN_VOXELS, MAX_SHEAR)
    extent_mm = np.multiply(image.GetSize(), image.GetSpacing())
    if grid is None:
        coarser = max(1.0, (math.prod(image.GetSize()) / MAX_OWN_VOXELS) ** (1 / 3))
        size = [max(1, round(n / coarser)) for n in image.GetSize()]
        spacing_mm = (extent_mm / size).tolist() if coarser > 1 else list(image.GetSpacing())
    else:
        size = [grid.size_px, grid.size_px, max(1, round(extent_mm[2] / grid.spacing_mm[2]))]
        spacing_mm = list(grid.spacing_mm)
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    direction = np.reshape(image.GetDirection(), (3, 3))
    target = sitk.Image(size, sitk.sitkUInt8)
    target.SetSpacing(spacing_mm)
    target.SetDirection(image.GetDirection())
    target.SetOrigin(middle - direction @ ((np.array(size) - 1) / 2 * spacing_mm))
    return target


def _expect_room(image: sitk.Image, grid: Grid | None, name: str) -> None:
    """Raise InputError if a scan would have more than MAX_VOXELS voxels on the model's grid."""
    if grid is None:
        return
    longest_mm = max(np.multiply(image.GetSize(), image.GetSpacing()))
    if longest_mm / min(grid.spacing_mm) * grid.size_px**2 > MAX_VOXELS:
        raise InputError(f"{name}: spans {longest_mm:.0f} mm, which is too large for the grid of the model: "
                         f"size (x, y, z) = {image.GetSize()}, spacing {image.GetSpacing()} mm")


def _turn(image: sitk.Image, grid: Grid | None, frame: np.ndarray | None) -> sitk.Image:
    """Return the image with its axes in the order and directions that grid or frame ask for. No voxel changes its place."""
    fixed = None if grid is None else grid.orientation
    if fixed is None and frame is not None:
        order, flips, _ = same_order(_affine(frame), affine_of_image(image), image.GetSize())
        return sitk.Flip(sitk.PermuteAxes(image, order), flips, False)
    return sitk.DICOMOrient(image, fixed) if fixed else image


def _affine(direction: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = direction
    return FLIP @ affine


def frame_of(image: sitk.Image) -> np.ndarray:
    """Return the directions of the axes of a prepared scan, (3, 3), a column each: how other scans should be turned."""
    return np.reshape(image.GetDirection(), (3, 3))


def orientation_of(image: sitk.Image) -> str:
    """Return the directions of the axes x, y, z, each as the nearest axis of the patient, as "LAS"."""
    return sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())


def read_support(image: Given, labels: Path | str | Image, grid: Grid | None,
                 frame: np.ndarray | None = None, *, known: Mapping[int, str] | None = None,
                 fill_gaps: bool = False) -> tuple[Scan, np.ndarray, str | None, Outlines]:
    """Read a support.

    Args:
        image: the scan, or its channels, as `read_scan` takes them. The outlines are of the first channel.
        labels: a file of any kind (`stored_outlines`), or a label map in memory.
        known: names of values in earlier supports. Classes of the same name get these values.
        fill_gaps: fill the slices that were left out between outlined ones. Else the third of the results names them.
    Returns:
        Its scan, its label map on the model's grid, (D, H, W) int16, what is told about gaps, and its outlines on its own grid.
    Raises:
        InputError: a file is missing or damaged, scan and labels do not belong together, or no label is left on the grid.
    """
    first, others = _channels(image)
    name, given, read = _open(first, "support image")
    original = check_image(read, name)
    if isinstance(labels, (str, Path)):
        label_name = str(Path(labels))
        stored = stored_outlines(Path(labels), original, given if isinstance(given, Path) else name)
    else:
        label_name, _, in_memory = _open(labels, "support labels")
        stored = Outlines(in_memory)
    expect_not_swapped(original, stored.labels, name, label_name)
    outlines = in_terms_of(known or {}, replace(stored, labels=labels_on(original, stored.labels, name, label_name)), label_name)
    outlined = outlines.labels
    array = sitk.GetArrayFromImage(outlined)
    axis, gaps = gaps_of(array)
    if gaps and fill_gaps:
        outlined = with_geometry(fill(array, original.GetSpacing()[::-1]), original)
    label_map = prepare_labels(outlined, grid, frame)
    if not label_map.any():
        raise InputError(f"{label_name}: holds no label, only background, on the grid of the model")
    told = f"{label_name}: {described(axis, gaps)}" if gaps and not fill_gaps else None
    return _on_grid(given, original, grid, frame, name, others), label_map, told, replace(outlines, labels=outlined)


def expect_not_swapped(image: sitk.Image, labels: sitk.Image, image_name: str, label_name: str) -> None:
    """Raise InputError if what is given as labels has more values than the image, or so many that it is a scan.

    That is told before any of them is looked for.
    """
    n_labels, n_values = (_n_values(one) for one in (labels, image))
    if n_labels > FEW_LABELS and n_values < n_labels:
        raise InputError(f"{label_name}: holds {n_labels} different values, and {image_name} {n_values}: image and labels are "
                         "swapped")
    if n_labels > MOST_LABELS:
        raise InputError(f"{label_name}: holds {n_labels} different values, as a scan does; allowed in labels: {MOST_LABELS}")


def _n_values(image: sitk.Image) -> int:
    return len(np.unique(sitk.GetArrayViewFromImage(image)))


def to_scan(values: np.ndarray, scan: Scan) -> np.ndarray:
    """Resample (D, H, W) probabilities from the model's grid to the scan's own, linearly. Outside, they are 0."""
    moved = sitk.Resample(with_geometry(values, scan.on_grid), scan.original, sitk.Transform(), sitk.sitkLinear, 0.0)
    return sitk.GetArrayFromImage(moved)


def voxel_of_scan(place: tuple[int, int, int], scan: Scan) -> tuple[int, int, int]:
    """Return the voxel (x, y, z) of a scan, on its own grid, that is nearest to a voxel (z, y, x) of the model's grid."""
    z, y, x = place
    at = scan.original.TransformPhysicalPointToContinuousIndex(scan.on_grid.TransformIndexToPhysicalPoint((x, y, z)))
    own_x, own_y, own_z = (min(max(round(k), 0), n - 1) for k, n in zip(at, scan.original.GetSize(), strict=True))
    return own_x, own_y, own_z


def write_on_scan(values: np.ndarray, scan: Scan, path: Path) -> None:
    """Write (D, H, W) values on the scan's own grid as NIfTI, with exactly its geometry.

    Raises:
        OSError: the file cannot be written.
    """
    if scan.path is not None and scan.path.is_file() and is_nifti(scan.path):
        write_like(scan.path, values, path)
    else:
        save(with_geometry(values, scan.original), path)


def like_given(values: np.ndarray, scan: Scan) -> Image:
    """Return (D, H, W) values as an image with the scan's geometry: SimpleITK if the scan was given so, else nibabel."""
    if isinstance(scan.given, sitk.Image):
        return with_geometry(values, scan.original)
    return to_nifti(values, affine_of_image(scan.original) if isinstance(scan.given, Path) else scan.given.affine)


def label_values(label_maps: Sequence[np.ndarray]) -> list[int]:
    """Return the values above 0 in any of some label maps, in ascending order."""
    return sorted({int(value) for label_map in label_maps for value in np.unique(label_map)} - {0})


def volumes_ml(labels: sitk.Image) -> dict[int, float]:
    """Return the volume of each value above 0 in a label map."""
    values, counts = np.unique(sitk.GetArrayViewFromImage(labels), return_counts=True)
    ml = voxel_ml(affine_of_image(labels))
    return {int(value): int(count) * ml for value, count in zip(values, counts, strict=True) if value > 0}


def label_names(values: Sequence[int], names: Mapping[int, str], file_values: Mapping[int, int]) -> dict[int, str]:
    """Return the names of the values in label files: those of the data set, else "label <value>".

    Args:
        names: of the data set, by label.
        file_values: label by value in a file.
    """
    return {value: names.get(file_values.get(value, value), f"label {value}") for value in values}
