"""A snapshot is scored as it was trained: its own options before those of the config, and the command line before both."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sacred.utils import get_by_dotted_path, iterate_flattened

from util.base.errors import InputError
from util.options.config import check_config, check_options, merge
from util.options.table import Role, with_role
from util.training.snapshots import SHAPES, read_snapshot

TRAINED_WITH = with_role(Role.TRAINED_WITH)


def as_trained(config: Mapping[str, Any], trained: Mapping[str, Any] | None, keys: tuple[str, ...] = TRAINED_WITH,
               given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the config with some options of a snapshot's own config, but for what the command line gives.

    An option that the snapshot does not know stays as it is, and so does what its entry of a dataset lacks: earlier versions
    wrote it.

    Args:
        trained: the snapshot's config; None: a file of weights alone.
        keys: the options that are taken from it.
        given: what the command line says, in sections as configs have them.
    """
    known = {key: copy.deepcopy(trained[key]) for key in keys if key in config and key in (trained or {})}
    merged = {**config, **known}
    if "datasets" in known:
        merged["datasets"] = {**config["datasets"], **{
            name: {**config["datasets"].get(name, {}), **entry} for name, entry in known["datasets"].items()}}
        of_paths = trained["path"] if isinstance(trained.get("path"), Mapping) else {}     # a dataset has its folder there
        merged["path"] = {**{name: of_paths[name] for name in known["datasets"] if name in of_paths}, **config.get("path", {})}
    merge(merged, {key: (given or {})[key] for key in known if key in (given or {})})
    return merged


def scored_config(config: Mapping[str, Any], given: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Return what test.py goes by: `as_trained` with the snapshot of `reload_model_path`, if that is one. Prints what it changes.

    Args:
        command: "main", which takes from the snapshot what its network computes, or "predict", which takes the dataset too.
    Raises:
        InputError: the snapshot is missing or damaged, or its options are not allowed.
    """
    path = config["reload_model_path"]
    if path in (None, "untrained"):
        return dict(config)
    trained = read_snapshot(path).config
    if trained is None:
        return dict(config)
    check_options(trained, [key for key in SHAPES if key in trained], Path(path))
    if command == "predict" and not isinstance(trained.get("datasets", {}), Mapping):
        raise InputError(f"{path}: datasets: got a {type(trained['datasets']).__name__}, allowed: a section {{…}}")
    merged = as_trained(config, trained, TRAINED_WITH if command == "predict" else SHAPES, given)
    check_config(merged)
    taken = [f"{key}={merged[key]}".replace(" ", "") for key in SHAPES if merged[key] != config[key]]
    if taken:
        print(f"as the snapshot was trained: {' '.join(taken)}")
    for line in departures(trained, given, TRAINED_WITH if command == "predict" else SHAPES):
        print(line)
    return merged


def departures(trained: Mapping[str, Any], given: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Return a line for each of some options that the command line gives another value than the snapshot was trained with."""
    asked = iterate_flattened({key: given[key] for key in keys if key in given and key in trained})
    return [f"{key}: {_shown(value)} from the command line; the snapshot was trained with {_shown(before)}"
            for key, value in asked if (before := get_by_dotted_path(trained, key)) != value]


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
