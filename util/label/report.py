"""The report of the labelling page: its scans with their present outlines, as one HTML file in the export.

    python -m qnet.util.label.report < job.json

A job is {"folder", "queries": [[name, scan, label map], …], "rows": {name: rows}, "names", "colours", "facts", "path"}. The
process is one of its own, as reading scans and packing them takes a second and more for each. It ends when its standard input
does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qnet.util.base.errors import InputError
from qnet.util.base.guard import claim
from qnet.util.base.root import module_command
from qnet.util.label.apart import do_job, failure_of
from qnet.util.label.export import rows_of
from qnet.util.label.session import Session
from qnet.util.predict.correction import correction_of
from qnet.util.predict.provenance import expected_dice, made_now

MODULE = "qnet.util.label.report"
REPORT = "report.html"
NUMBERS = ("confidence", "agreement", "margin", "outlined_ml", "look_at")       # of what the computer found


def write_report(session: Session) -> Path:
    """Write the report about all scans with outlines into the folder of the export, and return its path.

    Raises:
        InputError: no scan has outlines, or a report that is there was not made by this program, or was changed since.
        OSError: the file cannot be written.
    """
    folder = session.export_folder
    claim([folder.path / REPORT], remedy=f"moving {folder.path} away")
    with session.work_folder() as work:
        job = _job(session, work)
        if not job["queries"]:
            raise InputError("report: no scan has outlines; allowed: one or more")
        if (why := failure_of(module_command(MODULE), job)) is not None:
            raise InputError(f"{REPORT}: {session.told(why)}")
        folder.take(work / REPORT, REPORT)
    return folder.path / REPORT


def _job(session: Session, work: Path) -> dict[str, Any]:
    overview, queries, rows = session.overview(), [], {}
    scans = {scan["name"]: scan for scan in overview["scans"]}
    for name in session.usable():
        if (content := session.outlines(name)) is not None:
            label_map = work / f"{name}.nii.gz"
            label_map.write_bytes(content)
            queries.append([name, str(session.scan_file(name)), str(label_map)])
            rows[name] = list(_report_rows(session, scans[name], label_map))
    return {"folder": str(session.folder), "queries": queries, "rows": rows, "facts": _facts(overview["scans"], rows),
            "path": str(work / REPORT), "names": {one["value"]: one["name"] for one in session.classes},
            "colours": {one["value"]: one["colour"] for one in session.classes}}


def _report_rows(session: Session, scan: Mapping[str, Any], label_map: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each class. Numbers of what the computer found are not those of what was corrected since."""
    is_found = scan["state"] in ("found", "accepted")
    found = {row["label"]: row for row in scan["rows"]} if is_found else {}
    for row in rows_of(session, scan["name"], label_map):
        yield {**row, **{key: found.get(row["label"], {}).get(key) for key in NUMBERS}}


def _facts(scans: Sequence[Mapping[str, Any]], rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Return what is told above the table: who outlined what, and when."""
    def named(*states: str) -> str:
        return ", ".join(sorted(scan["name"] for scan in scans if scan["state"] in states and scan["name"] in rows))

    expected = expected_dice([row for of_scan in rows.values() for row in of_scan])
    made = sorted({", ".join(f"{key} {value}" for key, value in scan["made"].items()) for scan in scans
                   if scan["state"] in ("found", "accepted") and scan["made"]})
    told = {"outlined by hand": named("outlined", "drawing"), "corrected by hand": named("corrected", "correcting"),
            "accepted": named("accepted"), "not looked through": named("found"),
            "flagged": ", ".join(sorted(scan["name"] for scan in scans if scan["flagged"])),
            "expected Dice of what was found": expected, "found": "; ".join(made)}
    return {**{key: value for key, value in told.items() if value}, "report": " ".join(made_now().values())}


def main() -> int:
    """Run the process and return its exit status."""
    return do_job(_write)


def _write(job: Mapping[str, Any]) -> None:
    from qnet.util.predict.report import report_queries  # reads volumes, which the page does without
    from qnet.util.predict.request import Query
    queries = [Query(name, Path(scan), Path(target)) for name, scan, target in job["queries"]]
    names, colours = ({int(value): text for value, text in job[key].items()} for key in ("names", "colours"))
    report_queries(queries, job["rows"], names, [], Path(job["path"]), job["facts"], colours,
                   correction=correction_of(Path(job["folder"])))


if __name__ == "__main__":
    sys.exit(main())
