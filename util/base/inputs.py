"""Checks and reads files that the user names. What JSON from elsewhere may hold is decided here, by a schema for each file."""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from qnet.util.base.errors import InputError, in_utf8

T = TypeVar("T")


class Limits(NamedTuple):
    """How much JSON may hold: bytes, levels of nesting, and values (counted by commas and brackets, so that text counts too)."""

    n_bytes: int
    depth: int
    n_values: int


LIMITS = Limits(2**24, 64, 10**6)       # of what programs keep of themselves; a config or a session has far less
SMALL = Limits(2**20, 16, 10**5)        # of what others may have written
WORDS = {"array": "a list", "object": "an object", "str": "a text", "int": "a whole number", "float": "a number",
         "bool": "true or false"}


def expect_file(path: Path | str) -> Path:
    """Return the path of a file that can be read.

    Raises:
        InputError: it is missing, a folder, a pipe or a broken link, may not be read, or its name is no UTF-8.
    """
    path = expect_utf8(Path(path))
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: is a {'folder' if stat.S_ISDIR(mode) else 'device or pipe'}, expected a file")
        with path.open("rb") as file:
            file.read(1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:      # an InputError is one too
        raise error if isinstance(error, InputError) else InputError(f"{str(path)!r}: cannot be read ({error})") from None
    return path


def expect_utf8(path: Path) -> Path:
    """Return a path. Raises InputError if its name is no UTF-8: libraries that read images end the program then."""
    if in_utf8(str(path)) != str(path):
        raise InputError(f"{path}: its name is no UTF-8; allowed: another name")
    return path


def read_small(path: Path, limit: int) -> bytes:
    """Return the content of a file that the user names.

    Raises:
        InputError: as `expect_file`, or it has more than `limit` bytes.
    """
    with expect_file(path).open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise InputError(f"{path}: has more than {limit} bytes, which is the most that such a file may have")
    return content


def read_json(path: Path, limits: Limits = LIMITS) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        InputError: the file is missing, exceeds the limits, is not JSON, or does not hold an object {…}.
    """
    return parse_json(read_small(path, limits.n_bytes), str(path), limits=limits)


def parse_json(content: bytes, origin: str, schema: Any = dict[str, Any], *, limits: Limits = LIMITS, plain: bool = False,
               loads: Callable[[str], Any] = json.loads, language: str = "JSON") -> Any:
    """Return what JSON holds, as `schema` says.

    Args:
        content: in UTF-8.
        origin: what messages begin with: the file.
        schema: a type as msgspec takes it: a Struct, `dict[str, Any]`, ….
        plain: allow only what every program can show: finite numbers, and text that UTF-8 can hold.
        loads: the parser.
        language: its name, in messages.
    Raises:
        InputError: it exceeds the limits, cannot be parsed, or is not as the schema.
    """
    n_values = sum(content.count(sign) for sign in (b",", b"[", b"{"))
    if len(content) > limits.n_bytes or n_values > limits.n_values:
        raise InputError(f"{origin}: not valid {language} here: {len(content)} bytes with {n_values} values; allowed: at most "
                         f"{limits.n_bytes} with {limits.n_values}")
    try:
        found = loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{origin}: not valid {language} ({' '.join(str(error).split())})") from None
    _expect_flat(found, origin, limits.depth, plain)
    if schema == dict[str, Any] and not isinstance(found, dict):
        raise InputError(f"{origin}: holds a {type(found).__name__}, expected an object {{…}}")
    return as_schema(found, schema, origin)


def _expect_flat(content: Any, origin: str, depth: int, plain: bool) -> None:
    """Raise InputError if parsed JSON is nested too deep, or, if `plain`, holds what cannot be shown."""
    level, at = [content], 0
    while level:
        if at > depth:
            raise InputError(f"{origin}: is nested more than {depth} levels deep, which is the most that is allowed")
        if plain and (strange := next((one for one in level if not _is_plain(one)), None)) is not None:
            raise InputError(f"{origin}: holds {strange!r}, allowed: finite numbers, and text in UTF-8")
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += [*one, *one.values()]
            elif isinstance(one, list):
                inner += one
        level, at = inner, at + 1


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() or not re.search("[\ud800-\udfff]", value)
    return not isinstance(value, float) or math.isfinite(value)


def as_schema(content: Any, schema: type[T] | Any, origin: str) -> Any:
    """Return parsed JSON as a schema says.

    Raises:
        InputError: it is not so. The message names the key, the value, and what is allowed.
    """
    try:
        return msgspec.convert(content, schema)
    except (msgspec.ValidationError, RecursionError) as error:
        raise InputError(f"{origin}: {_in_words(str(error), content)}") from None


def _in_words(said: str, content: Any) -> str:
    """Return what is wrong, with the value. msgspec gives the type and the place of it."""
    what, _, place = said.partition(" - at `$")
    place = place.removesuffix("`")
    where = f"{place.removeprefix('.')}: " if place else ""
    if unlike := re.fullmatch(r"Expected (.*?)(?:, got `\w+`)?", what):
        allowed = re.sub("`(.*?)`", lambda found: " or ".join(WORDS.get(word, word) for word in found[1].split(" | ")), unlike[1])
        return f"{where}got {shown(_value_at(content, place))}, allowed: {allowed}"
    if what.startswith("Invalid enum value"):
        return f"{where}got {shown(_value_at(content, place))}, allowed: one that this program knows"
    return where + what[:1].lower() + what[1:].replace("`", "'")


def _value_at(content: Any, place: str) -> Any:
    """Return the value at a place that msgspec names. If msgspec names only a part of the way, return the value there."""
    for key, position in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", place):
        if position == "..." or not isinstance(content, (Mapping if key else list)):
            break
        content = cast(Any, content)[key or int(position)]
    return content


def shown(value: Any) -> str:
    """Return a value as a message shows it: at most 200 characters."""
    try:
        return repr(value) if len(repr(value)) <= 200 else repr(value)[:200] + "…"
    except (ValueError, RecursionError):      # a whole number with thousands of digits
        return f"a huge {type(value).__name__}"
