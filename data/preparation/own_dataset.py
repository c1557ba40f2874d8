"""The dataset table's entry for a user's own NIfTI files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import json5
import nibabel
import numpy as np

from data.preparation.raw import RawCase
from dataloaders.datasets import DatasetSpec, Grid
from dataloaders.nifti import read_affine, read_array
from util.base.errors import InputError

MAX_LABEL = 254


def describe_dataset(name: str, raw_cases: Sequence[RawCase], class_names: Mapping[int, str],
                     grid: Grid | None = None) -> DatasetSpec:
    """Return the entry: the values in the label files with their names, "label <value>" where none is given.

    Where a value is above 254, all are numbered 1, 2, … in rising order, in `file_values`. Files that cannot be read or
    hold other than whole numbers are left to the preparation to name. Where no case has a label file, the entry has the
    named classes, or "label 1".

    Raises:
        InputError: there are label files but none has a label above 0, or a name was given to a value that no file holds.
    """
    labelled = [case for case in raw_cases if case.label is not None]
    stored = sorted(set().union(*(_values(case) for case in labelled)) - {0}) if labelled else sorted(class_names or {1: ""})
    if not stored:
        raise InputError(f"--label: no label file of {name} that can be read holds a value above 0")
    if unknown := sorted(set(class_names) - set(stored)):
        raise InputError(f"--names: {unknown[0]} is in no label file, which hold {stored}")
    numbers = {value: value if stored[-1] <= MAX_LABEL else i for i, value in enumerate(stored, 1)}
    return DatasetSpec(
        name=name, image="images/image_{case}.nii.gz", label="images/label_{case}.nii.gz",
        supervoxels="supervoxels_{n_sv}/superpix-MIDDLE_{case}.nii.gz",
        labels={number: class_names.get(value, f"label {value}") for value, number in numbers.items()},
        file_values={value: number for value, number in numbers.items() if stored[-1] > MAX_LABEL},
        n_folds=min(5, len(raw_cases)), grid=grid)


def shared_orientation(raw_cases: Sequence[RawCase]) -> str | None:
    """Return where the axes of all readable images point, as "LAS"; None when they differ."""
    found = set()
    for case in raw_cases:
        try:
            found.add("".join(nibabel.aff2axcodes(read_affine(case.image))))
        except InputError:     # the preparation will name it
            continue
    return found.pop() if len(found) == 1 else None


def _values(case: RawCase) -> set[int]:
    try:
        values = np.unique(read_array(case.label))
    except InputError:
        return set()
    whole = np.isfinite(values) & (values >= 0) & (values % 1 == 0)
    return set(values.astype(int).tolist()) if whole.all() else set()


def config_text(spec: DatasetSpec, data_dir: str, n_sv: int) -> str:
    """Return a named config (JSON5) with the dataset's entry, for a file in configs/."""
    entry = {"image": spec.image, "label": spec.label, "supervoxels": spec.supervoxels,
             "labels": {str(value): name for value, name in spec.labels.items()},
             "file_values": {str(stored): value for stored, value in spec.file_values.items()}, "n_folds": spec.n_folds,
             "grid": asdict(spec.grid) if spec.grid else None}
    config = {"dataset": spec.name, "n_sv": n_sv, "test_label": list(spec.labels),
              "path": {spec.name: {"data_dir": data_dir}}, "datasets": {spec.name: entry}}
    return json5.dumps(config, indent=2, ensure_ascii=False) + "\n"
