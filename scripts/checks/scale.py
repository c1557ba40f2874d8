"""Make data sets of many volumes, and measure training and evaluation with each.

    python scripts/checks/scale.py --volumes 20 1000 --folder scale
    python scripts/checks/scale.py --volumes 1000 --folder scale --prepare 600                         # preparation, killed once
    python scripts/checks/scale.py --volumes 5 10 --folder small --size 64 --slices 12 --steps 20      # two minutes, to try it

A volume is one of ten phantom bodies with a brightness and noise of its own, and its body's labels and supervoxels, so a thousand
take minutes to make, not hours. Each is a file of its own. What was made is kept in the folder: 25 GB for a thousand volumes of
256×256×40, most of it the store of prepared volumes that train.py makes. Times are by the clock. Memory is the largest sum over
the processes of a program, in which a page that several share counts once (PSS; Linux alone).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from qnet.data.phantom import MIN_SIZE_SHARE, case_files, write_case
from qnet.dataloaders.nifti import read_array, read_spacing_mm, write_like
from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.progress import progress
from qnet.util.base.root import ROOT
from qnet.util.base.tables import format_table
from qnet.util.options.sections import RunPlace
from qnet.util.training.snapshots import newest_snapshot

N_BODIES = 10
TRAINING_STARTS = "training volumes of"         # in the line that train.py prints before its first step
HEADER = ["volumes", "first start, s", "later start, s", "episodes/s", "training, MB", "queries", "evaluation, s a query",
          "evaluation, MB"]
PREPARATION_HEADER = ["volumes", "killed after, s", "images by then", "supervoxels", "the rest, s", "nothing to do, s",
                      "memory, MB"]


class PeakMemory(threading.Thread):
    """Watches the memory of a process and of all processes that it started, until they end.

    Attributes:
        peak_mb: the largest sum of their PSS so far.
    """

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.pid, self.peak_mb = pid, 0.0

    def run(self) -> None:
        """Look twice a second."""
        while (now_kb := sum(map(pss_kb, family(self.pid)))) > 0:
            self.peak_mb = max(self.peak_mb, now_kb / 1e3 * 1.024)
            time.sleep(0.5)


def family(pid: int) -> list[int]:
    """Return a process and all below it. It is empty if the process has ended."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        try:
            for children in Path(f"/proc/{found[-1]}/task").glob("*/children"):
                waiting += map(int, children.read_text(encoding="ascii").split())
        except OSError:     # it ended meanwhile
            pass
    return found


def kill(pid: int) -> None:
    """Kill a process and all below it."""
    for one in family(pid):
        with contextlib.suppress(ProcessLookupError):       # it ended meanwhile
            os.kill(one, signal.SIGKILL)


def pss_kb(pid: int) -> int:
    """Return the proportional set size of a process in units of 1,024 bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def make_volumes(folder: Path, n: int, parameters: dict[str, int]) -> Path:
    """Return the data set of the first `n` volumes, as links to files in `folder`/all. Files that are there are kept."""
    bodies, everything, linked = folder / "bodies", folder / "all", folder / f"first_{n}"
    files = partial(case_files, min_size=parameters["min_size"])

    def missing(where: Path, numbers: Sequence[int]) -> list[int]:
        return [k for k in numbers if not all(path.exists() for path in files(where, k))]

    with get_context("spawn").Pool(2) as pool:
        for where, make, wanted in (
                (bodies, partial(write_case, bodies, parameters=parameters), missing(bodies, range(1, N_BODIES + 1))),
                (everything, partial(write_volume, bodies, everything, parameters), missing(everything, range(1, n + 1)))):
            for _ in progress(pool.imap_unordered(make, wanted), total=len(wanted), desc=where.name, unit="volume"):
                pass
    for k in range(1, n + 1):
        for link, path in zip(files(linked, k), files(everything, k), strict=True):
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(path.resolve())
    return linked


def write_volume(bodies: Path, folder: Path, parameters: dict[str, int], number: int) -> None:
    """Write a volume, 1, 2, …: image, labels and supervoxels."""
    rng = np.random.default_rng([parameters["seed"], number])
    of_body, of_volume = (case_files(where, k, parameters["min_size"])
                          for where, k in ((bodies, 1 + number % N_BODIES), (folder, number)))
    image = read_array(of_body[0]) * rng.uniform(0.7, 1.4)
    image += rng.normal(0, 5, image.shape)
    for path, values in zip(of_volume, (image.clip(0, 2000).astype(np.int16), *map(read_array, of_body[1:])), strict=True):
        write_like(of_body[0], values, path)


def run(program: str, options: Sequence[str], kill_after_s: float | None = None) -> tuple[float, float, float]:
    """Run a program, and return the seconds until TRAINING_STARTS was printed, those from then on, and its peak memory in MB.

    Args:
        kill_after_s: kill it and all that it started after so many seconds. The first number is the time until it ended.
    Raises:
        InputError: it failed.
    """
    began, started = time.monotonic(), None
    process = subprocess.Popen([sys.executable, "-u", program, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                               encoding="utf-8")
    memory = PeakMemory(process.pid)
    memory.start()
    killer = threading.Timer(kill_after_s or 0, kill, (process.pid,))
    if kill_after_s is not None:
        killer.start()
    assert process.stdout is not None
    for line in process.stdout:
        if started is None and TRAINING_STARTS in line:
            started = time.monotonic()
    status = process.wait()
    killer.cancel()
    if status and not (status == -signal.SIGKILL and kill_after_s is not None):
        raise InputError(f"{program}: ended with status {status}")
    ended = time.monotonic()
    memory.join()
    return (started or ended) - began, ended - (started or ended), memory.peak_mb


def measure(folder: Path, n: int, parameters: dict[str, int], n_steps: int, workers: int, n_folds: int) -> list[str]:
    """Train and evaluate with `n` volumes, and return the cells of HEADER."""
    data = make_volumes(folder, n, parameters)
    runs = (folder / f"runs_{n}").resolve()
    common = ["with", "demo", f"path.PHANTOM.data_dir={data.resolve()}", f"path.log_dir={runs}", f"n_sv={parameters['min_size']}",
              f"num_workers={workers}", f"datasets.PHANTOM.n_folds={n_folds}", "resume=never"]
    first, _, _ = run("train.py", [*common, "n_steps=1"])
    later, of_one, _ = run("train.py", [*common, "n_steps=1"])
    _, of_all, training_mb = run("train.py", [*common, f"n_steps={n_steps}"])
    trained = newest_snapshot(RunPlace(runs, "qnet", "PHANTOM", 0).folders("train"))
    seconds, _, evaluation_mb = run("test.py", [*common, f"reload_model_path={trained}", "supp_idx=0", "test_label=[1]"])
    n_queries = n // n_folds
    return [str(n), f"{first:.1f}", f"{later:.1f}", f"{(n_steps - 1) / (of_all - of_one):.2f}", f"{training_mb:.0f}",
            str(n_queries), f"{seconds / n_queries:.2f}", f"{evaluation_mb:.0f}"]


def measure_preparation(folder: Path, n: int, parameters: dict[str, int], kill_after_s: float) -> list[str]:
    """Prepare `n` volumes as one's own scans, killed with all its processes after a while, to the end, and again.

    Returns:
        The cells of PREPARATION_HEADER.
    Raises:
        InputError: a start that was not killed failed, or prepared volumes were there already.
    """
    source, target = make_volumes(folder, n, parameters) / "chaos_MR_T2_normalized", folder / f"prepared_{n}"
    if target.exists():
        raise InputError(f"{target}: is there already; allowed: to delete it")
    spacing = [f"{mm:g}" for mm in read_spacing_mm(source / "image_1.nii.gz")[::-1]]
    options = ["nifti", "--source", str(source), "--image", "image_{case}.nii.gz", "--label", "label_{case}.nii.gz",
               "--target", str(target), "--spacing", *spacing, "--size", str(parameters["size"])]
    killed, _, first_mb = run("data/prepare.py", options, kill_after_s)
    by_then = [str(len(list(target.rglob(f"{name}_*.nii.gz")))) for name in ("image", "superpix-MIDDLE")]
    rest, _, second_mb = run("data/prepare.py", options)
    nothing, _, _ = run("data/prepare.py", options)
    return [str(n), f"{killed:.0f}", *by_then, f"{rest:.0f}", f"{nothing:.1f}", f"{max(first_mb, second_mb):.0f}"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = Parser(__doc__)
    parser.add_argument("--volumes", type=int, nargs="+", default=[20, 1000], help="default: 20 1000")
    parser.add_argument("--folder", type=Path, required=True, help="of data, store and runs; what is there is kept")
    parser.add_argument("--size", type=int, default=256, help="rows and columns; default: %(default)s")
    parser.add_argument("--slices", type=int, default=40, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=200, help="of training; default: %(default)s")
    parser.add_argument("--workers", type=int, default=4, help="num_workers; default: %(default)s")
    parser.add_argument("--folds", type=int, default=10, help="one of them is evaluated; default: %(default)s")
    parser.add_argument("--prepare", type=float, metavar="SECONDS",
                        help="measure data/prepare.py instead, killed once after so many seconds")
    options = parser.parse_args(arguments)
    parameters = {"seed": 0, "slices": options.slices, "size": options.size,
                  "min_size": round(MIN_SIZE_SHARE * options.slices * options.size**2)}
    measured: Callable[[int], list[str]]
    if options.prepare is None:
        header = HEADER
        measured = partial(measure, options.folder, parameters=parameters, n_steps=options.steps, workers=options.workers,
                           n_folds=options.folds)
    else:
        header = PREPARATION_HEADER
        measured = partial(measure_preparation, options.folder, parameters=parameters, kill_after_s=options.prepare)
    try:
        rows = [measured(n) for n in options.volumes]
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(format_table(header, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
