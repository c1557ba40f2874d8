"""Evaluates queries: `evaluate_query` does one task, `evaluate` all tasks that are not finished yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import tqdm

from dataloaders.volumes import Volume
from util.base.progress import progress
from util.options.sections import EvaluationOptions, WholeVolumeOptions
from util.segment.predictions import QueryResult
from util.segment.protocol import query_slices, segment_by_protocol, slices_of_support
from util.segment.slice_encoder import SliceEncoder
from util.segment.task import Task
from util.segment.unfinished import Unfinished
from util.segment.whole_volume import segment_whole


def evaluate_query(encoder: SliceEncoder, task: Task, options: EvaluationOptions, whole: WholeVolumeOptions,
                   bar: tqdm.tqdm | None = None) -> QueryResult:
    """Segment one query from its supports. What the encoder keeps only saves work and does not change the result.

    Args:
        encoder: holds the model.
        whole: how whole volumes are segmented, if `options.whole_volume`.
        bar: advances by one for every slice that is encoded.
    """
    by_protocol = segment_by_protocol(encoder, task, options.n_part, options.every_slice, bar)
    of_whole = segment_whole(encoder, task, whole, bar) if options.whole_volume else []
    encoder.release(task.query)
    return QueryResult(by_protocol, of_whole)


def evaluate(encoder: SliceEncoder, tasks: Sequence[Task], options: EvaluationOptions, whole: WholeVolumeOptions,
             unfinished: Unfinished) -> Iterator[QueryResult]:
    """Yield the result of each task, in order. Results in `unfinished` are used again; new results are added to it.

    A result is added when the caller asks for the next one, as the caller has then written it.

    Raises:
        OSError: a result cannot be written.
    """
    known = {task.query.name: result for task in tasks if (result := unfinished.read(task)) is not None}
    left = [task for task in tasks if task.query.name not in known]
    with progress(total=encoder.n_new(needed_slices(left, options)), desc="segmenting", unit="slice") as bar:
        for task in tasks:
            if task.query.name in known:
                yield known.pop(task.query.name)
                continue
            result = evaluate_query(encoder, task, options, whole, bar)
            yield result
            unfinished.write(task, result)


def needed_slices(tasks: Sequence[Task], options: EvaluationOptions) -> list[tuple[Volume, set[int]]]:
    """Return each volume with the slices that the protocol needs."""
    volumes: dict[str, Volume] = {}
    slices: dict[str, set[int]] = {}
    for task in tasks:
        wanted = {task.query.name: set(query_slices(task, options.every_slice))}
        for support in task.supports:
            of_label = slices_of_support(support, task.labels, options.n_part)
            wanted[support.name] = {z for of_one in of_label.values() for z in of_one}
        volumes |= {volume.name: volume for volume in (task.query, *task.supports)}
        for name, chosen in wanted.items():
            slices.setdefault(name, set()).update(chosen)
    return [(volumes[name], chosen) for name, chosen in slices.items()]
