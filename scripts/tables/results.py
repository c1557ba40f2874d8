"""Make every number and picture of docs/results.md: five folds of CHAOS-T2 from scratch, untrained networks, ablations.

    python scripts/tables/results.py --data-dir data/CHAOST2                 # about three hours of processor time
    python scripts/tables/results.py --folds 0 --no-tables                   # part of it; run again for the rest

Finished runs are kept. Tables and pictures are in <output>/tables.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np

from qnet.scripts.compare import output_files
from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.files import write_text
from qnet.util.base.guard import OVERWRITE_HELP, claim
from qnet.util.base.root import ROOT
from qnet.util.base.tables import format_table
from qnet.util.results.figures import save_figure
from qnet.util.results.scores import WHOLE
from qnet.util.run.folders import call
from qnet.util.training.snapshots import read_snapshot

CONFIG = "chaost2_setting1_scratch"
N_STEPS, SHORT = 2000, 500            # steps of the reported trainings, and of the ablations
CURVE = (500, 1000, 1500, 2000)
ABLATION_FOLDS = (0, 1)               # also of the learning curve
CHOSEN_ON = 4                         # the recipe was chosen on this fold


class Training(NamedTuple):
    """A training by train.py: name of its folder, options, number of steps."""

    name: str
    options: tuple[str, ...] = ()
    n_steps: int = SHORT


class Evaluation(NamedTuple):
    """An evaluation by test.py of a training's snapshot. `training` None: the untrained network."""

    name: str
    training: Training | None
    step: int = 0
    options: tuple[str, ...] = ("whole_volume=false",)


MAIN = Training("trained", n_steps=N_STEPS)
LEARNED = Training("learned threshold", ("threshold=learned",))
FINE, COARSE = Training("fine path", ("encoder_paths=fine",)), Training("coarse path", ("encoder_paths=coarse",))

REPORTED = [
    Evaluation("untrained", None),
    Evaluation("untrained, best threshold", None, options=("threshold=support", "whole_volume=false")),
    Evaluation("untrained, best threshold, no coordinates", None,
               options=("threshold=support", "coordinates=false", "whole_volume=false")),
    Evaluation("trained", MAIN, N_STEPS, options=("whole_volume=true",)),
]
EARLIER = [Evaluation(f"trained, {step} steps", MAIN, step) for step in CURVE[:-1]]
ABLATIONS = [
    Evaluation("no refinement", MAIN, SHORT, ("n_iters=0", "whole_volume=false")),
    Evaluation("best threshold of the support", MAIN, SHORT, ("threshold=support", "whole_volume=false")),
    *(Evaluation(training.name, training, SHORT, (*training.options, "whole_volume=false"))
      for training in (LEARNED, FINE, COARSE)),
]


class Runner:
    """Run unfinished jobs. Run folders are <output>/<name of the job>/QNet_<train|test>_CHAOST2_cv<fold>/<id>/."""

    def __init__(self, options: argparse.Namespace):
        self.output = options.output.resolve()
        self.tables = self.output / "tables"
        self.overwrite = options.overwrite
        self.common = [f"path.CHAOST2.data_dir={options.data_dir.resolve()}", *options.options]

    def train(self, training: Training, fold: int) -> None:
        """Train one fold, or continue its training."""
        call("train.py", "with", CONFIG, f"eval_fold={fold}", *training.options, f"n_steps={training.n_steps}", *self.common,
             "resume=auto", f"path.log_dir={self.output / training.name}")

    def evaluate(self, evaluation: Evaluation, fold: int) -> None:
        """Evaluate one fold, unless that is finished."""
        if not self.finished(evaluation, [fold]):
            training = evaluation.training
            weights = "untrained" if training is None else self.snapshot(training, fold, evaluation.step)
            call("test.py", "with", CONFIG, f"eval_fold={fold}", *evaluation.options, "precision=float32", *self.common,
                 f"reload_model_path={weights}", f"path.log_dir={self.output / evaluation.name}")

    def snapshot(self, training: Training, fold: int, step: int) -> Path:
        """Return the newest snapshot of a step. Raises InputError if there is none."""
        found = sorted((self.output / training.name).glob(f"QNet_train_CHAOST2_cv{fold}/*/snapshots/{step}.pth"))
        if not found:
            raise InputError(f"{self.output / training.name}: no snapshot of step {step}, fold {fold}")
        return found[-1]

    def finished(self, evaluation: Evaluation, folds: Sequence[int]) -> list[Path]:
        """Return the newest finished run folder of each fold that has one."""
        of_folds = [sorted((self.output / evaluation.name).glob(f"QNet_test_CHAOST2_cv{fold}/*/results.json")) for fold in folds]
        return [found[-1].parent for found in of_folds if found]


def plan(fold: int) -> Iterator[Training | Evaluation]:
    """Yield the jobs of a fold, each training before its evaluations."""
    yield MAIN
    yield from REPORTED
    if fold in ABLATION_FOLDS:
        yield from EARLIER
        yield from [LEARNED, FINE, COARSE]
        yield from ABLATIONS


def tables(runner: Runner) -> None:
    """Write the tables of all finished runs, and the learning curve."""
    folds = sorted({fold for fold in range(5) if runner.finished(REPORTED[-1], [fold])})
    compare(runner, "main", REPORTED, folds)
    compare(runner, "others", REPORTED, [fold for fold in folds if fold != CHOSEN_ON])
    by_fold(runner, folds)
    compare(runner, "ablation", [EARLIER[0], *ABLATIONS], ABLATION_FOLDS)
    learning_curve(runner, folds)


def by_fold(runner: Runner, folds: Sequence[int]) -> None:
    """Write the mean Dice of the trained networks in each fold, by the protocol and over whole volumes."""
    summaries = [summary_of(runner.finished(REPORTED[-1], [fold])[0]) for fold in folds]
    rows = []
    for words, entries in (("protocol", summaries), ("whole volumes", [summary[WHOLE] for summary in summaries])):
        scores = {name: [entry["classes"][name]["dice_mean"] for entry in entries] for name in entries[0]["classes"]}
        scores["mean"] = [entry["mean"]["dice_mean"] for entry in entries]
        rows += [[f"{words}: {name}", *(f"{100 * value:.1f}" for value in values), f"{100 * np.mean(values):.1f}"]
                 for name, values in scores.items()]
    text = format_table(["Dice in %", *(f"fold {fold}" for fold in folds), "mean"], rows)
    print(f"\n{text}\n")
    write_text(text + "\n", runner.tables / "by_fold.txt")


def summary_of(run: Path) -> dict:
    """Return the results.json of a finished evaluation."""
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


def compare(runner: Runner, name: str, evaluations: Sequence[Evaluation], folds: Sequence[int]) -> None:
    """Write the table of finished evaluations by scripts/compare.py, to the folder `name`."""
    runs = [f"{evaluation.name}={run}" for evaluation in evaluations for run in runner.finished(evaluation, folds)]
    if runs:
        call("scripts/compare.py", *runs, "--baseline", "none", "--output", str(runner.tables / name),
             *(["--overwrite"] if runner.overwrite else []))


def learning_curve(runner: Runner, folds: Sequence[int]) -> None:
    """Draw the training loss of every fold, and mean Dice at the steps of CURVE."""
    figure, (loss_axes, dice_axes) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    window = N_STEPS // 20
    for fold in folds:
        history = read_snapshot(runner.snapshot(MAIN, fold, N_STEPS)).history
        assert history is not None      # a snapshot of train.py has it
        losses = history.sum(dim=1).numpy()
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        loss_axes.plot(np.arange(window, len(losses) + 1), smooth, label=f"fold {fold}")
        scores = {step: summary_of(run)["mean"]["dice_mean"]
                  for step, evaluation in zip(CURVE, [*EARLIER, REPORTED[-1]], strict=True)
                  for run in runner.finished(evaluation, [fold])}
        dice_axes.plot(list(scores), list(scores.values()), marker="o")
    loss_axes.set(xlabel="step", ylabel=f"training loss, mean over {window} steps", xlim=(0, N_STEPS))
    loss_axes.set_ylim(0, None)
    dice_axes.set(xlabel="step", ylabel="mean Dice, every support", xlim=(0, N_STEPS * 1.05), ylim=(0, 1))
    loss_axes.legend()
    save_figure(figure, runner.tables / "learning_curve.png")


def command_line(description: str | None, output: Path) -> argparse.ArgumentParser:
    """Return the parser of a command that makes tables of the five folds of CHAOS-T2. `output` is the default folder."""
    parser = Parser(description)
    parser.add_argument("--data-dir", type=Path, default=ROOT / "data/CHAOST2", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=output, help="default: %(default)s")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4], choices=range(5), help="default: all")
    parser.add_argument("--no-tables", action="store_true", help="run, and leave the tables to another call")
    parser.add_argument("--options", nargs="*", default=[], help="for the programs that are called, such as device=cpu")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    return parser


def main() -> None:
    """Run the command."""
    options = command_line(__doc__, ROOT / "runs/results").parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")   # the numbers in docs/results.md were made with one thread
    runner = Runner(options)
    try:
        if not options.no_tables:
            claim([runner.tables / "by_fold.txt", runner.tables / "learning_curve.png",
                   *(file for name in ("main", "others", "ablation") for file in output_files(runner.tables / name))],
                  overwrite=options.overwrite)
        for fold in options.folds:
            for job in plan(fold):
                runner.train(job, fold) if isinstance(job, Training) else runner.evaluate(job, fold)
        if not options.no_tables:
            tables(runner)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
