"""A small data set in the CHAOST2 layout, and the entry points as tests call them."""

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest

from dataloaders.volumes import Volume
from util.segment.task import Task

ROOT = Path(__file__).resolve().parent.parent
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


def tasks_of(pairs: Sequence[tuple[Volume, Sequence[Volume]]], labels: Sequence[int]) -> list[Task]:
    """Turn (support, its queries) into tasks."""
    queries = {query.name: query for _, of_support in pairs for query in of_support}
    return [Task(query, tuple(support for support, of_support in pairs if any(query is other for other in of_support)),
                 tuple(labels)) for query in queries.values()]


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)


def write_toy_data(root: Path) -> Path:
    for number in CASES:
        image, label_map, supervoxels = toy_case(number)
        write(root / f"chaos_MR_T2_normalized/image_{number}.nii.gz", image)
        write(root / f"chaos_MR_T2_normalized/label_{number}.nii.gz", label_map.astype(np.float64))
        write(root / f"supervoxels_5000/superpix-MIDDLE_{number}.nii.gz", supervoxels, np.eye(4))
        write(root / f"superpixels_400/superpix-MIDDLE_{number}.nii.gz", supervoxels, np.eye(4))
    return root


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the toy data; read it only."""
    return write_toy_data(tmp_path_factory.mktemp("toy"))


def entry_point(name: str) -> ModuleType:
    """Import train.py or test.py under a name that is not Python's own `test`."""
    key = f"entry_point_{name}"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, ROOT / f"{name}.py")
        sys.modules[key] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


TINY = {"encoder": "small", "pretrained": "none", "n_steps": 3, "num_workers": 0, "print_interval": 2, "min_size": 20,
        "device": "cpu", "precision": "float32", "lr_step_every": 2}     # float32: the same bits on every kind of processor


def run_experiment(name: str, log_dir: Path, data: Path, *named: str, **options: object) -> Any:
    """Run an entry point on the toy data with tiny settings and return sacred's Run."""
    updates = {**TINY, **options, "path": {"log_dir": str(log_dir), "CHAOST2": {"data_dir": str(data)}}}
    return entry_point(name).experiment.run(named_configs=named, config_updates=updates)


def run(name: str, log_dir: Path, data: Path, *named: str, **options: object) -> Path:
    """Run an entry point on the toy data with tiny settings and return its run folder."""
    return Path(run_experiment(name, log_dir, data, *named, **options).observers[0].dir)


@pytest.fixture(scope="session")
def trained(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a finished training on the toy data; read it only."""
    return run("train", tmp_path_factory.mktemp("trained"), toy_data, save_snapshot_every=2)


@pytest.fixture(scope="session", autouse=True)
def programs_do_not_warn_of_encodings() -> None:
    """What scripts/run_tests.sh sets is for the tests' own process; a program that a test starts would print the warnings."""
    os.environ.pop("PYTHONWARNDEFAULTENCODING", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that takes longest, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_qnet_goldens.py")
