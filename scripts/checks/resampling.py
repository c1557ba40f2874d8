"""Measure how much a prediction depends on the grids of the scans. Support and query are resampled, flipped and turned.

    python scripts/checks/resampling.py runs/…/snapshots/30000.pth image_1.nii.gz label_1.nii.gz image_2.nii.gz
    python scripts/checks/resampling.py guided image_1.nii.gz label_1.nii.gz image_2.nii.gz

For every spacing and interpolation, both scans are resampled and their axes permuted and flipped. Then the query is segmented
as in test.py predict. The table has the Dice, in the patient, between this result and that of the original scans. "at best"
puts the probabilities of the original scans on the resampled query's voxels, as if resampling did not disturb the model.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from qnet.dataloaders.itk import with_geometry
from qnet.dataloaders.nifti import read_array
from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.tables import format_table
from qnet.util.engine.metrics import dice
from qnet.util.options.names import UNTRAINED_MODELS
from qnet.util.predict.predictor import Predictor, Segmentation, join_on_scan

ORIENTATIONS = ("SPR", "IRA")      # of the turned support and query
INTERPOLATORS = {"linear": sitk.sitkLinear, "spline": sitk.sitkBSpline}
IN_PLANE = ((1.1, 1.4), (1.4, 1.0))      # x, y in mm, of support and query
CONDITIONS = (      # interpolation; slice distances of support and query in mm, None: unchanged; the point that keeps its place
    ("linear", None, "middle"), ("spline", (3.5, 3.0), "middle"), ("linear", (3.5, 3.0), "middle"),
    ("spline", (5.0, 6.0), "middle"), ("linear", (5.0, 6.0), "middle"), ("linear", (5.0, 6.0), "first voxel"))


def resample(image: sitk.Image, spacing_mm: Sequence[float], interpolator: int, kept: str) -> sitk.Image:
    """Return the scan on voxels of another size, (x, y, z). Its "middle" or "first voxel" keeps its place in the patient."""
    size = [math.ceil(n * old / new) for n, old, new in zip(image.GetSize(), image.GetSpacing(), spacing_mm, strict=True)]
    origin = np.array(image.GetOrigin())
    if kept == "middle":
        middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
        origin = middle - np.reshape(image.GetDirection(), (3, 3)) @ ((np.array(size) - 1) / 2 * spacing_mm)
    return sitk.Resample(image, size, sitk.Transform(), interpolator, origin.tolist(), list(spacing_mm), image.GetDirection())


def overlaps(reference: sitk.Image, other: sitk.Image, labels: Sequence[int]) -> list[float]:
    """Return each label's Dice on the voxels of the reference. The other label map is resampled by the nearest voxel."""
    moved = sitk.GetArrayFromImage(sitk.Resample(other, reference, sitk.Transform(), sitk.sitkNearestNeighbor))
    return [dice(sitk.GetArrayFromImage(reference) == label, moved == label) for label in labels]


def check(method: Path | str, support: Path, support_label: Path, query: Path, conditions: Sequence[tuple] = CONDITIONS,
          **options: Any) -> tuple[list[str], list[list[Any]]]:
    """Return the names of the labels, and for every condition [*condition, *Dice, *Dice at best].

    Args:
        method: the path of a snapshot, or "guided" or "registration".
        support, support_label, query: NIfTI files.
        conditions: as CONDITIONS.
        options: of configs/base.json5, such as device or augment.
    Raises:
        InputError: a file is missing or damaged.
    """
    def outlined(files: Mapping[str, Path]) -> Segmentation:
        untrained = method in UNTRAINED_MODELS
        predictor = Predictor.untrained(str(method), **options) if untrained else Predictor.load(method, **options)
        predictor.add_support(files["support"], files["support_label"])
        return predictor.segment(files["query"])

    def on_original(found: Segmentation) -> sitk.Image:
        return with_geometry(found.label_map, found.scan.original)

    files, rows = {"support": support, "support_label": support_label, "query": query}, []
    found = outlined(files)
    plain, labels = on_original(found), list(found.names)
    cleaned_by = [read_array(support_label)] if options.get("largest_component", True) else None
    for condition in conditions:
        with tempfile.TemporaryDirectory() as folder:
            turned = {what: turn(path, what, condition, Path(folder)) for what, path in files.items()}
            of_turned = outlined(turned)
        original = of_turned.scan.original
        undisturbed = join_on_scan(found.on_grid, replace(found.scan, original=original), cleaned_by)
        rows.append([*condition, *overlaps(plain, on_original(of_turned), labels),
                     *overlaps(plain, with_geometry(undisturbed, original), labels)])
    return list(found.names.values()), rows


def turn(path: Path, what: str, condition: tuple, folder: Path) -> Path:
    """Write the scan `what` ("support", "support_label" or "query"), resampled and turned, to the folder. Return its path."""
    interpolation, slices_mm, kept = condition
    is_label, is_query = what == "support_label", what == "query"
    image = sitk.ReadImage(path)
    image = resample(sitk.Cast(image, sitk.sitkInt16 if is_label else sitk.sitkFloat32),
                     (*IN_PLANE[is_query], slices_mm[is_query] if slices_mm else image.GetSpacing()[2]),
                     sitk.sitkNearestNeighbor if is_label else INTERPOLATORS[interpolation], kept)
    sitk.WriteImage(sitk.DICOMOrient(image, ORIENTATIONS[is_query]), folder / f"{what}.nii.gz")
    return folder / f"{what}.nii.gz"


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = Parser(__doc__)
    parser.add_argument("method", help=f"a snapshot of train.py, or {' or '.join(UNTRAINED_MODELS)}")
    for name, text in (("support", "outlined scan, NIfTI"), ("support_label", "its labels"),
                       ("query", "scan to outline, NIfTI")):
        parser.add_argument(name, type=Path, help=text)
    options = parser.parse_args(arguments)
    try:
        names, rows = check(options.method, options.support, options.support_label, options.query)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    header = ["interpolation", "slices, mm", "stays", *names, *(f"{name}, at best" for name in names)]
    cells = [[interpolation, " / ".join(map(str, slices_mm or ["kept"])), kept, *(f"{score:.3f}" for score in scores)]
             for interpolation, slices_mm, kept, *scores in rows]
    print(format_table(header, cells))
    return 0


if __name__ == "__main__":
    sys.exit(main())
