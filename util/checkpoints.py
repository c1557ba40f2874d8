"""Snapshots: the weights of a model, and all that is needed to go on training it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from util.errors import InputError
from util.weights import load_state, read_weights

SHAPING = ("model", "encoder", "threshold", "paths", "coordinates")   # options that decide what the network is


@dataclass(frozen=True)
class Snapshot:
    """A snapshot file's content. A plain `state_dict`, as the published code saves it, has step None and no more."""

    path: Path
    model: Mapping[str, Tensor]
    step: int | None = None
    optimizer: Mapping[str, Any] | None = None
    scheduler: Mapping[str, Any] | None = None
    history: Tensor | None = None       # (step, losses) losses of every step so far
    config: Mapping[str, Any] | None = None


def save_snapshot(path: Path, model: nn.Module, *, step: int, optimizer: torch.optim.Optimizer,
                  scheduler: torch.optim.lr_scheduler.LRScheduler, history: Tensor, config: Mapping[str, Any]) -> None:
    """Write a snapshot by way of a temporary name, so that `path` is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    with partial.open("wb") as file:
        torch.save({"model": model.state_dict(), "step": step, "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(), "history": history, "config": json.dumps(config)}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_snapshot(path: Path | str) -> Snapshot:
    """Read a snapshot of `train.py`, or a plain `state_dict`.

    Raises:
        InputError: the file is missing, broken, or holds something else.
    """
    path = Path(path)
    content = read_weights(path)
    if "model" not in content:
        return Snapshot(path, content)
    try:
        fields = {name: content[name] for name in ("model", "step", "optimizer", "scheduler", "history")}
        snapshot = Snapshot(path, **fields, config=json.loads(content["config"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a snapshot of train.py ({type(error).__name__}: {error})") from None
    _expect_kinds(snapshot)
    return snapshot


def _expect_kinds(snapshot: Snapshot) -> None:
    """Raise InputError where a part of a snapshot is not of the kind that `save_snapshot` writes."""
    for name in ("model", "optimizer", "scheduler", "config"):
        if not isinstance(getattr(snapshot, name), Mapping):
            raise InputError(f"{snapshot.path}: not a snapshot of train.py ({name} is no dictionary)")
    if type(snapshot.step) is not int or snapshot.step < 1:
        raise InputError(f"{snapshot.path}: not a snapshot of train.py (step is no whole number of at least 1)")
    history = snapshot.history
    if not isinstance(history, Tensor) or history.ndim != 2 or len(history) != snapshot.step:
        raise InputError(f"{snapshot.path}: not a snapshot of train.py (history is not the losses of {snapshot.step} steps)")


def load_model(model: nn.Module, snapshot: Snapshot) -> None:
    """Load a snapshot's weights; an InputError names the tensors that do not fit, and the options they were trained with."""
    options = ", ".join(f"{key}={snapshot.config[key]}" for key in SHAPING if key in snapshot.config) if snapshot.config else ""
    hint = f"; it was trained with {options}" if options else ""
    load_state(model, snapshot.model, snapshot.path, hint)


def newest_snapshot(run_dirs: Path) -> Path | None:
    """Return the last snapshot of the newest run that has one, in a folder of runs numbered 1, 2, …"""
    found = [path for path in run_dirs.glob("*/snapshots/*.pth") if path.parts[-3].isdecimal() and path.stem.isdecimal()]
    return max(found, key=lambda path: (int(path.parts[-3]), int(path.stem)), default=None)
