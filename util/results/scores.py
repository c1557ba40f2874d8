"""Scores of predictions, and the files of an evaluation: tables, summary, predictions, overviews."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from qnet.dataloaders.datasets import Case, case_order
from qnet.dataloaders.nifti import read_array, write_like
from qnet.dataloaders.volumes import Volume
from qnet.util.base.classes import file_name
from qnet.util.base.files import write_text
from qnet.util.base.tables import write_rows
from qnet.util.engine.metrics import METRICS, all_metrics, dice
from qnet.util.engine.predictions import WARPED, Prediction, WholePrediction
from qnet.util.engine.task import label_map_of
from qnet.util.engine.uncertainty import mean_margin

if TYPE_CHECKING:
    from qnet.util.results.figures import Panel

STATISTICS: Mapping[str, Callable[..., Any]] = {"mean": np.mean, "std": np.std}
SCORE_COLUMNS = ("label_name", "label", "support_case", "query_case", *METRICS)
WHOLE_COLUMNS = (*SCORE_COLUMNS, "agreement", "margin", "confidence")
WHOLE = "whole_volume"   # in the names of files about whole volumes


def prediction_name(query_case: str, label_name: str, support_case: str) -> str:
    """Return the file name of a prediction, `<query case>_<label name>_supp<support case>.nii.gz`."""
    return f"{query_case}_{file_name(label_name)}_supp{support_case}.nii.gz"


def save_prediction(prediction: Prediction | WholePrediction, label_name: str, folder: Path) -> Path:
    """Write the mask as NIfTI on the grid of the query, a case of a data set, and return its path.

    Raises:
        OSError: the file cannot be written.
    """
    return _write_like_query(prediction, prediction.mask.astype(np.uint8), label_name, folder)


def save_whole(prediction: WholePrediction, label_name: str, folder: Path) -> list[Path]:
    """Write the mask into `predictions_whole_volume` and the probability, times 255, into `probabilities_whole_volume`.

    Returns:
        The paths.
    Raises:
        OSError: a file cannot be written.
    """
    return [save_prediction(prediction, label_name, folder / f"predictions_{WHOLE}"),
            _write_like_query(prediction, (prediction.probs * 255).round().astype(np.uint8), label_name,
                              folder / f"probabilities_{WHOLE}")]


def save_warped(image: np.ndarray, query: Volume, support: str, folder: Path) -> Path:
    """Write the (D, H, W) uint8 image of a support, registered to a query, into `warped_supports`, and return its path.

    Raises:
        OSError: the file cannot be written.
    """
    path = folder / WARPED / warped_name(query.name, support)
    write_like(_case_of(query).image, image, path)
    return path


def warped_name(query_case: str, support_case: str) -> str:
    """Return the file name of a registered support, `<query case>_supp<support case>.nii.gz`."""
    return f"{query_case}_supp{support_case}.nii.gz"


def _write_like_query(prediction: Prediction | WholePrediction, values: np.ndarray, label_name: str, folder: Path) -> Path:
    case = _case_of(prediction.query)
    path = folder / prediction_name(case.name, label_name, prediction.support.name)
    write_like(case.image, values, path)
    return path


def _case_of(query: Volume) -> Case:
    assert query.case is not None     # `TaskReader` reads cases of a data set
    return query.case


@dataclass(frozen=True)
class QueryScores:
    """The scores of a query. An evaluation keeps nothing else of a query in memory, and they can be stored as JSON.

    Attributes:
        rows: of scores.csv.
        whole_rows: of scores_whole_volume.csv.
        slices: by prediction of the protocol "label", "support_case", "query_case", and for each segmented slice in "slices":
            Dice, support slice, query slice.
        files: what was written of the query, relative to the run folder.
    """

    rows: list[dict[str, Any]]
    whole_rows: list[dict[str, Any]]
    slices: list[dict[str, Any]]
    files: list[str]


def slice_scores(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Return the entries of `QueryScores.slices`."""
    def of(p: Prediction) -> list[tuple[float, int, int]]:
        truth = label_map_of(p.query) == p.label
        return [(dice(p.mask[z], truth[z]), part.support_slice, z) for part in p.parts for z in part.query_slices]

    return [{"label": p.label, "support_case": p.support.name, "query_case": p.query.name, "slices": of(p)} for p in predictions]


def score_rows(predictions: Sequence[Prediction | WholePrediction], names: Mapping[int, str],
               tolerance_mm: float) -> list[dict[str, Any]]:
    """Return one row (SCORE_COLUMNS) per prediction.

    Args:
        names: by label.
        tolerance_mm: of the surface Dice.
    """
    return [{"label_name": names[p.label], "label": p.label, "support_case": p.support.name,
             "query_case": p.query.name,
             **all_metrics(p.mask, label_map_of(p.query) == p.label, p.query.spacing_mm, tolerance_mm)}
            for p in predictions]


def row_order(row: Mapping[str, Any]) -> tuple:
    """Return the sort key of a row in the tables: class, support, query."""
    return row["label"], case_order(row["support_case"]), case_order(row["query_case"])


def whole_score_rows(predictions: Sequence[WholePrediction], names: Mapping[int, str],
                     tolerance_mm: float) -> list[dict[str, Any]]:
    """Return one row (WHOLE_COLUMNS) per prediction. The arguments are those of `score_rows`.

    "agreement" is the mean Dice with the predictions from the other supports, or None with one support. "margin" is
    `mean_margin`. "confidence" is the model's, or None.
    """
    rows = score_rows(predictions, names, tolerance_mm)
    found = {(p.label, p.support.name, p.query.name): p for p in predictions}
    for row in rows:
        own = found[row["label"], row["support_case"], row["query_case"]]
        others = [dice(own.mask, p.mask) for p in predictions if p is not own and p.label == own.label and p.query is own.query]
        row |= {"agreement": float(np.mean(others)) if others else None, "margin": mean_margin(own.probs),
                "confidence": own.confidence}
    return rows


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean and population standard deviation of METRICS, per class, and per support and class.

    The mean over classes is the mean of the classes' means. NaN is left out. A mean without any value is None.

    Args:
        rows: from `score_rows`, or read from scores.csv.
    Returns:
        "classes": by name "n" and `<metric>_mean`, `<metric>_std`; "mean": `<metric>_mean` over classes; "supports": both,
        by support.
    """
    def statistic(function: Callable, values: Sequence[float | None]) -> float | None:
        finite = [value for value in values if value is not None and np.isfinite(value)]
        return float(function(finite)) if finite else None

    def of(selected: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        classes = list(dict.fromkeys(row["label_name"] for row in selected))
        table = {name: {"n": len(same), **{f"{metric}_{which}": statistic(function, [row[metric] for row in same])
                                           for metric in METRICS for which, function in STATISTICS.items()}}
                 for name in classes if (same := [row for row in selected if row["label_name"] == name])}
        means = {f"{metric}_mean": statistic(np.mean, [entry[f"{metric}_mean"] for entry in table.values()])
                 for metric in METRICS}
        return {"classes": table, "mean": means}

    supports = list(dict.fromkeys(row["support_case"] for row in rows))
    return {**of(rows), "supports": {case: of([row for row in rows if row["support_case"] == case]) for case in supports}}


def write_scores(rows: Sequence[Mapping[str, Any]], whole_rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any],
                 folder: Path) -> None:
    """Write scores.csv, results.json, and scores_whole_volume.csv if there are `whole_rows`.

    Raises:
        OSError: a file cannot be written.
    """
    write_rows(rows, SCORE_COLUMNS, folder / "scores.csv")
    if whole_rows:
        write_rows(whole_rows, WHOLE_COLUMNS, folder / f"scores_{WHOLE}.csv")
    write_text(json.dumps(summary, indent=1), folder / "results.json")


class _Slice(NamedTuple):
    """A segmented slice, to be drawn."""

    dice: float
    support: str
    support_slice: int
    query: str
    z: int


def write_overviews(slices: Sequence[Mapping[str, Any]], names: Mapping[int, str], read: Callable[[str], Volume],
                    folder: Path) -> None:
    """Write one overview per class, `overview_<label name>.png`: its best, median and worst slice by Dice.

    Only what is drawn is read: volumes by `read`, masks from `predictions/`.

    Args:
        slices: entries of `QueryScores.slices`. Their order does not matter.
        names: of the labels.
        read: returns a support or a query by its name.
    Raises:
        InputError: a volume or a mask cannot be read.
        OSError: a file cannot be written.
    """
    from qnet.util.results.figures import overview  # predict draws none, and starts sooner without
    ordered = sorted(slices, key=lambda entry: (case_order(entry["support_case"]), case_order(entry["query_case"])))
    for label in sorted({entry["label"] for entry in slices}):
        found = [_Slice(score, entry["support_case"], support_slice, entry["query_case"], z) for entry in ordered
                 if entry["label"] == label for score, support_slice, z in entry["slices"]]
        found.sort(key=lambda one: -one.dice)
        chosen = {"best": found[0], "median": found[len(found) // 2], "worst": found[-1]}
        overview([_column(word, one, label, names[label], read, folder) for word, one in chosen.items()], names[label],
                 folder / f"overview_{file_name(names[label])}.png")


def _column(word: str, one: _Slice, label: int, name: str, read: Callable[[str], Volume], folder: Path) -> tuple[Panel, Panel]:
    """Return a support slice and the query slice that was segmented from it."""
    from qnet.util.results.figures import PREDICTED, TRUTH, Panel

    def slice_of(volume: Volume, z: int) -> tuple[np.ndarray, np.ndarray]:
        return volume.image[z].copy(), label_map_of(volume)[z] == label      # a copy, so that the volume is let go

    of_support, of_query = slice_of(read(one.support), one.support_slice), slice_of(read(one.query), one.z)
    mask = read_array(folder / "predictions" / prediction_name(one.query, name, one.support))[one.z] > 0
    return (Panel(f"support: case {one.support}, slice {one.support_slice}", of_support[0], {TRUTH: of_support[1]}),
            Panel(f"{word}: case {one.query}, slice {one.z}, Dice {one.dice:.2f}", of_query[0],
                  {TRUTH: of_query[1], PREDICTED: mask}))


def table_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the printed table, with the columns of TABLE_HEADER.

    Args:
        summary: from `summarise`. If it has one of whole volumes under WHOLE, there is a column WHOLE_HEADER.
    """
    def cells(entry: Mapping[str, Any]) -> list[str]:
        return [_number(entry, metric, scale) for metric, scale in TABLE_METRICS]

    whole = summary.get(WHOLE)
    rows = [[name, str(entry["n"]), *cells(entry), *([_number(whole["classes"].get(name, {}), "dice", 100)] if whole else [])]
            for name, entry in summary["classes"].items()]
    return [*rows, ["mean of classes", "", *cells(summary["mean"]), *([_number(whole["mean"], "dice", 100)] if whole else [])]]


TABLE_METRICS = (("dice", 100), ("iou", 100), ("surface_dice", 100), ("hd95_mm", 1), ("assd_mm", 1))
TABLE_HEADER = ("class", "volumes", "Dice", "IoU", "surface Dice", "HD95 mm", "ASSD mm")
WHOLE_HEADER = "Dice, whole volume"


def _number(entry: Mapping[str, Any], metric: str, scale: float) -> str:
    mean, std = entry.get(f"{metric}_mean"), entry.get(f"{metric}_std")
    return "-" if mean is None else f"{scale * mean:.2f}" + ("" if std is None else f" ± {scale * std:.2f}")
