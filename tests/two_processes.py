"""What each of two processes does for tests/test_distributed.py:  python -m tests.two_processes DATA FOLDER SNAPSHOT"""

import sys
from pathlib import Path

import torch

from tests.conftest import entry_point, run_experiment
from util.distributed import part, rank


def main(data: Path, folder: Path, snapshot: str) -> None:
    program, built = entry_point("train"), []
    build_model = program.build_model
    program.build_model = lambda config: built.append(build_model(config)) or built[-1]
    run_experiment("train", folder, data, n_steps=2, save_snapshot_every=1)
    torch.save(dict(built[0].named_parameters()), folder / f"rank{rank()}.pth")
    run_experiment("test", folder, data, supp_idx="all", test_label=[1, 4], reload_model_path=snapshot)
    part()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
