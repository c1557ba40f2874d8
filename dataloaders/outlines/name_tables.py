"""Tables beside a label map that name its values: ITK-SNAP's label descriptions, colour tables of 3D Slicer and FreeSurfer, BIDS.

A table has the name of the label map, with another ending: `case_1_labels.txt` beside `case_1_labels.nii.gz`. In a BIDS folder it
may be inherited: `desc-aseg_dseg.tsv` in a folder above `sub-01/anat/sub-01_desc-aseg_dseg.nii.gz`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from qnet.dataloaders.reading import scan_name
from qnet.util.base.classes import COLOUR_RULE, is_colour, is_value
from qnet.util.base.errors import InputError
from qnet.util.base.inputs import expect_file
from qnet.util.base.tables import as_given

ENDINGS = (".txt", ".label", ".ctbl", ".tsv", ".csv")
MAX_BYTES = 2**20
BIDS = "dataset_description.json"       # at the top of a BIDS folder
SNAP = re.compile(r'(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+[\d.]+\s+[01]\s+[01]\s+"(.*)"')   # value, R, G, B, opacity, two switches
LUT = re.compile(r"(\d+)\s+(\S+)\s+(\d+)\s+(\d+)\s+(\d+)(?:\s+\d+)?")                    # value, name, R, G, B, opacity
VALUE, NAME, COLOUR = ("index", "labelvalue", "value"), ("name",), ("color", "colour")
PARTS = ("color_r", "color_g", "color_b")
Table = tuple[dict[int, str], dict[int, str]]       # names and colours by value


def tables_beside(labels: Path) -> list[Path]:
    """Return the tables that lie beside a label map and have its name; in a BIDS folder else the nearest that it inherits."""
    names = [f"{scan_name(labels)}{ending}" for ending in ENDINGS]
    return [path for name in names if (path := labels.with_name(name)).is_file() and path != labels] or _inherited(labels)


def _inherited(labels: Path) -> list[Path]:
    """Return the tables of the nearest folder whose names have only entities of the label map's name, and its suffix."""
    *entities, suffix = scan_name(labels).split("_")
    if not entities or not entities[0].startswith("sub-"):
        return []
    for folder in labels.absolute().parents:
        found = [path for path in sorted(folder.glob(f"*{suffix}.tsv"))
                 if path.stem.split("_")[-1] == suffix and set(path.stem.split("_")) <= {*entities, suffix}]
        if found or (folder / BIDS).is_file():
            return found
    return []


def table_of(labels: Path) -> tuple[Table, tuple[str, ...]]:
    """Return names and colours by value from the table beside a label map, and what is told of files that are no such table.

    Raises:
        InputError: there are several tables, or one is damaged.
    """
    found: dict[Path, Table] = {}
    told = []
    for path in tables_beside(labels):
        if (table := read_table(path)) is None:
            told.append(f"{path}: is no table of names in a form that is known, and is left out")
        else:
            found[path] = table
    if len(found) > 1:
        raise InputError(f"{labels}: {' and '.join(path.name for path in found)} both name its values; allowed: one table")
    return next(iter(found.values()), ({}, {})), tuple(told)


def read_table(path: Path) -> Table | None:
    """Return names and colours by value; None if no line is as in a table of names.

    Raises:
        InputError: it is too large or cannot be read as text, or a later line is not as in such a table.
    """
    if (n_bytes := expect_file(path).stat().st_size) > MAX_BYTES:
        raise InputError(f"{path}: has {n_bytes} bytes, allowed in a table of names: {MAX_BYTES}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a table of names ({error})") from None
    rows = _columns(path, lines) if path.suffix.lower() in (".tsv", ".csv") else _lines(path, lines)
    names, colours, known = dict[int, str](), dict[int, str](), False
    for value, name, colour in rows:
        known = True
        if is_value(value) and name.strip():
            if int(value) in names:
                raise InputError(f"{path}: names {value} twice; allowed: one name for each value")
            names[int(value)] = name.strip()
            if colour:
                colours[int(value)] = colour.lower()
    return (names, colours) if known else None


def _lines(path: Path, lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield value, name and colour of each line of ITK-SNAP's or of a colour table."""
    known = False
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        snap, lut = SNAP.fullmatch(text), LUT.fullmatch(text)
        if snap:
            value, *rgb, name = snap.groups()
        elif lut:
            value, name, *rgb = lut.groups()
        elif known:
            raise InputError(f"{path}: line {number}: got {text[:60]!r}, allowed as in the lines before: value, name, colour")
        else:
            return      # notes
        known = True
        yield value, name, _hexadecimal(path, rgb)


def _columns(path: Path, lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield value, name and colour of each row of a table with titles."""
    reader = csv.DictReader(lines, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    try:
        titles = {title.strip().lower(): title for title in reader.fieldnames or () if title}
        value, name, colour = (next((titles[one] for one in known if one in titles), None) for known in (VALUE, NAME, COLOUR))
        for row in reader if value and name else ():
            given = (row.get(colour) or "").strip() if colour else ""
            if not given and all(part in titles for part in PARTS):
                given = _hexadecimal(path, [row[titles[part]] or "" for part in PARTS])
            if given.lower() in ("n/a", ""):
                given = ""
            elif not is_colour(given):
                raise InputError(f"{path}: got the colour {given[:20]!r}, allowed: {COLOUR_RULE}")
            yield (row[value] or "").strip(), as_given(row[name] or ""), given
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as a table of names ({error})") from None


def _hexadecimal(path: Path, rgb: list[str]) -> str:
    """Return a colour as "#e69f00", of three whole numbers up to 255, or of three numbers up to 1 if one has a point."""
    try:
        numbers = [float(one) for one in rgb]
        whole = [round(255 * one) for one in numbers] if any("." in one for one in rgb) else [int(one) for one in rgb]
    except (ValueError, OverflowError):
        whole = [-1]
    if not all(0 <= one <= 255 for one in whole):
        raise InputError(f"{path}: got the colour {' '.join(rgb)[:40]!r}, allowed: three numbers from 0 to 255")
    return "#{:02x}{:02x}{:02x}".format(*whole)


def of_present(table: Table, present: Mapping[int, object] | set[int]) -> Table:
    """Return what a table says of values that are there."""
    names, colours = table
    return ({value: name for value, name in names.items() if value in present},
            {value: colour for value, colour in colours.items() if value in present})
