"""Finds the snapshot that training goes on from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from util.checkpoints import Snapshot, newest_snapshot, read_snapshot
from util.errors import InputError
from util.experiment import run_folders

MAY_DIFFER = {"n_steps", "num_workers", "device", "print_interval", "save_snapshot_every", "resume", "path", "datasets",
              "protocol", "supp_idx", "n_part", "n_iters", "eval_batch_size", "pretrained", "reload_model_path",
              "whole_volume", "surface_tolerance_mm", "slice_margin", "location_mm", "smooth_z", "largest_component",
              "support_image", "support_label", "query", "output", "save_probs", "augment", "run"}


def snapshot_to_resume(config: Mapping[str, Any]) -> Snapshot | None:
    """Return the snapshot that the option `resume` asks for, or None to start at step 0.

    With "auto" that is the newest snapshot in the config's run folders, if there is one.

    Raises:
        InputError: the snapshot is broken, holds weights alone, or was trained with other options.
    """
    if config["resume"] == "never":
        return None
    path = newest_snapshot(run_folders(config, "train")) if config["resume"] == "auto" else config["resume"]
    if path is None:
        return None
    snapshot = read_snapshot(path)
    if snapshot.step is None:
        raise InputError(f"resume: {path} holds weights alone and cannot be resumed; reload_model_path starts from them")
    for key in sorted(set(config) - MAY_DIFFER):
        if config[key] != snapshot.config.get(key):
            raise InputError(f"resume: {path} was trained with {key}={snapshot.config.get(key)!r}, now it is {config[key]!r}; "
                             "to start afresh say resume=never")
    return snapshot
