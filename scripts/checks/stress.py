"""Try to lose something: kills at random moments, full disks, damaged files. Exit status 0 only if all parts held.

    python scripts/checks/stress.py                    # everything; docs/reliability.md shows its output
    python scripts/checks/stress.py --quick            # fewer kills and inputs
    python scripts/checks/stress.py kills --seed 7     # one part, with the random numbers of an earlier run

Trainings are those of train.py on small synthetic volumes. Each runs in its own process, forked from this one.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from qnet.scripts.checks.kill_one_process import kill_one_process
from qnet.util.base.arguments import Parser
from qnet.util.base.progress import progress
from qnet.util.run.folders import newest_run
from qnet.util.training.snapshots import Snapshot, newest_readable
from tests.programs import TINY, entry_point, run
from tests.toy import write_toy_data

OPTIONS = {"n_steps": 24, "save_snapshot_every": 3, "print_interval": 5, "keep_snapshots": 2}
RUNS = "QNet_train_CHAOST2_cv0"


class Stress:
    """What the parts share: random numbers, a folder with data, and the amount of work."""

    def __init__(self, folder: Path, seed: int, quick: bool):
        self.folder, self.seed, self.quick, self.rng = folder, seed, quick, random.Random(seed)
        self.data = write_toy_data(folder / "data")

    def start(self, log_dir: Path, **options: object) -> int:
        """Start a training in its own process, with its output in a file beside the run folders. Return the process number."""
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            log_dir.mkdir(parents=True, exist_ok=True)
            status = 1
            output = os.open(log_dir / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            try:
                run("train", log_dir, self.data, **{**OPTIONS, **options})
                status = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(status)
        return pid

    def train(self, log_dir: Path, **options: object) -> int:
        """Train to the end in its own process. Return its exit status."""
        return os.waitstatus_to_exitcode(os.waitpid(self.start(log_dir, **options), 0)[1])


def kills(stress: Stress) -> list[str]:
    """SIGKILL at random moments, with 0, 1 and 4 loader workers. Weights, losses and log equal those of an undisturbed run."""
    failures: list[str] = []
    moments: list[int] = []
    total = 9 if stress.quick else 51
    with progress(total=total, desc="kills", unit="kill") as bar:
        for n_workers in (0, 1, 4):
            whole, killed = stress.folder / f"whole_{n_workers}", stress.folder / f"killed_{n_workers}"
            began = time.monotonic()
            if stress.train(whole, num_workers=n_workers) != 0:
                return [f"{n_workers} workers: the undisturbed training failed\n{read(whole / 'output.txt')}"]
            duration = time.monotonic() - began
            n_kills, trainings = 0, 0
            while n_kills < total // 3:
                log_dir = killed / str(trainings)
                n, status = _kill_until_done(stress, log_dir, n_workers, duration, total // 3 - n_kills, moments, bar)
                n_kills, trainings = n_kills + n, trainings + 1
                if status != 0:
                    failures.append(f"{n_workers} workers: a training ended with status {status}\n"
                                    f"{read(log_dir / 'output.txt')[-2000:]}")
                    break
                failures += [f"{n_workers} workers, after {n} kills: {difference}" for difference in differences(whole, log_dir)]
                if len(list((log_dir / RUNS).glob("[0-9]*"))) != 1:
                    failures.append(f"{n_workers} workers: the training went on in another folder")
    print(f"{len(moments)} kills; newest snapshot when killed (step: times): "
          f"{', '.join(f'{step}: {moments.count(step)}' for step in sorted(set(moments)))}")
    return failures


def _kill_until_done(stress: Stress, log_dir: Path, n_workers: int, duration: float, at_most: int, moments: list[int],
                     bar: Any) -> tuple[int, int]:
    """Start one training again and again and kill it, until it is done. Return the number of kills and its exit status."""
    n_kills = 0
    while True:
        pid = stress.start(log_dir, num_workers=n_workers)
        if n_kills < at_most:
            time.sleep(stress.rng.uniform(0, duration))
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                n_kills += 1
                bar.update()
                moments.append(max((int(path.stem) for path in log_dir.rglob("*.pth") if path.stem.isdecimal()), default=0))
                continue
        else:
            return n_kills, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        last = _last(log_dir)
        return n_kills, 0 if last is not None and last.step == OPTIONS["n_steps"] else 1


def read(output: Path) -> str:
    """Return the output of a training."""
    return output.read_text(encoding="utf-8", errors="replace")


def _last(log_dir: Path) -> Snapshot | None:
    return newest_readable(newest_run(log_dir / RUNS) / "snapshots")


def differences(first: Path, second: Path, n_steps: int = OPTIONS["n_steps"]) -> Iterator[str]:
    """Yield the differences of the last snapshots of two trainings of `n_steps` steps, compared bit for bit."""
    a, b = _last(first), _last(second)
    if a is None or b is None or not a.step == b.step == n_steps:
        yield f"last snapshots {a and a.step} and {b and b.step}"
        return
    yield from (f"tensor {name} differs" for name in a.model if not torch.equal(a.model[name], b.model[name]))
    if a.history is None or b.history is None or not torch.equal(a.history, b.history):
        yield "losses differ"
    if a.log != b.log or a.optimizer is None or b.optimizer is None or not all(
            torch.equal(x["momentum_buffer"], y["momentum_buffer"]) for x, y in zip(
                a.optimizer["state"].values(), b.optimizer["state"].values(), strict=True)):
        yield "log or optimiser differs"


@contextmanager
def small_disk(folder: Path, size_mb: int) -> Iterator[Path | None]:
    """Yield a file system of that size, or None without the right to mount one (only root has it)."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)], capture_output=True)
    try:
        yield folder if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_disk(stress: Stress) -> list[str]:
    """Fill the disk: one line says so, earlier snapshots stay, no part of one is left, and training continues with room."""
    failures: list[str] = []
    whole = stress.folder / "whole_disk"
    stress.train(whole)
    with small_disk(stress.folder / "small", 40) as disk:
        if disk is None:
            print("no file system can be mounted here: a limit on the size of files takes the place of a full disk")
            return _limited_files(stress, whole)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(10 << 20))
        status = stress.train(disk / "runs", keep_snapshots="all")
        failures += _after_no_space(disk / "runs", status, "No space left on device")
        ballast.unlink()
        if stress.train(disk / "runs", keep_snapshots=1) != 0:
            failures.append(f"did not go on with room on the disk: {read(disk / 'runs/output.txt')[-1000:]}")
        else:
            failures += differences(whole, disk / "runs")
    return failures


def _limited_files(stress: Stress, whole: Path) -> list[str]:
    log_dir, before = stress.folder / "limited", resource.getrlimit(resource.RLIMIT_FSIZE)
    stress.train(log_dir, n_steps=6)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))      # a snapshot is larger
    try:
        status = stress.train(log_dir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    failures = _after_no_space(log_dir, status, "File too large")
    return failures + (list(differences(whole, log_dir)) if stress.train(log_dir) == 0 else ["did not go on without the limit"])


def _after_no_space(log_dir: Path, status: int, message: str) -> list[str]:
    """Check the files and output of a training that could not write a snapshot."""
    lines = [line for line in read(log_dir / "output.txt").splitlines() if line.startswith("SystemExit: error:")]
    left = [path.name for path in log_dir.rglob(".partial-*")]
    last = _last(log_dir)
    return [text for text, bad in [
        (f"exit status {status}", status != 1),
        (f"errors {lines}", len(lines) != 1 or not lines[0].endswith(f".pth: {message}")),
        (f"partial files {left}", bool(left)),
        ("no whole snapshot is left", last is None),
        (f"damaged snapshots beside step {last and last.step}",
         last is not None and last.step != max(int(path.stem) for path in log_dir.rglob("*.pth"))),
    ] if bad]


def fuzz(stress: Stress) -> list[str]:
    """Damage configs, scans and checkpoints: each is refused with one line, or read correctly."""
    from tests import fuzzing
    failures: list[str] = []
    n = 100 if stress.quick else 7000
    for name in ("fuzz_config", "fuzz_nifti", "fuzz_places", "fuzz_dicom", "fuzz_other", "fuzz_outlines", "fuzz_checkpoint"):
        found = getattr(fuzzing, name)(n, stress.seed)
        print(f"{name}: {n} inputs, {len(found)} failures")
        failures += [f"{name}: {failure}" for failure in found]
    return failures


def distributed(stress: Stress) -> list[str]:
    """Kill one of two processes that train together."""
    options = {**TINY, "path.CHAOST2.data_dir": stress.data}
    try:
        kill_one_process([f"{key}={value}" for key, value in options.items()], stress.folder)
    except RuntimeError as error:
        return [str(error)]
    return []


PARTS: dict[str, Callable[[Stress], list[str]]] = {
    "kills": kills, "full_disk": full_disk, "fuzz": fuzz, "distributed": distributed}


def main(arguments: list[str] | None = None, parts: Mapping[str, Callable[[Stress], list[str]]] = PARTS) -> int:
    """Run the command and return its exit status."""
    parser = Parser(__doc__)
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(parts)}; all of them unless given")
    parser.add_argument("--quick", action="store_true", help="a few kills and inputs, minutes in all")
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run; a new one unless given")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(parts):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; known: {', '.join(parts)}")
    seed = random.randrange(2**31) if options.seed is None else options.seed
    torch.set_num_threads(1)     # forked processes may not share a pool of threads, and bits depend on their number
    entry_point("train")         # imported once, for all processes
    print(f"seed {seed}")
    held = True
    for name in options.parts or parts:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="stress-") as folder:
            failures = parts[name](Stress(Path(folder), seed, options.quick))
        held = held and not failures
        print(f"{name}: {'held' if not failures else 'FAILED'} ({time.monotonic() - began:.0f} s)",
              *(f"  {failure}" for failure in failures), sep="\n", flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
