"""Print `guided` and a plain U-Net with one support, chosen as each paper chose it, beside the published numbers.

    python scripts/tables/published.py --data-dir data/CHAOST2                     # about two and a half hours of processor time
    python scripts/tables/published.py --data-dir data/CHAOST2 --cmr-dir data/CMR        # CMR as well

Every case of a fold is the support of `guided` once, so all choices of the papers are among them: index 2, index 3, the last one.
The U-Net (configs/unet.json5) is trained on the last one alone. Neither sees a class before, so setting 2 has the numbers of
setting 1. Finished runs are kept, and scripts/tables/guided.py makes the same runs of `guided`. Published numbers are those of
scripts/published_dice.json5. The tables are in <output>/published.txt.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qnet.data.preparation.recipes import table_entry
from qnet.dataloaders.datasets import find_cases
from qnet.dataloaders.folds import extra_position, fold_positions
from qnet.scripts.compare import PUBLISHED, published_rows
from qnet.scripts.tables.guided import GUIDED, Variant, finished
from qnet.scripts.tables.results import command_line
from qnet.util.base.errors import InputError
from qnet.util.base.files import write_text
from qnet.util.base.guard import claim
from qnet.util.base.root import ROOT
from qnet.util.base.tables import format_table, read_rows
from qnet.util.options.config import read_json5
from qnet.util.results.comparison import mean_and_std
from qnet.util.run.folders import call

N_FOLDS = 5
CONFIGS = {"CHAOST2": "chaost2_setting1", "CMR": "cmr_setting1"}
EVERY = "every scan in turn"
LAST = "last scan"
UNET = Variant("unet", "unet")
METHODS = (GUIDED, UNET)
PROTOCOL, WHOLE = "scores.csv", "scores_whole_volume.csv"
OTHERS = (("whole, Dice in %", WHOLE, "dice", 100), ("HD95, mm", PROTOCOL, "hd95_mm", 1), ("ASSD, mm", PROTOCOL, "assd_mm", 1),
          ("whole, HD95", WHOLE, "hd95_mm", 1), ("whole, ASSD", WHOLE, "assd_mm", 1))
NOTES = """Dice in % of the slices that hold the class, one support; ± is the sample standard deviation over supports.
?: not confirmed at the source. –: not known. †: its code removes a training slice only when all listed classes are in it."""


class Choice(NamedTuple):
    """Which support a paper takes: a name for it, and the names of the cases, by fold, that are the support."""

    name: str
    supports: Mapping[int, Sequence[str]]


def words_of(support: int | str | None) -> str:
    """Return what published_dice.json5 says of a paper's support in words; – where it is not known."""
    return "–" if support is None else f"index {support}" if isinstance(support, int) else f"{support} scan"


def choices(case_names: Sequence[str], supports: Iterable[int | str]) -> list[Choice]:
    """Return all supports of each fold, and then those that papers choose.

    Args:
        case_names: of the data set, in its order.
        supports: of papers: an index in the fold, or "last", the case that it shares with the next fold.
    """
    folds = {fold: fold_positions(len(case_names), N_FOLDS, fold) for fold in range(N_FOLDS)}
    found = [Choice(EVERY, {fold: [case_names[k] for k in positions] for fold, positions in folds.items()})]
    for support in dict.fromkeys(supports):
        at = {fold: positions[support] if isinstance(support, int) else extra_position(len(case_names), N_FOLDS, fold)
              for fold, positions in folds.items()}
        found.append(Choice(words_of(support), {fold: [case_names[k]] for fold, k in at.items()}))
    return found


class Run(NamedTuple):
    """A finished run of test.py on a fold, with every case as support."""

    fold: int
    folder: Path

    def values(self, choice: Choice, file: str, metric: str) -> list[dict[str, float]]:
        """Return a metric by class, the mean over the queries, for each support of the choice.

        Raises:
            InputError: a support has no score in the run.
        """
        rows = read_rows(self.folder / file)[1]
        found = []
        for support in choice.supports[self.fold]:
            of_support = [row for row in rows if row["support_case"] == support]
            if not of_support:
                raise InputError(f"{self.folder / file}: holds no score of support {support}, which is in fold {self.fold}")
            classes = dict.fromkeys(row["label_name"] for row in of_support)
            found.append({label: float(np.mean([float(row[metric]) for row in of_support if row["label_name"] == label]))
                          for label in classes})
        return found


def spread(values: Sequence[Mapping[str, float]], label: str | None, scale: float = 100) -> str:
    """Return mean ± sample standard deviation over supports, of a class, or without one of the mean of the classes."""
    of_each = np.array([of_one.get(label, np.nan) if label else np.mean(list(of_one.values())) for of_one in values])
    mean, deviation = mean_and_std(scale * of_each)
    return "–" if np.isnan(mean) else f"{mean:.1f}" if np.isnan(deviation) else f"{mean:.1f} ± {deviation:.1f}"


def tables(runs: Mapping[Variant, Sequence[Run]], dataset: str, case_names: Sequence[str]) -> str:
    """Return a table for each published setting of a data set, and one of what the papers do not give."""
    entry = read_json5(PUBLISHED)[dataset]
    classes = entry["classes"]
    papers = [paper for of_setting in [*entry["settings"].values(), entry["unread"]] for paper in of_setting]
    found = choices(case_names, [paper["support"] for paper in papers if "support" in paper])

    def pooled(variant: Variant, choice: Choice, file: str, metric: str) -> list[dict[str, float]]:
        return [of_one for run in runs[variant] for of_one in run.values(choice, file, metric)]

    rows_of = [(variant, choice) for variant, of_one in runs.items() if of_one
               for choice in found if variant != UNET or choice.name == LAST]
    measured = []
    for variant, choice in rows_of:
        values = pooled(variant, choice, PROTOCOL, "dice")
        measured.append([variant.name, choice.name, *(spread(values, label) for label in classes), spread(values, None)])
    unread = [[f"{paper['method']}, published", words_of(paper.get("support")), *"–" * (len(classes) + 1)]
              for paper in entry["unread"]]
    n_folds = ", ".join(f"{variant.name} in {len(of_one)}" for variant, of_one in runs.items())
    parts = [f"{dataset}, {n_folds} of {N_FOLDS} folds: {NOTES}"]
    for setting, of_setting in entry["settings"].items():
        rows = published_of(dataset, setting, of_setting, classes)
        parts.append(format_table([f"setting {setting}", "support", *classes, "mean"], [*measured, *rows, *unread]))
    rows = [[variant.name, choice.name,
             *(spread(pooled(variant, choice, file, metric), None, scale) for _, file, metric, scale in OTHERS)]
            for variant, choice in rows_of]
    parts.append(format_table(["mean over the classes", "support", *(name for name, *_ in OTHERS)], rows))
    return "\n\n".join(parts)


def published_of(dataset: str, setting: str, papers: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> list[list[str]]:
    """Return the published rows of a setting, each with the support that the paper takes."""
    common = {"dataset": dataset, "protocol": "published", "setting": setting, "exclude_rule": "any"}
    return [[name, words_of(paper.get("support")), *cells]
            for paper, (name, *cells) in zip(papers, published_rows(common, classes, "dice"), strict=True)]


def finished_runs(output: Path, dataset: str) -> dict[Variant, list[Run]]:
    """Return the newest finished run of each method and fold."""
    return {variant: [Run(fold, run) for fold in range(N_FOLDS) if (run := finished(variant, fold, output, dataset))]
            for variant in METHODS}


def support_option(variant: Variant, n_cases: int, fold: int) -> int | str:
    """Return `supp_idx` of a run: every case of the fold, and for the U-Net, which is trained on it, the last scan alone."""
    if variant != UNET:
        return "all"
    return fold_positions(n_cases, N_FOLDS, fold).index(extra_position(n_cases, N_FOLDS, fold))


def main() -> None:
    """Run the command."""
    parser = command_line(__doc__, ROOT / "runs/guided")
    parser.add_argument("--cmr-dir", type=Path, help="folder of CMR; without it, CMR is left out")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")   # the numbers in docs/comparison.md were made with one thread
    output, parts = options.output.resolve(), list[str]()
    try:
        claim([output / "published.txt"], overwrite=options.overwrite)
        for dataset, folder in (("CHAOST2", options.data_dir), ("CMR", options.cmr_dir)):
            if folder is None:
                continue
            names = [case.name for case in find_cases(table_entry(dataset), folder, n_sv=5000)]
            for variant, runs in finished_runs(output, dataset).items():
                for fold in sorted(set(options.folds) - {run.fold for run in runs}):
                    call("test.py", "with", CONFIGS[dataset], variant.model, f"eval_fold={fold}",
                         f"supp_idx={support_option(variant, len(names), fold)}", "whole_volume=true",
                         f"path.{dataset}.data_dir={folder.resolve()}", *options.options, "resume=auto",
                         f"path.log_dir={output / variant.name}")
            parts.append(tables(finished_runs(output, dataset), dataset, names))
        if not options.no_tables:
            print("\n\n".join(parts))
            write_text("\n\n".join(parts) + "\n", output / "published.txt")
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
