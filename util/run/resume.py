"""Finds the run to continue, and the snapshot to resume, when a command is given again."""

from __future__ import annotations

from pathlib import Path

from qnet.util.base.errors import InputError
from qnet.util.base.inputs import read_json
from qnet.util.options.names import current_names
from qnet.util.options.record import Record
from qnet.util.options.sections import Role, RunOptions, with_role
from qnet.util.run.folders import numbered_runs
from qnet.util.training.snapshots import Snapshot, newest_readable, read_snapshot

ANYWHERE = set(with_role(Role.RESUME))                      # may differ when a training is resumed
BY_NAME = ANYWHERE | set(with_role(Role.RESUME_NAMED))      # … from a snapshot that the user names


def run_to_continue(record: Record, options: RunOptions, mode: str) -> Path | None:
    """Return the newest run folder with the options of `record`, or None. `mode` is "train" or "test".

    A training may have fewer steps than now. A complete evaluation is not continued.
    """
    if options.resume != "auto":
        return None
    runs = numbered_runs(options.place.folders(mode))
    for folder in runs:
        entry, stored = _read(folder / "run.json"), _read(folder / "config.json")
        if (mode == "test" and entry.get("status") == "COMPLETED") or not stored:
            continue
        if mode == "train" and stored.get("n_steps") not in range(options.n_steps + 1):
            continue
        if record.differing(stored, ANYWHERE if mode == "train" else {"resume", "overwrite"}) is None:
            return folder
    if runs and mode == "train" and (stored := _read(runs[0] / "config.json")):
        key = record.differing(stored, ANYWHERE) or "n_steps"
        print(f"a new run, as none in {runs[0].parent} has these options; the newest, {runs[0].name}, differs in {key}")
    return None


def is_finished(folder: Path, n_steps: int) -> bool:
    """Return whether the training in a run folder is complete and has `n_steps` steps."""
    return (_read(folder / "run.json").get("status") == "COMPLETED"
            and _read(folder / "config.json").get("n_steps") == n_steps)


def begun_with(options: RunOptions, run_folder: Path | None, mode: str) -> str | None:
    """Return the precision of the run to continue, or of the snapshot that the option `resume` names. None for a new run."""
    if run_folder is not None:
        return _read(run_folder / "config.json").get("precision")
    if mode == "train" and options.resume not in ("auto", "never"):
        return (read_snapshot(options.resume).config or {}).get("precision")
    return None


def snapshot_to_resume(record: Record, options: RunOptions, run_folder: Path) -> Snapshot | None:
    """Return the snapshot to resume, or None to start at step 0.

    With `resume=auto` it is the last readable snapshot of the run folder.

    Raises:
        InputError: the named snapshot is damaged, holds only weights, or was trained with other options or for more steps.
    """
    if options.resume == "never":
        return None
    if options.resume == "auto":
        snapshot = newest_readable(run_folder / "snapshots")
    else:
        snapshot = read_snapshot(options.resume)
        if snapshot.step is None or snapshot.config is None:
            raise InputError(f"resume: {snapshot.path} holds weights alone and cannot be resumed; "
                             "reload_model_path starts from them")
        if key := record.differing(snapshot.config, BY_NAME):
            raise InputError(f"resume: {snapshot.path} was trained with {key}={snapshot.config.get(key)!r}, "
                             f"now it is {record.options[key]!r}; to start afresh say resume=never")
    if snapshot is not None and (snapshot.step or 0) > options.n_steps:
        raise InputError(f"n_steps: got {options.n_steps}, but {snapshot.path} has {snapshot.step} steps; "
                         "to start afresh say resume=never")
    return snapshot


def _read(path: Path) -> dict:
    """Return the object in a JSON file; {} if the file is missing or damaged."""
    try:
        return current_names(read_json(path))
    except InputError:
        return {}
