"""A snapshot is used as it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from util.options.table import Role, with_role

TRAINED_WITH = with_role(Role.TRAINED_WITH)


def as_trained(config: Mapping[str, Any], trained: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the config with the model and the dataset of a snapshot's own config; None: a file of weights alone.

    A dataset entry of the snapshot that lacks something, as one written by an earlier version, is taken from the config.
    """
    known = {key: trained[key] for key in TRAINED_WITH if key in config and key in (trained or {})}
    merged = {**config, **known}
    if "datasets" in known:
        merged["datasets"] = {name: {**config["datasets"].get(name, {}), **entry} for name, entry in known["datasets"].items()}
    return merged
