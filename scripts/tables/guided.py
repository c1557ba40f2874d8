"""Make every number of docs/guided_notes.md: registration and guided outlines on the five folds of CHAOS-T2, and ablations.

    python scripts/tables/guided.py --data-dir data/CHAOST2                  # about three hours of processor time
    python scripts/tables/guided.py --folds 0 --no-tables                    # part of it; run again for the rest

Finished runs are kept. The tables are in <output>/tables.txt.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from qnet.scripts.tables.results import command_line, summary_of
from qnet.util.base.errors import InputError
from qnet.util.base.files import write_text
from qnet.util.base.guard import claim
from qnet.util.base.root import ROOT
from qnet.util.base.tables import format_table
from qnet.util.options.sections import RunPlace
from qnet.util.results.scores import WHOLE
from qnet.util.run.folders import call, numbered_runs

CONFIG = "chaost2_setting1"
CHOSEN_ON = (1, 2)                    # the settings were chosen on these folds
ABLATION_FOLD = 0                     # one that had no part in it
RANKED = ("confidence", "agreement", "margin")     # columns of scores_whole_volume.csv that need no truth

SHOWN_METRICS = {     # in words, and what to multiply by
    "dice": ("Dice, %", 100), "iou": ("IoU, %", 100), "precision": ("precision, %", 100), "recall": ("recall, %", 100),
    "surface_dice": ("surface Dice, %", 100), "hd95_mm": ("HD95, mm", 1), "assd_mm": ("ASSD, mm", 1),
    "volume_difference_ml": ("volume difference, ml", 1)}


class Variant(NamedTuple):
    """An evaluation by test.py: name of its folder, method, options."""

    name: str
    model: str = "guided"
    options: tuple[str, ...] = ()


DIRECT = "registration.stones=0"      # the ablations are without stepping stones, which takes a seventh of the time
GUIDED = Variant("guided")
GUIDED_DIRECT = Variant("no stones", options=(DIRECT,))
REPORTED = [Variant("registration", "registration"), GUIDED_DIRECT, GUIDED]
ABLATIONS = [
    Variant("no affine map", options=(DIRECT, "registration.affine=false")),
    Variant("no zoom", options=(DIRECT, "registration.zoom=false")),
    Variant("no intensity in the registration", options=(DIRECT, "registration.intensity_weight=0")),
    Variant("MIND radius 2, dilation 3", options=(DIRECT, "registration.mind_radius=2", "registration.mind_dilation=3")),
    Variant("no appearance of the query", options=(DIRECT, "guided.clip=0")),
    Variant("prior weight 1", options=(DIRECT, "guided.prior_weight=1")),
    Variant("no guided filter", options=(DIRECT, "guided.filter=0")),
    Variant("no intensities of the class", options=(DIRECT, "guided.intensity=0")),
    Variant("stones of equal weight", options=("registration.agreement_power=0",)),
]


def evaluate(variant: Variant, fold: int, output: Path, common: Sequence[str]) -> None:
    """Evaluate a variant on a fold with every case as support, unless that is finished."""
    if finished(variant, fold, output) is None:
        call("test.py", "with", CONFIG, variant.model, f"eval_fold={fold}", "supp_idx=all", "whole_volume=true", *variant.options,
             *common, "resume=auto", f"path.log_dir={output / variant.name}")


def finished(variant: Variant, fold: int, output: Path, dataset: str = "CHAOST2") -> Path | None:
    """Return the newest finished run folder of a variant and fold."""
    folder = RunPlace(output / variant.name, variant.model, dataset, fold).folders("test")
    return next((run for run in numbered_runs(folder) if (run / "results.json").is_file()), None)


def tables(output: Path) -> str:
    """Return the tables of all finished runs as text."""
    runs = {variant.name: {fold: run for fold in range(5) if (run := finished(variant, fold, output))}
            for variant in [*REPORTED, *ABLATIONS]}
    reported = {variant.name: runs[variant.name] for variant in REPORTED}
    parts = [by_fold(reported), all_metrics(reported)]
    ablation = [[name, *_percent(of_fold[ABLATION_FOLD])] for name, of_fold in runs.items() if ABLATION_FOLD in of_fold]
    parts.append(format_table([f"mean Dice in %, fold {ABLATION_FOLD}", "protocol", "whole volumes"], ablation))
    if runs[GUIDED.name]:
        parts.append(ranking(list(runs[GUIDED.name].values())))
    return "\n\n".join(parts) + "\n"


def by_fold(runs: dict[str, dict[int, Path]]) -> str:
    """Return mean Dice of each fold, of the folds that the settings were chosen on, of the others, and of all.

    Each method has two columns: by the protocol, and over whole volumes.
    """
    folds = sorted({fold for of_fold in runs.values() for fold in of_fold})
    rows = [[f"fold {fold}", *(cell for of_fold in runs.values()
                               for cell in (_percent(of_fold[fold]) if fold in of_fold else ("–", "–")))] for fold in folds]
    for words, among in (("mean, chosen on", {True}), ("mean, others", {False}), ("mean, all", {True, False})):
        cells = []
        for of_fold in runs.values():
            scores = [_mean_dice(run) for fold, run in of_fold.items() if (fold in CHOSEN_ON) in among]
            cells += [f"{100 * value:.1f}" for value in np.mean(scores, axis=0)] if scores else ["–", "–"]
        rows.append([words, *cells])
    return format_table(["mean Dice in %", *(word for name in runs for word in (name, "whole"))], rows)


def all_metrics(runs: dict[str, dict[int, Path]]) -> str:
    """Return the mean of every metric over the folds, and of Dice for each class, by the protocol and over whole volumes."""
    columns, header = [], ["mean over the folds"]
    for name, of_fold in runs.items():
        if summaries := [summary_of(run) for run in of_fold.values()]:
            columns += [summaries, [summary[WHOLE] for summary in summaries]]
            header += [name, "whole"]
    classes = dict.fromkeys(name for summaries in columns for summary in summaries for name in summary["classes"])
    rows = [[f"Dice, {name}", *(f"{100 * np.mean([s['classes'][name]['dice_mean'] for s in of_one]):.1f}" for of_one in columns)]
            for name in classes]
    for metric, (text, scale) in SHOWN_METRICS.items():
        rows.append([text, *(f"{scale * np.mean([s['mean'].get(f'{metric}_mean', np.nan) for s in of_one]):.1f}"
                             for of_one in columns)])
    return format_table(header, rows)


def ranking(runs: Sequence[Path]) -> str:
    """Return Spearman's correlation of each column of RANKED with whole-volume Dice: of classes, and of volumes (means)."""
    pairs: dict[tuple[Path, str, str], list[list[float]]] = defaultdict(list)
    for run in runs:
        with (run / "scores_whole_volume.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                pairs[run, row["support_case"], row["query_case"]].append([float(row[key]) for key in ("dice", *RANKED)])
    classes = np.concatenate([np.array(rows) for rows in pairs.values()])
    volumes = np.array([np.mean(rows, axis=0) for rows in pairs.values()])
    rows = [[key, *(f"{spearmanr(values[:, 0], values[:, k + 1]).statistic:.2f}" for values in (classes, volumes))]
            for k, key in enumerate(RANKED)]
    return format_table(["rank correlation with Dice", f"{len(classes)} classes", f"{len(volumes)} volumes"], rows)


def _mean_dice(run: Path) -> tuple[float, float]:
    summary = summary_of(run)
    return summary["mean"]["dice_mean"], summary[WHOLE]["mean"]["dice_mean"]


def _percent(run: Path) -> tuple[str, str]:
    protocol, whole = _mean_dice(run)
    return f"{100 * protocol:.1f}", f"{100 * whole:.1f}"


def main() -> None:
    """Run the command."""
    options = command_line(__doc__, ROOT / "runs/guided").parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")   # the numbers in docs/guided_notes.md were made with one thread
    output = options.output.resolve()
    common = [f"path.CHAOST2.data_dir={options.data_dir.resolve()}", *options.options]
    try:
        if not options.no_tables:
            claim([output / "tables.txt"], overwrite=options.overwrite)
        for fold in options.folds:
            for variant in [*REPORTED, *(ABLATIONS if fold == ABLATION_FOLD else [])]:
                evaluate(variant, fold, output, common)
        if not options.no_tables:
            text = tables(output)
            print(text)
            write_text(text, output / "tables.txt")
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
