"""What is to be outlined, what is there already, and what may be written: planned before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from qnet.dataloaders.finding import Found, LeftOut, name_problem, same_names
from qnet.dataloaders.outlines.reading import files_with
from qnet.dataloaders.outlines.writing import expect_formats, files_in, formats_of
from qnet.dataloaders.reading import content_sha256, is_nifti, is_slice
from qnet.util.base.checksums import digest, sha256
from qnet.util.base.errors import InputError
from qnet.util.base.files import remove_partial_files
from qnet.util.base.fingerprint import OUTLINES, code_sha256
from qnet.util.base.guard import claim, expect_apart, is_same
from qnet.util.predict import bids
from qnet.util.predict.cases import TABLE, read_cases
from qnet.util.predict.channels import channels_of, scans_below
from qnet.util.predict.maps import maps_of, registered_path
from qnet.util.predict.request import Query, Request, Words

REPORT = "report.html"

@dataclass(frozen=True)
class Plan:
    """What `qnet.util.predict.outline.outline` will do.

    Attributes:
        queries: all of them.
        waiting: those to outline.
        unwritten: those that are there, but for files in other formats.
        n_changed: how many of these are there, and were made of something else.
        left_out: the files and folders beside the queries that are none.
        root: the scan or the folder that was asked for; None if the queries were given one by one.
        table: the path of cases.csv; None: there is neither table nor report.
        rows: its rows so far, by the name of the query.
        lacking: the formats that are asked for and that a query's scan cannot have, by its name.
        made_of: checksum of all that outlines depend on, without the query.
    """

    queries: Sequence[Query]
    waiting: Sequence[Query]
    n_changed: int = 0
    left_out: Sequence[LeftOut] = ()
    root: Path | None = None
    table: Path | None = None
    rows: Mapping[str, list[dict]] = field(default_factory=dict)
    made_of: str = ""
    unwritten: Sequence[Query] = ()
    lacking: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def made_from(self, query: Query) -> str:
        """Return the checksum of all that the outlines of a query depend on.

        Raises:
            OSError: the query cannot be read.
        """
        return digest([self.made_of, *map(content_sha256, query.channels)])


def plan_of(request: Request, label_names: Iterable[str]) -> Plan:
    """Find the queries and the files to write for them, and check these before any work. What a killed run left is removed.

    Args:
        label_names: of the supports.
    Raises:
        InputError: there is no query, `output` or a format does not fit, or a file may not be written
            (`qnet.util.base.guard.claim`).
    """
    label_names = list(label_names)
    if isinstance(request.queries, tuple):
        expect_formats(request.formats, [query.scan for query in request.queries], label_names, request.words.format)
        return Plan(request.queries, request.queries)
    if request.output is None:
        raise InputError(f"{request.words.output}: got null, allowed with a folder of scans: where to write to")
    found = scans_below(request.queries, request.output, request.suffix, request.channels)
    names, left_out = scans_to_outline(found, request.output, given_files(request), request.words)
    queries = tuple(Query(name, scan, output_path(name, request.output, len(names), request.words),
                          channels_of(scan, request.channels)[1:])
                    for scan, name in names.items())
    table = queries[0].target.parent / TABLE
    plan = Plan(queries, queries, 0, left_out, request.queries, table, read_cases(table), made_of(request))
    of_rows = {query: _of_rows(query, plan) for query in queries}
    expect_formats(request.formats, names, label_names, request.words.format)
    formats = {query: formats_of(request.formats, query.scan) for query in queries}
    missing = {query: [path for path in files_in(formats[query], query.target, label_names) if not path.exists()]
               for query in queries}
    waiting = [query for query in queries if request.anew or of_rows[query] != "same"]
    plan = replace(plan, waiting=waiting, unwritten=[query for query in queries if missing[query] and query not in waiting],
                   n_changed=0 if request.anew else list(of_rows.values()).count("other"),
                   lacking={query.name: without for query in queries
                            if (without := [one for one in request.formats if one not in formats[query]])})
    files = {query: maps_of(query.target, label_names, request.save_probs, formats[query]) for query in queries}
    _expect_writable(request, plan, files, [path for query in plan.unwritten for path in missing[query]])
    for folder in (table.parent, registered_path(table).parent):
        remove_partial_files(folder)
    return plan


def made_of(request: Request) -> str:
    """Return a checksum of all that outlines depend on but the query: options, code, names, and the content of what is read."""
    network = [content_sha256(path) for path in request.method.model.outside.files if path.is_file()]
    return digest([request.options, code_sha256(OUTLINES), network, sorted(request.names.items()),
                   *map(content_sha256, given_files(request))])


def given_files(request: Request) -> list[Path]:
    """Return the files and folders that outlines depend on, without the queries. Tables of names lie beside the outlines."""
    snapshot = request.method.reload_model_path
    return [*([request.task] if request.task else []), *([Path(snapshot)] if snapshot else []),
            *(path for image, _ in request.supports for path in channels_of(image, request.channels)),
            *(file for _, labels in request.supports for file in files_with(labels))]


def scans_to_outline(found: Found, output: Path, given: Sequence[Path], words: Words) -> tuple[dict[Path, str], list[LeftOut]]:
    """Return the names of the scans to outline, by path, and what lies beside them and is none.

    Args:
        found: below a folder; or a scan alone.
        output: where the results go.
        given: the outlined scans and the files with their outlines, which are neither.
    Raises:
        InputError: nothing is left, or two scans have the same name.
    """
    root = found.root
    if found.root_is_scan:
        return found.names, found.left_out
    names = {scan: name for scan, name in found.names.items() if not any(is_same(scan, path) for path in given)}
    if twice := same_names(names):
        target = output_path(names[twice[0]], output, len(names), words)
        raise InputError(f"{words.queries}: {', '.join(scan.name for scan in twice)} would all be written to {target}; "
                         "allowed: names that differ before the ending")
    left_out = [one for one in found.left_out if not any(is_same(one.path, path) for path in given)]
    left_out += [LeftOut(scan, problem, True) for scan, name in names.items() if (problem := name_problem(name))]
    names = {scan: name for scan, name in names.items() if not name_problem(name)}
    why = next((f"; {one.path.name}: {one.reason}" for one in left_out if one.path != root), "")
    if not names and found.names:
        raise InputError(f"{words.queries}: {root} holds only scans that are outlined{why}; allowed: a folder with others")
    if not names:
        raise InputError(f"{words.queries}: no scan in {root}{why}; allowed: NIfTI, NRRD, MetaImage and MGH files, and DICOM")
    return names, left_out


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


def _of_rows(query: Query, plan: Plan) -> str:
    """Return what its rows of cases.csv say a query's label map was made of: the "same" as now or "other"; "none" if nothing."""
    rows = plan.rows.get(query.name, [])
    if not rows or not query.target.is_file():
        return "none"
    try:
        made, now = sha256(query.target), plan.made_from(query)
    except OSError:      # reported when the query is read
        return "none"
    if any(row.get("sha256") != made for row in rows):
        return "none"
    return "same" if all(row.get("made_from") == now for row in rows) else "other"


def _expect_writable(request: Request, plan: Plan, files: Mapping[Query, Sequence[Path]], missing: Sequence[Path]) -> None:
    """Raise InputError if a file may not be written: by the guard, or as two queries would write it.

    Args:
        missing: files of queries that are done but for these.
    """
    assert plan.table is not None
    query_of = {query.target: query for query in plan.queries}
    for query, of_query in files.items():
        for file in of_query:
            if (other := query_of.setdefault(file, query)) != query:
                raise InputError(f"{request.words.queries}: {query.scan.name} and {other.scan.name} would both be written to "
                                 f"{file}; allowed: other names of scans or classes")
    scans = [path for query in plan.queries for path in query.channels]
    inputs = [*given_files(request), *scans, *(scan.parent for scan in scans if scan.is_file() and is_slice(scan))]
    report = plan.table.with_name(REPORT)
    expect_apart([plan.table, report, *(file for of_query in files.values() for file in of_query)], inputs)
    changes = plan.waiting or any(one.may_be_scan for one in plan.left_out)
    written = [*request.also, *_derivatives(request, plan), *([plan.table] if changes else []), report]
    claim([*written, *missing, *(file for query in plan.waiting for file in files[query])], inputs,
          overwrite=request.overwrite, remedy=request.words.overwrite)


def _derivatives(request: Request, plan: Plan) -> list[Path]:
    """Return the files of the derivatives of a BIDS folder."""
    if request.suffix is None or plan.root is None or plan.table is None:
        return []
    return bids.files_of(plan.queries, plan.root, plan.table.parent, request.suffix)
