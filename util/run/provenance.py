"""Provenance: what is needed, besides the config, to repeat a run."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from qnet.dataloaders.datasets import Case
from qnet.util.base.checksums import sha256
from qnet.util.base.distributed import world_size
from qnet.util.base.errors import InputError
from qnet.util.base.files import replacing
from qnet.util.base.fingerprint import RUNS, code_sha256
from qnet.util.base.inputs import LIMITS, parse_json, read_small
from qnet.util.base.kept import Kept
from qnet.util.base.root import ROOT

FILE = "provenance.json"
DECIDES = ("code", "python", "packages", "device", "threads", "processes", "data", "weights")   # results depend on these


def record_start(folder: Path, device: torch.device, precision: str, cases: Sequence[Case], weights: str | None,
                 sums: Kept, root: Path = ROOT, more: Sequence[Path] = (), entries: tuple[str, ...] = RUNS) -> list[str]:
    """Add an entry about this start to provenance.json in the run folder.

    Args:
        precision: "float32" or "bf16".
        cases: each of their files that exists gets a checksum.
        weights: the option `reload_model_path`. A file gets a checksum.
        sums: gives the checksums of the data; it is saved here.
        root: the checkout or the installed package whose code runs.
        more: further files that results depend on; those that exist get a checksum.
        entries: modules that lead to all code that results depend on.
    Returns:
        The names in DECIDES that differ from the previous start; empty at the first start.
    Raises:
        OSError: the file cannot be written.
    """
    starts = _earlier_starts(folder / FILE)
    files = (*more, *(path for case in cases for path in case.files))
    entry = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": _command(), "folder": str(Path.cwd()),
        "code": code_sha256(entries, root), "git": _git_state(folder, root),
        "python": platform.python_version(), "platform": platform.platform(),
        "packages": _packages(),
        "device": _device(device), "precision": precision, "threads": torch.get_num_threads(), "processes": world_size(),
        "data": {str(path): sums.of(path) for path in sorted(set(files)) if path.is_file()},
        "weights": sha256(Path(weights)) if weights is not None and Path(weights).is_file() else weights,
    }
    sums.save()
    with replacing(folder / FILE, listed=False) as partial:
        partial.write_text(json.dumps([*starts, entry], indent=1), encoding="utf-8")
    return [key for key in DECIDES if starts and entry[key] != starts[-1].get(key)]


def _command() -> str:
    """Return the command line of this program. `qnet` changes what programs see of it."""
    return shlex.join(sys.orig_argv if sys.argv[0].startswith("qnet ") else [sys.executable, *sys.argv])


@cache
def _packages() -> dict[str, str]:
    """Return name and version of all installed packages."""
    return dict(sorted((package.name, package.version) for package in distributions()))


def _earlier_starts(path: Path) -> list[dict[str, Any]]:
    try:
        return parse_json(read_small(path, LIMITS.n_bytes), str(path), list[dict[str, Any]]) if path.exists() else []
    except InputError as error:
        print(f"warning: {path}: is damaged ({str(error).removeprefix(f'{path}: ')}); its record of earlier starts is lost")
        return []


def _device(device: torch.device) -> dict[str, Any]:
    """Describe a device. A CPU is described by its architecture, as systems name the same CPU differently."""
    if device.type != "cuda":
        return {"type": device.type, "name": platform.machine()}
    return {"type": "cuda", "name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version()}


def _git_state(folder: Path, root: Path) -> dict[str, Any] | None:
    """Return commit, untracked files, and the name of the file in `folder` with the uncommitted changes. None without git."""
    commit = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None     # no repository that it is installed in
    if commit is None:
        return None
    changes, name = _git(root, "diff", "--binary", "HEAD") or "", None
    if changes:
        name = f"uncommitted_{hashlib.sha256(changes.encode()).hexdigest()[:8]}.diff"
        with replacing(folder / name, listed=False) as partial:
            partial.write_text(changes, encoding="utf-8")
    untracked = _git(root, "ls-files", "--others", "--exclude-standard") or ""
    return {"commit": commit.strip(), "uncommitted": name, "untracked": untracked.splitlines()}


def _git(root: Path, *arguments: str) -> str | None:
    """Return git's output for a repository; None without git or without a repository."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
