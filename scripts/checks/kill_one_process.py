"""Kill one of two processes that train together, and compare the result under torchrun with an undisturbed training.

    python scripts/checks/kill_one_process.py with demo     # data/phantom.py has made its data; or any config and options
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from qnet.util.base.root import ROOT
from qnet.util.training.snapshots import Snapshot, read_snapshot

N_STEPS, SAVE_EVERY, KILL_AFTER = 20, 4, 8
WAIT_S = 600


def kill_one_process(options: Sequence[str], folder: Path) -> None:
    """Train undisturbed, with the main process killed, and with the other one killed. Each training has two processes on the CPU.

    Args:
        options: named configs and options of train.py.
        folder: of the run folders and the printed lines.
    Raises:
        RuntimeError: a training did not end, did not continue from a snapshot, or ended with other weights or losses.
    """
    undisturbed = _train(options, folder / "undisturbed", victim=None)
    for victim in (0, 1):
        killed = _train(options, folder / f"killed_{victim}", victim)
        assert undisturbed.history is not None and killed.history is not None      # snapshots of train.py have it
        same = torch.equal(undisturbed.history, killed.history) and all(
            torch.equal(value, killed.model[name]) for name, value in undisturbed.model.items())
        if not same:
            raise RuntimeError(f"process {victim} killed: {killed.path} differs from {undisturbed.path}")
        print(f"process {victim} killed after step {KILL_AFTER}: torchrun started both again; at step {killed.step} weights and "
              "losses are those of an undisturbed training")


def _train(options: Sequence[str], folder: Path, victim: int | None) -> Snapshot:
    """Train with torchrun. Kill the process of rank `victim` once. Return the last snapshot."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1",
               "train.py", "with", *options, "device=cpu", "resume=auto", f"n_steps={N_STEPS}",
               f"save_snapshot_every={SAVE_EVERY}", f"path.log_dir={folder}"]
    with (folder / "printed.txt").open("w+", encoding="utf-8") as printed:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=printed, stderr=printed)
        try:
            if victim is not None:
                _wait_for(folder, f"*/*/snapshots/{KILL_AFTER}.pth", process)
                os.kill(_worker(process.pid, victim), signal.SIGKILL)
            status = process.wait(WAIT_S)
        finally:
            process.kill()
        printed.seek(0)
        lines = printed.read()
    if status != 0 or (victim is not None) != ("going on from step" in lines):
        raise RuntimeError(f"torchrun ended with status {status}; see {folder / 'printed.txt'}")
    return read_snapshot(max(folder.glob(f"*/*/snapshots/{N_STEPS}.pth")))


def _wait_for(folder: Path, pattern: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + WAIT_S
    while not list(folder.glob(pattern)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"no {pattern} appeared; see {folder / 'printed.txt'}")
        time.sleep(0.02)


def _worker(launcher: int, rank: int) -> int:
    """Return the number of the process of a rank among the children of torchrun (Linux)."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text(encoding="utf-8").split()
    wanted = f"RANK={rank}".encode()
    return next(int(child) for child in children if wanted in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"))


if __name__ == "__main__":
    if sys.argv[1:2] != ["with"]:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        kill_one_process(sys.argv[2:], Path(temporary))
