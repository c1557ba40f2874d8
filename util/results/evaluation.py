"""Writes an evaluation into its run folder: predictions during the run; tables, summary and figures at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from qnet.util.base.distributed import is_main, join
from qnet.util.base.errors import InputError
from qnet.util.base.tables import format_table
from qnet.util.engine.predictions import QueryResult
from qnet.util.engine.task import TaskReader
from qnet.util.engine.unfinished import Unfinished
from qnet.util.options.sections import DataOptions, EvaluationOptions
from qnet.util.results.scores import (
    TABLE_HEADER,
    WHOLE,
    WHOLE_HEADER,
    QueryScores,
    row_order,
    save_prediction,
    save_warped,
    save_whole,
    score_rows,
    slice_scores,
    summarise,
    table_rows,
    whole_score_rows,
    write_overviews,
    write_scores,
)


def save_query(result: QueryResult, names: Mapping[int, str], tolerance_mm: float, folder: Path) -> QueryScores:
    """Write the predictions of one query into the run folder, and return its scores.

    Args:
        names: of the labels.
        tolerance_mm: of the surface Dice.
    Raises:
        OSError: a file cannot be written.
    """
    paths = [save_prediction(prediction, names[prediction.label], folder / "predictions") for prediction in result.by_protocol]
    for whole in result.whole:
        paths += save_whole(whole, names[whole.label], folder)
    paths += [save_warped(image, result.query, support, folder) for support, image in result.warped.items()]
    return QueryScores(score_rows(result.by_protocol, names, tolerance_mm), whole_score_rows(result.whole, names, tolerance_mm),
                       slice_scores(result.by_protocol), [str(path.relative_to(folder)) for path in paths])


def saved_queries(reader: TaskReader, unfinished: Unfinished, folder: Path) -> dict[str, QueryScores]:
    """Return the scores of the queries that an interrupted evaluation finished, by name. Their predictions are still there."""
    found = {query: unfinished.read(reader.key(query)) for query in reader.queries}
    scores = {query: QueryScores(**content) for query, content in found.items() if content is not None}
    return {query: of_query for query, of_query in scores.items() if all((folder / file).is_file() for file in of_query.files)}


def write_evaluation(scores: Sequence[QueryScores], reader: TaskReader, data: DataOptions, options: EvaluationOptions,
                     folder: Path) -> float | None:
    """Write scores.csv, results.json and figures, and print the table.

    Every process must call this with the scores of its own queries. The main process joins and writes them.

    Args:
        reader: reads the volumes that are drawn.
    Returns:
        The mean Dice over classes, 0 to 1; None in other processes.
    Raises:
        InputError: no support and query both hold one of the classes.
        OSError: a file cannot be written.
    """
    names, scores = data.spec.labels, join(scores)
    if not is_main():
        return None
    rows = sorted((row for of_query in scores for row in of_query.rows), key=row_order)
    whole_rows = sorted((row for of_query in scores for row in of_query.whole_rows), key=row_order)
    if not rows:
        raise InputError(f"test_label: fold {data.eval_fold} has no support and query that both hold a class of "
                         f"{list(options.test_label)}")
    summary = summarise(rows) | ({WHOLE: summarise(whole_rows)} if whole_rows else {})
    write_scores(rows, whole_rows, summary, folder)
    write_overviews([entry for of_query in scores for entry in of_query.slices], names, reader.volume, folder)
    print(f"\n{data.spec.name}, fold {data.eval_fold}, {options.protocol} protocol, "
          f"support {', '.join(summary['supports'])} (mean ± standard deviation over volumes; Dice, IoU, surface Dice in %)\n")
    print(format_table([*TABLE_HEADER, *([WHOLE_HEADER] if whole_rows else [])], table_rows(summary)))
    print(f"\nscores.csv, results.json, predictions/ and pictures: {folder}")
    return summary["mean"]["dice_mean"]
