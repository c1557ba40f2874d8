"""The process that segments for the labelling page: reads a job from standard input, prints a line for everything that happens.

    python -m qnet.util.label.worker < job.json

A job is {"task": a task file with more examples, or null, "supports": [[scan, labels], …], "stones": [scan, …],
"queries": [[name, scan, label map to write], …], "registration": options that differ from configs/base.json5, "colours": by
value, for a small picture beside each label map}.
The lines are JSON: {"event": "ready" | "begun" | "found" | "failed", "name": …, "rows": …, "message": …}. The process ends when
its standard input does, so it does not outlive the server.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from qnet.dataloaders.reading import read_image
from qnet.util.base.errors import InputError
from qnet.util.base.memory import keep_freed_memory
from qnet.util.base.system import yield_to_others
from qnet.util.label.apart import given_job
from qnet.util.label.preparing import picture_of
from qnet.util.label.stored import picture_name
from qnet.util.options.config import load_config
from qnet.util.predict.events import Begun, Failed, Outlined, Ready
from qnet.util.predict.outline import outline
from qnet.util.predict.request import Query, Request, method_of_task, untrained_method

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

    for event in outline(request_of(job)):
        match event:
            case Ready():
                tell("ready")
            case Begun(query):
                tell("begun", name=query.name)
            case Outlined(query, rows):
                draw_picture(query, job.get("colours", {}))
                tell("found", name=query.name, rows=rows)
            case Failed(query, message):
                tell("failed", name=query.name, message=message)


def draw_picture(query: Query, colours: Mapping[str, str]) -> None:
    """Write a small picture of what was found beside its label map. Without one the list shows the scan alone."""
    picture = query.target.with_name(picture_name(query.target.name))
    with suppress(InputError, OSError):
        picture.write_bytes(picture_of(read_image(query.scan), read_image(query.target),
                                       {int(value): colour for value, colour in colours.items()}))


def request_of(job: Mapping[str, Any]) -> Request:
    """Return the request of a job: by the method of its task file, else by `guided`.

    Raises:
        InputError: the task file cannot be read.
    """
    registration = {**load_config("guided")["registration"], **job.get("registration", {})}
    method = untrained_method(registration=registration) if job["task"] is None else method_of_task(job["task"])
    return Request(method, tuple(Query(name, Path(scan), Path(target)) for name, scan, target in job["queries"]),
                   tuple((Path(scan), Path(labels)) for scan, labels in job["supports"]),
                   task=None if job["task"] is None else Path(job["task"]), stones=tuple(map(Path, job["stones"])))


def main() -> int:
    """Run the process and return its exit status."""
    yield_to_others(NICENESS)
    keep_freed_memory()     # before there is another thread, which would get memory of its own
    lines, sys.stdout = sys.stdout, sys.stderr      # what libraries print is no event
    job = given_job()
    try:
        work(job, lines)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
