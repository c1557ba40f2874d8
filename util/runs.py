"""Run folders, found from outside a run, and entry points called from scripts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from util.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def newest_run(folder: Path) -> Path:
    """Return the run folder with the highest number in a folder of runs.

    Raises:
        InputError: there is none.
    """
    runs = [path for path in folder.glob("*") if path.name.isdecimal()]
    if not runs:
        raise InputError(f"{folder}: no run folder in it")
    return max(runs, key=lambda path: int(path.name))


def call(*arguments: str) -> None:
    """Run a Python program of this repository, such as ``call("train.py", "with", "demo")``; leave with it when it fails."""
    status = subprocess.run([sys.executable, *arguments], cwd=ROOT).returncode
    if status != 0:
        raise SystemExit(status)
