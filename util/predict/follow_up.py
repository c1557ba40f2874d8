"""Two scans of one patient: how much the volume of each label changed, with the confidence of both outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from qnet.dataloaders.geometry import affine_of_image, voxel_ml
from qnet.util.base.guard import is_same
from qnet.util.base.tables import significant, write_rows
from qnet.util.predict.events import Outcome

CHANGES = "changes.csv"
COLUMNS = ("first", "second", "label", "label_name", "first_ml", "second_ml", "change_ml", "first_confidence",
           "second_confidence")
Known = Mapping[int, tuple[float, float | None]]        # volume in ml and confidence by label; outlines by hand have none


def write_changes(pairs: Sequence[tuple[Path, Path]], outcome: Outcome, supports: Sequence[Any], names: Mapping[int, str],
                  path: Path) -> dict[str, str]:
    """Write the changes of volume between scans, and return them as facts of the report.

    Args:
        pairs: paths of the first and the second scan of each patient. Either may be outlined by hand.
        supports: the scans that are outlined by hand.
        names: of the labels, by value.
        path: of the table.
    Raises:
        OSError: the table cannot be written.
    """
    rows, facts = [], {}
    for first, second in pairs:
        before, after = (_known(scan, outcome, supports) for scan in (first, second))
        of_pair = [_row(outcome.shown(first), outcome.shown(second), label, name, before[label], after[label])
                   for label, name in names.items() if label in before and label in after]
        rows += of_pair
        told = "; ".join(map(_told, of_pair)) or "one of the scans is not outlined"
        facts[f"change from {outcome.shown(first)} to {outcome.shown(second)}"] = told
    write_rows(rows, COLUMNS, path)
    return facts


def _known(scan: Path, outcome: Outcome, supports: Sequence[Any]) -> Known:
    """Return what is known of a scan's labels; nothing if it is not outlined."""
    for query in outcome.queries:
        if is_same(query.scan, scan) and query.name not in outcome.failures:
            return {int(row["label"]): (float(row["volume_ml"]), _number(row.get("confidence")))
                    for row in outcome.rows.get(query.name, ())}
    for support in supports:
        if support.scan.path is not None and is_same(support.scan.path, scan):
            labels = support.outlines.labels
            values, counts = np.unique(sitk.GetArrayViewFromImage(labels), return_counts=True)
            ml = voxel_ml(affine_of_image(labels))
            return {int(value): (significant(n * ml), None) for value, n in zip(values, counts, strict=True) if value}
    return {}


def _number(text: Any) -> float | None:
    return None if text in (None, "") else float(text)


def _row(first: str, second: str, label: int, name: str, before: tuple[float, float | None],
         after: tuple[float, float | None]) -> dict[str, Any]:
    return {"first": first, "second": second, "label": label, "label_name": name, "first_ml": before[0], "second_ml": after[0],
            "change_ml": significant(after[0] - before[0]), "first_confidence": before[1], "second_confidence": after[1]}


def _told(row: Mapping[str, Any]) -> str:
    sure = " and ".join("by hand" if row[key] is None else f"{row[key]:.2f}" for key in ("first_confidence", "second_confidence"))
    return f"{row['label_name']}: {row['first_ml']:g} → {row['second_ml']:g} ml, {row['change_ml']:+g} ml (confidence {sure})"
