"""What each of two processes does for test_distributed.py:  python -m tests.util.base.two_processes DATA FOLDER SNAPSHOT"""

import itertools
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from tests.programs import entry_point, run_experiment
from util.base.distributed import leave, rank
from util.base.signals import Interrupted


def main(data: Path, folder: Path, snapshot: str) -> None:
    program, built = entry_point("train"), []
    build_model = program.build_model
    program.build_model = lambda config: built.append(build_model(config)) or built[-1]
    run_experiment("train", folder, data, n_steps=2, save_snapshot_every=1)
    program.build_model = lambda config: built.append(disturb(build_model(config))) or built[-1]
    try:
        run_experiment("train", folder / "disturbed", data, n_steps=9)
    except Interrupted as error:
        (folder / f"exit_status{rank()}").write_text(str(error.exit_status), encoding="utf-8")
    torch.save([dict(model.named_parameters()) for model in built], folder / f"rank{rank()}.pth")
    run_experiment("test", folder, data, supp_idx="all", test_label=[1, 4], reload_model_path=snapshot)
    leave()


def disturb(model: nn.Module) -> nn.Module:
    """Let process 1 have a loss that is not a number in step 2, and a SIGTERM in step 3."""
    forward, steps = model.forward, itertools.count(1)

    def disturbed(episode):
        step, losses = next(steps), forward(episode)
        if rank() == 1 and step == 2:
            losses["query"] = losses["query"] * torch.nan
        if rank() == 1 and step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    model.forward = disturbed
    return model


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
