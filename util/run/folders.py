"""Run folders, found from outside a run, and entry points called from scripts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from util.base.errors import InputError
from util.base.root import ROOT
from util.options.table import MODELS


def run_folders(config: Mapping[str, Any], mode: str) -> Path:
    """Return the folder that holds the numbered run folders of a config; `mode` is "train" or "test"."""
    return Path(config["path"]["log_dir"]) / f"{MODELS[config['model']]}_{mode}_{config['dataset']}_cv{config['eval_fold']}"


def numbered_runs(folder: Path) -> list[Path]:
    """Return the run folders in a folder of runs, the newest first."""
    return sorted((path for path in folder.glob("*") if path.name.isdecimal()), key=lambda path: -int(path.name))


def newest_run(folder: Path) -> Path:
    """Return the run folder with the highest number in a folder of runs.

    Raises:
        InputError: there is none.
    """
    runs = numbered_runs(folder)
    if not runs:
        raise InputError(f"{folder}: no run folder in it")
    return runs[0]


def call(*arguments: str) -> None:
    """Run a Python program of this repository, such as ``call("train.py", "with", "demo")``; leave with it when it fails."""
    status = subprocess.run([sys.executable, *arguments], cwd=ROOT).returncode
    if status != 0:
        raise SystemExit(status)
