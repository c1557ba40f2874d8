"""Outline an organ in one scan of a folder, and get it outlined in the others: `qnet segment`, whose help says more."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if not __package__:     # run as a file: before packages of the same names elsewhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qnet.dataloaders.finding import Found
from qnet.dataloaders.nifti import is_series
from qnet.dataloaders.outlines.writing import files_in, formats_of
from qnet.dataloaders.reading import ENDINGS, is_nifti, is_slice, scan_name
from qnet.scripts.options import WHICH_FIRST, segment_parser
from qnet.util.base.distributed import first_tells, is_main, leave, silence
from qnet.util.base.errors import InputError, in_utf8, printable
from qnet.util.base.files import write_text
from qnet.util.base.guard import claim, lies_in
from qnet.util.base.inputs import expect_file
from qnet.util.base.progress import progress
from qnet.util.base.signals import Interrupted, raise_on_signals
from qnet.util.predict.cases import as_numbers
from qnet.util.predict.channels import channels_of, patient_of, scans_below
from qnet.util.predict.comparing import compared
from qnet.util.predict.events import Outcome
from qnet.util.predict.first_scan import FEWEST, Advice, Comparison, next_of, sample_of
from qnet.util.predict.follow_up import CHANGES
from qnet.util.predict.outline import outline
from qnet.util.predict.outlined import labels_at, outlined_pair, scan_named
from qnet.util.predict.request import Query, Request, Words
from qnet.util.predict.series import Series, of_dicom
from qnet.util.predict.shown import shown
from qnet.util.run.experiment import one_line_errors

SCANS = "--scans"
WORDS = Words(SCANS, "--output", "--overwrite", "--fill", "--format")


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = segment_parser(outlines=WHICH_FIRST not in (sys.argv[1:] if given is None else given))
    parser.set_defaults(options={})
    return parser.parse_args(given)


def found_in(folder: Path, suffix: str | None, channels: Sequence[str]) -> Found:
    """Return what is below a folder (`scans_below`).

    Raises:
        InputError: it is no folder, or as `scans_below`.
    """
    if not folder.is_dir():
        raise InputError(f"--scans: {folder} is no folder; allowed: a folder of NIfTI files and of folders of DICOM slices")
    return scans_below(folder, suffix=suffix, channels=channels)


def scans_of(found: Found) -> dict[Path, str]:
    """Return the names of the scans below a folder, by path.

    Raises:
        InputError: there is none.
    """
    folder = found.root
    if not found.names or found.root_is_scan:
        why = next((f"; {one.path.name} {one.reason}" for one in found.left_out if one.path != folder), "")
        raise InputError(f"--scans: no scan in {folder}{why}; allowed in it: files that end in {', '.join(ENDINGS)}, and DICOM "
                         "slices")
    return found.names


def check_places(scans: Path, output: Path | None, json_file: Path | None) -> None:
    """Raise InputError if a result would lie among the scans, where it could be read as one."""
    if output is not None and (is_nifti(output) or (output.exists() and not output.is_dir())):
        raise InputError(f"--output: got {output}, allowed: a folder")
    for option, path in (("--output", output), ("--json", json_file)):
        if path is not None and lies_in(path, scans):
            raise InputError(f"{option}: {path} lies in {scans}, where it could pass for a scan; allowed: a place outside of it")


def request_of(arguments: argparse.Namespace) -> Request:
    """Return the request of the options.

    Raises:
        InputError: an option does not fit the folder.
    """
    if arguments.train:
        raise InputError("--train: this option is gone, because its outlines were worse; allowed: to leave it out, or to train a "
                         "network with `qnet prepare` and `qnet train`, and to say `qnet predict reload_model_path=…`")
    if is_series(arguments.scans):
        return series_request(arguments, arguments.scans)
    if is_slice(arguments.scans) and (of_times := _in_time(arguments)):
        return series_request(arguments, of_times)
    found = found_in(arguments.scans, arguments.suffix, arguments.channels or ())
    if found.root_is_scan and (of_times := _in_time(arguments)):
        return series_request(arguments, of_times)
    if arguments.ejection:
        raise InputError(f"--ejection: needs the phases of a 4D file, but --scans is {arguments.scans}")
    scans = scans_of(found)
    check_places(arguments.scans, arguments.output, arguments.json)
    expect_channels(found, arguments)
    pairs = [outlined_pair(text, scans, arguments.scans, SCANS) for text in arguments.outlined]
    return _with_follow_ups(_request(arguments, arguments.scans, pairs), arguments.follow_up, scans)


def expect_channels(found: Found, arguments: argparse.Namespace) -> None:
    """Raise InputError if `--outlined` names a patient who lacks a channel."""
    for one in found.left_out if arguments.channels else ():
        names = (one.path, one.path.name, scan_name(one.path), patient_of(one.path, arguments.channels[0]))
        if any(text.startswith(f"{name}=") for text in arguments.outlined for name in names):
            raise InputError(f"--outlined: {one.path} {one.reason}")


def _with_follow_ups(request: Request, given: Sequence[Sequence[str]], scans: Mapping[Path, str]) -> Request:
    """Return the request with the pairs of scans that `--follow-up` names.

    Raises:
        InputError: one is no scan of `--scans`, or both are the same.
    """
    if not given:
        return request
    found = [(scan_named("--follow-up", first, scans, SCANS), scan_named("--follow-up", second, scans, SCANS))
             for first, second in given]
    if same := next((first for first, second in found if first == second), None):
        raise InputError(f"--follow-up: {same} is given as both; allowed: two scans")
    assert request.output is not None
    return replace(request, follow_ups=tuple(found), also=(*request.also, request.output / CHANGES))


def _in_time(arguments: argparse.Namespace) -> Path | None:
    """Return the 4D file that is made of a DICOM series of several times; None if `--scans` is none."""
    check_places(arguments.scans, arguments.output, arguments.json)
    return of_dicom(arguments.scans, arguments.output, overwrite=arguments.overwrite, remedy=WORDS.overwrite)


def series_request(arguments: argparse.Namespace, source: Path) -> Request:
    """Return the request for a 4D file, whose phases are unpacked into the folder of the results.

    Args:
        source: the file.

    Raises:
        InputError: an option does not fit the file, or a file cannot be read or written.
    """
    check_places(arguments.scans, arguments.output, arguments.json)
    if arguments.follow_up:
        raise InputError("--follow-up: is of two scans of a folder; of a series, --ejection tells the change between two phases")
    if arguments.channels:
        raise InputError("--channels: is of the scans of a folder, and the phases of a 4D file have one")
    series = Series.of(source, arguments.output, None if arguments.ejection is None else tuple(arguments.ejection))
    folder = arguments.scans if arguments.scans.is_dir() else arguments.scans.parent
    outlined = dict(outlined_phase(text, series.n_phases, folder) for text in arguments.outlined)
    if len(outlined) < len(arguments.outlined):
        raise InputError("--outlined: a phase is given twice; allowed: one file of outlines for each phase")
    pairs = series.unpack(outlined, overwrite=arguments.overwrite, remedy=WORDS.overwrite)
    request = _request(arguments, series.folder, pairs)
    return replace(request, series=series, also=(*request.also, *series.files))


def outlined_phase(text: str, n_phases: int, folder: Path) -> tuple[int, Path]:
    """Return the number of the phase and the label file that `--outlined` names.

    Args:
        folder: where the label file is sought when it is not there as it is named.

    Raises:
        InputError: it is no number of a phase, or the file is missing.
    """
    number, _, labels = text.partition("=")
    if not re.fullmatch("[0-9]{1,6}", number) or not 1 <= int(number) <= n_phases or not labels:
        raise InputError(f"--outlined: got {text!r}, allowed for a 4D file: PHASE=LABELS, PHASE from 1 to {n_phases}")
    return int(number), expect_file(labels_at(Path(labels), folder))


def _request(arguments: argparse.Namespace, scans: Path, pairs: Sequence[tuple[Path, Path]]) -> Request:
    images = [image for image, _ in pairs]
    if twice := next((image for image in images if images.count(image) > 1), None):
        raise InputError(f"--outlined: {twice} is given twice; allowed: one file of outlines for each scan")
    request = Request.of_folder(scans, pairs, arguments.output, names=dict(arguments.names), fill=arguments.fill,
                                overwrite=arguments.overwrite, words=WORDS, format=list(dict.fromkeys(arguments.format)),
                                channels=arguments.channels, method=arguments.method, **arguments.options)
    return replace(request, suffix=arguments.suffix, also=() if arguments.json is None else (arguments.json,))


def segment(arguments: argparse.Namespace) -> Outcome:
    """Segment every scan of the folder that is not outlined, and write `--json`. Processes of torchrun share out the scans.

    Raises:
        InputError: an option is wrong, or an outlined scan cannot be read. Told before any work.
    """
    request = request_of(arguments)
    outcome = shown(outline(request))
    if arguments.json is not None and is_main():
        told = json.dumps(for_machines(outcome, request.formats), indent=2, ensure_ascii=False)
        write_text(in_utf8(told) + "\n", arguments.json)
    return outcome


def which_first(arguments: argparse.Namespace) -> Comparison:
    """Compare the scans of the folder, a sample of many, and write `--json`.

    Raises:
        InputError: there is no such folder, or no three scans in it; or `--json` would lie in it.
    """
    found = found_in(arguments.scans, arguments.suffix, arguments.channels or ())
    scans = {name: path for path, name in scans_of(found).items()}
    if arguments.json is not None:
        check_places(arguments.scans, None, arguments.json)
        claim([arguments.json], list(scans.values()), overwrite=arguments.overwrite)
    chosen = sample_of(list(scans))
    if not chosen:
        raise InputError(f"{WHICH_FIRST}: {len(scans)} scans in {arguments.scans}; allowed: {FEWEST} or more, as one "
                         "is sought that is like the others")
    with progress(total=len(chosen) * (len(chosen) - 1) // 2, desc="comparing", unit="pair") as bar:
        comparison = compared([(name, channels_of(scans[name], arguments.channels or ())) for name in chosen], len(scans),
                              tell=bar.update)
    if arguments.json is not None:
        rows = [{"scan": str(scans[one.name]), **one._asdict()} for one in comparison.standings()]
        told = {"scans": rows, "compared": len(comparison.names), "of": len(scans), "problems": dict(comparison.problems)}
        write_text(in_utf8(json.dumps(told, indent=2, ensure_ascii=False)) + "\n", arguments.json)
    return comparison


def for_machines(outcome: Outcome, formats: Sequence[str] = ()) -> dict[str, Any]:
    """Return what came out as JSON can hold it: each scan with its label map and the numbers of each label, or with its error.

    "files" are those in other formats.

    "empty" is the number of scans with an empty class, and of each label, whether it is one. "next" is the scan to outline next.
    """
    scans = [{"scan": str(query.scan), **_result(outcome, query, formats)} for query in outcome.queries]
    left_out = [{"path": str(one.path), "reason": one.reason, "may_be_scan": one.may_be_scan} for one in outcome.left_out]
    following = _next(outcome)
    return {"scans": scans, "failed": len(outcome.failures), "empty": len(outcome.empty), "left_out": left_out,
            "next": None if following is None else {"scan": following.name, "why": following.why}}


def _next(outcome: Outcome) -> Advice | None:
    """Return the scan to outline next; None where there is no choice."""
    return next_of(outcome.rows) if len(outcome.rows) > 1 else None


def _result(outcome: Outcome, query: Query, formats: Sequence[str]) -> dict[str, Any]:
    if query.name in outcome.failures:
        return {"error": outcome.failures[query.name]}
    rows = outcome.rows[query.name]
    wide_mm = next((float(row["wide_mm"]) for row in rows if row.get("wide_mm")), None)
    labels = sorted(map(as_numbers, rows), key=lambda row: row["label"])
    files = files_in(formats_of(formats, query.scan), query.target, [label["label_name"] for label in labels])
    return {"label_map": str(query.target), "files": [str(path) for path in files], "wide_mm": wide_mm, "labels": labels}


def main(given: Sequence[str] | None = None, **options: Any) -> int:
    """Run the command and return its exit status: 1 if a scan failed, or something was left out that might be one.

    Args:
        given: the command line.
        options: options of configs/base.json5 with other values than the config `guided` has, for callers in Python.
    """
    with first_tells():
        arguments = parse_arguments(given)
    arguments.options = options
    if arguments.which_first:
        return _answer_which_first(arguments)
    with one_line_errors():
        outcome = segment(arguments)
    if not is_main():       # the main process knows of all, and says so
        return 0
    print("\n".join(map(printable, summary(outcome, arguments.output))))
    for line in outcome.problems:
        print(printable(f"error: {line}"), file=sys.stderr)
    return 1 if outcome.problems else 0


def _answer_which_first(arguments: argparse.Namespace) -> int:
    if not is_main():
        return 0
    with one_line_errors():
        comparison = which_first(arguments)
    print("\n".join(map(printable, comparison.lines())))
    for name, problem in comparison.problems.items():
        print(printable(f"error: {name}: {problem}"), file=sys.stderr)
    return 1 if comparison.problems else 0


def summary(outcome: Outcome, output: Path) -> list[str]:
    """Return what came out, as lines for people."""
    where = "; report.html shows the outlines" if len(outcome.queries) > len(outcome.failures) else ""
    following = _next(outcome)
    return [f"written to {output}{where}",
            *([] if following is None else [f"outline {following.name} next, if that looks like the others: {following.why}"]),
            outcome.summary(), *(f"left out: {line}" for line in outcome.notes)]


def run() -> int:
    """Run the command of a shell, which a signal may end, and return its exit status."""
    if not is_main():
        silence()
    raise_on_signals()
    try:
        status = main()
        leave()
        return status
    except Interrupted as error:
        print(f"stopped by {error}; the same command goes on from here", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(run())
