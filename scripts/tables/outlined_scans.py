"""Print what more outlined scans are worth: Dice of `guided` with 1 to 5 of them, together and as a mean of each.

    python scripts/tables/outlined_scans.py --data-dir data/CHAOST2 --folds 0 3 4      # an hour of a core
    python scripts/tables/outlined_scans.py --set data/organs/hippocampus
    python scripts/tables/outlined_scans.py --set data/organs/hippocampus --numbers 1 11     # the others, all outlined

Each case of a fold that the next fold does not share, or each case of a set, is outlined once, from the cases that follow it. Six
of the rest are stepping stones. The folds 1 and 2 of CHAOS-T2 had a part in choosing how several are fused. A set has
`images/` and `labels/`, as organs.py takes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qnet.data.preparation.recipes import table_entry
from qnet.dataloaders.datasets import find_cases
from qnet.dataloaders.folds import fold_positions, stepping_stones
from qnet.dataloaders.volumes import Volume, read_volume
from qnet.scripts.tables.organ_sets.cases import NAMES, sets_in
from qnet.util.base.arguments import Parser
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
NUMBERS = (1, 2, 3, 5)       # of outlined scans, where none are given
MEAN, TOGETHER = "mean of each", "together"


class Scans(NamedTuple):
    """Outlined scans.

    Attributes:
        volumes: the scans.
        labels: names of the classes by value.
        queries: positions of those that are outlined from the others.
    """

    volumes: Sequence[Volume]
    labels: Mapping[int, str]
    queries: Sequence[int]


def queries_of(n_cases: int, folds: Sequence[int]) -> list[int]:
    """Return the positions of the queries: those of each fold, without the one that the next fold shares."""
    starts = np.linspace(0, n_cases, N_FOLDS + 1).astype(int)
    return [position for fold in folds for position in range(starts[fold], starts[fold + 1])
            if position in fold_positions(n_cases, N_FOLDS, fold)]


def task_of(volumes: Sequence[Volume], position: int, labels: Sequence[int], n_outlined: int) -> Task:
    """Return the task of a query: the volumes that follow it are outlined, and up to six of the others are stepping stones."""
    n = len(volumes)
    outlined = [(position + k) % n for k in range(1, n_outlined + 1)]
    stones = stepping_stones(n, {position, *outlined}, N_STONES)
    return Task(volumes[position], tuple(volumes[k] for k in outlined), tuple(labels), tuple(volumes[k] for k in stones))


def mean_of(members: Sequence[Member]) -> dict[int, np.ndarray]:
    """Return the (D, H, W) probability of each label, the mean over the members."""
    return {label: np.mean([member.probs[label] for member in members], axis=0) for label in members[0].probs}


def scores(probs: dict[int, np.ndarray], truth: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Return Dice in % of each label (K, 2): of the slices that hold it, and of the whole volume; NaN if the truth lacks it."""
    found, rows = to_label_map(probs.items(), truth.shape), []
    for label in labels:
        mask, right = found == label, truth == label
        held = right.any(axis=(1, 2))
        rows.append([100 * dice(mask[held], right[held]), 100 * dice(mask, right)] if held.any() else [np.nan] * 2)
    return np.array(rows)


def measured(segmenter: VolumeSegmenter, task: Task, numbers: Sequence[int]) -> dict[tuple[int, str], np.ndarray]:
    """Return the scores (K, 2) of a query by the number of outlined scans and how they are taken together."""
    truth, members = label_map_of(task.query), segmenter.members(task)
    found = {}
    for n in numbers:
        found[n, MEAN] = scores(mean_of(members[:n]), truth, task.labels)
        joint = segmenter.joint(task, task.supports[:n])
        found[n, TOGETHER] = found[n, MEAN] if joint is None else scores(dict(joint.probs), truth, task.labels)
    segmenter.release(task.query)
    return found


def table(found: Sequence[dict[tuple[int, str], np.ndarray]], names: Sequence[str]) -> str:
    """Return the table: means over the queries."""
    rows = []
    for n, how in found[0]:
        mean = np.nanmean([of_query[n, how] for of_query in found], axis=0)
        rows.append([f"{n}, {how}", *(f"{value:.1f}" for value in (*mean[:, 0], *mean.mean(axis=0)))])
    return format_table([f"Dice in %, {len(found)} queries", *names, "mean", "whole volumes"], rows)


def chaos(data_dir: Path, folds: Sequence[int]) -> Scans:
    """Return the scans of CHAOS-T2, as test.py reads them, with the queries of some folds."""
    spec = table_entry(DATASET)
    volumes = [read_volume(case, spec) for case in progress(find_cases(spec, data_dir, n_sv=5000), desc="reading", unit="volume")]
    return Scans(volumes, {label: name for label, name in spec.labels.items() if label}, queries_of(len(volumes), folds))


def of_set(predictor: Predictor, folder: Path) -> Scans:
    """Return the scans of a set, as `predict` reads them. Each is a query."""
    organs, = sets_in(folder)
    for case in progress(organs.cases, desc="reading", unit="volume"):
        predictor.add_support(case.image, case.labels)
    volumes = [support.volume for support in predictor.supports]
    names = NAMES.get(organs.name, {})
    values = np.unique(np.concatenate([np.unique(volume.labels) for volume in volumes]))
    return Scans(volumes, {value: names.get(value, f"label {value}") for value in values.tolist() if value},
                 range(len(volumes)))


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data-dir", type=Path, default=ROOT / "data/CHAOST2", help="CHAOS-T2; default: %(default)s")
    source.add_argument("--set", type=Path, metavar="FOLDER", help="a set of other scans")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(N_FOLDS)), choices=range(N_FOLDS),
                        help="of CHAOS-T2; default: all")
    parser.add_argument("--numbers", type=int, nargs="+", default=NUMBERS, metavar="N", help="of outlined scans")
    return parser.parse_args(given)


def main() -> None:
    """Run the command."""
    options = parse_arguments()
    try:
        predictor = Predictor.made_of(PredictorOptions.of(complete(load_config("guided"))))
        assert isinstance(predictor.segmenter, VolumeSegmenter)
        scans = of_set(predictor, options.set) if options.set else chaos(options.data_dir, options.folds)
        if not 1 <= min(options.numbers) <= max(options.numbers) < len(scans.volumes):
            raise InputError(f"--numbers: got {' '.join(map(str, options.numbers))}, allowed: 1 to {len(scans.volumes) - 1}")
        found = []
        for position in progress(scans.queries, desc="queries", unit="scan"):
            task = task_of(scans.volumes, position, list(scans.labels), max(options.numbers))
            found.append(measured(predictor.segmenter, task, options.numbers))
            print(table(found, list(scans.labels.values())), flush=True)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
