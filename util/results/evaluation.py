"""Writes an evaluation into its run folder: predictions during the run; tables, summary and figures at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from util.base.distributed import is_main, join
from util.base.errors import InputError
from util.base.tables import format_table
from util.options.sections import DataOptions, EvaluationOptions
from util.results.scores import (
    TABLE_HEADER,
    WHOLE,
    WHOLE_HEADER,
    row_order,
    save_prediction,
    save_warped,
    save_whole,
    score_rows,
    summarise,
    table_rows,
    whole_score_rows,
    write_overviews,
    write_scores,
)
from util.segment.predictions import QueryResult


def save_query(result: QueryResult, names: Mapping[int, str], folder: Path) -> None:
    """Write the predictions of one query into the run folder. `names` maps labels to names.

    Raises:
        OSError: a file cannot be written.
    """
    for prediction in result.by_protocol:
        save_prediction(prediction, names[prediction.label], folder / "predictions")
    for whole in result.whole:
        save_whole(whole, names[whole.label], folder)
    for support, image in result.warped.items():
        save_warped(image, result.query, support, folder)


def write_evaluation(results: Sequence[QueryResult], data: DataOptions, options: EvaluationOptions, folder: Path) -> float | None:
    """Score the results, write scores.csv, results.json and figures, and print the table.

    Every process must call this with its own results. The main process joins and writes them.

    Returns:
        The mean Dice over classes, 0 to 1; None in other processes.
    Raises:
        InputError: no support and query both hold one of the classes.
        OSError: a file cannot be written.
    """
    names, tolerance_mm = data.spec.labels, options.surface_tolerance_mm
    predictions = [prediction for result in results for prediction in result.by_protocol]
    whole = [prediction for result in results for prediction in result.whole]
    rows = sorted(join(score_rows(predictions, names, tolerance_mm)), key=row_order)
    whole_rows = sorted(join(whole_score_rows(whole, names, tolerance_mm)), key=row_order)
    predictions = join(predictions)
    if not is_main():
        return None
    if not rows:
        raise InputError(f"test_label: fold {data.eval_fold} has no support and query that both hold a class of "
                         f"{list(options.test_label)}")
    summary = summarise(rows) | ({WHOLE: summarise(whole_rows)} if whole_rows else {})
    write_scores(rows, whole_rows, summary, folder)
    write_overviews(predictions, names, folder)
    print(f"\n{data.spec.name}, fold {data.eval_fold}, {options.protocol} protocol, "
          f"support {', '.join(summary['supports'])} (mean ± standard deviation over volumes; Dice, IoU, surface Dice in %)\n")
    print(format_table([*TABLE_HEADER, *([WHOLE_HEADER] if whole_rows else [])], table_rows(summary)))
    print(f"\nscores.csv, results.json, predictions/ and pictures: {folder}")
    return summary["mean"]["dice_mean"]
