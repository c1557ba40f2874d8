"""The dataset table's entry for a user's own NIfTI files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import json5
import nibabel
import numpy as np
import SimpleITK as sitk

from qnet.data.preparation.raw import RawCase
from qnet.dataloaders.datasets import DatasetSpec, Grid
from qnet.dataloaders.itk import whole_numbers
from qnet.dataloaders.reading import affine_at, read_image
from qnet.util.base.classes import ALIKE_RULE, MAX_TRAINED, alike, default_name
from qnet.util.base.errors import InputError


def whole_values(label_file: Path) -> list[int]:
    """Return the values in a label file, ascending; none if it cannot be read or holds other than whole numbers from 0 on."""
    try:
        return np.unique(whole_numbers(sitk.GetArrayFromImage(read_image(label_file)), label_file)).tolist()
    except InputError:
        return []


def without_labels(name: str, raw_cases: Sequence[RawCase]) -> DatasetSpec:
    """Return the entry as far as it does not depend on what is in the files."""
    return DatasetSpec(name=name, image="images/image_{case}.nii.gz", label="images/label_{case}.nii.gz",
                       supervoxels="supervoxels_{n_sv}/superpix-MIDDLE_{case}.nii.gz", labels={}, file_values={},
                       n_folds=min(5, len(raw_cases)))


def describe_dataset(name: str, raw_cases: Sequence[RawCase], class_names: Mapping[int, str], grid: Grid | None = None,
                     values_of: Callable[[Path], Iterable[int]] = whole_values) -> DatasetSpec:
    """Return the entry, with the values in the label files as classes.

    If a value is above 254, `file_values` numbers all of them 1, 2, … in ascending order. The preparation reports files that
    cannot be read or hold other than whole numbers. If no case has a label file, the entry has the named classes, or "label 1".

    Args:
        name: of the dataset.
        raw_cases: its cases.
        class_names: by value; others are called "label <value>".
        grid: to which the scans are brought.
        values_of: as `whole_values`.
    Raises:
        InputError: there are label files but none has a label above 0, a named value is in no file, or two classes
            have names that are the same in names of files.
    """
    label_files = [case.label for case in raw_cases if case.label is not None]
    stored = sorted(set().union(*map(values_of, label_files)) - {0}) if label_files else sorted(class_names or {1: ""})
    if not stored:
        raise InputError(f"--label: no label file of {name} that can be read holds a value above 0")
    if unknown := sorted(set(class_names) - set(stored)):
        raise InputError(f"--names: {unknown[0]} is in no label file, which hold {stored}")
    names = dict(class_names)
    for value in stored:
        names.setdefault(value, default_name(value, names.values()))
    if two := alike(names.values()):
        raise InputError(f"--names: got {two[0]!r} and {two[1]!r}, allowed: {ALIKE_RULE}")
    numbers = {value: value if stored[-1] <= MAX_TRAINED else i for i, value in enumerate(stored, 1)}
    return replace(without_labels(name, raw_cases),
                   labels={number: names[value] for value, number in numbers.items()},
                   file_values={value: number for value, number in numbers.items() if stored[-1] > MAX_TRAINED}, grid=grid)


def shared_orientation(raw_cases: Sequence[RawCase]) -> str | None:
    """Return the orientation of all readable images, such as "LAS". None if they differ."""
    found = set()
    for case in raw_cases:
        try:
            found.add("".join(nibabel.aff2axcodes(affine_at(case.image))))
        except InputError:     # the preparation reports it
            continue
    return found.pop() if len(found) == 1 else None


def config_text(spec: DatasetSpec, data_dir: str, n_sv: int) -> str:
    """Return a named config (JSON5) with the dataset's entry, for a file in configs/."""
    entry = {"image": spec.image, "label": spec.label, "supervoxels": spec.supervoxels,
             "labels": {str(value): name for value, name in spec.labels.items()},
             "file_values": {str(stored): value for stored, value in spec.file_values.items()}, "n_folds": spec.n_folds,
             "grid": asdict(spec.grid) if spec.grid else None}
    config = {"dataset": spec.name, "n_sv": n_sv, "test_label": list(spec.labels),
              "path": {spec.name: {"data_dir": data_dir}}, "datasets": {spec.name: entry}}
    return json5.dumps(config, indent=2, ensure_ascii=False) + "\n"
