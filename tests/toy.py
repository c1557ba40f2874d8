"""A small data set in the CHAOST2 layout, made in a moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from qnet.dataloaders.volumes import Volume
from qnet.util.engine.task import Task

CASES = (1, 2, 3, 10, 12)
AFFINE = np.diag([-2.0, 2.0, 7.7, 1.0])
CENTRES = {1: (4, 20, 20), 2: (4, 44, 18), 3: (4, 44, 46), 4: (4, 20, 46)}   # slice, row, column of each organ


def toy_case(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, label map and supervoxels, each (8, 64, 64): four ellipsoids, shifted from case to case."""
    rng = np.random.default_rng(number)
    z, y, x = np.indices((8, 64, 64))
    label_map = np.zeros((8, 64, 64), np.uint8)
    for label, centre in CENTRES.items():
        cz, cy, cx = np.array(centre) + rng.integers(-1, 2, 3)
        label_map[((z - cz) / 3.5) ** 2 + ((y - cy) / 9) ** 2 + ((x - cx) / 9) ** 2 <= 1] = label
    image = 200 + 150 * label_map + rng.normal(0, 20, label_map.shape)
    supervoxels = np.where(label_map > 0, label_map, 5 + (y >= 32) * 2 + (x >= 32))
    return image.astype(np.float32), label_map, supervoxels.astype(np.int32)


def toy_volume(number: int, spacing_mm: tuple[float, float, float] = (7.7, 2.0, 2.0)) -> Volume:
    """A toy case as evaluations take it."""
    image, label_map, _ = toy_case(number)
    return Volume(str(number), (image - image.mean()) / image.std(), label_map, spacing_mm)


def thin_volume(number: int) -> Volume:
    """A toy case of every second row and column, as evaluations take it: for what is registered."""
    whole = toy_volume(number, (7.7, 4.0, 4.0))
    return replace(whole, image=whole.image[:, ::2, ::2].copy(), label_map=whole.label_map[:, ::2, ::2].copy())


def tasks_of(pairs: Sequence[tuple[Volume, Sequence[Volume]]], labels: Sequence[int]) -> list[Task]:
    """Turn (support, its queries) into tasks."""
    queries = {query.name: query for _, of_support in pairs for query in of_support}
    return [Task(query, tuple(support for support, of_support in pairs if any(query is other for other in of_support)),
                 tuple(labels)) for query in queries.values()]


def volumes_of(tasks: Sequence[Task]) -> dict[str, Any]:
    """The queries and supports, as SliceEncoder takes them."""
    return {"queries": {task.query for task in tasks},
            "supports": {support for task in tasks for support in task.supports}}


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)


def write_toy_data(root: Path, every: int = 1) -> Path:
    """Write the data set, of every n-th row and column."""
    affine = AFFINE @ np.diag([every, every, 1.0, 1.0])
    for number in CASES:
        image, label_map, supervoxels = (array[:, ::every, ::every] for array in toy_case(number))
        write(root / f"chaos_MR_T2_normalized/image_{number}.nii.gz", image, affine)
        write(root / f"chaos_MR_T2_normalized/label_{number}.nii.gz", label_map.astype(np.float64), affine)
        write(root / f"supervoxels_5000/superpix-MIDDLE_{number}.nii.gz", supervoxels, np.eye(4))
        write(root / f"superpixels_400/superpix-MIDDLE_{number}.nii.gz", supervoxels, np.eye(4))
    return root
