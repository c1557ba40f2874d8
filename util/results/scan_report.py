"""The report about scans that have no truth: one HTML page, the least trusted scans first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from util.results.page import Column, Content, Layers, Volumes, write_page

TRUST = (Column("confidence", "confidence", 2), Column("agreement", "agreement", 2), Column("margin", "margin", 1))
NUMBERS = (*TRUST, Column("volume_ml", "volume, ml", 1), Column("slices", "slices", 0), Column("seconds", "seconds", 1))
HINT = {"confidence": "Confidence, 0 to 1: how much the registered support looks like the scan where the label lies. It ranks; "
                      "look at the lowest first.",
        "agreement": "Agreement: mean Dice of what several supports or altered copies of the scan give.",
        "margin": "Margin: mean distance of the score from the threshold."}


@dataclass(frozen=True)
class ScanEntry:
    """A scan that was segmented.

    Attributes:
        name: of the scan.
        image: (D, H, W) intensities on the scan's own grid.
        affine: (4, 4), from voxel (x, y, z) to mm in NIfTI's directions (right, anterior, superior).
        label_map: (D, H, W) on the same grid.
        numbers: by label value, what is known about it, under the keys of NUMBERS.
        probabilities: by label value, the (D, H, W) probability, 0 to 1.
        support: (D, H, W) uint8 image of the support, registered to the scan.
    """

    name: str
    image: np.ndarray
    affine: np.ndarray
    label_map: np.ndarray
    numbers: Mapping[int, Mapping[str, float | None]]
    probabilities: Mapping[int, np.ndarray] = field(default_factory=dict)
    support: np.ndarray | None = None


def write_scan_report(entries: Iterable[ScanEntry], names: Mapping[int, str], path: Path, *, title: str,
                      facts: Mapping[str, str] | None = None, colours: Mapping[int, str] | None = None,
                      problems: Sequence[str] = ()) -> None:
    """Write the report.

    Args:
        entries: taken one at a time, so that only one scan need be in memory.
        names: of the labels, by value.
        path: of the HTML file.
        title: of the page.
        facts: shown below the title, by name.
        colours: as "#rrggbb", by label value; a label without one gets one.
        problems: a line for each scan that could not be segmented.
    Raises:
        OSError: the file cannot be written.
    """
    volumes, shown = Volumes(list(names)), []
    for entry in entries:
        layers = Layers(entry.image, entry.affine, {"whole": entry.label_map}, entry.probabilities, entry.support)
        shown.append((volumes.view(entry.name, layers), _rows(entry, names)))
    rows = [row for _, of_entry in shown for row in of_entry]
    known = [column for column in NUMBERS if any(row.get(column.key) is not None for row in rows)]
    order = next((column.key for column in known if column in TRUST), "case")
    shown.sort(key=lambda entry: _worst(entry[1], order))
    write_page(Content(
        title=title, facts=facts or {}, names=names, colours=colours or {},
        columns=[Column("case", "scan"), Column("label_name", "label"), *known],
        rows=[{**row, "view": k} for k, (_, of_entry) in enumerate(shown) for row in of_entry], order=order,
        hint=HINT.get(order, ""), views=[view for view, _ in shown], problems=problems), volumes, path)


def _rows(entry: ScanEntry, names: Mapping[int, str]) -> list[dict]:
    return [{**numbers, "case": entry.name, "label": label, "label_name": names[label], "map": "whole"}
            for label, numbers in entry.numbers.items()]


def _worst(rows: Sequence[Mapping], order: str) -> float:
    """Return the lowest number of a scan's labels; infinity if none is known."""
    return min((row[order] for row in rows if isinstance(row.get(order), (int, float))), default=float("inf"))
