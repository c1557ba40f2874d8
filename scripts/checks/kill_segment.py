"""Kill scripts/segment.py at random moments, and compare what comes out with an undisturbed run.

    python scripts/checks/kill_segment.py                       # 20 kills, some minutes
    python scripts/checks/kill_segment.py --kills 5 --seed 7    # fewer, with the moments of an earlier run

The scans are small synthetic ones. A run is started and killed (SIGKILL) again and again until it ends by itself; then the next
begins.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from qnet.scripts import segment
from qnet.util.base.arguments import Parser
from qnet.util.base.checksums import sha256
from qnet.util.base.files import LIST
from qnet.util.base.progress import progress
from tests.toy import toy_case, write

N_SCANS = 4


def kill_segment(folder: Path, n_kills: int, rng: random.Random) -> list[str]:
    """Kill runs `n_kills` times in all, and return a line for whatever was lost or changed.

    Args:
        folder: of the scans, the results and the printed lines.
        rng: draws the moments, each from the start of a run to the time that an undisturbed one takes.
    """
    words, output = write_scans(folder), folder / "output"
    given = contents(folder / "given")
    began = time.monotonic()
    if status := finish(start(words, output)):
        return [f"the undisturbed run ended with status {status}"]
    duration, expected = time.monotonic() - began, contents(output)
    failures: list[str] = []
    killed_with: list[int] = []       # label maps that were there at each kill
    n_runs = 0
    with progress(total=n_kills, desc="kills", unit="kill") as bar:
        while len(killed_with) < n_kills and not failures:
            n_runs += 1
            shutil.rmtree(output)
            while len(killed_with) < n_kills and (status := finish(start(words, output), rng.uniform(0, duration))) is None:
                killed_with.append(len(list(output.glob("*.nii.gz"))))
                bar.update()
            status = finish(start(words, output))
            failures += [f"run {n_runs} ended with status {status}"] * bool(status) + differences(expected, contents(output))
            if contents(folder / "given") != given:
                failures.append(f"run {n_runs}: scans or outlines were changed")
    print(f"{len(killed_with)} kills in {n_runs} runs of {duration:.0f} s; label maps when killed (number: times): "
          f"{', '.join(f'{n}: {killed_with.count(n)}' for n in sorted(set(killed_with)))}")
    return failures


def write_scans(folder: Path) -> list[str]:
    """Write the scans and the outlines of the first below `folder`/given; return the command's options without --output."""
    for number in range(1, N_SCANS + 1):
        image, label_map, _ = toy_case(number)
        write(folder / f"given/scans/scan {number}.nii.gz", image)
        if number == 1:
            write(folder / "given/labels.nii.gz", label_map)
    return ["--scans", str(folder / "given/scans"), "--outlined", f"scan 1={folder / 'given/labels.nii.gz'}"]


def start(words: Sequence[str], output: Path) -> BaseProcess:
    """Start the command in a process of its own. Its lines go into a file beside `output`."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(words, output))
    process.start()
    return process


def _run(words: Sequence[str], output: Path) -> None:
    with output.with_suffix(".txt").open("a", encoding="utf-8") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    raise SystemExit(segment.main([*words, "--output", str(output), "--json", str(output / "cases.json")]))


def finish(process: BaseProcess, seconds: float | None = None) -> int | None:
    """Wait for a process, and return its exit status. Kill it after so many seconds, and return None."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def contents(folder: Path) -> dict[str, str]:
    """Return the check sum of each file below a folder, by its path there. The list of what was made grows with every start."""
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file() and path.name != LIST}


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return a line for each file that is missing, another, or too many."""
    return [f"{name}: {'missing' if name not in found else 'too many' if name not in expected else 'differs'}"
            for name in sorted(set(expected) | set(found)) if expected.get(name) != found.get(name)]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = Parser(__doc__)
    parser.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run; a new one unless given")
    options = parser.parse_args(arguments)
    seed = random.randrange(2**31) if options.seed is None else options.seed
    torch.set_num_threads(1)     # forked processes may not share a pool of threads
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory(prefix="kill-segment-") as folder:
        failures = kill_segment(Path(folder), options.kills, random.Random(seed))
    print("nothing was lost or changed" if not failures else "\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
