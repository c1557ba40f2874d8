"""What the files of a session hold. They may be anyone's, as when a folder was handed on: each is read by a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from qnet.util.base.errors import InputError
from qnet.util.base.inputs import LIMITS, SMALL, as_schema, parse_json

VERSION = 1
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2", "#b0b0b0")     # Okabe and Ito
FIRST_CLASS = {"value": 1, "name": "label 1", "colour": COLOURS[0]}        # until the person names one
MAX_LABEL, MAX_NAME = 255, 60      # NiiVue draws bytes


class _Class(Struct, forbid_unknown_fields=True):
    value: Annotated[int, Meta(ge=1, le=MAX_LABEL)]
    name: Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
    colour: Annotated[str, Meta(pattern="^#[0-9a-fA-F]{6}$")]


class _Session(Struct):
    version: Literal[1] = 1
    classes: Any = field(default_factory=lambda: [FIRST_CLASS])
    done: list[str] = []
    left_out: list[str] = []


class _Row(Struct):
    label: Annotated[int, Meta(ge=1, le=MAX_LABEL)]
    label_name: Annotated[str, Meta(max_length=100)]
    query: str = ""
    volume_ml: Annotated[float, Meta(ge=0)] | None = None
    slices: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    confidence: Annotated[float, Meta(ge=0, le=1)] | None = None
    agreement: Annotated[float, Meta(ge=0, le=1)] | None = None
    margin: float | None = None


class _Found(Struct):
    map: str
    rows: Annotated[list[_Row], Meta(max_length=MAX_LABEL)]


@dataclass(frozen=True)
class Decisions:
    """What the person decided: the content of session.json.

    Attributes:
        classes: each with "value", "name" and "colour", in the order of their values.
        done: scans whose outlines are as they should be.
        left_out: scans that are left out.
    """

    classes: tuple[Mapping[str, Any], ...] = (FIRST_CLASS,)
    done: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()

    def to_json(self) -> bytes:
        """Return the content of session.json."""
        content = {"version": VERSION, "classes": self.classes, "done": sorted(self.done), "left_out": sorted(self.left_out)}
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def read_decisions(content: bytes, origin: str) -> Decisions:
    """Return what session.json holds.

    Args:
        origin: the file, for messages.
    Raises:
        InputError: it is damaged, or of another version.
    """
    stored = parse_json(content, origin, _Session, limits=LIMITS, plain=True)
    try:
        return Decisions(tuple(expect_classes(stored.classes)), frozenset(stored.done), frozenset(stored.left_out))
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None


def found_to_json(label_map: str, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the content of found/<scan>.json.

    Args:
        label_map: name of the file beside it.
        rows: of `Segmentation.numbers`.
    """
    return (json.dumps({"map": label_map, "rows": [dict(row) for row in rows]}, indent=1) + "\n").encode()


def read_found(content: bytes, origin: str, scan: str) -> dict[str, Any]:
    """Return what found/<scan>.json holds: "map", a name that `found_name` gives, and "rows".

    Raises:
        InputError: it is damaged, or names another file.
    """
    found = parse_json(content, origin, limits=SMALL, plain=True)
    name = as_schema(found, _Found, origin).map
    if not re.fullmatch(rf"{re.escape(scan)}\.[0-9]{{1,9}}\.nii\.gz", name):
        raise InputError(f"{origin}: map: got {name!r}, allowed: as {found_name(scan, 1)}")
    return {"map": name, "rows": found["rows"]}


def found_name(scan: str, run: int) -> str:
    """Return the name of the label map that a run found for a scan."""
    return f"{scan}.{run}.nii.gz"


def expect_classes(classes: Any) -> list[dict[str, Any]]:
    """Return classes in the order of their values.

    Raises:
        InputError: they are no list of {value, name, colour}; a value is not in 1 to MAX_LABEL; a name is empty or too long; a
            colour is not as "#e69f00"; or two have the same value or name.
    """
    found: list[_Class] = as_schema(classes, Annotated[list[_Class], Meta(min_length=1, max_length=MAX_LABEL)], "classes")
    for one in found:
        if not one.name.strip() or not one.name.isprintable():
            raise InputError(f"classes: name: got {one.name!r}, allowed: 1 to {MAX_NAME} letters on one line")
    checked = [{"value": one.value, "name": one.name.strip(), "colour": one.colour.lower()}
               for one in sorted(found, key=lambda one: one.value)]
    for key in ("value", "name"):
        if len({one[key] for one in checked}) < len(checked):
            raise InputError(f"classes: two have the same {key}; allowed: a {key} once")
    return checked


def with_values(classes: Sequence[Mapping[str, Any]], values: Sequence[int]) -> tuple[Mapping[str, Any], ...]:
    """Return the classes, and a new one for each value above 0 that none has."""
    known = {one["value"] for one in classes}
    new = [{"value": value, "name": f"label {value}", "colour": COLOURS[(value - 1) % len(COLOURS)]}
           for value in values if value > 0 and value not in known]
    return tuple(sorted((*classes, *new), key=lambda one: one["value"]))
