"""Snapshots: the weights of a model, and what is needed to resume its training."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qnet.util.base.errors import InputError
from qnet.util.base.files import made_in, replacing
from qnet.util.base.guard import is_made
from qnet.util.options.config import stored_options
from qnet.util.options.record import Record
from qnet.util.options.sections import Role, with_role
from qnet.util.training.weights import expect_state_fits, load_state, read_weights

SHAPES = with_role(Role.SHAPES)


@dataclass(frozen=True)
class Snapshot:
    """The content of a snapshot file.

    A plain `state_dict`, as the published code saves it, has only `path` and `model`. Snapshots of earlier versions have no
    generators, log or refused steps.
    """

    path: Path
    model: Mapping[str, Tensor]
    step: int | None = None
    optimizer: dict[str, Any] | None = None
    scheduler: dict[str, Any] | None = None
    history: Tensor | None = None       # (step, losses) losses of every step so far
    config: Mapping[str, Any] | None = None
    generators: Mapping[str, Any] | None = None
    log: Sequence[dict[str, float]] = ()        # entries of the training log so far
    refused: Sequence[str] = ()                 # one line per refused step


def save_snapshot(path: Path, *, record: Record, **state: Any) -> None:
    """Write a snapshot, whole or not at all.

    Args:
        record: the options of the training.
        state: the other fields of Snapshot, without `config` and `generators`, which are added here.
    Raises:
        OSError: the file cannot be written, as on a full disk. The error names `path`.
    """
    content = io.BytesIO()      # torch.save does not fail cleanly on a full disk
    torch.save({**state, "generators": generator_states(), "config": json.dumps(record.options)}, content)
    with replacing(path) as partial:
        partial.write_bytes(content.getbuffer())


def read_snapshot(path: Path | str) -> Snapshot:
    """Read a snapshot of a training, or a plain `state_dict`.

    Raises:
        InputError: the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    content = read_weights(path)
    if "model" not in content:
        return Snapshot(path, content)
    try:
        fields = {name: content[name] for name in ("model", "step", "optimizer", "scheduler", "history")}
        fields |= {name: content[name] for name in ("generators", "log", "refused") if name in content}
        options = stored_options(content["config"], f"{path}: not a snapshot of a training: options")
        snapshot = Snapshot(path, **fields, config=options)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a snapshot of a training ({type(error).__name__}: {error})") from None
    _expect_kinds(snapshot)
    return snapshot


def _expect_kinds(snapshot: Snapshot) -> None:
    """Raise InputError if an entry of a snapshot has another type than `save_snapshot` writes."""
    for name in ("model", "optimizer", "scheduler", "config"):
        if not isinstance(getattr(snapshot, name), Mapping):
            raise InputError(f"{snapshot.path}: not a snapshot of a training ({name} is no dictionary)")
    if type(snapshot.step) is not int or snapshot.step < 1:
        raise InputError(f"{snapshot.path}: not a snapshot of a training (step is no whole number of at least 1)")
    history = snapshot.history
    if not isinstance(history, Tensor) or history.ndim != 2 or len(history) != snapshot.step:
        raise InputError(f"{snapshot.path}: not a snapshot of a training (history is not the losses of {snapshot.step} steps)")


def load_model(model: nn.Module, snapshot: Snapshot) -> None:
    """Load a snapshot's weights into a model.

    Raises:
        InputError: tensors do not fit. The message names them, and the options of the snapshot.
    """
    expect_model_fits(model, snapshot)
    load_state(model, snapshot.model, snapshot.path)


def expect_model_fits(model: nn.Module, snapshot: Snapshot) -> None:
    """Check that a snapshot's weights fit a model, which may be without memory, on the device "meta".

    Raises:
        InputError: names or shapes differ, or the weights claim more bytes than their file has. The message names them, and the
            options of the snapshot.
    """
    options = ", ".join(f"{key}={snapshot.config[key]}" for key in SHAPES if key in snapshot.config) if snapshot.config else ""
    expect_state_fits(model, snapshot.model, snapshot.path, f"; it was trained with {options}" if options else "")
    claimed = sum(value.numel() * value.element_size() for value in snapshot.model.values())
    if claimed > (in_file := snapshot.path.stat().st_size):
        raise InputError(f"{snapshot.path}: its weights claim {claimed} bytes, the file has {in_file}")


def newest_snapshot(run_dirs: Path) -> Path | None:
    """Return the last snapshot of the newest run folder in `run_dirs` that has one, or None."""
    found = [path for path in run_dirs.glob("*/snapshots/*.pth") if path.parts[-3].isdecimal() and path.stem.isdecimal()]
    return max(found, key=lambda path: (int(path.parts[-3]), int(path.stem)), default=None)


def snapshots_in(folder: Path) -> list[Path]:
    """Return the snapshots `<step>.pth` in a folder, the last step first."""
    return sorted((path for path in folder.glob("*.pth") if path.stem.isdecimal()), key=lambda path: -int(path.stem))


def newest_readable(folder: Path) -> Snapshot | None:
    """Return the last readable snapshot in a folder, or None. A warning names each damaged one."""
    damaged = []
    for path in snapshots_in(folder):
        try:
            found = read_snapshot(path)
        except InputError as error:
            damaged.append(str(error))
            continue
        for reason in damaged:
            print(f"warning: {reason}; {path} is used instead")
        return found
    for reason in damaged:
        print(f"warning: {reason}; there is no whole snapshot before it, training starts from the beginning")
    return None


def prune_snapshots(folder: Path, step: int, keep: int) -> None:
    """Remove all but the last `keep` snapshots up to `step`, the one just saved.

    Snapshots after `step` stay, and so do files that this project did not write or that were changed since.
    """
    made = made_in(folder)
    for path in [path for path in snapshots_in(folder) if int(path.stem) <= step][keep:]:
        if is_made(path, made):
            path.unlink()


def generator_states() -> dict[str, Any]:
    """Return the states of all global random generators, in types that `torch.load(weights_only=True)` reads."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {"python": random.getstate(), "numpy": (name, np.asarray(keys).tolist(), *rest), "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all()}


def restore_generators(states: Mapping[str, Any]) -> None:
    """Set the generators to the result of `generator_states`. Those of CUDA are set if the number of devices is the same."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
