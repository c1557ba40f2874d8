"""Print what a student is worth: Dice of `guided`, of the student alone, and of both, as the method `student` mixes them.

    python scripts/tables/student.py --data-dir data/CHAOST2 --fold 1 --support 1      # half an hour of a core
    python scripts/tables/student.py --set data/organs/hippocampus --queries 8

One case is outlined, by its position in the fold or the set, and the others are outlined from it. Six cases outside of the fold,
as in test.py, or six of the set's others are stepping stones. The folds 1 and 2 of CHAOS-T2 had a part in choosing the settings.
A set has `images/` and `labels/`, as organs.py takes it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch

from qnet.dataloaders.folds import fold_positions, stepping_stones
from qnet.dataloaders.volumes import Volume
from qnet.models.carrying import GuidedModel
from qnet.models.guided import Trial
from qnet.models.student import Student
from qnet.models.volume import STUDENT, region
from qnet.scripts.tables.organs import option
from qnet.scripts.tables.outlined_scans import N_FOLDS, N_STONES, Scans, chaos, of_set, scores
from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.progress import progress
from qnet.util.base.root import ROOT
from qnet.util.base.tables import format_table
from qnet.util.engine.student import StudentSegmenter
from qnet.util.engine.task import Task, label_map_of
from qnet.util.options.config import load_config
from qnet.util.options.sections import PredictorOptions
from qnet.util.predict.predictor import Predictor
from qnet.util.training.as_trained import complete

GUIDED, BOTH, ALONE, UNCHECKED = "guided", "student", "the network alone", "both everywhere"


class Compared(StudentSegmenter):
    """Tells what comes out with the student and without it. `training_s` is how long its training took."""

    training_s = 0.0

    def _learned(self, volume: Volume, stones: Sequence[Volume]) -> Student | None:
        began = time.monotonic()
        try:
            return super()._learned(volume, stones)
        finally:
            self.training_s = time.monotonic() - began

    @torch.no_grad()
    def found(self, task: Task) -> tuple[dict[str, dict[int, np.ndarray]], list[str]]:
        """Return the (D, H, W) probabilities of each label by what is heard, and how each border was drawn."""
        guides, box = self._guides(task)
        (volume, guide), = guides.items()
        scan, labels = self._scan(task.query), self._supports[volume][0]
        assert box is not None
        both = self.model.segment(scan, [guide], box)
        maps = {GUIDED: self.model.segment(scan, [guide._replace(voice=None)], box).probs, BOTH: both.probs}
        if guide.voice is not None:
            maps[ALONE] = torch.zeros_like(both.probs)
            maps[ALONE][(slice(None), *region(scan, box)[0])] = guide.voice.maps.float() / 255
            always = guide.voice._replace(trials=[[Trial(1.0, {STUDENT: 1.0})]] * len(labels))
            maps[UNCHECKED] = self.model.segment(scan, [guide._replace(voice=always)], box).probs
        self.release(task.query)
        return {name: dict(zip(labels, of_one.cpu().numpy(), strict=True)) for name, of_one in maps.items()}, list(both.borders)


class Choice(NamedTuple):
    """Positions of the outlined scan, of those that are outlined from it, and of the stepping stones."""

    support: int
    queries: Sequence[int]
    stones: Sequence[int]


def of_fold(n_cases: int, fold: int, support: int, n_queries: int) -> Choice:
    """Return the choice of test.py; of its queries, the first ones."""
    positions = fold_positions(n_cases, N_FOLDS, fold)
    if not 0 <= support < len(positions):
        raise InputError(f"--support: got {support}, allowed for fold {fold}: 0 to {len(positions) - 1}")
    return Choice(positions[support], [k for k in positions if k != positions[support]][:n_queries],
                  stepping_stones(n_cases, positions, N_STONES))


def of_cases(n_cases: int, support: int, n_queries: int) -> Choice:
    """Return the choice in a set: the queries are those that follow the support."""
    if not 0 <= support < n_cases:
        raise InputError(f"--support: got {support}, allowed: 0 to {n_cases - 1}")
    others = [(support + k) % n_cases for k in range(1, n_cases)]
    return Choice(support, others[:n_queries], stepping_stones(n_cases, {support}, N_STONES))


def table(found: Sequence[Mapping[str, np.ndarray]], names: Sequence[str]) -> str:
    """Return the table: means over the queries."""
    rows = []
    for how in found[0]:
        mean = np.nanmean([of_query[how] for of_query in found], axis=0)
        rows.append([how, *(f"{value:.1f}" for value in (*mean[:, 0], *mean.mean(axis=0)))])
    return format_table([f"Dice in %, {len(found)} queries", *names, "mean", "whole volumes"], rows)


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--data-dir", type=Path, default=ROOT / "data/CHAOST2", help="CHAOS-T2; default: %(default)s")
    source.add_argument("--set", type=Path, metavar="FOLDER", help="a set of other scans")
    parser.add_argument("--fold", type=int, default=0, choices=range(N_FOLDS), help="of CHAOS-T2; default: %(default)s")
    parser.add_argument("--support", type=int, default=0, help="position of the outlined scan, from 0; default: %(default)s")
    parser.add_argument("--queries", type=int, default=8, help="so many at most; default: %(default)s")
    parser.add_argument("--options", type=option, nargs="*", default=[], metavar="SECTION.KEY=VALUE",
                        help="of configs/base.json5")
    return parser.parse_args(given)


def config_with(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config `student` with other values of some keys of its sections."""
    config = load_config("student")
    for key, value in options.items():
        name, _, inner = key.partition(".")
        config[name] = {**config[name], inner: value}
    return complete(config)


def main() -> None:
    """Run the command."""
    arguments = parse_arguments()
    try:
        options = PredictorOptions.of(config_with(dict(arguments.options)))
        scans = of_set(Predictor.made_of(options), arguments.set) if arguments.set else chaos(arguments.data_dir, [])
        n = len(scans.volumes)
        choice = of_cases(n, arguments.support, arguments.queries) if arguments.set else \
            of_fold(n, arguments.fold, arguments.support, arguments.queries)
        measure(options, scans, choice)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


def measure(options: PredictorOptions, scans: Scans, choice: Choice) -> None:
    """Outline the queries, and print the table after each of them."""
    model = options.model
    segmenter = Compared(GuidedModel(model.registration, model.guided), model.student, model.seed, torch.device("cpu"),
                         options.whole, None)
    support, stones = scans.volumes[choice.support], [scans.volumes[k] for k in choice.stones]
    began = time.monotonic()
    segmenter.prepare([(support, [])], stones)
    print(f"{support.name}: {time.monotonic() - began - segmenter.training_s:.0f} s for {len(stones)} stepping stones, "
          f"{segmenter.training_s:.0f} s of training")
    labels, found, seconds = list(scans.labels), [], list[float]()
    for position in progress(choice.queries, desc="queries", unit="scan"):
        query, began = scans.volumes[position], time.monotonic()
        probs, borders = segmenter.found(Task(query, (support,), tuple(labels), tuple(stones)))
        seconds.append(time.monotonic() - began)
        found.append({how: scores(of_one, label_map_of(query), labels) for how, of_one in probs.items()})
        print(f"{query.name}: {', '.join(borders)}; {fmean(seconds):.0f} s a scan")
        print(table(found, list(scans.labels.values())), flush=True)


if __name__ == "__main__":
    main()
