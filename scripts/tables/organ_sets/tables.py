"""The tables of docs/organs.md, in Markdown, of the rows of organs.csv."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from qnet.util.base.tables import markdown_table

Row = Mapping[str, Any]


def report(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the tables in Markdown: of all sets, and of each.

    Args:
        rows: of `Table.of`.
    """
    sets = {name: [row for row in rows if row["set"] == name] for name in dict.fromkeys(row["set"] for row in rows)}
    yield all_sets(sets)
    for name, of_set in sets.items():
        yield f"**{name}**, Dice over whole volumes, and confidence:\n\n{one_set(of_set)}"
    yield "Processor: " + "; ".join(dict.fromkeys(row["processor"] for row in rows)) + "."


def one_set(rows: Sequence[Row]) -> str:
    """Return the table of a set: a line for each class, and their mean."""
    classes = {name: [row for row in rows if row["name"] == name]
               for _, name in sorted({(row["label"], row["name"]) for row in rows})}
    lines = [[name, str(len(of_class)), *map(_shown, means(of_class))] for name, of_class in classes.items()]
    mean = np.mean([means(of_class) for of_class in classes.values()], axis=0)
    return markdown_table(["class", "scans", "registration", "guided", "gain", "confidence"],
                          [*lines, ["mean", "", *map(_shown, mean)]])


def means(rows: Sequence[Row]) -> list[float]:
    """Return the mean Dice of registration and of guided, their difference, and the mean confidence."""
    registration, guided, confidence = (float(np.mean([row[key] for row in rows]))
                                        for key in ("registration", "guided", "confidence"))
    return [registration, guided, guided - registration, confidence]


def all_sets(sets: Mapping[str, Sequence[Row]]) -> str:
    """Return the table of all sets. Dice and confidence are means over classes; in the last line, means over sets."""
    header = ["set", "outlined", "scans", "classes", "registration", "guided", "confidence", "its rank correlation",
              "its mean error", "s a scan", "memory, MB"]
    lines, of_sets = [], []
    for name, rows in sets.items():
        registration, guided, _, confidence = np.mean([means([row for row in rows if row["name"] == of_class])
                                                       for of_class in {row["name"] for row in rows}], axis=0)
        of_sets.append([registration, guided, confidence])
        counts = [_count(rows, "support"), _count(rows, "support", "query"), _count(rows, "label")]
        lines.append([name, *counts, *map(_shown, of_sets[-1]), *trust(rows), f"{seconds_a_scan(rows):.1f}",
                      f"{max(row['memory_mb'] for row in rows):.0f}"])
    pooled = [row for rows in sets.values() for row in rows]
    last = ["all together", "", _count(pooled, "set", "support", "query"), "", *map(_shown, np.mean(of_sets, axis=0)),
            *trust(pooled), "", ""]
    return markdown_table(header, [*lines, last])


def trust(rows: Sequence[Row]) -> list[str]:
    """Return Spearman's rank correlation of the confidence with the Dice of guided, and their mean absolute difference."""
    confidence, guided = (np.array([row[key] for row in rows]) for key in ("confidence", "guided"))
    varies = len(rows) > 1 and np.ptp(confidence) > 0 and np.ptp(guided) > 0
    return [f"{spearmanr(confidence, guided).statistic:.2f}" if varies else "–", f"{np.abs(confidence - guided).mean():.3f}"]


def seconds_a_scan(rows: Sequence[Row]) -> float:
    """Return the mean seconds of a scan, with its share of what is done once for all scans of an outlined case."""
    scans = {(row["support"], row["query"]): row for row in rows}
    once = {row["support"]: row["preparation_s"] for row in scans.values()}
    return (sum(row["seconds"] for row in scans.values()) + sum(once.values())) / len(scans)


def _count(rows: Sequence[Row], *keys: str) -> str:
    return str(len({tuple(row[key] for key in keys) for row in rows}))


def _shown(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")
