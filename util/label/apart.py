"""Work of the labelling page's server in a process of its own, which ends with the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from qnet.util.base.errors import InputError
from qnet.util.base.root import module_environment


def failure_of(command: Sequence[str], job: Any = None, unsaid: str = "status") -> str | None:
    """Run a command of this package, and return what it failed with, a line; None if it did not fail.

    Args:
        job: is written to its standard input as a line of JSON, if there is one.
        unsaid: what its status follows if it ended without a word.
    """
    with subprocess.Popen(command, env=module_environment(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, encoding="utf-8", errors="replace") as process:
        assert process.stdin is not None and process.stderr is not None
        if job is not None:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        said = process.stderr.read().strip().splitlines()
        status = process.wait()
        return last_error(said, f"{unsaid} {status}") if status else None


def last_error(said: Sequence[str], otherwise: str) -> str:
    """Return the last line that a process said on its way out, without "error: "; if there is none, something else."""
    return said[-1].removeprefix("error: ") if said else otherwise


def do_job(does: Callable[[Any], None]) -> int:
    """Do the job that the server gave this process, and return the exit status: 1 if it failed, with a line that says how."""
    job = given_job()
    try:
        does(job)
    except (InputError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def given_job() -> Any:
    """Return the job that the server gave this process. From then on this process ends when its standard input does."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with, args=(sys.stdin,), daemon=True).start()
    return job


def _end_with(given: TextIO) -> None:
    given.read()
    os._exit(1)
