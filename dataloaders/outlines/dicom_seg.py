"""DICOM segmentations (DICOM-SEG), read and written by highdicom: frames of segments, on the slices of a series."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk

import qnet
from qnet.dataloaders.dicom import Stack, expect_pixels
from qnet.dataloaders.outlines.extras import highdicom
from qnet.dataloaders.outlines.of_series import (
    MAKER,
    expect_series,
    series_named,
    short_text,
    sources_of,
    uid_of,
)
from qnet.dataloaders.outlines.segments import Outlines, Segment, flat_voxels, joined
from qnet.util.base.errors import InputError
from qnet.util.base.files import replacing

ORGAN, TISSUE = ("123037004", "SCT", "Anatomical Structure"), ("85756007", "SCT", "Tissue")       # coded concepts
FAMILY = ("123110", "DCM", "Artificial Intelligence")
HALF, KINDS = 0.5, ("BINARY", "FRACTIONAL", "LABELMAP")


def read_dicom_seg(path: Path, image: sitk.Image, image_name: Path | str, series: str | None) -> Outlines:
    """Return the segments on the grid of a scan. A voxel of a fractional segment is inside from one half on.

    Args:
        series: of the scan, if it is a DICOM series.
    Raises:
        InputError: the file is damaged, names another series, or lies on other voxels than the scan's; or highdicom is missing.
    """
    library = highdicom(str(path))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            head = pydicom.dcmread(path, stop_before_pixels=True)
            expect_pixels(head, int(head.Rows) * int(head.Columns), path)
            expect_series(series_named(head), series, path, image_name)
            seg = library.seg.segread(path)
            return joined(_segments(library, seg, image, path, image_name), image, path)
    except InputError:
        raise
    except Exception as error:      # whatever a damaged file leads to
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: cannot be read as a DICOM segmentation ({what})") from None


def _segments(library: Any, seg: Any, image: sitk.Image, path: Path, image_name: Path | str) -> list[Segment]:
    voxels: dict[int, list[np.ndarray]] = defaultdict(list)
    kind = str(seg.SegmentationType)
    if kind not in KINDS:
        raise ValueError(f"of the type {kind}, allowed: {', '.join(KINDS)}")
    of_map, most = kind == "LABELMAP", float(seg.MaximumFractionalValue) if kind == "FRACTIONAL" else 1.0
    for number, groups in enumerate(seg.PerFrameFunctionalGroupsSequence, 1):
        pixels = seg.get_stored_frame(number)
        to_patient = _frame_to_patient(seg, groups)
        if of_map:
            masks = {int(value): pixels == value for value in np.unique(pixels) if value}
        else:
            masks = {int(_group(seg, groups, "SegmentIdentificationSequence").ReferencedSegmentNumber): pixels >= HALF * most}
        for value, inside in masks.items():
            voxels[value].append(flat_voxels(inside[None], to_patient, image, str(path), image_name))
    described = {int(one.SegmentNumber): one for one in seg.SegmentSequence if int(one.SegmentNumber) > 0}
    if unknown := sorted(set(voxels) - set(described)):
        raise InputError(f"{path}: has frames of segment {unknown[0]}, which it does not describe")
    return [Segment(number, str(one.get("SegmentLabel", "") or ""), _colour(library, one),
                    np.unique(np.concatenate(voxels[number])) if voxels[number] else np.empty(0, np.int64))
            for number, one in described.items()]


def _group(seg: Any, groups: Any, name: str) -> Any:
    """Return what is said of a frame, or of all frames."""
    return (groups.get(name) or seg.SharedFunctionalGroupsSequence[0][name])[0]


def _frame_to_patient(seg: Any, groups: Any) -> np.ndarray:
    """Return the 4×4 matrix from a frame's index (x, y, 0) to millimetres (LPS)."""
    axes = np.array(_group(seg, groups, "PlaneOrientationSequence").ImageOrientationPatient, float)
    y_mm, x_mm = map(float, _group(seg, groups, "PixelMeasuresSequence").PixelSpacing)
    matrix = np.eye(4)
    matrix[:3, 0], matrix[:3, 1] = axes[:3] * x_mm, axes[3:] * y_mm
    matrix[:3, 2] = np.cross(axes[:3], axes[3:])
    matrix[:3, 3] = np.array(_group(seg, groups, "PlanePositionSequence").ImagePositionPatient, float)
    if not np.isfinite(matrix).all():
        raise ValueError("a frame has no place in the patient")
    return matrix


def _colour(library: Any, segment: Any) -> str | None:
    lab = segment.get("RecommendedDisplayCIELabValue")
    if lab is None:
        return None
    return "#{:02x}{:02x}{:02x}".format(*library.color.CIELabColor.from_dicom_value([int(part) for part in lab]).to_rgb())


def write_dicom_seg(label_map: np.ndarray, stack: Stack, names: Mapping[int, str], colours: Mapping[int, str],
                    path: Path) -> None:
    """Write a (D, H, W) label map as segments on the slices of its own series. Values are numbered anew from 1, as DICOM asks.

    Args:
        stack: the scan's slices.
    Raises:
        InputError: highdicom is missing, or the series lacks what it needs.
        OSError: the file cannot be written.
    """
    library = highdicom("--format dicom-seg")
    sources, in_order = sources_of(stack)
    planes = label_map[in_order]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            seg = library.seg.Segmentation(
                source_images=sources, pixel_array=_numbered(planes, list(names)), segmentation_type="BINARY",
                segment_descriptions=_described(library, names, colours),
                series_instance_uid=uid_of(sources[0], label_map, "series"),
                series_number=int(sources[0].get("SeriesNumber", 0) or 0) * 100 + 1,
                sop_instance_uid=uid_of(sources[0], label_map, "seg"), instance_number=1, manufacturer=MAKER,
                manufacturer_model_name=MAKER, software_versions=qnet.__version__, device_serial_number="0",
                content_label="SEGMENTATION", series_description="Outlines by qnet", omit_empty_frames=bool(planes.any()))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise InputError(f"{stack.paths[0].parent}: no DICOM segmentation can refer to it "
                             f"({' '.join(str(error).split())[:200]})") from None
    with replacing(path) as partial:
        seg.save_as(partial)


def _numbered(planes: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return a label map whose values are 1, 2, … in the order of `values`."""
    table = np.zeros(int(planes.max()) + 1, np.uint8 if len(values) < 256 else np.uint16)
    for number, value in enumerate(values, 1):
        table[value:value + 1] = number
    return table[planes]


def _described(library: Any, names: Mapping[int, str], colours: Mapping[int, str]) -> list[Any]:
    organ, tissue, family = (library.sr.CodedConcept(*code) for code in (ORGAN, TISSUE, FAMILY))
    maker = library.AlgorithmIdentificationSequence(name=MAKER, family=family, version=qnet.__version__)
    return [library.seg.SegmentDescription(
        segment_number=number, segment_label=short_text(name), segmented_property_category=organ, segmented_property_type=tissue,
        algorithm_type="AUTOMATIC", algorithm_identification=maker,
        display_color=library.color.CIELabColor.from_rgb(*(int(colours[value][k:k + 2], 16) for k in (1, 3, 5))))
        for number, (value, name) in enumerate(names.items(), 1)]
