"""Completes a config: a snapshot is evaluated as it was trained, and in float32 unless the options say otherwise.

The snapshot's options override the config, and the command line overrides both.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qnet.util.base.device import resolve_device, resolve_precision
from qnet.util.options.config import base_config, check_config, check_options, merge
from qnet.util.options.sections import RULES, Role, with_role
from qnet.util.training.snapshots import SHAPES, read_snapshot

TRAINED_WITH = with_role(Role.TRAINED_WITH)


def as_trained(config: Mapping[str, Any], trained: Mapping[str, Any] | None, keys: tuple[str, ...] = TRAINED_WITH,
               given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the config with some options of the snapshot's config, unless the command line gives them.

    Snapshots of earlier versions may lack options, keys of a section, or entries of a data set. Those keep the config's value.

    Args:
        trained: the snapshot's config. None: the file holds only weights.
        keys: the options to take from it.
        given: the options of the command line, in sections as in a config.
    """
    trained, given = trained or {}, given or {}
    known = {key: _with_later_keys(key, copy.deepcopy(trained[key]), config[key])
             for key in keys if key in config and key in trained}
    merged = {**config, **known}
    if "datasets" in known:
        merged["datasets"] = {**config["datasets"], **{
            name: {**config["datasets"].get(name, {}), **entry} for name, entry in known["datasets"].items()}}
        of_paths = trained["path"] if isinstance(trained.get("path"), Mapping) else {}     # the folders of its data sets
        merged["path"] = {**{name: of_paths[name] for name in known["datasets"] if name in of_paths}, **config.get("path", {})}
    merge(merged, {key: given[key] for key in known if key in given})
    if "dataset" in known:
        _without_others_labels(merged, given)
    return merged


def _with_later_keys(key: str, stored: Any, of_config: Any) -> Any:
    """Return the stored value of an option; a section with the keys that later versions added, as the config has them."""
    if not isinstance(RULES.get(key), Mapping) or not isinstance(stored, Mapping) or not isinstance(of_config, Mapping):
        return stored
    return {**base_config()[key], **of_config, **stored}


def _without_others_labels(config: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Drop test classes that the snapshot's data set does not have. Only evaluations use them."""
    names = config["datasets"].get(str(config["dataset"]), {}).get("labels")       # what is no text is refused later
    known = [int(value) for value in names if str(value).isdecimal()] if isinstance(names, Mapping) else []
    if known and "test_label" not in given and isinstance(config.get("test_label"), (list, tuple)):
        config["test_label"] = [label for label in config["test_label"] if label in known] or known
    if known and "exclude_label" not in given and isinstance(config.get("exclude_label"), (list, tuple)):
        config["exclude_label"] = [label for label in config["exclude_label"] if label in known] or None


def scored_config(config: Mapping[str, Any], given: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Return the config of an evaluation: `as_trained` with the snapshot of `reload_model_path`, if any. Prints the changes.

    Args:
        given: the options of the command line, in sections as in a config.
        command: "main" takes the options with Role.SHAPES from the snapshot; "predict" takes the data set too.
    Raises:
        InputError: the snapshot is missing or damaged, or an option is not allowed.
    """
    path = config["reload_model_path"]
    if path in (None, "untrained"):
        return dict(config)
    trained = read_snapshot(path).config
    if trained is None:
        return dict(config)
    check_options(trained, [key for key in SHAPES if key in trained], Path(path))
    merged = as_trained(config, trained, TRAINED_WITH if command == "predict" else SHAPES, given)
    check_config(merged)
    taken = [f"{key}={merged[key]}".replace(" ", "") for key in SHAPES if merged[key] != config[key]]
    if taken:
        print(f"as the snapshot was trained: {' '.join(taken)}")
    for line in departures(trained, given, TRAINED_WITH if command == "predict" else SHAPES):
        print(line)
    return merged


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a prediction, with float32 in place of the precision "auto".

    Raises:
        InputError: an option is not allowed.
    """
    check_config(config)
    device = resolve_device(config["device"])
    return {**config, "precision": resolve_precision(config["precision"], device)}


def departures(trained: Mapping[str, Any], given: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Return one line for each of `keys` that differs between the command line and the snapshot's config."""
    asked, before = (_flat({key: config[key] for key in keys if key in given and key in trained}) for config in (given, trained))
    return [f"{key}: {_shown(value)} from the command line; the snapshot was trained with {_shown(before.get(key))}"
            for key, value in asked.items() if before.get(key) != value]


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the options of all sections by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in options.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
