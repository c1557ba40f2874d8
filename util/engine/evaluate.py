"""Evaluates queries: `evaluate_query` does one task, `evaluate` one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tqdm

from qnet.util.base.progress import progress
from qnet.util.engine.predictions import QueryResult
from qnet.util.engine.protocol import slices_of_support
from qnet.util.engine.segmenters import Segmenter
from qnet.util.engine.task import Task, TaskReader
from qnet.util.options.sections import EvaluationOptions


def evaluate_query(segmenter: Segmenter, task: Task, options: EvaluationOptions,
                   bar: tqdm.tqdm | None = None) -> QueryResult:
    """Segment one query from its supports. The result depends only on the arguments.

    Args:
        segmenter: holds the model.
        bar: advances by one for every unit of work.
    """
    by_protocol = segmenter.by_protocol(task, options, bar)
    of_whole = segmenter.over_whole_volume(task, bar) if options.whole_volume else []
    warped = segmenter.warped_supports(task)
    segmenter.release(task.query)
    return QueryResult(task.query, by_protocol, of_whole, warped)


def evaluate(segmenter: Segmenter, reader: TaskReader, queries: Sequence[str], options: EvaluationOptions,
             finish: Callable[[QueryResult], None]) -> None:
    """Prepare the supports, then segment some queries in turn. No query is kept.

    Args:
        queries: their names.
        finish: is called with each result. It must not keep it.
    Raises:
        InputError: a query cannot be read.
    """
    segmenter.prepare([(support, slices_of_support(support, reader.labels, options.n_part)) for support in reader.supports],
                      reader.stones)
    n_units: list[int] = []

    def advance(query: str, n_after: int, bar: tqdm.tqdm) -> None:
        task, before = reader.read(query), bar.n
        n_units.append(segmenter.n_units(task, options))
        bar.total = before + n_units[-1] + round(n_after * sum(n_units) / len(n_units))     # the others: as those so far
        finish(evaluate_query(segmenter, task, options, bar))
        bar.update(before + n_units[-1] - bar.n)      # for what was there already

    with progress(desc="segmenting", unit=segmenter.unit) as bar:
        for k, query in enumerate(queries, start=1):
            advance(query, len(queries) - k, bar)
