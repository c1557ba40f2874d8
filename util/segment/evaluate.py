"""Evaluates queries: `evaluate_query` does one task, `evaluate` all tasks that are not finished yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import tqdm

from util.base.progress import progress
from util.options.sections import EvaluationOptions, WholeVolumeOptions
from util.segment.predictions import QueryResult
from util.segment.segmenters import Segmenter
from util.segment.task import Task
from util.segment.unfinished import Unfinished


def evaluate_query(segmenter: Segmenter, task: Task, options: EvaluationOptions, whole: WholeVolumeOptions,
                   bar: tqdm.tqdm | None = None) -> QueryResult:
    """Segment one query from its supports. The result depends only on the arguments.

    Args:
        segmenter: holds the model.
        whole: how whole volumes are segmented.
        bar: advances by one for every unit of work.
    """
    by_protocol = segmenter.by_protocol(task, options, whole, bar)
    of_whole = segmenter.over_whole_volume(task, whole, bar) if options.whole_volume else []
    warped = segmenter.warped_supports(task, whole)
    segmenter.release(task.query)
    return QueryResult(task.query, by_protocol, of_whole, warped)


def evaluate(segmenter: Segmenter, tasks: Sequence[Task], options: EvaluationOptions, whole: WholeVolumeOptions,
             unfinished: Unfinished) -> Iterator[QueryResult]:
    """Yield the result of each task, in order. Results in `unfinished` are used again; new results are added to it.

    A result is added when the caller asks for the next one, as the caller has then written it.

    Raises:
        OSError: a result cannot be written.
    """
    known = {task.query.name: result for task in tasks if (result := unfinished.read(task)) is not None}
    left = [task for task in tasks if task.query.name not in known]
    with progress(total=segmenter.n_units(left, options), desc="segmenting", unit=segmenter.unit) as bar:
        for task in tasks:
            if task.query.name in known:
                yield known.pop(task.query.name)
                continue
            result = evaluate_query(segmenter, task, options, whole, bar)
            yield result
            unfinished.write(task, result)
