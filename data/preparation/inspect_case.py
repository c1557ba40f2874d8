"""The report of `qnet check` on one prepared case."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np

from qnet.dataloaders.datasets import Case, DatasetSpec
from qnet.dataloaders.nifti import read_spacing_mm
from qnet.dataloaders.volumes import expect_same_shape, label_distance_mm, read_image, read_label, read_supervoxels
from qnet.util.base.errors import InputError


@dataclass
class CaseReport:
    """The facts about one case. A fact that cannot be read keeps its empty value, and `problems` has a line that says why."""

    name: str
    shape: tuple[int, ...] = ()                                     # (D, H, W)
    spacing_mm: tuple[float, ...] = ()                              # (z, y, x)
    intensity: tuple[float, ...] = ()                               # lowest, highest
    volumes_ml: dict[int, float] = field(default_factory=dict)      # by label value, for the labels in the case
    has_label: bool = False                                         # whether there is a label file, valid or not
    n_supervoxels: int = 0
    best_dice: dict[int, float] = field(default_factory=dict)       # best Dice of a union of supervoxels, by label value
    digest: str = ""                                                # equal for equal images
    slices: dict[str, np.ndarray] = field(default_factory=dict)     # one (H, W) each of "image", "label", "supervoxels"
    problems: list[str] = field(default_factory=list)


def inspect_case(case: Case, spec: DatasetSpec) -> CaseReport:
    """Read a case's files and report on them. A wrong file is reported, not raised."""
    report = CaseReport(case.name)
    try:
        image = read_image(case.image)
    except InputError as error:
        report.problems.append(str(error))
        return report
    report.shape = image.shape
    report.spacing_mm = read_spacing_mm(case.image)
    report.intensity = (float(image.min()), float(image.max()))
    report.digest = hashlib.sha256(image.tobytes()).hexdigest()
    label_map = _inspect_label(case, spec, image, report)
    supervoxels = _inspect_supervoxels(case, image, report)
    if label_map is not None and supervoxels is not None:
        report.best_dice = {label: best_union_dice(label_map == label, supervoxels) for label in report.volumes_ml}
    z = telling_slice(label_map) if label_map is not None and report.volumes_ml else len(image) // 2
    volumes = {"image": image, "label": label_map, "supervoxels": supervoxels}
    report.slices = {name: volume[z].copy() for name, volume in volumes.items() if volume is not None}
    return report


def telling_slice(label_map: np.ndarray) -> int:
    """Return the index of the slice of a (D, H, W) label map with the most classes, then with the largest labelled area."""
    areas_px = np.stack([(label_map == label).sum(axis=(1, 2)) for label in np.unique(label_map[label_map > 0])])
    return max(range(len(label_map)), key=lambda z: (np.count_nonzero(areas_px[:, z]), areas_px[:, z].sum()))


def _inspect_label(case: Case, spec: DatasetSpec, image: np.ndarray, report: CaseReport) -> np.ndarray | None:
    if not case.label.exists():
        return None
    report.has_label = True
    try:
        expect_same_shape(case, image, case.label)
        label_map = read_label(case.label, spec)
    except InputError as error:
        report.problems.append(str(error))
        return None
    if (distance_mm := label_distance_mm(case)) > 0.01 * min(report.spacing_mm):
        report.problems.append(f"{case.label}: geometry differs from {case.image}, by up to {distance_mm:.2f} mm")
    voxel_ml = float(np.prod(report.spacing_mm)) / 1000
    values, counts = np.unique(label_map[label_map > 0], return_counts=True)
    report.volumes_ml = {int(value): count * voxel_ml for value, count in zip(values, counts, strict=True)}
    if not report.volumes_ml:
        report.problems.append(f"{case.label}: holds no label, only background")
    return label_map


def _inspect_supervoxels(case: Case, image: np.ndarray, report: CaseReport) -> np.ndarray | None:
    try:
        expect_same_shape(case, image, case.supervoxels)
        supervoxels = read_supervoxels(case.supervoxels)
    except InputError as error:
        report.problems.append(str(error))
        return None
    values, numbers = np.unique(supervoxels, return_inverse=True)
    report.n_supervoxels = int(np.count_nonzero(values))
    if not report.n_supervoxels:
        report.problems.append(f"{case.supervoxels}: holds no supervoxel, only 0")
        return None
    return numbers.reshape(supervoxels.shape) + (values[0] > 0)


def best_union_dice(mask: np.ndarray, supervoxels: np.ndarray) -> float:
    """Return the highest Dice that any union of supervoxels reaches with a mask.

    The best union consists of the supervoxels with the largest shares inside the mask, down to some share. So only such
    unions are tried.

    Args:
        mask: boolean (D, H, W).
        supervoxels: 0, 1, 2, … (D, H, W); 0 is in no supervoxel.
    Returns:
        0…1. It is 0 for an empty mask, and if no supervoxel overlaps the mask.
    """
    sizes = np.bincount(supervoxels.ravel())[1:]
    overlaps = np.bincount(supervoxels[mask], minlength=len(sizes) + 1)[1:]
    sizes, overlaps = sizes[overlaps > 0], overlaps[overlaps > 0]
    order = np.argsort(-overlaps / sizes)
    dice = 2 * np.cumsum(overlaps[order]) / (np.cumsum(sizes[order]) + np.count_nonzero(mask))
    return float(dice.max(initial=0))
