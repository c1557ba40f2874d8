"""How fast the labelling page answers the requests of a person, while nothing runs and while the computer outlines scans."""

from __future__ import annotations

import gzip
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import nibabel
import numpy as np

from qnet.scripts.checks.benchmarks.bench import LABELS, Bench, Measured, Result
from qnet.util.base.tables import markdown_table
from qnet.util.clients.client import scan_path
from qnet.util.label.client import PageClient, running
from tests.labelling import nifti

N_SCANS = 8                 # an outlined one, one that is drawn on, and those that the run outlines
ALLOWED_S = 0.1             # for nine answers in ten
START_S = 120.0
SHARES = {"median": 0.5, "90 %": 0.9, "99 %": 0.99}
CLASSES = [{"value": value, "name": f"organ {value}", "colour": "#e69f00"} for value in LABELS]
Seconds = Mapping[str, list[float]]     # by request


def measure(bench: Bench) -> Measured:
    """Serve a folder of scans by scripts/label.py, and time what the page asks for while a person draws."""
    folder, names = write_folder(bench)
    n_rounds = 20 if bench.quick else 200
    with ExitStack() as stack:
        try:
            client, _ = stack.enter_context(running(folder))
        except RuntimeError as error:
            return Measured({}, [f"left out: page; it does not start: {error}"])
        client.tell("PUT", "/api/v1/classes", {"classes": CLASSES})
        client.tell("POST", scan_path(names[0], "load"), {"labels": f"truth/{names[0]}.nii.gz"})
        person = Person(client, names[-1], bench.cases[len(names) - 1].label)
        idle = person.work(n_rounds, during_run=False)
        client.tell("POST", "/api/v1/run", {"careful": True})
        wait_for_first_scan(client)
        busy = person.work(n_rounds, during_run=True)
        client.tell("POST", "/api/v1/stop")
        kept = person.is_kept()
    results = {name: _within(seconds, kept)
               for name, seconds in (("page_idle", idle), ("page_during_run", busy)) if seconds["state"]}
    more = ["answers of the labelling page in ms:\n\n" + percentiles({"idle": idle, "during a run": busy})]
    if len(busy["state"]) < n_rounds:
        more.append(f"left out: {n_rounds - len(busy['state'])} of {n_rounds} rounds during a run; it ended before")
    return Measured(results, more)


def _within(seconds: Seconds, kept: bool) -> Result:
    every = np.concatenate([*seconds.values()])
    note = f"seconds within which 90 % of {len(every)} answers came; the last drawing is {'' if kept else 'NOT '}kept"
    return Result(None, float(np.quantile(every, 0.9)), kept, note, allowed_seconds=ALLOWED_S)


def write_folder(bench: Bench) -> tuple[Path, list[str]]:
    """Copy the first cases into a folder, the true outlines of the first below truth/. Return it and the scans' names."""
    folder = bench.folder / "page"
    (folder / "truth").mkdir(parents=True)
    cases = bench.cases[:N_SCANS]
    for case in cases:
        shutil.copyfile(case.image, folder / f"{case.name}.nii.gz")
    shutil.copyfile(cases[0].label, folder / f"truth/{cases[0].name}.nii.gz")
    return folder, [case.name for case in cases]


def wait_for_first_scan(client: PageClient) -> None:
    """Wait until the run is at work on a scan.

    Raises:
        RuntimeError: it ended before, or does not begin.
    """
    deadline = time.monotonic() + START_S
    while not (run := client.state()["run"])["current"]:
        if run["state"] == "idle" or time.monotonic() > deadline:
            raise RuntimeError(f"the run did not begin: {run}")
        time.sleep(0.05)


class Person:
    """Draws on a scan stroke by stroke, and looks at the list meanwhile.

    Args:
        labels: file of its outlines. A square is drawn on them, farther along and in another class from stroke to stroke.
    """

    def __init__(self, client: PageClient, name: str, labels: Path):
        stored = nibabel.Nifti1Image.from_filename(labels)
        self.client, self.name, self.affine = client, name, stored.affine
        self.label_map = np.asarray(stored.dataobj).T.astype(np.uint8)
        self.drawn = client.scan(name)["drawn"]

    def stroke(self) -> bytes:
        """Return the label map after the next stroke, as the content of a NIfTI file."""
        at = 2 * (self.drawn % 20)
        self.label_map[len(self.label_map) // 2, at:at + 12, at:at + 12] = 1 + self.drawn % len(LABELS)
        return nifti(self.label_map, self.affine)

    def work(self, n_rounds: int, during_run: bool) -> Seconds:
        """Return the seconds of each request in some rounds. `during_run`: they end with the run."""
        seconds: dict[str, list[float]] = {"state": [], "image": [], "outlines": [], "save": []}
        for _ in range(n_rounds):
            taken = {"save": self._timed("PUT", f"{scan_path(self.name, 'outlines')}?drawn={self.drawn}", self.stroke())}
            self.drawn += 1
            taken |= {"state": self._timed("GET", "/api/v1/state"), "image": self._timed("GET", scan_path(self.name, "image")),
                      "outlines": self._timed("GET", scan_path(self.name, "outlines"))}
            if during_run and self.client.state()["run"]["state"] != "running":
                break
            for request, of_one in taken.items():
                seconds[request].append(of_one)
        return seconds

    def _timed(self, method: str, path: str, body: bytes | None = None) -> float:
        """Return the seconds of an answer.

        Raises:
            RuntimeError: the request was refused.
        """
        start = time.perf_counter()
        status, answer = self.client.ask(method, path, body)
        seconds = time.perf_counter() - start
        if status != 200:
            raise RuntimeError(f"{method} {path}: {status} {answer[:200].decode(errors='replace')}")
        return seconds

    def is_kept(self) -> bool:
        """Return whether the page's outlines of the scan are what was drawn last."""
        _, content = self.client.ask("GET", scan_path(self.name, "outlines"))
        return np.array_equal(np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(content)).dataobj).T, self.label_map)


def percentiles(seconds: Mapping[str, Seconds]) -> str:
    """Return a table of the percentiles of each request's seconds, in ms, by what goes on meanwhile."""
    rows = [[f"{request}, {meanwhile}", str(len(of_one)), *(f"{1000 * ms:.1f}" for ms in np.quantile(of_one, [*SHARES.values()]))]
            for meanwhile, by_request in seconds.items() for request, of_one in by_request.items() if of_one]
    return markdown_table(["request", "answers", *SHARES], rows)
