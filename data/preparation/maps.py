"""Supervoxels and superpixels of prepared cases."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from qnet.data.supervoxels.generate_supervoxels import CaseMap, generate_all, method, waiting
from qnet.dataloaders.datasets import DatasetSpec, find_cases
from qnet.util.base.distributed import main_does
from qnet.util.base.pool import processes
from qnet.util.options.config import base_config


def generate_maps(spec: DatasetSpec, target: Path, n_sv: int | None, n_jobs: int, overwrite: bool = False,
                  pool: Callable[[int], Executor] = processes) -> bool:
    """Write the missing maps of the cases below `target`. A map of unknown origin, such as a published one, is kept.

    Each of several processes makes its share. Every process must call this.

    Args:
        spec: the dataset.
        target: its folder.
        n_sv: voxels of the smallest supervoxel. None: 2D superpixels, with the settings for CHAOS.
        n_jobs: cases at a time, in each process.
        overwrite: if the image changed, replace also maps that were edited by hand.
        pool: makes what runs them.
    Returns:
        whether every case has its map. Cases without one are named on stderr.
    Raises:
        InputError: as `qnet.util.base.guard.claim`.
        SystemExit: as `qnet.util.base.distributed.main_does`.
    """
    def to_do() -> list[CaseMap]:
        size = base_config()["n_sp"] if n_sv is None else n_sv
        kind, pattern, parameters = method(spec, size, superpixels=n_sv is None)
        maps = [CaseMap(kind, case.name, case.image, target / pattern.format(case=case.name, n_sv=size, n_sp=size), parameters)
                 for case in find_cases(spec, target, size)]
        found, _ = waiting(maps, overwrite)
        print(f"{maps[0].output.parent}: {len(found)} of {len(maps)} cases to do", file=sys.stderr)
        return found

    return generate_all(main_does(to_do), n_jobs, pool) == 0
