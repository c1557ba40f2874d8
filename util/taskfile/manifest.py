"""The manifest of a task file, `task.json`: what the files are, what the labels are called, and how scans are segmented."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qnet.util.base.classes import ALIKE_RULE, COLOUR_RULE, MAX_VALUE, NAME_RULE, alike, is_colour, is_name, is_value
from qnet.util.base.errors import InputError
from qnet.util.base.inputs import SMALL, parse_json, shown
from qnet.util.options.names import UNTRAINED_MODELS
from qnet.util.options.sections import Role, with_role

FORMAT, VERSION = "few-shot segmentation task", 1
NAME, WEIGHTS = "task.json", "weights.pth"
ALLOWED = re.compile(r"task\.json|weights\.pth|supports/[1-9][0-9]?_(?:image|labels)\.nii\.gz")
MAX_TEXT = 10000
MAX_LABELS = 512        # each costs a resampling of every support
LABELS_RULE = (f"{{value from 1 to {MAX_VALUE}: {{name, colour}}}}, at most {MAX_LABELS}; each name {NAME_RULE}; {ALIKE_RULE}; "
               f"each colour {COLOUR_RULE}")
SHA256 = re.compile("[0-9a-f]{64}")
KEYS = {"format", "version", "labels", "licence", "options", "n_supports", "sha256"}


@dataclass(frozen=True)
class Label:
    """A label of a task.

    Attributes:
        name: as "liver".
        colour: as "#e69f00", in small letters.
    """

    name: str
    colour: str


@dataclass(frozen=True)
class Manifest:
    """What a task file says about itself.

    Attributes:
        labels: by the value in label files.
        licence: under which terms the outlined scans and the weights may be used, in words. It may be empty.
        options: of `configs/base.json5`: the method, and for a network its data set's grid. All of `stored_options`.
        n_supports: number of outlined scans.
        sha256: check sum of each file, by its name in the archive.
    """

    labels: Mapping[int, Label]
    licence: str
    options: Mapping[str, Any]
    n_supports: int
    sha256: Mapping[str, str]

    @property
    def names(self) -> dict[int, str]:
        """The names of the labels, by value."""
        return {value: label.name for value, label in self.labels.items()}

    @property
    def colours(self) -> dict[int, str]:
        """The colours of the labels, by value."""
        return {value: label.colour for value, label in self.labels.items()}

    @property
    def files(self) -> list[str]:
        """The names of all files but the manifest."""
        pairs = [support_files(number) for number in range(1, self.n_supports + 1)]
        return [*(name for pair in pairs for name in pair), *([WEIGHTS] if needs_weights(self.options["model"]) else [])]

    def to_json(self) -> bytes:
        """Return the content of `task.json`."""
        labels = {str(value): {"name": label.name, "colour": label.colour} for value, label in sorted(self.labels.items())}
        content = {"format": FORMAT, "version": VERSION, "labels": labels, "licence": self.licence, "options": self.options,
                   "n_supports": self.n_supports, "sha256": self.sha256}
        return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def support_files(number: int) -> tuple[str, str]:
    """Return the names of the image and of the labels of a support, counted from 1."""
    return f"supports/{number}_image.nii.gz", f"supports/{number}_labels.nii.gz"


def needs_weights(model: str) -> bool:
    """Return whether a method is a network."""
    return model not in UNTRAINED_MODELS


def stored_options(model: str) -> tuple[str, ...]:
    """Return the options that a task file stores for a method: all that decide what comes out."""
    return tuple(dict.fromkeys((*(with_role(Role.TRAINED_WITH) if needs_weights(model) else ["model"]), *with_role(Role.TASK))))


def read_manifest(content: bytes, origin: str) -> Manifest:
    """Return the manifest in `task.json`. The options are checked for being complete, not for their values.

    Args:
        origin: what messages begin with.
    Raises:
        InputError: it is damaged, of another version, or has other entries.
    """
    stored = parse_json(content, origin, Any, limits=SMALL, plain=True)
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise InputError(f"{origin}: format: allowed: {FORMAT!r}")
    if stored.get("version") != VERSION or type(stored["version"]) is not int:
        raise InputError(f"{origin}: version: got {shown(stored.get('version'))}, allowed: {VERSION}")
    _expect_kinds(stored, origin)
    labels = {int(value): Label(label["name"], label["colour"].lower()) for value, label in stored["labels"].items()}
    return Manifest(labels, stored["licence"], stored["options"], stored["n_supports"], stored["sha256"])


def _expect_kinds(stored: Mapping[str, Any], origin: str) -> None:
    """Raise InputError if an entry of the manifest is missing, unknown, or not what `Manifest.to_json` writes."""
    if set(stored) != KEYS:
        raise InputError(f"{origin}: got the keys {shown(sorted(stored))}, allowed: {sorted(KEYS)}")
    for key, allowed, is_allowed in (
            ("labels", LABELS_RULE, _are_labels),
            ("licence", f"a text of at most {MAX_TEXT} characters", is_licence),
            ("options", "the options of a method, by name", _are_options),
            ("n_supports", "a whole number from 1 to 99", lambda value: type(value) is int and 1 <= value <= 99),
            ("sha256", "{name of a file: its check sum}", _are_checksums)):
        if not is_allowed(stored[key]):
            raise InputError(f"{origin}: {key}: got {shown(stored[key])}, allowed: {allowed}")


def _are_labels(value: Any) -> bool:
    if not isinstance(value, dict) or not all(map(is_value, value)) or not all(map(_is_label, value.values())):
        return False
    return 0 < len(value) <= MAX_LABELS and alike(label["name"] for label in value.values()) is None


def _is_label(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != {"name", "colour"}:
        return False
    return is_name(value["name"]) and is_colour(value["colour"])


def _are_options(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("model"), str) and set(value) == set(stored_options(value["model"]))


def _are_checksums(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(found, str) and SHA256.fullmatch(found) for found in value.values())


def is_licence(value: Any) -> bool:
    """Return whether a value may be a licence note: a text that is not too long."""
    return isinstance(value, str) and len(value) <= MAX_TEXT
