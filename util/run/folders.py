"""Finds run folders, and starts programs of this repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from qnet.util.base.errors import InputError
from qnet.util.base.root import IS_CHECKOUT, ROOT, module_command


def numbered_runs(folder: Path) -> list[Path]:
    """Return the run folders in a folder, the newest first."""
    return sorted((path for path in folder.glob("*") if path.name.isdecimal()), key=lambda path: -int(path.name))


def newest_run(folder: Path) -> Path:
    """Return the newest run folder in a folder, which has the highest number.

    Raises:
        InputError: there is none.
    """
    runs = numbered_runs(folder)
    if not runs:
        raise InputError(f"{folder}: no run folder in it")
    return runs[0]


def call(*arguments: str) -> None:
    """Run a Python program of this repository, as in ``call("train.py", "with", "demo")``.

    Raises:
        SystemExit: the program failed; with its exit status.
    """
    command = [sys.executable, *arguments] if IS_CHECKOUT else [*module_command(_module(arguments[0])), *arguments[1:]]
    status = subprocess.run(command, cwd=ROOT if IS_CHECKOUT else None).returncode
    if status != 0:
        raise SystemExit(status)


def _module(program: str) -> str:
    return f"qnet.{program.removesuffix('.py').replace('/', '.')}"
