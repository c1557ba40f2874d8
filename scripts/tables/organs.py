"""Outline every set of a folder from one of its cases, and print how good registration, `guided` and the confidence are.

    python scripts/tables/organs.py --data-dir data/organs --avx2
    python scripts/tables/organs.py --data-dir data/organs --sets spine --outlined 1 4 --output runs/spine
    python scripts/tables/organs.py --data-dir data/organs --chaos data/CHAOST2 --page docs/organs.md --picture-dir docs/images

A set is a sub-folder with `images/` and `labels/`; the folder may be one itself. Images and labels belong together by equal
names, else by their order. One case of a set is the outlined one, and the program outlines all others like it, with up to six of
them as stepping stones, as scripts/segment.sh does. Their labels serve the scores alone: Dice over whole volumes, of every class
that a case has.

Every class of every case is a row of <output>/organs.csv, and the label maps are beside it. What is there, made by the same code
of the same files, is kept. Each set and outlined case has a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import json5
import numpy as np

from qnet.models.confidence import EVIDENCE
from qnet.scripts.tables.organ_sets.cases import NAMES, Case, Job, chaos_set, jobs_of, sets_in
from qnet.scripts.tables.organ_sets.pictures import draw
from qnet.scripts.tables.organ_sets.tables import Row, report
from qnet.scripts.tables.own_scans import AS_ON_AVX2
from qnet.util.base.arguments import Parser
from qnet.util.base.checksums import digest, sha256
from qnet.util.base.errors import InputError
from qnet.util.base.files import write_text
from qnet.util.base.fingerprint import OUTLINES, code_sha256
from qnet.util.base.guard import OVERWRITE_HELP, claim
from qnet.util.base.progress import progress
from qnet.util.base.root import ROOT
from qnet.util.base.tables import write_rows

WORKER = "scripts.tables.organ_sets.worker"
COLUMNS = ("set", "support", "query", "label", "name", "registration", "guided", "confidence", "border", *EVIDENCE, "wide_mm",
           "seconds", "preparation_s", "memory_mb", "processor", "made_from")
STONES = "registration.stones"       # which `--stones` stands for: the scans that serve as stones are given
TEXT = {"set", "support", "query", "name", "border", "processor", "made_from"}      # columns that are no numbers
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


class Table:
    """The rows of organs.csv, saved after every scan.

    Args:
        path: of the file. It may be there, from an earlier run.
        settings: what all rows depend on, besides the options.
        options: that differ from the config `guided`, as {"registration.zoom": False}.
    """

    def __init__(self, path: Path, settings: Any, options: Mapping[str, Any]):
        self.path, self.settings, self.options = path, [settings, sorted(options.items())], options
        self.rows: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                for row in reader if tuple(reader.fieldnames or ()) == COLUMNS else ():
                    self.rows.setdefault((row["set"], row["support"], row["query"]), []).append(row)

    def made_from(self, job: Job, query: Case) -> str:
        """Return a checksum of what a query's rows depend on."""
        return digest([self.settings, *(sha256(path) for case in (job.support, query) for path in (case.image, case.labels))])

    def is_done(self, job: Job, query: Case, label_map: Path) -> bool:
        """Return whether a query's rows are there, made of the same, with its label map."""
        rows = self.rows.get(job.key(query), [])
        return bool(rows) and label_map.is_file() and {row["made_from"] for row in rows} == {self.made_from(job, query)}

    def add(self, job: Job, query: Case, rows: Sequence[Row], about: Row) -> None:
        """Add the rows of a query that was outlined, and save.

        Args:
            about: columns that are the same for all queries of the job.
        """
        of_set, support, name = job.key(query)
        self.rows[job.key(query)] = [{"set": of_set, "support": support, "query": name, **row, **about,
                                      "made_from": self.made_from(job, query)} for row in rows]
        write_rows([row for of_query in self.rows.values() for row in of_query], COLUMNS, self.path)

    def of(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Return the rows of some jobs, with numbers as numbers."""
        found = [row for job in jobs for query in job.queries for row in self.rows.get(job.key(query), ())]
        return [{key: value if key in TEXT else float("nan") if value in ("", None) else float(value)
                 for key, value in row.items()} for row in found]


def label_map_path(output: Path, job: Job, query: Case) -> Path:
    """Return the path of a query's label map."""
    return output / "label_maps" / job.set.name / f"from {job.support.name}" / f"{query.name}.nii.gz"


def run(job: Job, table: Table, output: Path, environment: Mapping[str, str], tell: Callable[[Case], object]) -> list[str]:
    """Outline and score the queries of a job that are not done, and return a line for each that failed.

    Args:
        environment: variables of the process besides ours.
        tell: called after each query.
    """
    waiting = {query.name: query for query in job.queries if not table.is_done(job, query, label_map_path(output, job, query))}
    for query in job.queries:
        if query.name not in waiting:
            tell(query)
    if not waiting:
        return []
    text = json.dumps({
        "outlined": [str(job.support.image), str(job.support.labels)], "names": NAMES.get(job.set.name, {}),
        "stones": [str(stone.image) for stone in job.stones], "options": table.options,
        "queries": [[name, str(query.image), str(query.labels), str(label_map_path(output, job, query))]
                    for name, query in waiting.items()]})
    failures, about = [], dict[str, Any]()
    command = [sys.executable, "-m", f"qnet.{WORKER}"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          encoding="utf-8") as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(text)
        process.stdin.close()
        for event in map(json.loads, process.stdout):
            if event["event"] == "ready":
                about = {key: event[key] for key in ("preparation_s", "processor")}
                continue
            query = waiting.pop(event["query"])
            if event["event"] == "scored":
                table.add(job, query, event["rows"], about)
            else:
                failures.append(f"{job.set.name}: {query.name}: {event['message']}")
            tell(query)
    if process.returncode:
        failures += [f"{job.set.name}: {name}: the process ended with status {process.returncode}" for name in waiting]
    return failures


def pictures(jobs: Sequence[Job], rows: Sequence[Row], output: Path, folder: Path) -> dict[str, Path]:
    """Draw of each set the outlined case and the outlined scans of median and of lowest Dice, and return the files by set.

    Of several outlined cases the first is drawn.
    """
    drawn = {}
    for job in {job.set.name: job for job in reversed(jobs)}.values():
        scores = {query: float(np.mean(dices)) for query in job.queries
                  if (dices := [row["guided"] for row in rows if (row["set"], row["support"], row["query"]) == job.key(query)])}
        if not scores:
            continue
        ranked = sorted(scores, key=lambda query: scores[query])
        shown = {"median": ranked[len(ranked) // 2], "lowest": ranked[0]}
        panels = [(f"{job.support.name}: outlined by hand", job.support.image, None, job.support.labels),
                  *((f"{query.name}: Dice {scores[query]:.2f} ({which})", query.image, label_map_path(output, job, query),
                     query.labels) for which, query in shown.items())]
        path = picture_path(folder, job.set.name)
        draw(panels, NAMES.get(job.set.name, {}), path)
        drawn[job.set.name] = path
    return dict(sorted(drawn.items(), key=lambda one: [job.set.name for job in jobs].index(one[0])))


def picture_path(folder: Path, set_name: str) -> Path:
    """Return the path of a set's picture."""
    return folder / f"organs_{set_name.lower().replace('-', '_')}.png"


def fill_page(page: Path, text: str, drawn: Mapping[str, Path]) -> None:
    """Put the tables and links to the pictures between the comments BEGIN and END of a page.

    Raises:
        InputError: the page lacks them.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(f"--page: {page} has no lines {BEGIN} and {END}; allowed: a page with both")
    links = [f"![{name}: the outlined case, and those of median and lowest Dice]({os.path.relpath(path, page.parent)})"
             for name, path in drawn.items()]
    write_text(f"{before}{BEGIN}\n\n" + "\n\n".join([text, *links]) + f"\n\n{END}{after}", page)


def option(text: str) -> tuple[str, Any]:
    """Return the key and the value of an option, as registration.zoom=false."""
    key, _, value = text.partition("=")
    if key == STONES:
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: any other; --stones says how many there are")
    try:
        return key, json5.loads(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: SECTION.KEY=VALUE, as registration.zoom=false") from None


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--data-dir", type=Path, metavar="FOLDER", help="of sets, or one set")
    parser.add_argument("--sets", nargs="+", default=[], metavar="NAME", help="sub-folders of FOLDER; default: all")
    parser.add_argument("--chaos", type=Path, metavar="DIR", help="CHAOS-T2 in its own layout, as one more set")
    parser.add_argument("--outlined", type=int, nargs="+", default=[1], metavar="N", help="positions of cases; each in turn is "
                        "the only outlined one; default: the first")
    parser.add_argument("--stones", type=int, default=6, help="so many of the others are stepping stones; default: %(default)s")
    parser.add_argument("--options", type=option, nargs="*", default=[], metavar="SECTION.KEY=VALUE",
                        help="of configs/base.json5, for ablations, as registration.zoom=false")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/organs", help="default: %(default)s")
    parser.add_argument("--picture-dir", type=Path, metavar="DIR", help="draw a picture of each set")
    parser.add_argument("--page", type=Path, metavar="FILE", help=f"put tables and pictures between its lines {BEGIN} and {END}")
    parser.add_argument("--avx2", action="store_true", help="two threads, and no instruction that a processor with AVX2 lacks")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    arguments = parser.parse_args(given)
    if arguments.data_dir is None and arguments.chaos is None:
        parser.error("--data-dir, --chaos: allowed: one of them, or both")
    return arguments


def main(given: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 1 if a scan failed."""
    arguments = parse_arguments(given)
    output: Path = arguments.output.resolve()
    try:
        sets = [] if arguments.data_dir is None else sets_in(arguments.data_dir.resolve(), arguments.sets)
        sets += [] if arguments.chaos is None else [chaos_set(arguments.chaos.resolve())]
        jobs = [job for organs in sets for job in jobs_of(organs, arguments.outlined, arguments.stones)]
        own = [picture_path(arguments.picture_dir, organs.name) for organs in sets] if arguments.picture_dir else []
        claim([output / "organs.csv", *own], [path for organs in sets for case in organs.cases for path in case[1:]],
              overwrite=arguments.overwrite)
        settings = [code_sha256((*OUTLINES, WORKER)), arguments.stones, arguments.avx2]
        table = Table(output / "organs.csv", settings, dict(arguments.options))
        environment, failures = AS_ON_AVX2 if arguments.avx2 else {}, []
        with progress(total=sum(len(job.queries) for job in jobs), desc="outlining", unit="scan") as bar:
            for job in jobs:
                bar.set_postfix_str(job.set.name)
                failures += run(job, table, output, environment, lambda _: bar.update(1))
        rows = table.of(jobs)
        text = "\n\n".join(report(rows)) if rows else ""
        drawn = pictures(jobs, rows, output, arguments.picture_dir) if arguments.picture_dir else {}
        if arguments.page and rows:
            fill_page(arguments.page, text, drawn)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    print(text)
    for line in failures:
        print(f"error: {line}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
