"""What an evaluation run writes: scores, summary, predictions, pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.datasets import case_order
from dataloaders.volumes import write_like
from util.evaluation import Prediction
from util.figures import overview

STATISTICS = {"mean": np.mean, "std": np.std}
SCORE_COLUMNS = ("label_name", "label", "support_case", "query_case", "dice", "iou")


def file_name(label_name: str) -> str:
    return label_name.replace(" ", "_")


def save_prediction(prediction: Prediction, label_name: str, folder: Path) -> None:
    """Write the mask as `<case>_<label name>_supp<support case>.nii.gz`, on the query's grid, with its geometry."""
    query = prediction.query.case
    path = folder / f"{query.name}_{file_name(label_name)}_supp{prediction.support.case.name}.nii.gz"
    write_like(query.image, prediction.mask.astype(np.uint8), path)


def score_rows(predictions: Sequence[Prediction], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return one row (SCORE_COLUMNS) per class and query, by class, support and query."""
    def order(p: Prediction) -> tuple:
        return p.label, case_order(p.support.case.name), case_order(p.query.case.name)

    return [{"label_name": names[p.label], "label": p.label, "support_case": p.support.case.name,
             "query_case": p.query.case.name, "dice": p.dice, "iou": p.iou} for p in sorted(predictions, key=order)]


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation (population) of Dice and IoU, per class and per support and class.

    The mean over classes is the mean of the classes' means.
    """
    def of(selected: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        classes = list(dict.fromkeys(row["label_name"] for row in selected))
        table = {name: {"n": len(same), **{f"{metric}_{statistic}": float(function([row[metric] for row in same]))
                                           for metric in ("dice", "iou") for statistic, function in STATISTICS.items()}}
                 for name in classes if (same := [row for row in selected if row["label_name"] == name])}
        means = {f"{metric}_mean": float(np.mean([entry[f"{metric}_mean"] for entry in table.values()]))
                 for metric in ("dice", "iou")}
        return {"classes": table, "mean": means}

    supports = list(dict.fromkeys(row["support_case"] for row in rows))
    return {**of(rows), "supports": {case: of([row for row in rows if row["support_case"] == case]) for case in supports}}


def write_scores(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], folder: Path) -> None:
    """Write scores.csv and results.json."""
    partial = folder / ".partial-scores.csv"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, SCORE_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(folder / "scores.csv")
    partial = folder / ".partial-results.json"
    partial.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    partial.replace(folder / "results.json")


def write_overviews(predictions: Sequence[Prediction], names: Mapping[int, str], folder: Path) -> None:
    """Write one picture per class, `overview_<label name>.png`."""
    for label in sorted({p.label for p in predictions}):
        name = names[label]
        overview([p for p in predictions if p.label == label], name, folder / f"overview_{file_name(name)}.png")


def table_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the printed table: class, volumes, Dice and IoU as mean ± standard deviation in percent."""
    rows = [[name, str(entry["n"]), *(f"{100 * entry[f'{m}_mean']:.2f} ± {100 * entry[f'{m}_std']:.2f}" for m in ("dice", "iou"))]
            for name, entry in summary["classes"].items()]
    return [*rows, ["mean of classes", "", *(f"{100 * summary['mean'][f'{m}_mean']:.2f}" for m in ("dice", "iou"))]]
