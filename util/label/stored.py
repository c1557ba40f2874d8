"""What the files of a session hold. They may be anyone's, as when a folder was handed on: each is read by a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field, to_builtins

from qnet.util.base.classes import (
    ALIKE_RULE,
    COLOUR_RULE,
    MAX_DRAWN,
    MAX_NAME,
    NAME_RULE,
    alike,
    colours_of,
    default_name,
    is_colour,
    is_name,
)
from qnet.util.base.errors import InputError
from qnet.util.base.inputs import LIMITS, SMALL, as_schema, parse_json, shown

VERSION = 1
MAX_FACTS = 16          # about how outlines were made
FIRST_CLASS = {"value": 1, "name": default_name(1), "colour": colours_of([1])[1]}      # until the person names one


class _Class(Struct, forbid_unknown_fields=True):
    value: Annotated[int, Meta(ge=1, le=MAX_DRAWN)]
    name: str
    colour: str


class _Session(Struct):
    version: Literal[1] = 1
    classes: Any = field(default_factory=lambda: [FIRST_CLASS])
    done: list[str] = []
    left_out: list[str] = []
    flagged: list[str] = []


class _Row(Struct):
    label: Annotated[int, Meta(ge=1, le=MAX_DRAWN)]
    label_name: Annotated[str, Meta(max_length=MAX_NAME)]
    query: str = ""
    volume_ml: Annotated[float, Meta(ge=0)] | None = None
    slices: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    confidence: Annotated[float, Meta(ge=0, le=1)] | None = None
    agreement: Annotated[float, Meta(ge=0, le=1)] | None = None
    margin: float | None = None
    outlined_ml: Annotated[float, Meta(ge=0)] | None = None
    look_at: Annotated[str, Meta(pattern=r"^[0-9]{1,5} [0-9]{1,5} [0-9]{1,5}$")] | None = None


class _Found(Struct):
    map: str
    rows: Annotated[list[_Row], Meta(max_length=MAX_DRAWN)]
    made: Annotated[dict[str, str], Meta(max_length=MAX_FACTS)] = {}


class Slices(Struct, forbid_unknown_fields=True):
    """Slices across one axis of one class: those that a person drew or looked at, and those that were filled between them."""

    drawn: list[Annotated[int, Meta(ge=0, le=2**15)]] = []
    filled: list[Annotated[int, Meta(ge=0, le=2**15)]] = []


AXIS = Literal["0", "1", "2"]       # of a label map, (D, H, W)
OfClasses = dict[str, dict[AXIS, Slices]]     # by the value of the class


class _Hand(Struct):
    saved: Annotated[int, Meta(ge=0, le=2**31)] = 0
    stroke: Annotated[str, Meta(max_length=64)] = ""
    sha256: str = ""
    slices: OfClasses | None = None


@dataclass(frozen=True)
class Hand:
    """What is known of outlines by hand besides their label map: the content of hand/<scan>.json.

    Attributes:
        saved: how often they were saved.
        stroke: name of the change that was saved last.
        slices: which slices of which class a person made; None if that is not known, as of outlines from a file: then all.
    """

    saved: int = 0
    stroke: str = ""
    slices: OfClasses | None = None

    def to_json(self, sha256: str) -> bytes:
        """Return the content of hand/<scan>.json.

        Args:
            sha256: of the file of the label map; empty if there is none.
        """
        content = {"saved": self.saved, "stroke": self.stroke, "sha256": sha256, "slices": to_builtins(self.slices)}
        return (json.dumps(content) + "\n").encode()


def read_hand(content: bytes, origin: str, sha256: str) -> Hand:
    """Return what hand/<scan>.json holds. If the label map is another one, as of an editor, nothing is known of its slices.

    Args:
        sha256: of the file of the label map that is there; empty if there is none.
    Raises:
        InputError: it is damaged.
    """
    found = parse_json(content, origin, _Hand, limits=SMALL, plain=True)
    return Hand(found.saved, found.stroke, found.slices if found.sha256 == sha256 else None)


@dataclass(frozen=True)
class Decisions:
    """What the person decided: the content of session.json.

    Attributes:
        classes: each with "value", "name" and "colour", in the order of their values.
        done: scans whose outlines are as they should be.
        left_out: scans that are left out.
        flagged: scans that are marked for a second look.
    """

    classes: tuple[Mapping[str, Any], ...] = (FIRST_CLASS,)
    done: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    flagged: frozenset[str] = frozenset()

    def to_json(self) -> bytes:
        """Return the content of session.json."""
        content = {"version": VERSION, "classes": self.classes, "done": sorted(self.done), "left_out": sorted(self.left_out),
                   "flagged": sorted(self.flagged)}
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
        return Decisions(tuple(expect_classes(stored.classes, earlier=True)), frozenset(stored.done), frozenset(stored.left_out),
                         frozenset(stored.flagged))
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None


def found_to_json(label_map: str, rows: Sequence[Mapping[str, Any]], made: Mapping[str, str] | None = None) -> bytes:
    """Return the content of found/<scan>.json.

    Args:
        label_map: name of the file beside it.
        rows: of `Segmentation.numbers`.
        made: what the outlines were made of, by name of the fact.
    """
    return (json.dumps({"map": label_map, "rows": [dict(row) for row in rows], "made": made or {}}, indent=1) + "\n").encode()


def read_found(content: bytes, origin: str, scan: str) -> dict[str, Any]:
    """Return what found/<scan>.json holds: "map", a name that `found_name` gives, "rows", and "made", facts by name.

    Raises:
        InputError: it is damaged, or names another file.
    """
    found = parse_json(content, origin, limits=SMALL, plain=True)
    stored = as_schema(found, _Found, origin)
    name = stored.map
    if not re.fullmatch(rf"{re.escape(scan)}\.[0-9]{{1,9}}\.nii\.gz", name):
        raise InputError(f"{origin}: map: got {name!r}, allowed: as {found_name(scan, 1)}")
    return {"map": name, "rows": found["rows"], "made": stored.made}


def found_name(scan: str, run: int) -> str:
    """Return the name of the label map that a run found for a scan."""
    return f"{scan}.{run}.nii.gz"


def picture_name(label_map: str) -> str:
    """Return the name of the picture beside such a label map."""
    return f"{label_map.removesuffix('.nii.gz')}.png"


def expect_classes(classes: Any, *, earlier: bool = False) -> list[dict[str, Any]]:
    """Return classes in the order of their values.

    Args:
        earlier: they were stored, maybe by a version that took names which are the same in names of files.
    Raises:
        InputError: they are no list of {value, name, colour}; a value is not in 1 to MAX_DRAWN; a name or a colour is not as
            `qnet.util.base.classes` says; two have the same value, or names that are the same in names of files.
    """
    found: list[_Class] = as_schema(classes, Annotated[list[_Class], Meta(min_length=1, max_length=MAX_DRAWN)], "classes")
    checked = [{"value": one.value, "name": one.name.strip(), "colour": one.colour.lower()}
               for one in sorted(found, key=lambda one: one.value)]
    for key, is_allowed, rule in (("name", is_name, NAME_RULE), ("colour", is_colour, COLOUR_RULE)):
        if wrong := [one for one in checked if not is_allowed(one[key])]:
            raise InputError(f"classes: {key}: got {shown(wrong[0][key])}, allowed: {rule}")
    for key in ("value", "name"):
        if twice := [one[key] for k, one in enumerate(checked) if one[key] in [other[key] for other in checked[:k]]]:
            raise InputError(f"classes: {key}: got {twice[0]!r} twice, allowed: a {key} once")
    if not earlier:
        expect_unlike(checked)
    return checked


def expect_unlike(classes: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError if two classes have names that are the same in names of files, as a session of earlier versions may."""
    if two := alike(one["name"] for one in classes):
        raise InputError(f"classes: name: got {two[0]!r} and {two[1]!r}, allowed: {ALIKE_RULE}")


def with_values(classes: Sequence[Mapping[str, Any]], values: Sequence[int]) -> tuple[Mapping[str, Any], ...]:
    """Return the classes, and a new one for each value above 0 that none has."""
    for value in sorted({*values} - {0, *(one["value"] for one in classes)}):
        classes = [*classes, _new(classes, value)]
    return tuple(sorted(classes, key=lambda one: one["value"]))


def with_names(classes: Sequence[Mapping[str, Any]], names: Mapping[int, str],
               colours: Mapping[int, str]) -> tuple[Mapping[str, Any], ...]:
    """Return the classes with new ones of a file of outlines. Those that the person has stay as they are.

    Args:
        names, colours: of the file, by value. A name without a colour gets one.
    Raises:
        InputError: a name or a value is not allowed, or a class of another value has the name.
    """
    kept = [one for one in classes if one != FIRST_CLASS or one["value"] not in names]
    new = {value: name for value, name in names.items() if value not in {one["value"] for one in kept}}
    given = {**{value: colours[value] for value in new if value in colours}, **{one["value"]: one["colour"] for one in kept}}
    shown = colours_of([*(one["value"] for one in kept), *new], given)
    return tuple(expect_classes([*kept, *({"value": value, "name": new[value], "colour": shown[value]} for value in new)]))


def next_class(classes: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the class that a person may add to some: the value above all others, with a name and a colour of its own.

    None if there is no such value.
    """
    value = max(one["value"] for one in classes) + 1
    return _new(classes, value) if value <= MAX_DRAWN else None


def _new(classes: Sequence[Mapping[str, Any]], value: int) -> dict[str, Any]:
    colours = colours_of([value], {one["value"]: one["colour"] for one in classes})
    return {"value": value, "name": default_name(value, [one["name"] for one in classes]), "colour": colours[value]}
