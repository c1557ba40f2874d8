"""train.py and test.py as tests run them: in this process, on the toy data, with tiny settings."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

TINY = {"encoder": "small", "pretrained": "none", "n_steps": 3, "num_workers": 0, "print_interval": 2, "min_size": 20,
        "device": "cpu", "precision": "float32", "lr_step_every": 2}     # float32: the same bits on every kind of processor

# Snapshots remember the grid, and predict works on it: fewer pixels than CHAOST2's. Its 144 mm hold the 128 mm of the toy scans.
TOY_GRID = {"CHAOST2": {"grid": {"spacing_mm": [1.5, 1.5, 7.7], "size_px": 96}}}


def entry_point(name: str) -> Any:
    """Return the module of train.py or test.py."""
    return importlib.import_module(f"qnet.{name}")


def run_experiment(name: str, log_dir: Path, data: Path, *named: str, **options: object) -> Any:
    """Run an entry point on the toy data with tiny settings and return sacred's Run."""
    updates = {**TINY, "datasets": TOY_GRID, **options, "path": {"log_dir": str(log_dir), "CHAOST2": {"data_dir": str(data)}}}
    return entry_point(name).experiment.run(named_configs=named, config_updates=updates)


def run(name: str, log_dir: Path, data: Path, *named: str, **options: object) -> Path:
    """Run an entry point on the toy data with tiny settings and return its run folder."""
    return Path(run_experiment(name, log_dir, data, *named, **options).observers[0].dir)


def predict(**options: object) -> None:
    """Run test.py predict; paths may be given as such."""
    entry_point("test").experiment.run("predict", config_updates={
        "device": "cpu", "precision": "float32", "n_iters": 1, "eval_batch_size": 9,
        **{key: str(value) if isinstance(value, Path) else value for key, value in options.items()}})
