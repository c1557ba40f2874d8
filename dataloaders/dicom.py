"""DICOM slices: which files of a folder are one series, a series as one volume. A file holds one slice, or several frames."""

from __future__ import annotations

import math
import tempfile
import warnings
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from qnet.dataloaders.dicom_frames import frame_as_slice
from qnet.dataloaders.dicom_pixels import read_pixels
from qnet.dataloaders.geometry import FLIP, expect_usable_axes, place
from qnet.dataloaders.nifti import MAX_VOXELS
from qnet.util.base.errors import InputError

MAX_PACKED_PX = 2**24       # pixels of a slice that is compressed more than PACKED_RATIO times, as an empty one may be
PACKED_RATIO = 50
MAX_INFLATED = 2**26        # bytes of a file that is compressed as a whole
EVEN = 0.1                  # of the distance of two slices: how far a slice may be from where it should be
SAME_SPACING, SAME_DIRECTION = 1e-4, 1e-3       # relative; cosine. Scanners round each slice by itself
MIN_SLICES = 2
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")      # of segments; of a label map
STRUCTURES = "1.2.840.10008.5.1.4.1.1.481.3"
NO_SCANS = ("DICOMDIR",)
ENDINGS = (".dcm", ".dicom", ".ima")        # that many of these files have; they need none
TAGS = ["TransferSyntaxUID", "SOPClassUID", "ImageType", "Modality", "SeriesInstanceUID", "SeriesDescription", "SeriesNumber",
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "BitsAllocated", "SamplesPerPixel",
        "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE     # what is needed is checked here


@dataclass(frozen=True)
class Slice:
    """What the header of a DICOM file says of a slice.

    Attributes:
        series: number of the series that it belongs to; "" if it names none.
        title: of the series, for people.
        place: position, directions of row and column, spacing (x, y); None if it has no image with a place in the patient.
        size: (x, y) in pixels; (0, 0) without an image.
        problem: why it is no slice of a volume; None if it is one.
        is_image: whether it has an image of the patient, other than a localizer.
        frame: its number in a file with several, from 0; None: it is the only one.
    """

    path: Path
    series: str
    title: str
    place: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    size: tuple[int, int]
    problem: str | None
    is_image: bool
    frame: int | None = None


@dataclass(frozen=True)
class Stack:
    """The slices of one series in the order of their positions, and the affine (RAS+) of the volume.

    `frames` are their numbers in files with several (`Slice.frame`).
    """

    paths: tuple[Path, ...]
    frames: tuple[int | None, ...]
    affine: np.ndarray
    size: tuple[int, int]


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, by its first bytes: by the mark of DICOM, or by an element of a DICOM header."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or (head[:2] == b"\x08\x00" and head[3:4] == b"\x00" and path.stat().st_size > 132)


def read_slice(path: Path) -> Slice:
    """Return what a DICOM file of one slice says in its header. Pixels are not read.

    Raises:
        InputError: as `read_slices`, or it holds several slices.
    """
    found = read_slices(path)
    if len(found) != 1:
        raise InputError(f"{path}: holds {len(found)} frames, allowed: 1 (a file for each slice)")
    return found[0]


def read_slices(path: Path) -> list[Slice]:
    """Return what a DICOM file says in its header: of its slice, or of each of its frames. Pixels are not read.

    Raises:
        InputError: it cannot be read as DICOM, or declares more pixels than it can hold.
    """
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            _expect_room(file, path)
            file.seek(0)
            head = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS, force=not _has_mark(path))
            return _slices_of_head(head, path)
    except InputError:
        raise
    except Exception as error:      # pydicom raises whatever a damaged file leads to
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: cannot be read as DICOM ({what})") from None


def _has_mark(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _expect_room(file: Any, path: Path) -> None:
    """Raise InputError if a file is compressed as a whole, and is larger than MAX_INFLATED when it is not."""
    if not _has_mark(path):
        return
    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    file.seek(132)
    unpacked, n_bytes = zlib.decompressobj(-zlib.MAX_WBITS), 0
    rest = file.read()[int(meta.get("FileMetaInformationGroupLength", 0)) + 12:]
    while rest and not unpacked.eof and n_bytes <= MAX_INFLATED:
        n_bytes += len(unpacked.decompress(rest, 2**22))
        rest = unpacked.unconsumed_tail
    if n_bytes > MAX_INFLATED:
        raise InputError(f"{path}: cannot be read as DICOM (it would become more than {MAX_INFLATED} bytes)")


def _slices_of_head(head: pydicom.Dataset, path: Path) -> list[Slice]:
    frames = head.get("PerFrameFunctionalGroupsSequence") or []
    if len(frames) != int(head.get("NumberOfFrames", 1) or 1) or str(head.get("SOPClassUID")) in SEGMENTATIONS:
        return [_slice_of(head, path)]      # named as a problem, but for one slice
    shared = (head.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    return [_slice_of(frame_as_slice(head, shared, groups), path, number) for number, groups in enumerate(frames)]


def _slice_of(head: pydicom.Dataset, path: Path, frame: int | None = None) -> Slice:
    series, title = str(head.get("SeriesInstanceUID", "") or ""), _title(head)
    n_x, n_y = int(head.get("Columns", 0) or 0), int(head.get("Rows", 0) or 0)
    if str(head.get("SOPClassUID")) in (*SEGMENTATIONS, STRUCTURES):
        what = f"holds outlines, no scan (modality {head.get('Modality', 'unknown')})"
        return Slice(path, series, title, None, (0, 0), what, False)
    if "SOPClassUID" not in head and not n_x:
        raise InputError(f"{path}: cannot be read as DICOM (it has no image and no SOPClassUID)")
    if not (n_x and n_y):
        return Slice(path, series, title, None, (0, 0), f"has no image (modality {head.get('Modality', 'unknown')})", False)
    expect_pixels(head, n_x * n_y, path)
    problem, where = None, None
    if (samples := int(head.get("SamplesPerPixel", 1) or 1)) != 1:
        problem = f"is a colour image: {samples} values a pixel, allowed: 1"
    elif int(head.get("NumberOfFrames", 1) or 1) != 1:
        problem = f"holds {head.NumberOfFrames} frames that do not say where they lie; allowed: 1 (a file for each slice)"
    else:
        missing = next((name for name in ("SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
                        if not head.get(name)), None)
        problem = f"has no {missing}, so its place in the patient is not known" if missing else None
    if problem is None:
        where = _place(head)
        if where is None:
            problem = "gives its pixels no place in the patient"
    kinds = [str(kind).upper() for kind in (head.get("ImageType") or [])] if not isinstance(head.get("ImageType"), str) else []
    return Slice(path, series, title, where, (n_x, n_y), problem, "LOCALIZER" not in kinds, frame)


def _title(head: pydicom.Dataset) -> str:
    number, text = head.get("SeriesNumber"), " ".join(str(head.get("SeriesDescription", "") or "").split())[:40]
    return " ".join(part for part in (f"series {number}" if number not in (None, "") else "", text) if part) or "a series"


def _place(head: pydicom.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    position, axes, spacing = (np.array([float(value) for value in head[name].value]) for name in
                               ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"))
    if (len(position), len(axes), len(spacing)) != (3, 6, 2) or not np.isfinite([*position, *axes, *spacing]).all():
        return None
    lengths = np.linalg.norm(axes.reshape(2, 3), axis=1)
    if np.abs(lengths - 1).max() > 0.01 or spacing.min() <= 0 or abs(axes[:3] @ axes[3:]) > 0.01 or np.abs(position).max() > 1e6:
        return None
    return position, (axes.reshape(2, 3) / lengths[:, None]).ravel(), spacing[::-1]


def expect_pixels(head: pydicom.Dataset, n_px: int, path: Path) -> None:
    """Raise InputError if a file declares more pixels than it can hold.

    Args:
        n_px: of a frame.
    """
    n_values = n_px * max(1, int(head.get("SamplesPerPixel", 1) or 1)) * max(1, int(head.get("NumberOfFrames", 1) or 1))
    n_bytes, in_file = n_values * int(head.get("BitsAllocated", 16) or 16) // 8, path.stat().st_size
    syntax = UID(str(getattr(head, "file_meta", {}).get("TransferSyntaxUID", "1.2.840.10008.1.2")))
    packed = syntax == DeflatedExplicitVRLittleEndian or not syntax.is_transfer_syntax or syntax.is_compressed
    if n_values > MAX_VOXELS or (n_values > MAX_PACKED_PX and n_bytes > PACKED_RATIO * in_file if packed else n_bytes > in_file):
        raise InputError(f"{path}: cannot be read as DICOM ({n_values} pixels do not fit into {in_file} bytes)")


def slices_in(folder: Path) -> tuple[dict[str, list[Slice]], dict[Path, str]]:
    """Return the slices of a folder by series, and for each other file why it is none. Files with hidden names are left out.

    Files that are named as NIfTI or as images of other programs are not looked at.
    """
    series: dict[str, list[Slice]] = defaultdict(list)
    others: dict[Path, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or path.name.upper() in NO_SCANS:
            continue
        if not is_dicom(path):
            others[path] = "cannot be read as DICOM (it does not begin as one)"
            continue
        try:
            found = read_slices(path)
        except InputError as error:
            others[path] = str(error).removeprefix(f"{path}: ")
            continue
        if found[0].size == (0, 0):
            others[path] = str(found[0].problem)
        else:
            series[found[0].series] += found
    return dict(series), others


def problem_of(slices: Sequence[Slice], name: Path | str) -> str | None:
    """Return why the slices of a series are no volume; None if they are one."""
    try:
        stack(slices, name)
    except InputError as error:
        return str(error).removeprefix(f"{name}: ")
    return None


def is_localizer(slices: Sequence[Slice]) -> bool:
    """Return whether a series only shows where others lie."""
    return not any(one.is_image for one in slices)


def read_dicom(path: Path) -> sitk.Image:
    """Return a series of DICOM slices as one image, which is sheared where the gantry was tilted.

    Args:
        path: of a folder with one series beside localizers and files without images, in it or in the only folder below it that
            has files; or of one file of a series, where a folder has several. Names and order of the files do not matter.
    Raises:
        InputError: files are missing or damaged, there are several series, or the slices are not evenly stacked.
    """
    return read_stack(stack(slices_of(path), path))


def slices_of(path: Path) -> list[Slice]:
    """Return the slices of the series that a path stands for. `read_dicom` explains path and errors."""
    if not path.is_dir():
        first = read_slices(path)[0]
        if first.size == (0, 0):
            raise InputError(f"{path}: {first.problem}")
        series, _ = slices_in(path.parent)
        return series[first.series]
    series, others = slices_in(_folder_of_series(path))
    damaged = {file: why for file, why in others.items() if why.startswith("cannot be read")}
    if not series and damaged:
        file, why = next(iter(damaged.items()))
        raise InputError(f"{file}: {why}")
    if not series:
        raise InputError(f"{path}: no DICOM file in it" + (f" with an image: {next(iter(others.values()))}" if others else ""))
    for file, why in damaged.items():
        if is_dicom(file) or file.suffix.lower() in ENDINGS:
            raise InputError(f"{file}: {why}")
    usable = {number: slices for number, slices in series.items()
              if not is_localizer(slices) and problem_of(slices, path) is None}
    if len(usable) > 1 or (not usable and len(series) > 1):
        titles = ", ".join(f"{slices[0].title} ({len(slices)} files)" for slices in list(series.values())[:5])
        raise InputError(f"{path}: expected one series of equal slices, found {len(series)} series: {titles}")
    return next(iter((usable or series).values()))


def _folder_of_series(folder: Path) -> Path:
    """Return the folder itself. If it has no file, return the only folder below it that has one."""
    if any(item.is_file() for item in folder.iterdir()):
        return folder
    below = {item.parent for item in folder.rglob("*") if item.is_file() and is_dicom(item)}
    return below.pop() if len(below) == 1 else folder


def stack(slices: Sequence[Slice], name: Path | str) -> Stack:
    """Return slices in the order of their positions, and the affine of the volume.

    A slice lies where its own header says, within EVEN of a step. The steps need not be at right angles to the slices: those of a
    tilted gantry are not, and the affine is sheared then.

    Raises:
        InputError: a slice has no place in the patient; they differ in direction, spacing or size; or are not evenly stacked.
    """
    if bad := next((one for one in slices if one.problem), None):
        raise InputError(f"{bad.path}: {bad.problem}")
    places = [one.place for one in slices if one.place is not None]
    positions, axes, spacings = (np.array(column) for column in zip(*places, strict=True))
    for what, values, same in (("slice orientations", axes, SAME_DIRECTION),
                               ("pixel spacings", spacings / spacings[0], SAME_SPACING),
                               ("slice sizes", np.array([one.size for one in slices]), 0)):
        if n_kinds := _n_kinds(values, same):
            raise InputError(f"{name}: expected one series of equal slices, found {n_kinds} {what}")
    if len(slices) < MIN_SLICES:
        raise InputError(f"{name}: expected several slices, found one")
    if len(slices) * math.prod(slices[0].size) > MAX_VOXELS:
        raise InputError(f"{name}: expected at most {MAX_VOXELS} voxels, got {len(slices)} slices of {slices[0].size} pixels")
    row, column = np.median(axes[:, :3], axis=0), np.median(axes[:, 3:], axis=0)
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    order = np.argsort(positions @ normal, kind="stable")
    step = _step(positions[order], normal, [slices[number].path.name for number in order], name)
    affine = np.eye(4)
    x_mm, y_mm = np.median(spacings, axis=0)
    affine[:3, :3] = np.stack([row * x_mm, column * y_mm, step], axis=1)
    affine[:3, 3] = positions[order[0]]
    affine = FLIP @ affine
    expect_usable_axes(affine, name)
    return Stack(tuple(slices[number].path for number in order), tuple(slices[number].frame for number in order), affine,
                 slices[0].size)


def _n_kinds(values: np.ndarray, same: float) -> int:
    """Return how many different rows there are; 0 if they differ by no more than rounding."""
    if np.ptp(values, axis=0).max() <= same:
        return 0
    kinds: list[np.ndarray] = []
    for row in values:
        if not any(np.abs(row - kind).max() <= same for kind in kinds):
            kinds.append(row)
    return max(2, len(kinds))


def _step(positions: np.ndarray, normal: np.ndarray, names: Sequence[str], name: Path | str) -> np.ndarray:
    """Return the step from a slice to the next, (3,), judged over the whole stack.

    Raises:
        InputError: the slices are not evenly stacked.
    """
    steps = np.diff(positions, axis=0)
    usual = np.median(steps, axis=0)
    step_mm = float(np.median(steps @ normal))
    off = np.linalg.norm(steps - usual, axis=1)
    if step_mm <= 0 or off.max() > EVEN * step_mm:
        worst = int((steps @ normal).argmin()) if step_mm <= 0 else int(off.argmax())
        along, sideways = steps[worst] @ normal, np.linalg.norm(np.cross(steps[worst] - usual, normal))
        also = f" and {sideways:.2f} mm sideways" if sideways > EVEN * step_mm else ""
        twice = "; there are several images at one place, as of several times or echoes" if abs(along) < 1e-3 else ""
        raise InputError(f"{name}: slices are not evenly stacked: {along:.2f} mm{also} from {names[worst]} to "
                         f"{names[worst + 1]}, usually {step_mm:.2f} mm{twice}")
    mean = (positions[-1] - positions[0]) / len(steps)
    drift = np.linalg.norm(positions - positions[0] - np.arange(len(positions))[:, None] * mean, axis=1)
    if drift.max() > step_mm / 2:
        raise InputError(f"{name}: slices are not evenly stacked: {names[int(drift.argmax())]} is {drift.max():.2f} mm from "
                         f"where even steps of {step_mm:.2f} mm would put it")
    tilted = np.linalg.norm(mean - (mean @ normal) * normal) * len(steps)       # in mm, over the whole stack
    return mean if tilted > EVEN * min(1.0, step_mm) else (mean @ normal) * normal


def read_stack(found: Stack) -> sitk.Image:
    """Return the volume of a stack. Each slice has the values that its own header gives, with its own slope.

    Raises:
        InputError: a file is damaged.
    """
    return next(read_stacks([found]))


def read_stacks(stacks: Iterable[Stack]) -> Iterator[sitk.Image]:
    """Yield the volumes of stacks, as `read_stack`. A file with the frames of all is read once."""
    read = lru_cache(maxsize=1)(pydicom.dcmread)
    with tempfile.TemporaryDirectory() as folder:
        for found in stacks:
            yield _volume(found, [read_pixels(path, frame, found.size, Path(folder) / "slice.dcm", read)
                                  for path, frame in zip(found.paths, found.frames, strict=True)])


def _volume(found: Stack, arrays: list[np.ndarray]) -> sitk.Image:
    dtypes = {array.dtype for array in arrays}
    if len(dtypes) > 1 and any(dtype.kind == "f" for dtype in dtypes):
        arrays = [array.astype(np.float32) for array in arrays]
    return place(sitk.GetImageFromArray(np.stack(arrays)), found.affine)


def by_position(folder: Path, slices: Mapping[int, Path]) -> tuple[list[int], Stack]:
    """Return the numbers of slices in the order of their DICOM positions along the slice normal, and their stack.

    Raises:
        InputError: a file is damaged, there are several series, or the slices are not evenly stacked.
    """
    heads = [read_slice(path) for path in slices.values()]
    if (n_series := len({head.series for head in heads})) > 1:
        raise InputError(f"{folder}: expected one series of equal slices, found {n_series} series")
    found = stack(heads, folder)
    number_of = {path: number for number, path in slices.items()}
    return [number_of[path] for path in found.paths], found
