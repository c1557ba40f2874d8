"""Sets of structures of radiotherapy (RTSTRUCT): for each structure closed contours in the planes of a scan, in mm (LPS).

Read: a voxel is inside if its centre is inside of an odd number of a structure's contours in its plane. So contours in a contour
are holes, whether they are drawn apart or joined by a channel. Written: contours run along the edges of voxels, so that whoever
asks where the centres lie gets exactly the voxels back, and a structure has their volume. Holes are joined to the contour around
them by a channel without width (DICOM PS3.3 C.8.8.6.3).
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_sequence_item
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian
from scipy import ndimage
from skimage.draw import polygon

from qnet.dataloaders.dicom import STRUCTURES, Stack
from qnet.dataloaders.geometry import FLIP, voxel_to_patient
from qnet.dataloaders.outlines.of_series import (
    MAKER,
    PATIENT,
    expect_series,
    series_named,
    short_text,
    sources_of,
    uid_of,
)
from qnet.dataloaders.outlines.segments import OFF, Outlines, Segment, flat_index, joined
from qnet.util.base.errors import InputError, listed
from qnet.util.base.files import replacing

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")
MAX_BYTES = 2**30
DETACHED = "1.2.840.10008.3.1.2.3.1"        # the class by which structures refer to a study
Corner = tuple[int, int]


def read_rtstruct(path: Path, image: sitk.Image, image_name: Path | str, series: str | None) -> Outlines:
    """Return the structures on the grid of a scan. Those without closed contours, as points, are told.

    Args:
        series: of the scan, if it is a DICOM series.
    Raises:
        InputError: the file is damaged, names another series, or a contour lies between the planes of the scan or outside.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES} bytes")
            head = pydicom.dcmread(path)
            expect_series(series_named(head), series, path, image_name)
            segments, told = _segments(head, image, path, image_name)
    except InputError:
        raise
    except Exception as error:      # whatever a damaged file leads to
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: cannot be read as structures of radiotherapy ({what})") from None
    found = joined(segments, image, path)
    return Outlines(found.labels, found.names, found.colours, (*found.told, *told))


def _segments(head: Dataset, image: sitk.Image, path: Path, image_name: Path | str) -> tuple[list[Segment], list[str]]:
    contours = {str(one.ReferencedROINumber): one for one in head.get("ROIContourSequence") or []}
    segments, without = [], []
    for roi in head.get("StructureSetROISequence") or []:
        name, of_roi = str(roi.get("ROIName", "") or ""), contours.get(str(roi.ROINumber))
        closed = [one for one in (of_roi.get("ContourSequence") or [] if of_roi is not None else [])
                  if str(one.get("ContourGeometricType", "CLOSED_PLANAR")) in CLOSED]
        if not closed:
            without.append(name or str(roi.ROINumber))
            continue
        voxels = _voxels(closed, image, f"{path}: {name!r}", image_name)
        segments.append(Segment(int(roi.ROINumber), name, _colour(of_roi), voxels))
    told = [f"{path}: no closed contour of {listed(without)}: left out"]
    return segments, told if without else []


def _colour(of_roi: Any) -> str | None:
    rgb = of_roi.get("ROIDisplayColor")
    return None if not rgb else "#{:02x}{:02x}{:02x}".format(*(min(255, max(0, int(part))) for part in rgb))


def _voxels(closed: list[Any], image: sitk.Image, what: str, image_name: Path | str) -> np.ndarray:
    """Return the voxels inside of closed contours, as flat indices into (D, H, W)."""
    from_patient = np.linalg.inv(voxel_to_patient(image))
    planes: dict[tuple[int, int], np.ndarray] = {}
    size = image.GetSize()
    for contour in closed:
        points = _points(contour) @ from_patient[:3, :3].T + from_patient[:3, 3]
        if not np.isfinite(points).all():
            raise InputError(f"{what}: a contour has points that are NaN or infinite")
        axis = int(np.ptp(points, axis=0).argmin())
        plane = int(np.rint(np.clip(points[:, axis].mean(), -1, size[axis])))
        if (away := float(np.abs(points[:, axis] - plane).max())) > OFF:
            raise InputError(f"{what}: a contour lies {_where(points[:, axis], away)} a plane of {image_name}; allowed: contours "
                             "in the planes of its voxels")
        across = [n for n in range(3) if n != axis]
        low, high = points[:, across].min(axis=0), points[:, across].max(axis=0)
        if not 0 <= plane < size[axis] or (low < -1).any() or (high > np.array(size)[across]).any():
            raise InputError(f"{what}: a contour lies outside of {image_name}; allowed: outlines of this scan")
        inside = planes.setdefault((axis, plane), np.zeros([size[n] for n in across], bool))
        mask = np.zeros_like(inside)
        mask[polygon(points[:, across[0]], points[:, across[1]], inside.shape)] = True
        inside ^= mask
    index = [np.insert(np.argwhere(inside), axis, plane, axis=1) for (axis, plane), inside in planes.items()]
    return np.unique(flat_index(np.concatenate(index), image, what, image_name))


def _points(contour: Dataset) -> np.ndarray:
    """Return the (n, 3) points of a contour. pydicom's own numbers take most of the time that a file of a million needs."""
    stored = contour.get_item("ContourData")
    text = stored.value if isinstance(stored, RawDataElement) else None
    values = contour.ContourData if text is None else [part.strip(b" \0") for part in text.split(b"\\")]
    return np.array(values).astype(float).reshape(-1, 3)


def _where(of_axis: np.ndarray, away: float) -> str:
    return "across" if np.ptp(of_axis) > OFF else f"{away:.2f} voxels beside"


def write_rtstruct(label_map: np.ndarray, stack: Stack, names: Mapping[int, str], colours: Mapping[int, str], path: Path) -> None:
    """Write a (D, H, W) label map as structures on the slices of its own series.

    Args:
        stack: the scan's slices.
    Raises:
        InputError: the series lacks what it needs.
        OSError: the file cannot be written.
    """
    sources, _ = sources_of(stack)
    by_path = dict(zip(dict.fromkeys(stack.paths), sources, strict=True))
    slices = [(by_path[file], frame) for file, frame in zip(stack.paths, stack.frames, strict=True)]
    try:
        head = _structure_set(sources, slices, label_map)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InputError(f"{stack.paths[0].parent}: no RTSTRUCT can refer to it ({' '.join(str(error).split())[:200]})") from None
    lps, image_of = FLIP @ stack.affine, cache(lambda k: _written(_image(*slices[k])))
    for number, (value, name) in enumerate(names.items(), 1):
        head.StructureSetROISequence.append(_dataset(
            ROINumber=number, ReferencedFrameOfReferenceUID=sources[0].FrameOfReferenceUID, ROIName=short_text(name),
            ROIGenerationAlgorithm="AUTOMATIC"))
        head.RTROIObservationsSequence.append(_dataset(
            ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter=""))
        contours = [_contour(points, lps, k, image_of(k)) for k in np.flatnonzero((label_map == value).any(axis=(1, 2))).tolist()
                    for points in contours_of(label_map[k] == value)]
        of_roi = _dataset(ROIDisplayColor=[int(colours[value][k:k + 2], 16) for k in (1, 3, 5)], ReferencedROINumber=number)
        if contours:
            of_roi.ContourSequence = contours
        head.ROIContourSequence.append(of_roi)
    with replacing(path) as partial:
        head.save_as(partial, enforce_file_format=True)


def _contour(points: np.ndarray, lps: np.ndarray, k: int, image: bytes) -> Dataset:
    """Return a contour of (n, 2) corners (x, y) in slice k.

    Its elements are as they will be written; to convert a million numbers takes pydicom most of its time.

    Args:
        image: what refers to the slice, as the item of a sequence.

    It ends where the way back to its begin is long in x and y of the patient: plastimatch takes a last point for the first one
    again if these are the same, and leaves it out.
    """
    in_mm = np.column_stack([points, np.full(len(points), k)]) @ lps[:3, :3].T + lps[:3, 3]
    back_mm = np.abs(in_mm - np.roll(in_mm, 1, axis=0))[:, :2].sum(axis=1)
    in_mm = np.roll(in_mm, -int(back_mm.argmax()), axis=0)
    numbers = "\\".join(map(_decimal, in_mm.ravel().tolist())).encode("ascii")
    return _as_written(Dataset({one.tag: one for one in (
        _raw("ContourImageSequence", "SQ", image), _raw("ContourGeometricType", "CS", b"CLOSED_PLANAR"),
        _raw("NumberOfContourPoints", "IS", b"%d" % len(points)), _raw("ContourData", "DS", numbers))}))


def _raw(name: str, kind: str, value: bytes) -> RawDataElement:
    padded = value + b" " * (len(value) % 2)
    return RawDataElement(Tag(name), kind, len(padded), padded, 0, False, True)


def _written(item: Dataset) -> bytes:
    """Return a dataset as the item of a sequence in a file."""
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = False, True
    write_sequence_item(file, item, [default_encoding])
    return file.getvalue()


def _decimal(value: float) -> str:
    """Return a number in the 16 characters that DICOM allows."""
    return f"{value:.6f}"[:16] if abs(value) < 1e8 else f"{value:.8e}"


def _image(source: Dataset, frame: int | None) -> Dataset:
    found = _dataset(ReferencedSOPClassUID=source.SOPClassUID, ReferencedSOPInstanceUID=source.SOPInstanceUID)
    if frame is not None:
        found.ReferencedFrameNumber = frame + 1
    return found


def _dataset(**values: Any) -> Dataset:
    found = Dataset()
    for name, value in values.items():
        setattr(found, name, value)
    return _as_written(found)


def _as_written(found: Dataset) -> Dataset:
    """Return a dataset of which pydicom knows that its elements need no change to be written."""
    found.set_original_encoding(False, True, found._character_set)
    return found


def _structure_set(sources: list[Dataset], slices: list[tuple[Dataset, int | None]], label_map: np.ndarray) -> Dataset:
    """Return a set without structures that refers to a series."""
    first, now = sources[0], datetime.now()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(STRUCTURES), UID(uid_of(first, label_map, "rtstruct"))
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    head = _dataset(SOPClassUID=STRUCTURES, SOPInstanceUID=meta.MediaStorageSOPInstanceUID, Modality="RTSTRUCT",
                    **{name: first[name].value for name in PATIENT}, SpecificCharacterSet="ISO_IR 192",
                    SeriesInstanceUID=uid_of(first, label_map, "rtstruct series"), SeriesNumber=None, OperatorsName="",
                    SeriesDescription="Outlines by qnet", Manufacturer=MAKER, ManufacturerModelName=MAKER,
                    InstanceCreationDate=f"{now:%Y%m%d}", InstanceCreationTime=f"{now:%H%M%S}",
                    StructureSetLabel="Outlines by qnet"[:16], StructureSetDate=f"{now:%Y%m%d}", StructureSetTime=f"{now:%H%M%S}",
                    ApprovalStatus="UNAPPROVED", FrameOfReferenceUID=first.FrameOfReferenceUID, PositionReferenceIndicator="",
                    StructureSetROISequence=[], ROIContourSequence=[], RTROIObservationsSequence=[])
    head.file_meta = meta
    of_series = _dataset(SeriesInstanceUID=first.SeriesInstanceUID, ContourImageSequence=[_image(*one) for one in slices])
    of_study = _dataset(ReferencedSOPClassUID=DETACHED, ReferencedSOPInstanceUID=first.StudyInstanceUID,
                        RTReferencedSeriesSequence=[of_series])
    head.ReferencedFrameOfReferenceSequence = [_dataset(FrameOfReferenceUID=first.FrameOfReferenceUID,
                                                        RTReferencedStudySequence=[of_study])]
    return head


def contours_of(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Yield a closed contour (n, 2), of corners (x, y) in voxels, for each part of a mask (H, W) whose pixels meet at edges.

    Contours run along the edges of pixels, half a pixel beside their centres. Holes are joined to them by channels.
    """
    parts, _ = ndimage.label(mask)
    loops_of: dict[int, list[list[Corner]]] = defaultdict(list)
    for loop, part in _loops(parts):
        loops_of[part].append(loop)
    for _, loops in sorted(loops_of.items()):
        path, *holes = sorted(loops, key=lambda loop: -abs(_area(loop)))
        for hole in sorted(holes, key=lambda loop: min(loop)):       # from the left: what is left of a hole is joined before
            path = _with_channel(path, hole)
        yield np.array(_corners_only(path), float) - 0.5


def _loops(parts: np.ndarray) -> Iterator[tuple[list[Corner], int]]:
    """Yield the closed paths around parts, each with the number of its part, in steps along the edges of pixels.

    Corner (x, y) is that of pixel (x, y) at its upper left. The part is to the right of the direction in which a path runs.

    Args:
        parts: (H, W) whole numbers, 0 outside.
    """
    padded = np.pad(parts > 0, 1)
    inside = padded[1:-1, 1:-1]
    following: dict[Corner, list[Corner]] = defaultdict(list)
    for (dy, dx), begin, end in (((-1, 0), (0, 0), (1, 0)), ((0, 1), (1, 0), (1, 1)), ((1, 0), (1, 1), (0, 1)),
                                 ((0, -1), (0, 1), (0, 0))):
        beside = padded[1 + dy:padded.shape[0] - 1 + dy, 1 + dx:padded.shape[1] - 1 + dx]
        for y, x in np.argwhere(inside & ~beside).tolist():
            following[x + begin[0], y + begin[1]].append((x + end[0], y + end[1]))
    while following:
        start = next(iter(following))
        first = following[start].pop()
        loop, at, before = [start], first, start
        while at != start:
            loop.append(at)
            before, at = at, _next(following, before, at)
        yield loop, _part_beside(parts, start, first)
        for corner in loop:
            if not following.get(corner, True):
                del following[corner]


def _part_beside(parts: np.ndarray, begin: Corner, end: Corner) -> int:
    """Return the number of the part to the right of a step from a corner to the next one, (x, y) each."""
    (x, y), (dx, dy) = begin, (end[0] - begin[0], end[1] - begin[1])
    return int(parts[y - (dy < 0) - (dx < 0), x - (dx < 0) - (dy > 0)])


def _next(following: dict[Corner, list[Corner]], before: Corner, at: Corner) -> Corner:
    """Return where a path goes on. Where two pixels touch at a corner, it turns right, and so stays at its own pixel."""
    ways = following[at]
    step = (at[0] - before[0], at[1] - before[1])
    right = (at[0] - step[1], at[1] + step[0])
    return ways.pop(ways.index(right) if len(ways) > 1 and right in ways else 0)


def _area(loop: list[Corner]) -> float:
    x, y = np.array(loop, float).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _with_channel(path: list[Corner], hole: list[Corner]) -> list[Corner]:
    """Return a path that goes to a hole, around it and back. The channel runs to the left, along edges of pixels."""
    corner = min(hole)
    begin = hole.index(corner)
    around = [*hole[begin:], *hole[:begin], corner]
    on_line = {point: k for k, point in enumerate(path) if point[1] == corner[1] and point[0] < corner[0]}
    nearest = max(on_line)
    channel = [(x, corner[1]) for x in range(nearest[0], corner[0])]
    at = on_line[nearest]
    return [*path[:at], *channel, *around, *reversed(channel), *path[at + 1:]]


def _corners_only(path: list[Corner]) -> list[Corner]:
    """Return a path without the points where it goes straight on."""
    return [(x, y) for before, (x, y), after in zip([path[-1], *path[:-1]], path, [*path[1:], path[0]], strict=True)
            if (x - before[0]) * (after[1] - y) != (y - before[1]) * (after[0] - x) or before == after]
