"""Which scan to outline first, and which next: what the labelling page says of it.

    python -m qnet.util.label.advice < job.json

compares scans for that, in a process of its own. A job is {"scans": [[name, path], …], "target": the file to write}. The process
ends when its standard input does.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from qnet.util.base.checksums import digest
from qnet.util.base.errors import InputError
from qnet.util.base.inputs import SMALL
from qnet.util.base.root import module_command
from qnet.util.base.system import yield_to_others
from qnet.util.label.apart import do_job, failure_of
from qnet.util.label.preparing import stamp_of
from qnet.util.label.session import Session
from qnet.util.predict.first_scan import Comparison, first_of, next_of, sample_of

MODULE = "qnet.util.label.advice"
FILE = "likeness.json"
NICENESS = 10       # page and runs come first
UNTOUCHED = ("empty", "left out", "unreadable")     # states of scans before anything was drawn


class Advisor:
    """Says which scan stands best for the others, before anything is drawn, and which next, after a run.

    Args:
        session: of the folder. It keeps how alike the scans are.
    Attributes:
        comparison: of the scans; None until it is known.
    """

    def __init__(self, session: Session):
        self.session = session
        self.comparison: Comparison | None = None

    def compare(self, stopped: threading.Event) -> None:
        """Compare the scans in another process, unless that was done for the same files. If it fails, nothing is said.

        Args:
            stopped: nothing is begun once it is set.
        """
        scans = {name: scan.path for name, scan in self.session.scans.items() if scan.problem is None}
        chosen = sample_of(list(scans))
        with suppress(InputError, OSError):
            made_from = digest([len(scans), *((name, stamp_of(scans[name])) for name in chosen)])
            if (kept := self._kept(made_from)) is None and chosen and not stopped.is_set():
                with self.session.work_folder() as work:
                    job = {"scans": [[name, str(self.session.scan_file(name))] for name in chosen], "n_scans": len(scans),
                           "made_from": made_from, "target": str(work / FILE)}
                    if failure_of(module_command(MODULE), job) is None:
                        self.session.own.take(work / FILE, FILE)
                kept = self._kept(made_from)
            self.comparison = kept

    def _kept(self, made_from: str) -> Comparison | None:
        """Return the comparison on disk, if it is one of the same files."""
        with suppress(InputError, OSError):
            if self.session.own.has(FILE):
                kept = Comparison.read(self.session.own.read(FILE, SMALL.n_bytes), FILE)
                return kept if kept.made_from == made_from else None
        return None

    def as_json(self, scans: list[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the scan to outline "first" and the one to correct "next", each with "scan" and "why", or null.

        Args:
            scans: as the page shows them.
        """
        usable = [scan["name"] for scan in scans if scan["state"] not in ("left out", "unreadable")]
        is_new = all(scan["state"] in UNTOUCHED for scan in scans)
        found = {scan["name"]: scan["rows"] for scan in scans if scan["state"] == "found"}
        first = first_of(self.comparison, usable) if is_new and self.comparison else None
        following = next_of(found, self.comparison)
        return {key: None if advice is None else {"scan": advice.name, "why": advice.why}
                for key, advice in (("first", first), ("next", following))}


def main() -> int:
    """Run the process and return its exit status."""
    yield_to_others(NICENESS)
    return do_job(_compare)


def _compare(job: Mapping[str, Any]) -> None:
    from qnet.util.predict.comparing import compared  # imports PyTorch, which the page does without
    found = compared([(name, (Path(path),)) for name, path in job["scans"]], job["n_scans"], made_from=job["made_from"])
    Path(job["target"]).write_text(json.dumps(found.as_json()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
