"""A run of the labelling page: starts the process that segments, takes in what it finds, and stops it."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from qnet.dataloaders.folds import stepping_stones
from qnet.util.base.errors import InputError
from qnet.util.base.inputs import SMALL, parse_json
from qnet.util.base.own_folder import OwnFolder
from qnet.util.base.root import module_command, module_environment
from qnet.util.label.apart import last_error
from qnet.util.label.session import TASK, ConflictError, Session
from qnet.util.label.teaching import lend_examples
from qnet.util.options.config import load_config
from qnet.util.predict.provenance import made_now

WORKER = "qnet.util.label.worker"
LOG, PACE = "run.log", "pace.json"      # of the last run
CAREFUL = 7         # times as long
CLOSE_S = 10.0      # for a process that was told to end


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        state: "idle", "starting", "running", "stopping".
        done, total: of the scans of the present or the last run.
        current: name of the scan at hand.
        message: how the last run ended, for the person.
        failures: a line for each scan that failed.
        seconds: that a scan took in the present or the last run, if that was not careful; also of an earlier server.
        careful: whether the present or the last run is.
        careful_times: how many times as long a careful run takes.
    """

    state: str = "idle"
    done: int = 0
    total: int = 0
    current: str | None = None
    message: str | None = None
    failures: tuple[str, ...] = field(default=())
    seconds: float | None = None
    careful: bool = False
    careful_times: int = CAREFUL


def made_of(examples: Sequence[str], has_task: bool, careful: bool) -> dict[str, str]:
    """Return what is told of outlines of a run: version, date, and the scans that they were made from.

    Args:
        examples: names of scans.
        has_task: whether those of a task file come before them.
    """
    return {**made_now(), "from": ", ".join([*([TASK] if has_task else []), *examples]),
            **({"by way of": "stepping stones"} if careful else {})}


class Pace(Struct):
    """The content of pace.json: the seconds that a scan took in the last run, if that was not careful."""

    seconds: Annotated[float, Meta(gt=0)] | None = None


def kept_seconds(folder: OwnFolder) -> float | None:
    """Return the seconds that a scan took in the last run of an earlier server; None if there was none."""
    with suppress(InputError, OSError):
        return parse_json(folder.read(PACE, SMALL.n_bytes), PACE, Pace, limits=SMALL, plain=True).seconds
    return None


class Runner:
    """At most one run at a time.

    Args:
        session: gives examples and scans, and takes what is found.
        registration: options of the registration that differ from configs/base.json5.
    """

    def __init__(self, session: Session, registration: Mapping[str, Any] | None = None):
        self.session, self.registration = session, dict(registration or {})
        self.progress = Progress(seconds=kept_seconds(session.own))
        self._lock = threading.Lock()
        self._begun = 0.0
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the progress as JSON can hold it."""
        return asdict(self.progress)

    def start(self, careful: bool) -> None:
        """Outline the scans that are neither touched by hand nor accepted, from all examples.

        Args:
            careful: by way of stepping stones, which takes `CAREFUL` times as long.
        Raises:
            ConflictError: a run is at work, or there is no example or nothing to outline.
        """
        with self._lock:
            if self.progress.state != "idle":
                raise ConflictError("run: is at work; allowed: to stop it first")
            stack = ExitStack()
            try:
                job = self._job(careful, stack.enter_context(self.session.work_folder()))
            except BaseException:
                stack.close()
                raise
            self.progress = Progress("starting", total=len(job["queries"]), seconds=self.progress.seconds, careful=careful)
            self._begun = time.monotonic()
            self._thread = threading.Thread(target=self._work, args=(job, stack), daemon=True)
            self._thread.start()

    def _job(self, careful: bool, folder: Path) -> dict[str, Any]:
        """Return the job of the process. What it reads of the session it finds in a work folder."""
        supports, waiting, run = lend_examples(self.session, folder), self.session.waiting(), self.session.next_run()
        has_task = self.session.has_task()
        if not supports and not has_task:
            raise ConflictError("No class is finished in any example. Draw the slices that are left, or say that they are right."
                                if self.session.supports() else
                                "Nothing is outlined yet. Draw your classes in one scan, then try again.")
        if not waiting:
            raise ConflictError("No scan is left to outline: all are drawn on, accepted or left out.")
        return {"task": str(self.session.lend_task(folder)) if has_task else None,
                "supports": [[str(self.session.scan_file(name)), str(labels)] for name, labels in supports],
                "queries": [[name, str(self.session.scan_file(name)), str(self.session.target(name, run))] for name in waiting],
                "stones": [str(self.session.scan_file(name)) for name in self._stones(careful)],
                "colours": {one["value"]: one["colour"] for one in self.session.classes},
                "registration": self.registration, "made": made_of([name for name, _ in supports], has_task, careful)}

    def _stones(self, careful: bool) -> list[str]:
        scans, n_stones = self.session.usable(), load_config("guided")["registration"]["stones"]
        return [scans[position] for position in stepping_stones(len(scans), (), n_stones)] if careful else []

    def stop(self) -> None:
        """End the run. What it has found stays."""
        with self._lock:
            if self.progress.state != "idle":
                self.progress = replace(self.progress, state="stopping")
            process = self._process
        if process is not None:
            process.terminate()

    def close(self) -> None:
        """End the run and wait for it."""
        self.stop()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _work(self, job: Mapping[str, Any], stack: ExitStack) -> None:
        try:
            with stack:
                message = self._watch(job)
        except (OSError, InputError) as error:
            message = f"The run could not be started or saved: {error}"
        with self._lock:
            stopped, seconds = self.progress.state == "stopping", self.progress.seconds
            self._process = None
            self.progress = replace(self.progress, state="idle", current=None, message="Stopped." if stopped else message)
        with suppress(OSError):     # without it the next server does not know what a run takes
            self.session.own.write(PACE, json.dumps({"seconds": seconds}).encode())

    def _watch(self, job: Mapping[str, Any]) -> str:
        """Start the process, take in its events until it ends, and return how it ended."""
        with self.session.own.fresh(LOG) as errors, subprocess.Popen(
                module_command(WORKER), env=module_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                encoding="utf-8") as process:
            assert process.stdin is not None and process.stdout is not None
            try:
                self._begin(process, job)
                for line in process.stdout:
                    self._take(json.loads(line), job)
                status = process.wait()
            finally:
                process.kill()
        if status:
            lines = self.session.own.read(LOG).decode("utf-8", errors="replace").splitlines()
            return self.session.told(f"The run ended with an error: {last_error(lines, str(status))}")
        return f"{self.progress.done - len(self.progress.failures)} of {self.progress.total} scans outlined."

    def _seconds(self) -> float:
        """Return the seconds that a scan took so far, and, in a careful run, what it would have taken otherwise."""
        return (time.monotonic() - self._begun) / (self.progress.done + 1) / (CAREFUL if self.progress.careful else 1)

    def _begin(self, process: subprocess.Popen[str], job: Mapping[str, Any]) -> None:
        assert process.stdin is not None
        with self._lock:
            self._process = process
            if self.progress.state == "stopping":
                process.terminate()
        with suppress(BrokenPipeError):     # it has ended; its status tells
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()

    def _take(self, event: Mapping[str, Any], job: Mapping[str, Any]) -> None:
        """Take in an event of the process."""
        name, change, targets = event.get("name"), dict[str, Any](), {name: target for name, _, target in job["queries"]}
        if event["event"] == "found":
            self.session.add_found(str(name), Path(targets[str(name)]), event["rows"], job["made"])
            change = {"done": self.progress.done + 1, "seconds": self._seconds()}
        elif event["event"] == "failed":
            said = self.session.told(f"{name}: {event['message']}")
            change = {"done": self.progress.done + 1, "failures": (*self.progress.failures, said)}
        elif event["event"] == "begun":
            change = {"current": name}
        with self._lock:
            state = "running" if self.progress.state == "starting" and event["event"] == "ready" else self.progress.state
            self.progress = replace(self.progress, state=state, **change)
