"""Measure how much faster two processes are than one on this machine, and what keeps them from being twice as fast.

    python scripts/checks/two_processes.py --data-dir data/CHAOST2                   # an hour on two free cores
    python scripts/checks/two_processes.py stages supervoxels --data-dir …           # parts of it

The parts:

    stages        steps of the work, and plain loops, in a process alone and while a second process does the same
    supervoxels   of all cases: `--jobs 1`, `--jobs 2` and with torchrun
    predict       `guided` with two stepping stones, without training; the first case outlines the next --scans
    evaluate      the first ten cases, the small encoder without training, whole volumes

Each process computes with one thread. Commands are run in turn, and medians are taken. A small job tells what processes cannot
share out: the same with two cases, or `predict` with nothing left to do. The ratio of the rest is that without the small jobs.
One process and two must write the same files, or the exit status is 1. The tables are Markdown, as those in docs/scale.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import torch

from qnet.data.supervoxels.felzenszwalb import mask_background, segment_volume
from qnet.dataloaders.datasets import Case, find_cases
from qnet.dataloaders.nifti import read_array, read_spacing_mm, write_like
from qnet.dataloaders.volumes import Volume, read_volume
from qnet.models.registration import Registration, register
from qnet.models.settings import RegistrationSettings
from qnet.scripts.checks.benchmarks.bench import CHAOS_N_SV, LABELS
from qnet.util.base.arguments import Parser
from qnet.util.base.checksums import sha256
from qnet.util.base.device import set_up_process
from qnet.util.base.errors import InputError
from qnet.util.base.pool import processes
from qnet.util.base.progress import progress
from qnet.util.base.root import ROOT
from qnet.util.base.tables import markdown_table
from qnet.util.options.config import base_config, load_config
from qnet.util.options.sections import dataset_spec, section

SPEC = dataset_spec("CHAOST2", load_config()["datasets"]["CHAOST2"])
PYTHON = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SACRED_FORMS: Mapping[str, tuple[list[str], list[str]]] = {"one process": (PYTHON, []), "two, torchrun": (TORCHRUN, [])}
N_CASES = 20          # of CHAOST2
STAGES_HEADER = ["step", "alone, s", "beside another, s", "ratio"]
COMMANDS_HEADER = ["what", "how", "s", "ratio", "small job, s", "ratio of the rest"]
STEP_REPEATS = 3      # in each of the rounds
_barrier: Barrier
Steps = Mapping[str, Callable[[], object]]


def steps_of(data_dir: Path, folder: Path) -> Steps:
    """Return the steps to be timed, by name. Each can be repeated.

    Args:
        folder: to write to.
    """
    numbers, cases = np.random.default_rng(0), _cases(data_dir)
    small, large = numbers.random(1000), np.ones(2**23)
    places = numbers.integers(0, len(large), 2**22)
    path = cases[0].image
    image, spacing_mm = read_array(path), read_spacing_mm(path)
    segments = segment_volume(image, spacing_mm, CHAOS_N_SV)
    support, query = (read_volume(case, SPEC) for case in cases[:2])
    masks, found = torch.from_numpy(np.stack([support.labels == label for label in LABELS])).float(), _registered(query, support)
    return {"loop: sums in the cache": lambda: [small.sum() for _ in range(100_000)],
            "loop: sums of 64 MB": lambda: [large.sum() for _ in range(20)],
            "loop: random reads in 64 MB": lambda: [large[places].sum() for _ in range(5)],
            "loop: new memory": lambda: [np.ones(2**24) for _ in range(4)],
            "supervoxels: image read": lambda: read_array(path),
            "supervoxels: segments": lambda: segment_volume(image, spacing_mm, CHAOS_N_SV),
            "supervoxels: body": lambda: mask_background(segments, image),
            "supervoxels: map written": lambda: write_like(path, segments, folder / "map.nii.gz"),
            "predict: registration": lambda: _registered(query, support),
            "predict: labels carried along": lambda: found.warp(masks)}


def _cases(data_dir: Path) -> list[Case]:
    return find_cases(SPEC, data_dir, CHAOS_N_SV)


def _registered(query: Volume, support: Volume) -> Registration:
    first, second = (torch.from_numpy(np.ascontiguousarray(volume.image, np.float32)) for volume in (query, support))
    return register(first, second, query.spacing_mm, support.spacing_mm,
                    section(RegistrationSettings, base_config()["registration"]))


def _begin(barrier: Barrier) -> None:
    global _barrier     # of this process, one of several that begin each step together
    _barrier = barrier
    torch.set_num_threads(1)
    set_up_process(torch.device("cpu"))     # the process keeps its memory, as programs do


def time_steps(make: Callable[[Path, Path], Steps], data_dir: Path) -> dict[str, float]:
    """Return the median seconds of the steps by name, in one of the processes of `of_processes`."""
    taken: dict[str, list[float]] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, step in make(data_dir, Path(folder)).items():
                step()
                for _ in range(STEP_REPEATS):
                    _barrier.wait()
                    began = time.perf_counter()
                    step()
                    taken.setdefault(name, []).append(time.perf_counter() - began)
                _barrier.wait()
    except BaseException:
        _barrier.abort()        # or the other would wait for this one
        raise
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def of_processes(n: int, data_dir: Path, make: Callable[[Path, Path], Steps] = steps_of) -> dict[str, float]:
    """Return the seconds of each step, where `n` processes do it at the same time: the mean of their medians."""
    with processes(n, partial(_begin, get_context("spawn").Barrier(n))) as pool:
        of_each = [job.result() for job in [pool.submit(time_steps, make, data_dir) for _ in range(n)]]
    return {name: statistics.mean(taken[name] for taken in of_each) for name in of_each[0]}


def measure_stages(data_dir: Path, n_rounds: int, make: Callable[[Path, Path], Steps] = steps_of) -> str:
    """Return the table of the steps: medians of rounds in which they are timed alone and beside another."""
    rounds = [[of_processes(n, data_dir, make) for n in (1, 2)] for _ in progress(range(n_rounds), desc="stages", unit="round")]
    rows = []
    for name in rounds[0][0]:
        alone, beside = (statistics.median(of_round[k][name] for of_round in rounds) for k in (0, 1))
        rows.append([name, f"{alone:.3g}", f"{beside:.3g}", f"{beside / alone:.2f}"])
    return markdown_table(STAGES_HEADER, rows)


@dataclass(frozen=True)
class Command:
    """A command in forms that do the same work, the first with one process.

    Attributes:
        forms: their names, and their words before and after `words`.
        words: the program and its arguments, for a folder to write to.
        written: pattern of the files that must be the same.
        small: as `words`, for a small job. None: the command once more.
    """

    forms: Mapping[str, tuple[list[str], list[str]]]
    words: Callable[[Path], list[str]]
    written: str
    small: Callable[[Path], list[str]] | None = None

    def run(self, form: str, folder: Path) -> float:
        """Run a form of it, and return its seconds.

        Raises:
            InputError: it failed.
        """
        return self._timed(form, self.words(folder))

    def run_small(self, form: str, folder: Path) -> float:
        """Do the small job, after `run` with the same folder; return its seconds. Raises InputError, as `run`."""
        return self._timed(form, self.small(folder / "small") if self.small else self.words(folder))

    def _timed(self, form: str, words: list[str]) -> float:
        before, after = self.forms[form]
        line = [*before, *words, *after]
        began = time.monotonic()
        done = subprocess.run(line, cwd=ROOT, capture_output=True, encoding="utf-8",
                              env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
        if done.returncode:
            raise InputError(f"{' '.join(line)}: ended with status {done.returncode}\n{done.stderr.strip()}")
        return time.monotonic() - began

    def contents(self, folder: Path) -> dict[str, str]:
        """Return the checksums of the files that must be the same, by name."""
        return {path.name: sha256(path) for path in sorted(folder.rglob(self.written))}


def supervoxels(options: argparse.Namespace, _folder: Path) -> Command:
    """Make the supervoxels of all cases."""
    program = ["data/supervoxels/generate_supervoxels.py", "CHAOST2", "--data-dir", str(options.data_dir)]
    two_cases = [case.name for case in _cases(options.data_dir)[:2]]
    return Command({"one process": (PYTHON, ["--jobs", "1"]), "two, --jobs 2": (PYTHON, ["--jobs", "2"]),
                    "two, torchrun": (TORCHRUN, ["--jobs", "1"])}, lambda output: [*program, "--output", str(output)],
                   "superpix-*.nii.gz", lambda output: [*program, "--output", str(output), "--cases", *two_cases])


def predict(options: argparse.Namespace, folder: Path) -> Command:
    """Outline scans as one is outlined, with two stepping stones."""
    support, *queries = _cases(options.data_dir)
    scans = folder / "scans"
    scans.mkdir()
    for case in queries[:options.scans]:
        (scans / case.image.name).symlink_to(case.image)
    program = ["test.py", "predict", "with", "guided", "registration.stones=2", f"support_image={support.image}",
               f"support_label={support.label}", f"query={scans}", "device=cpu"]
    return Command(SACRED_FORMS, lambda output: [*program, f"output={output}"], "image_*.nii.gz")


def evaluate(options: argparse.Namespace, _folder: Path) -> Command:
    """Evaluate ten of the cases."""
    def words(n_folds: int, output: Path) -> list[str]:
        return ["test.py", "with", "chaost2_setting1_scratch", f"datasets.CHAOST2.n_folds={n_folds}", "supp_idx=0", "device=cpu",
                "reload_model_path=untrained", f"path.CHAOST2.data_dir={options.data_dir}", f"path.log_dir={output}"]

    return Command(SACRED_FORMS, partial(words, 2), "scores.csv", partial(words, N_CASES // 2))


COMMANDS: Mapping[str, Callable[[argparse.Namespace, Path], Command]] = {
    "supervoxels": supervoxels, "predict": predict, "evaluate": evaluate}


def measure_command(name: str, command: Command, n_rounds: int, folder: Path) -> tuple[list[list[str]], bool]:
    """Run the forms of a command in turn, and return its rows under COMMANDS_HEADER, and whether all forms wrote the same."""
    taken: dict[str, list[float]] = {form: [] for form in command.forms}
    small: dict[str, list[float]] = {form: [] for form in command.forms}
    contents = []
    for k in progress(range(n_rounds), desc=name, unit="round"):
        for n, form in enumerate(command.forms):
            output = folder / f"{name}_{k}_{n}"
            taken[form].append(command.run(form, output))
            contents.append(command.contents(output))
            small[form].append(command.run_small(form, output))
    total, of_small = ({form: statistics.median(seconds) for form, seconds in of_forms.items()} for of_forms in (taken, small))
    first, rest = next(iter(total)), {form: total[form] - of_small[form] for form in total}
    rows = [[name, form, f"{total[form]:.1f}", f"{total[first] / total[form]:.2f}", f"{of_small[form]:.1f}",
             f"{rest[first] / rest[form]:.2f}"] for form in total]
    return rows, bool(contents[0]) and all(content == contents[0] for content in contents)


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parts = ["stages", *COMMANDS]
    parser = Parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(parts)}; default: all")
    parser.add_argument("--data-dir", type=Path, required=True, help="a CHAOST2 folder")
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken; default: %(default)s")
    parser.add_argument("--scans", type=int, default=10, help="that `predict` outlines; default: %(default)s")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(parts):
        parser.error(f"part: got {', '.join(sorted(unknown))}, allowed: {', '.join(parts)}")
    options.data_dir = options.data_dir.resolve()
    chosen = options.parts or parts
    rows: list[list[str]] = []
    differ = []
    try:
        if "stages" in chosen:
            print(f"{measure_stages(options.data_dir, options.rounds)}\n", flush=True)
        for name in (name for name in COMMANDS if name in chosen):
            with tempfile.TemporaryDirectory() as folder:
                of_command, same = measure_command(name, COMMANDS[name](options, Path(folder)), options.rounds, Path(folder))
            rows += of_command
            differ += [] if same else [name]
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if rows:
        print(markdown_table(COMMANDS_HEADER, rows))
    for name in differ:
        print(f"error: {name}: one process and two wrote different files", file=sys.stderr)
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
