"""The report about scans that have no truth: one HTML page, the least trusted scans first."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from qnet.util.base.errors import InputError, listed
from qnet.util.base.progress import progress
from qnet.util.results.report_page import Column, Content, Layers, Volumes, left_out, write_report_page

TRUST = (Column("confidence", "confidence", 2), Column("agreement", "agreement", 2), Column("margin", "margin", 1))
OUTLINE = (Column("volume_ml", "volume, ml", 4, significant=True), Column("slices", "slices", 0))
SHARES = (Column("of_outlined", "volume / outlined scan's", 2, significant=True),
          Column("of_median", "volume / median of the scans", 2, significant=True))
MARKS = (Column("state", "state"), Column("flagged", "flagged"))
SETTINGS = (Column("border", "border by"), Column("wide_mm", "registered at, mm", 3, significant=True))
NUMBERS = (*TRUST, *OUTLINE, *MARKS, *SETTINGS)
COLUMNS = (*TRUST, *OUTLINE, *SHARES, *MARKS, *SETTINGS)
FEW = 3         # volumes that have a median worth the name
LOOK_AT = re.compile("[0-9]{1,5} [0-9]{1,5} [0-9]{1,5}")
HINT = {"confidence": "Confidence, 0 to 1: the overlap with a correct outline that is to be expected; 0 if nothing, or nearly "
                      "nothing, was found. Look at the lowest first.",
        "agreement": "Agreement: mean Dice of what several supports or altered copies of the scan give.",
        "margin": "Margin: mean distance of the score from the threshold."}


@dataclass(frozen=True)
class ScanEntry:
    """A scan that was segmented.

    Attributes:
        name: of the scan.
        numbers: by label value, what is known about it, under the keys of NUMBERS, as "outlined_ml" the volume in the
            outlined scan, and as "look_at" the voxel "x y z" in whose slices to look first.
        read: returns the scan with its label map "whole", or raises InputError. It is called if the scan is to be embedded.
    """

    name: str
    numbers: Mapping[int, Mapping[str, float | str | None]]
    read: Callable[[], Layers]


def write_scan_report(entries: Sequence[ScanEntry], names: Mapping[int, str], path: Path, *, title: str,
                      facts: Mapping[str, str] | None = None, colours: Mapping[int, str] | None = None,
                      problems: Sequence[str] = (), plots: Sequence[Mapping[str, str]] = (),
                      correction: Mapping[str, str] | None = None) -> None:
    """Write the report. The least trusted scans are embedded, one after the other, until the page has its size.

    Args:
        entries: those that cannot be read become problems.
        names: of the labels, by value.
        path: of the HTML file.
        title: of the page.
        facts: shown below the title, by name.
        colours: as "#rrggbb", by label value; a label without one gets one.
        problems: a line for each scan that could not be segmented.
        plots, correction: as of `Content`.
    Raises:
        OSError: the file cannot be written.
    """
    medians = _medians(entries)
    found = [(entry, _rows(entry, names, medians)) for entry in entries]
    empty = {entry.name: classes for entry, rows in found if (classes := [row["label_name"] for row in rows if row["empty"]])}
    facts = {**(facts or {}), **({"empty": empty_classes(empty)} if empty else {})}
    known = [column for column in COLUMNS if any(row.get(column.key) is not None for _, of_entry in found for row in of_entry)]
    order = next((column.key for column in known if column in TRUST), "case")
    volumes, views, rows, unread = Volumes(list(names)), [], [], []
    for entry, of_entry in progress(sorted(found, key=lambda one: _worst(one[1], order)), desc="report", unit="scan"):
        number = None
        if not volumes.full:
            try:
                views.append(volumes.view(entry.name, entry.read()))
            except InputError as error:
                unread.append(f"{entry.name}: not shown: {error}")
                continue
            number = len(views) - 1
        rows += [{**row, "view": number} for row in of_entry]
    hint = HINT.get(order, "") + left_out(len(views), len(entries) - len(unread), "least trusted")
    write_report_page(Content(
        title=title, facts=facts, names=names, colours=colours or {},
        columns=[Column("case", "scan"), Column("label_name", "label"), *known], rows=rows, order=order, hint=hint, views=views,
        problems=[*problems, *unread], plots=plots, correction=correction), volumes, path)


def _medians(entries: Sequence[ScanEntry]) -> dict[int, float]:
    """Return the median volume of each label over those scans in which something was found of it, if they are not too few."""
    volumes: dict[int, list[float]] = {}
    for entry in entries:
        for label, numbers in entry.numbers.items():
            if isinstance(ml := numbers.get("volume_ml"), (int, float)) and ml > 0:
                volumes.setdefault(label, []).append(ml)
    return {label: median(of_label) for label, of_label in volumes.items() if len(of_label) >= FEW}


def _rows(entry: ScanEntry, names: Mapping[int, str], medians: Mapping[int, float]) -> list[dict]:
    return [{**{key: value for key, value in numbers.items() if key not in ("outlined_ml", "look_at")},
             "of_outlined": _share(numbers.get("volume_ml"), numbers.get("outlined_ml")),
             "of_median": _share(numbers.get("volume_ml"), medians.get(label)), "look_at": _voxel(numbers.get("look_at")),
             "case": entry.name, "label": label, "label_name": names[label], "map": "whole",
             "empty": is_empty(numbers)} for label, numbers in entry.numbers.items()]


def _share(part: Any, whole: Any) -> float | None:
    """Return how often a volume is another one; None if one of both is not known, or the other is none."""
    return part / whole if isinstance(part, (int, float)) and isinstance(whole, (int, float)) and whole > 0 else None


def _voxel(text: Any) -> list[int] | None:
    return [int(number) for number in text.split()] if isinstance(text, str) and LOOK_AT.fullmatch(text) else None


def is_empty(row: Mapping[str, Any]) -> bool:
    """Return whether nothing of a class was found, or so little that the confidence is 0. Numbers may be text from a table."""
    return any(row.get(key) not in (None, "") and float(row[key]) == 0 for key in ("slices", "confidence"))


def empty_classes(empty: Mapping[str, Sequence[str]]) -> str:
    """Return which scans have empty classes, in words.

    Args:
        empty: the names of the classes by the scan's; at least one.
    """
    named = [f"{name} ({', '.join(classes)})" for name, classes in empty.items()]
    return f"{len(empty)} {'has' if len(empty) == 1 else 'have'} an empty class: {listed(named)}"


def _worst(rows: Sequence[Mapping], order: str) -> float:
    """Return the lowest number among a scan's labels; −1 if a label is empty, infinity if no number is known."""
    known = [row[order] for row in rows if isinstance(row.get(order), (int, float))]
    return -1.0 if any(row["empty"] for row in rows) else min(known, default=float("inf"))
