"""cases.csv: a row for each scan and label, with what is known of the outline. One schema, of which each program writes its part.

`COLUMNS` are those of `segment` and `predict`, `PAGE_COLUMNS` those of what the labelling page exports.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from qnet.util.base.distributed import world_size
from qnet.util.base.locks import alone
from qnet.util.base.tables import read_rows, significant, write_rows
from qnet.util.results.scan_report import is_empty

TABLE = "cases.csv"
OUTLINE = ("label", "label_name", "volume_ml", "slices", "confidence")
COLUMNS = ("query", *OUTLINE, "agreement", "margin", "border", "wide_mm", "outlined_ml", "look_at", "made_from", "sha256",
           "problem")
PAGE_COLUMNS = ("scan", "state", "flagged", *OUTLINE)
LATER = (("outlined_ml", "look_at"), ("problem",), ("border", "wide_mm"), ("confidence",), ("sha256",))      # newest first
EARLIER_COLUMNS = [tuple(column for column in COLUMNS if column not in chain(*LATER[:n])) for n in range(1, len(LATER) + 1)]
KINDS = {"label": int, "slices": int, "volume_ml": float, "confidence": float, "agreement": float, "margin": float, "border": str,
         "outlined_ml": float, "look_at": str}


def measured(mask: np.ndarray, ml: float) -> dict[str, Any]:
    """Return the volume of a (D, H, W) mask in ml, with 4 significant digits, and in how many slices it is.

    Args:
        ml: of a voxel.
    """
    return {"volume_ml": significant(mask.sum() * ml), "slices": int(mask.any(axis=(1, 2)).sum())}


def worst_first(rows: Mapping[str, Sequence[Mapping]]) -> list[Mapping]:
    """Return the rows of all queries, by ascending confidence, query and label.

    Empty classes come first, and rows without a confidence last.
    """
    def rank(row: Mapping) -> tuple[bool, float, str, int]:
        confidence = row.get("confidence")      # text if the row was read from an earlier table
        certain = float("inf") if confidence in (None, "") else float(confidence)
        return not is_empty(row), certain, row["query"], int(row["label"])

    return sorted((row for same_query in rows.values() for row in same_query), key=rank)


def read_cases(table: Path) -> dict[str, list[dict]]:
    """Return the rows of an earlier table by query. There are none if it is missing, damaged or has other columns.

    Tables of earlier versions have no checksums. Their queries do not count as done.
    """
    rows: dict[str, list[dict]] = {}
    try:
        if not table.exists():
            return {}
        columns, of_all = read_rows(table)
        for row in of_all if columns in (COLUMNS, *EARLIER_COLUMNS) else ():
            if row.get("problem") and not row["label"]:        # what could not be segmented is tried again
                continue
            int(row["label"]), float(row.get("confidence") or 0)
            rows.setdefault(row["query"], []).append(row)
    except (OSError, ValueError, TypeError, csv.Error) as error:
        print(f"warning: {table}: is damaged ({error}); all queries are segmented again")
        return {}
    return rows


def write_cases(table: Path, earlier: Mapping[str, list[dict]], rows: Mapping[str, list[dict]],
                problems: Sequence[Mapping] = ()) -> None:
    """Write rows beside those that are in the table, which may be of other processes; then the problems.

    Args:
        earlier: rows that were there at the start, by query. Those in the table now come before them, and `rows` before both.
        problems: rows with a query and its problem.
    Raises:
        OSError: the table cannot be written.
    """
    with alone(table.parent) if world_size() > 1 else nullcontext():
        write_rows([*worst_first({**earlier, **read_cases(table), **rows}), *problems], COLUMNS, table)


def as_numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a row says of the outline, as numbers, None where there is none. Rows of an earlier table are text."""
    numbers = {key: None if row.get(key) in (None, "") else kind(row[key]) for key, kind in KINDS.items()}
    return {"label_name": row["label_name"], **numbers, "empty": is_empty(row)}
