"""Finds the run to continue, and the snapshot to resume, when a command is given again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from util.base.errors import InputError
from util.options.config import base_config
from util.options.table import Role, current_names, with_role
from util.run.folders import numbered_runs, run_folders
from util.training.snapshots import Snapshot, newest_readable, read_snapshot

ANYWHERE = set(with_role(Role.RESUME))                      # may differ when a training is resumed
BY_NAME = ANYWHERE | set(with_role(Role.RESUME_NAMED))      # … from a snapshot that the user names


def run_to_continue(config: Mapping[str, Any], mode: str) -> Path | None:
    """Return the newest run folder with the config's options, or None. `mode` is "train" or "test".

    A training may have fewer steps than the config. A complete evaluation is not continued.
    """
    if config["resume"] != "auto":
        return None
    runs = numbered_runs(run_folders(config, mode))
    for folder in runs:
        entry, stored = _read(folder / "run.json"), _read(folder / "config.json")
        if mode == "test" and entry.get("status") == "COMPLETED" or not stored:
            continue
        if mode == "train" and stored.get("n_steps") not in range(config["n_steps"] + 1):
            continue
        if differing(config, stored, ANYWHERE if mode == "train" else {"resume", "overwrite"}) is None:
            return folder
    if runs and mode == "train" and (stored := _read(runs[0] / "config.json")):
        key = differing(config, stored, ANYWHERE) or "n_steps"
        print(f"a new run, as none in {runs[0].parent} has these options; the newest, {runs[0].name}, differs in {key}")
    return None


def is_finished(folder: Path, n_steps: int) -> bool:
    """Return whether the training in a run folder is complete and has `n_steps` steps."""
    return (_read(folder / "run.json").get("status") == "COMPLETED"
            and _read(folder / "config.json").get("n_steps") == n_steps)


def begun_with(config: Mapping[str, Any], run_folder: Path | None, mode: str) -> str | None:
    """Return the precision of the run to continue, or of the snapshot that the option `resume` names. None for a new run."""
    if run_folder is not None:
        return _read(run_folder / "config.json").get("precision")
    if mode == "train" and config["resume"] not in ("auto", "never"):
        return (read_snapshot(config["resume"]).config or {}).get("precision")
    return None


def snapshot_to_resume(config: Mapping[str, Any], run_folder: Path) -> Snapshot | None:
    """Return the snapshot to resume, or None to start at step 0.

    With `resume=auto` it is the last readable snapshot of the run folder.

    Raises:
        InputError: the named snapshot is damaged, holds only weights, or was trained with other options or for more steps.
    """
    if config["resume"] == "never":
        return None
    if config["resume"] == "auto":
        snapshot = newest_readable(run_folder / "snapshots")
    else:
        snapshot = read_snapshot(config["resume"])
        if snapshot.step is None or snapshot.config is None:
            raise InputError(f"resume: {snapshot.path} holds weights alone and cannot be resumed; "
                             "reload_model_path starts from them")
        if key := differing(config, snapshot.config, BY_NAME):
            raise InputError(f"resume: {snapshot.path} was trained with {key}={snapshot.config.get(key)!r}, "
                             f"now it is {config[key]!r}; to start afresh say resume=never")
    if snapshot is not None and snapshot.step > config["n_steps"]:
        raise InputError(f"n_steps: got {config['n_steps']}, but {snapshot.path} has {snapshot.step} steps; "
                         "to start afresh say resume=never")
    return snapshot


def differing(config: Mapping[str, Any], earlier: Mapping[str, Any], allowed: set[str]) -> str | None:
    """Return the first option, in alphabetical order, whose value differs from an earlier config. None: all agree.

    Args:
        earlier: the config of a run or snapshot. An option that it lacks had its default.
        allowed: options that may differ. So may `precision` if it is "auto" now. Of `path` and `datasets`, only the entry of
            the config's own data set is compared.
    """
    dataset, defaults = config["dataset"], base_config()
    for key in sorted(set(config) - allowed - ({"precision"} if config.get("precision") == "auto" else set())):
        now, before = config[key], earlier.get(key, defaults.get(key))
        if key in ("path", "datasets"):
            now, before = now[dataset], before.get(dataset) if isinstance(before, Mapping) else None
        if now != before:
            return key
    return None


def _read(path: Path) -> dict:
    """Return the object in a JSON file; {} if the file is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return current_names(content) if isinstance(content, dict) else {}
