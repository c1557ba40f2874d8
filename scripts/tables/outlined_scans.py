"""Print what more outlined scans of CHAOS-T2 are worth: Dice of `guided` with 1 to 5 of them, together and as a mean of each.

    python scripts/tables/outlined_scans.py --data-dir data/CHAOST2 --folds 0 3 4      # an hour of a core

Each case of a fold that the next fold does not share is outlined once, from the cases that follow it in the data set. Six
others are stepping stones. The folds 1 and 2 had a part in choosing how several are fused.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qnet.data.preparation.recipes import table_entry
from qnet.dataloaders.datasets import find_cases
from qnet.dataloaders.folds import fold_positions, stepping_stones
from qnet.dataloaders.volumes import Volume, read_volume
from qnet.util.base.errors import InputError
from qnet.util.base.progress import progress
from qnet.util.base.root import ROOT
from qnet.util.base.tables import format_table
from qnet.util.engine.metrics import dice
from qnet.util.engine.segmenters import Member, VolumeSegmenter
from qnet.util.engine.task import Task, label_map_of
from qnet.util.engine.whole_volume import to_label_map
from qnet.util.options.config import load_config
from qnet.util.options.sections import PredictorOptions
from qnet.util.predict.predictor import Predictor
from qnet.util.training.as_trained import complete

DATASET, N_FOLDS, N_STONES = "CHAOST2", 5, 6
NUMBERS = (1, 2, 3, 5)       # of outlined scans
MEAN, TOGETHER = "mean of each", "together"


def queries_of(n_cases: int, folds: Sequence[int]) -> list[int]:
    """Return the positions of the queries: those of each fold, without the one that the next fold shares."""
    starts = np.linspace(0, n_cases, N_FOLDS + 1).astype(int)
    return [position for fold in folds for position in range(starts[fold], starts[fold + 1])
            if position in fold_positions(n_cases, N_FOLDS, fold)]


def task_of(volumes: Sequence[Volume], position: int, labels: Sequence[int]) -> Task:
    """Return the task of a query: the volumes that follow it are outlined, and six of the others are stepping stones."""
    n = len(volumes)
    outlined = [(position + k) % n for k in range(1, max(NUMBERS) + 1)]
    stones = stepping_stones(n, {position, *outlined}, N_STONES)
    return Task(volumes[position], tuple(volumes[k] for k in outlined), tuple(labels), tuple(volumes[k] for k in stones))


def mean_of(members: Sequence[Member]) -> dict[int, np.ndarray]:
    """Return the (D, H, W) probability of each label, the mean over the members."""
    return {label: np.mean([member.probs[label] for member in members], axis=0) for label in members[0].probs}


def scores(probs: dict[int, np.ndarray], truth: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Return Dice in % of each label (K, 2): of the slices that hold it, and of the whole volume."""
    found, rows = to_label_map(probs.items(), truth.shape), []
    for label in labels:
        mask, right = found == label, truth == label
        held = right.any(axis=(1, 2))
        rows.append([100 * dice(mask[held], right[held]), 100 * dice(mask, right)])
    return np.array(rows)


def measured(segmenter: VolumeSegmenter, task: Task) -> dict[tuple[int, str], np.ndarray]:
    """Return the scores (K, 2) of a query by the number of outlined scans and how they are taken together."""
    truth, members = label_map_of(task.query), segmenter.members(task)
    found = {}
    for n in NUMBERS:
        found[n, MEAN] = scores(mean_of(members[:n]), truth, task.labels)
        joint = segmenter.joint(task, task.supports[:n])
        found[n, TOGETHER] = found[n, MEAN] if joint is None else scores(dict(joint.probs), truth, task.labels)
    segmenter.release(task.query)
    return found


def table(found: Sequence[dict[tuple[int, str], np.ndarray]], names: Sequence[str]) -> str:
    """Return the table: means over the queries."""
    rows = []
    for n, how in found[0]:
        mean = np.mean([of_query[n, how] for of_query in found], axis=0)
        rows.append([f"{n}, {how}", *(f"{value:.1f}" for value in (*mean[:, 0], *mean.mean(axis=0)))])
    return format_table([f"Dice in %, {len(found)} queries", *names, "mean", "whole volumes"], rows)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=ROOT / "data/CHAOST2", help="default: %(default)s")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(N_FOLDS)), choices=range(N_FOLDS), help="default: all")
    options = parser.parse_args()
    labels = {label: name for label, name in table_entry(DATASET).labels.items() if label}
    try:
        cases = find_cases(table_entry(DATASET), options.data_dir, n_sv=5000)
        volumes = [read_volume(case, table_entry(DATASET)) for case in progress(cases, desc="reading", unit="volume")]
        predictor = Predictor.made_of(PredictorOptions.of(complete(load_config("guided"))))
        assert isinstance(predictor.segmenter, VolumeSegmenter)
        found = []
        for position in progress(queries_of(len(volumes), options.folds), desc="queries", unit="scan"):
            found.append(measured(predictor.segmenter, task_of(volumes, position, list(labels))))
            print(table(found, list(labels.values())), flush=True)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
