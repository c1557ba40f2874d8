"""The process that segments for the labelling page: reads a job from standard input, prints a line for everything that happens.

    python -m qnet.util.label.worker < job.json

A job is {"task": a task file with more examples, or null, "supports": [[scan, labels], …], "stones": [scan, …],
"queries": [[name, scan, label map to write], …], "registration": options that differ from configs/base.json5}.
The lines are JSON: {"event": "ready" | "begun" | "found" | "failed", "name": …, "rows": …, "message": …}. The process ends when
its standard input does, so it does not outlive the server.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from qnet.util.base.errors import InputError
from qnet.util.base.memory import keep_freed_memory
from qnet.util.options.config import base_config
from qnet.util.predict.predictor import Predictor
from qnet.util.predict.scans import write_on_scan

NICENESS = 5        # the page comes first


def work(job: Mapping[str, Any], lines: TextIO) -> None:
    """Segment the queries of a job one after the other. One that fails is told, and the others are done.

    Args:
        lines: where the events are written.
    Raises:
        InputError: a support cannot be read.
    """
    def tell(event: str, **what: Any) -> None:
        print(json.dumps({"event": event, **what}), file=lines, flush=True)

    predictor = make_predictor(job)
    tell("ready")
    for name, scan, target in job["queries"]:
        tell("begun", name=name)
        try:
            tell("found", name=name, rows=segment(predictor, Path(scan), Path(target)))
        except (InputError, OSError, RuntimeError, MemoryError) as error:       # torch and ITK raise RuntimeError
            tell("failed", name=name, message=" ".join(str(error).split()))


def make_predictor(job: Mapping[str, Any]) -> Predictor:
    """Return a predictor with the supports and stepping stones of a job."""
    registration = {**base_config()["registration"], **job.get("registration", {})}
    predictor = Predictor.untrained("guided", registration=registration) if job["task"] is None else Predictor.load(job["task"])
    for scan, labels in job["supports"]:
        predictor.add_support(scan, labels)
    for stone in job["stones"]:
        with suppress(InputError):      # it is named when it is segmented
            predictor.add_stone(stone)
    return predictor


def segment(predictor: Predictor, scan: Path, target: Path) -> Sequence[Mapping[str, Any]]:
    """Segment a scan, write its label map, and return the rows of `Segmentation.numbers`."""
    found = predictor.segment(scan)
    write_on_scan(found.label_map, found.scan, target)
    return found.numbers()


def _end_with(given: TextIO) -> None:
    given.read()
    os._exit(1)


def main() -> int:
    """Run the process and return its exit status."""
    os.nice(NICENESS)
    keep_freed_memory()     # before there is another thread, which would get memory of its own
    lines, sys.stdout = sys.stdout, sys.stderr      # what libraries print is no event
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with, args=(sys.stdin,), daemon=True).start()
    try:
        work(job, lines)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
