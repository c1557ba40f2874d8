"""Segments all scans of a folder: `python test.py predict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qnet.dataloaders.finding import LeftOut, find_scans, name_problem, same_names
from qnet.dataloaders.folds import stepping_stones
from qnet.dataloaders.reading import content_sha256, is_nifti, is_slice
from qnet.util.base.checksums import digest, sha256
from qnet.util.base.distributed import is_main, join, main_does, main_first, share
from qnet.util.base.errors import InputError, in_utf8
from qnet.util.base.files import remove_partial_files
from qnet.util.base.fingerprint import OUTLINES, code_sha256
from qnet.util.base.guard import claim, expect_apart, is_same
from qnet.util.base.locks import unlock
from qnet.util.base.progress import progress
from qnet.util.options.record import Record
from qnet.util.options.sections import PredictOptions
from qnet.util.options.table import Role, with_role
from qnet.util.predict.cases import TABLE, read_cases, write_cases
from qnet.util.predict.maps import maps_of, registered_path
from qnet.util.predict.predictor import Predictor
from qnet.util.predict.report import report_queries
from qnet.util.predict.scans import pair_paths
from qnet.util.results.scan_report import empty_classes, is_empty


@dataclass(frozen=True)
class Outcome:
    """What `predict_all` made, and what was there already.

    Attributes:
        targets: the path of each query's label map, by the query's path.
        names: of the queries, by path.
        rows: the rows of cases.csv, by the query's name.
        failures: one line for each query that failed, by its path.
        root: what the option `query` names.
        left_out: the files and folders beside the queries that are none, with the reasons.
    """

    targets: Mapping[Path, Path]
    names: Mapping[Path, str]
    rows: Mapping[str, Sequence[Mapping]]
    failures: Mapping[Path, str]
    root: Path
    left_out: Sequence[LeftOut] = ()

    @property
    def problems(self) -> list[str]:
        """A line for each query that failed, and for each file or folder that might hold a scan and was not read."""
        return [*(f"{self.shown(query)}: {reason}" for query, reason in self.failures.items()),
                *(f"{self.shown(one.path)}: {one.reason}" for one in self.left_out if one.may_be_scan)]

    @property
    def notes(self) -> list[str]:
        """A line for each file or folder that is no scan."""
        return [f"{self.shown(one.path)}: {one.reason}" for one in self.left_out if not one.may_be_scan]

    def shown(self, path: Path) -> str:
        """Return a path below the folder of the queries as messages name it."""
        return in_utf8(path.name if path == self.root else str(path.relative_to(self.root)))

    @property
    def empty(self) -> dict[str, list[str]]:
        """The names of the classes of which nothing, or nearly nothing, was found, by the name of the query; see `is_empty`."""
        of_queries = {name: [str(row["label_name"]) for row in self.rows.get(name, ()) if is_empty(row)]
                      for query, name in self.names.items() if query not in self.failures}
        return {name: classes for name, classes in of_queries.items() if classes}

    def summary(self) -> str:
        """Return how many queries are outlined. Those with an empty class are counted apart, and named.

        So is what might hold a scan and could not be read.
        """
        n_whole = len(self.targets) - len(self.failures) - len(self.empty)
        n_unread = sum(one.may_be_scan for one in self.left_out)
        return "; ".join([f"{n_whole} of {len(self.targets)} scans are outlined",
                          *([empty_classes(self.empty)] if self.empty else []),
                          *([f"{n_unread} files or folders could not be read"] if n_unread else [])])


@dataclass(frozen=True)
class Words:
    """What the program that runs calls its options, in messages."""

    query: str = "query"
    output: str = "output"
    overwrite: str = "overwrite=true"
    fill: str = "fill=true"


def predict_all(predictor: Predictor, options: PredictOptions, settings: str, words: Words = Words()) -> Outcome:  # noqa: B008
    """Add the supports to a predictor, segment every query that is not done, and write the report of all.

    Several processes share out the queries, and what is computed once for all of them. Every process must call this. The main one
    makes the plan, and returns the outcome of all; in the others it lacks what was made now.

    Args:
        predictor: of a task file, or without supports.
        settings: checksum of the code and the options that predictions depend on.
        words: what the program that runs calls its options.
    Raises:
        InputError: a support cannot be read, there is no query, or a file may not be written. Checked before any work.
        SystemExit: in other processes, if the main one raised an error.
    """
    def planned() -> Plan:
        plan = plan_queries(options, predictor.names, digest([settings, *map(content_sha256, _given(options))]), words)
        for folder in (plan.table.parent, registered_path(plan.table).parent):
            remove_partial_files(folder)
        return plan

    main_first(lambda: _add_supports(predictor, options))
    for support in predictor.supports if is_main() else ():
        if support.gaps:
            print(f"warning: {support.gaps}; {words.fill} fills them")
    plan = main_does(planned)
    if plan.waiting:
        _add_stones(predictor, plan)
        predictor.prepare()
    outcome = _predict_waiting(predictor, plan, options)
    if not is_main():
        return outcome
    if plan.waiting or outcome.problems:
        write_cases(plan.table, plan.rows, {}, _problem_rows(plan, outcome))
    unlock(plan.table.parent)
    problems = [f"query {line}" for line in outcome.problems]
    report_queries(plan.targets, plan.names, read_cases(plan.table), predictor.names, problems, plan.report,
                   {"computed in": predictor.precision}, predictor.given_colours)
    if plan.n_kept:
        print(f"{plan.n_kept} of {plan.n_kept + len(plan.waiting)} queries were there already, made of the same")
    return outcome


def _add_supports(predictor: Predictor, options: PredictOptions) -> None:
    """Add the supports that the options name. A task file's are there already."""
    if options.task is None:
        for pair in pair_paths(options.support_image, options.support_label):
            predictor.add_support(*pair, fill=options.fill)
    elif given := [key for key in ("support_image", "support_label", "reload_model_path") if getattr(options, key) is not None]:
        raise InputError(f"{given[0]}: got {getattr(options, given[0])!r}, allowed with a task file, which has its own: null")


def settings_digest(record: Record, files: Sequence[Path] = ()) -> str:
    """Return a checksum of the code and of the options that predictions depend on.

    Args:
        files: of a network from elsewhere. Supports and a snapshot are left out here: `predict_all` sums them up.
    """
    return digest([record.without(with_role(Role.ELSEWHERE)), code_sha256(OUTLINES),
                   *(content_sha256(path) for path in files if path.is_file())])


@dataclass(frozen=True)
class Plan:
    """What `predict_all` will do.

    Attributes:
        targets: the path of each query's label map, by the query's path.
        names: of the queries, by path.
        left_out: the files and folders beside them that are none.
        waiting: each query to segment, with the path of its label map.
        n_kept: number of queries already done with the same inputs.
        table: path of cases.csv.
        report: path of report.html.
        rows: its rows so far, by query.
        settings: checksum of all that predictions depend on, without the query.
        root: what the option `query` names.
    """

    targets: Mapping[Path, Path]
    names: Mapping[Path, str]
    left_out: Sequence[LeftOut]
    waiting: Sequence[tuple[Path, Path]]
    n_kept: int
    table: Path
    report: Path
    rows: Mapping[str, list[dict]]
    settings: str
    root: Path


def plan_queries(options: PredictOptions, names: Mapping[int, str], settings: str, words: Words) -> Plan:
    """Find the queries and the files to write for them, and check these before any work.

    Args:
        names: of the labels.
        settings: checksum of all that predictions depend on, without the query.
        words: what the program that runs calls its options.
    Raises:
        InputError: there is no query, `output` does not fit, or a file may not be written (`qnet.util.base.guard.claim`).
    """
    if not options.query or not options.output:
        raise InputError(f"{words.query}, {words.output}: got null, allowed: the path of a scan or a folder of scans, and one to "
                         "write to")
    output = Path(options.output)
    queries, left_out = find_queries(options, output, words)
    jobs = [(query, output_path(name, output, len(queries), words)) for query, name in queries.items()]
    if twice := same_names(queries):
        raise InputError(f"{words.query}: {', '.join(query.name for query in twice)} would all be written to "
                         f"{output_path(queries[twice[0]], output, len(queries))}; allowed: names that differ before the ending")
    table, report = (jobs[0][1].parent / name for name in (TABLE, "report.html"))
    rows = read_cases(table)
    waiting = [(query, target) for query, target in jobs
               if options.resume == "never" or not _is_done(query, queries[query], target, rows, settings)]
    files = {target: maps_of(target, names.values(), options.save_probs) for _, target in jobs}
    _expect_apart_from_maps(jobs, files, words)
    inputs = [*_given(options), *queries, *(query.parent for query in queries if query.is_file() and is_slice(query))]
    expect_apart([table, report, *(file for same_query in files.values() for file in same_query)], inputs)
    changes = waiting or any(one.may_be_scan for one in left_out)
    claim([*([table] if changes else []), *(file for _, target in waiting for file in files[target]), report], inputs,
          overwrite=options.overwrite, remedy=words.overwrite)
    return Plan(dict(jobs), queries, left_out, waiting, len(jobs) - len(waiting), table, report, rows, settings,
                Path(options.query))


def find_queries(options: PredictOptions, output: Path, words: Words) -> tuple[dict[Path, str], list[LeftOut]]:
    """Return the names of the scans to segment, by path, and what lies beside them and is none.

    The outlined scans of a folder, and the files with their outlines, are neither.

    Raises:
        InputError: nothing is left.
    """
    query, given = Path(str(options.query)), _given(options)
    found = find_scans(query, output)
    if list(found.names) == [query]:
        return found.names, found.left_out
    queries = {scan: name for scan, name in found.names.items() if not any(is_same(scan, path) for path in given)}
    left_out = [one for one in found.left_out if not any(is_same(one.path, path) for path in given)]
    left_out += [LeftOut(scan, problem, True) for scan, name in queries.items() if (problem := name_problem(name))]
    queries = {scan: name for scan, name in queries.items() if not name_problem(name)}
    why = next((f"; {one.path.name}: {one.reason}" for one in left_out if one.path != query), "")
    if not queries and found.names:
        raise InputError(f"{words.query}: {query} holds only scans that are outlined{why}; allowed: a folder with others")
    if not queries:
        raise InputError(f"{words.query}: no scan in {query}{why}; allowed: NIfTI, NRRD and MetaImage files, and DICOM slices")
    return queries, left_out


def _expect_apart_from_maps(jobs: Sequence[tuple[Path, Path]], files: Mapping[Path, Sequence[Path]],
                            words: Words) -> None:
    """Raise InputError if a probability map of one query has the path of another query's label map."""
    query_of = {target: query for query, target in jobs}
    for target, same_query in files.items():
        if clash := [file for file in same_query if file != target and file in files]:
            raise InputError(f"{words.query}: {query_of[target].name} and {query_of[clash[0]].name} would both be written to "
                             f"{clash[0]}; allowed: other names, or save_probs=false")


def _is_done(query: Path, name: str, target: Path, rows: Mapping[str, list[dict]], settings: str) -> bool:
    """Return whether the label map exists as cases.csv lists it, made from the same inputs."""
    same_query = rows.get(name, [])
    if not same_query or not target.is_file():
        return False
    try:
        expected = {"made_from": _made_from(settings, query), "sha256": sha256(target)}
    except OSError:      # reported when the query is read
        return False
    return all(expected.items() <= row.items() for row in same_query)


def _made_from(settings: str, query: Path) -> str:
    return digest([settings, content_sha256(query)])


def _add_stones(predictor: Predictor, plan: Plan) -> None:
    """Give the model its stepping stones: queries, spread evenly over the folder. One that cannot be read is left out.

    They are not among what `made_from` sums up, so a scan that is added to the folder does not make the others anew.
    """
    queries = list(plan.targets)
    for position in stepping_stones(len(queries), (), predictor.n_stones):
        with suppress(InputError):      # it is named when it is segmented
            predictor.add_stone(queries[position])


def _predict_waiting(predictor: Predictor, plan: Plan, options: PredictOptions) -> Outcome:
    """Segment this process's share of the queries. The main process waits for the others, and returns the outcome of all."""
    rows: dict[str, list[dict]] = {}
    failures: dict[Path, str] = {}
    with progress(share(plan.waiting), desc="queries", unit="scan") as bar:
        for query, target in bar:
            name = plan.names[query]
            bar.set_postfix_str(name)
            try:
                made_from = _made_from(plan.settings, query)
                found = predictor.segment(query)
                found.write(target, save_probs=options.save_probs)
                of_query = {name: [{**row, "query": name, "made_from": made_from, "sha256": sha256(target)}
                                   for row in found.numbers()]}
                write_cases(plan.table, plan.rows, rows | of_query)
                rows |= of_query        # only now: what is not on disk is not done
            except (InputError, OSError, RuntimeError, MemoryError) as error:   # torch and ITK raise RuntimeError
                failures[query] = " ".join(str(error).split()).removeprefix(f"{query}: ").replace(f"{query}/", "")
    of_all = dict(join(list(failures.items())))
    return Outcome(plan.targets, plan.names, {**plan.rows, **dict(join(list(rows.items())))},
                   {query: of_all[query] for query, _ in plan.waiting if query in of_all}, plan.root, plan.left_out)


def _problem_rows(plan: Plan, outcome: Outcome) -> list[dict]:
    """Return a row of cases.csv for each query that failed, and for each file that might hold a scan and was not read."""
    return [*({"query": plan.names[query], "problem": reason} for query, reason in outcome.failures.items()),
            *({"query": outcome.shown(one.path), "problem": one.reason} for one in outcome.left_out if one.may_be_scan)]


def _given(options: PredictOptions) -> list[Path]:
    """Return the files and folders that predictions depend on, without the query."""
    given = (options.task, options.reload_model_path, options.support_image, options.support_label)
    return [Path(path) for paths in given if paths is not None for path in (paths if isinstance(paths, tuple) else [paths])]


def output_path(name: str, output: Path, n_queries: int, words: Words = Words()) -> Path:  # noqa: B008
    """Return the path of the label map of a query of a name: `output` if it is a NIfTI name, else a file in the folder `output`.

    Raises:
        InputError: `output` is a NIfTI name, and there are several queries.
    """
    if is_nifti(output):
        if n_queries > 1:
            raise InputError(f"{words.output}: got the file {output} for {n_queries} queries, allowed: a folder")
        return output
    return output / f"{name}.nii.gz"
