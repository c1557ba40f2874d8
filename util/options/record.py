"""A complete config as one value, which is stored and compared. Code that computes takes sections instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from qnet.util.options.config import base_config


@dataclass(frozen=True)
class Record:
    """All options of a run, by name: what its config.json and its snapshots store."""

    options: Mapping[str, Any]

    def differing(self, earlier: Mapping[str, Any], allowed: Collection[str]) -> str | None:
        """Return the first option, in alphabetical order, whose value differs from an earlier run's; None if all agree.

        Args:
            earlier: the options of a run or snapshot. An option that is missing there had its default.
            allowed: options that may differ. `precision` may differ too if it is "auto" now. Of `path` and `datasets`, only the
                entry of the run's data set is compared.
        """
        dataset, defaults = self.options["dataset"], base_config()
        left_out = {*allowed, *(["precision"] if self.options.get("precision") == "auto" else [])}
        for key in sorted(set(self.options) - left_out):
            now, before = self.options[key], earlier.get(key, defaults.get(key))
            if key in ("path", "datasets"):
                now, before = now[dataset], before.get(dataset) if isinstance(before, Mapping) else None
            if now != before:
                return key
        return None

    def without(self, keys: Collection[str]) -> dict[str, Any]:
        """Return the options without those of `keys`."""
        return {key: value for key, value in self.options.items() if key not in keys}
