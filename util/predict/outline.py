"""The one loop over scans of one's own: `segment`, `predict`, the labelling page and Python all ask it, by a `Request`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from qnet.dataloaders.nifti import read_array
from qnet.dataloaders.outlines.writing import files_in, formats_of, write_formats
from qnet.dataloaders.reading import read_image
from qnet.util.base.checksums import sha256
from qnet.util.base.device import resolve_device
from qnet.util.base.distributed import is_main, join, main_does, main_first, meet, share
from qnet.util.base.errors import InputError, listed
from qnet.util.base.locks import unlock
from qnet.util.predict import bids
from qnet.util.predict.cases import write_cases
from qnet.util.predict.correction import Correction, correction_of
from qnet.util.predict.events import (
    Begun,
    Event,
    Failed,
    Finished,
    Outcome,
    Outlined,
    Reading,
    Ready,
    StoneOutlined,
    Warned,
)
from qnet.util.predict.follow_up import CHANGES, write_changes
from qnet.util.predict.plan import REPORT, Plan, plan_of
from qnet.util.predict.predictor import Predictor
from qnet.util.predict.provenance import provenance
from qnet.util.predict.report import report_queries
from qnet.util.predict.request import Query, Request
from qnet.util.predict.series import Series, outlines_of


def outline(request: Request) -> Iterator[Event]:
    """Outline every query that is not done, write table and report, and yield what happens. The last event is `Finished`.

    A query that fails costs only itself. Label map and rows of a query are on disk when its event comes, and the same request
    makes only what is missing. Several processes (torchrun) share out the queries, and what is computed once for all of them.
    Every one must ask for the same and take all events; the main one makes the plan, and has the outcome of all.

    Raises:
        InputError: the model cannot be made, a support cannot be read, there is no query, or a file may not be written. Checked
            before any work.
        SystemExit: in other processes, if the main one raised an error.
    """
    device = resolve_device(request.method.device)
    meet(device)
    yield Reading(len(request.supports))
    predictor = main_first(lambda: Predictor.of(request))
    yield from (Warned(line) for support in predictor.supports for line in support.outlines.told)
    yield from (Warned(f"{support.gaps}; {request.words.fill} fills them") for support in predictor.supports if support.gaps)
    plan = main_does(lambda: plan_of(request, predictor.names.values()))
    yield from map(Warned, _without_formats(plan, request))
    own = share(plan.waiting)
    if plan.waiting:
        predictor.add_stones([query.channels for query in plan.queries], request.stones)
    yield Ready(len(predictor.stones), len(own), len(plan.queries) - len(plan.waiting), plan.n_changed, len(plan.queries))
    if plan.waiting:
        yield from map(StoneOutlined, predictor.preparing())
    rows: dict[str, list[dict]] = {}
    failures: dict[str, str] = {}
    for query in own:
        yield Begun(query)
        event = _outline_one(query, predictor, plan, request, rows)
        if isinstance(event, Outlined):
            rows[query.name] = event.rows
        else:
            failures[query.name] = event.reason
        yield event
        if isinstance(event, Outlined) and (told := _write_missing(query, predictor, request)):
            failures[query.name] = told.reason
            yield told
    for query in share(plan.unwritten):
        if told := _write_missing(query, predictor, request):
            failures[query.name] = told.reason
            yield told
    yield Finished(_finished(predictor, plan, rows, failures, request))


def _without_formats(plan: Plan, request: Request) -> list[str]:
    """Return a line about the scans that cannot have all formats which are asked for."""
    scans = [query.scan.name for query in plan.queries if query.name in plan.lacking]
    kinds = " and ".join(dict.fromkeys(one for of_query in plan.lacking.values() for one in of_query))
    return [f"{request.words.format}: {kinds} refers to the files of a DICOM series, and so is not written for "
            f"{listed(scans)}"] if scans else []


def _outline_one(query: Query, predictor: Predictor, plan: Plan, request: Request,
                 earlier: Mapping[str, list[dict]]) -> Outlined | Failed:
    """Outline a query, and write its label map, its other maps and its rows of cases.csv. Other formats are for `_write_missing`.

    Args:
        earlier: rows of this process's earlier queries, by name.
    """
    try:
        made_from = None if plan.table is None else plan.made_from(query)
        found = predictor.segment(query.channels)
        for path in files_in(formats_of(request.formats, query.scan), query.target, predictor.names.values()):
            path.unlink(missing_ok=True)        # of an earlier label map
        found.write(query.target, registered=plan.table is not None, save_probs=request.save_probs)
        rows = found.numbers()
        if plan.table is not None:
            rows = [{**row, "query": query.name, "made_from": made_from, "sha256": sha256(query.target)} for row in rows]
            write_cases(plan.table, plan.rows, {**earlier, query.name: rows})      # what is not on disk is not done
    except (InputError, OSError, RuntimeError, MemoryError) as error:   # torch and ITK raise RuntimeError
        return Failed(query, " ".join(str(error).split()))
    return Outlined(query, rows)


def _write_missing(query: Query, predictor: Predictor, request: Request) -> Failed | None:
    """Write the files in other formats that a query which is done lacks. Return why they could not be written."""
    lacking = [one for one in formats_of(request.formats, query.scan)
               if not all(path.exists() for path in files_in([one], query.target, predictor.names.values()))]
    if not lacking:
        return None
    try:
        write_formats(lacking, read_array(query.target), read_image(query.scan), query.scan, predictor.names, predictor.colours,
                      query.target)
    except (InputError, OSError, RuntimeError, MemoryError) as error:
        return Failed(query, " ".join(str(error).split()))
    return None


def _finished(predictor: Predictor, plan: Plan, rows: Mapping[str, list[dict]], failures: Mapping[str, str],
              request: Request) -> Outcome:
    """Collect what all processes made. The main one, which waits for the others, writes the problems and the report."""
    failed, made = dict(join(list(failures.items()))), dict(join(list(rows.items())))
    if not is_main():
        return Outcome(plan.queries, {**plan.rows, **rows}, {}, plan.root)
    outcome = Outcome(plan.queries, {**plan.rows, **made}, failed, plan.root, plan.left_out, plan.lacking)
    if plan.table is not None:
        facts, plots = ({}, []) if request.series is None else _join_phases(request.series, predictor, outcome)
        if request.channels:
            facts = {**facts, "channels": ", ".join(request.channels)}
        if request.follow_ups:
            changes = plan.table.with_name(CHANGES)
            facts = {**facts, **write_changes(request.follow_ups, outcome, predictor.supports, predictor.names, changes)}
        if plan.waiting or outcome.problems:
            write_cases(plan.table, plan.rows, {}, outcome.problem_rows)
        unlock(plan.table.parent)
        if request.suffix is not None and plan.root is not None:
            bids.write(_done(outcome), plan.root, plan.table.parent, request.suffix, predictor.names, predictor.colours)
        report_queries(plan.queries, outcome.rows, predictor.names, [f"query {line}" for line in outcome.problems],
                       plan.table.with_name(REPORT), {**provenance(request, predictor, outcome.rows), **facts}, predictor.colours,
                       plots, _correction(request, plan.table.parent))
    if not outcome.failures:
        predictor.segmenter.finish()
    return outcome


def _correction(request: Request, output: Path) -> Correction | None:
    """Return how the queries are corrected; None if they are not those of a folder that the labelling page takes."""
    if isinstance(request.queries, Path) and request.queries.is_dir() and request.suffix is None:
        return correction_of(request.queries, output)
    return None


def _done(outcome: Outcome) -> list[Query]:
    """Return the queries that are outlined."""
    return [query for query in outcome.queries
            if query.name in outcome.rows and query.name not in outcome.failures and query.target.is_file()]


def _join_phases(series: Series, predictor: Predictor, outcome: Outcome) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Write what all phases of a series make together, and return facts and plots for the report."""
    found = {query.name: read_array(query.target) for query in _done(outcome)}
    return series.write({**found, **outlines_of(predictor.supports)}, predictor.names, predictor.colours)
