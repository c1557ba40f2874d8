"""Collect finished evaluations in one table, method by class, beside published numbers.

    qnet compare runs/chaost2_setting1
    qnet compare runs/a/QNet_test_CHAOST2_cv0/1 "Q-Net, no refinement=runs/a/QNet_test_CHAOST2_cv0/2"

Runs of one method are pooled over folds and supports. Writes comparison.txt, .csv, .md, .tex and comparison.png.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

if not __package__:     # run as a file: before packages of the same names elsewhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.files import write_text
from qnet.util.base.guard import OVERWRITE_HELP, claim
from qnet.util.base.tables import format_table, markdown_table, write_cells
from qnet.util.options.config import read_json5
from qnet.util.results.comparison import (
    ALL,
    MIN_PAIRS,
    Scored,
    by_method,
    common_config,
    find_runs,
    group_means,
    mean_and_std,
    p_values_against,
)
from qnet.util.results.figures import save_figure

PUBLISHED = Path(__file__).resolve().parent / "published_dice.json5"


@dataclass(frozen=True)
class Table:
    """A table and the lines that explain it, independent of the format."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="+",
                        help="run folders of evaluations, or folders that hold such; NAME=FOLDER names the method")
    parser.add_argument("--baseline", default="QNet", help="method that the others are tested against, or 'none'; default: "
                        "%(default)s")
    parser.add_argument("--metric", choices=["dice", "iou"], default="dice", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("runs/comparison"), help="folder; default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    return parser.parse_args(arguments)


def percent(value: float) -> str:
    """Return a score from 0 to 1 in %, "–" for NaN."""
    return "–" if np.isnan(value) else f"{100 * value:.2f}"


def measured_rows(methods: Mapping[str, Mapping[Scored, float]], classes: Sequence[str]) -> list[list[str]]:
    """Return a row per method: mean ± standard deviation in % of each class, and of the mean of classes."""
    rows = []
    for method, scores in methods.items():
        cells = [mean_and_std(column) for column in group_means(scores, classes).T]
        rows.append([method, *(f"{percent(mean)} ± {percent(std)}" for mean, std in cells)])
    return rows


def published_rows(common: Mapping[str, Any], classes: Sequence[str], metric: str) -> list[list[str]]:
    """Return the published Dice of this dataset and setting. There are none for EP2 and for other metrics."""
    entry = read_json5(PUBLISHED).get(common["dataset"])
    if entry is None or metric != "dice" or common["protocol"] == "ep2":
        return []
    rows = []
    for paper in entry["settings"].get(common["setting"], []):
        dice = dict(zip(entry["classes"], paper["dice"], strict=False))
        organs = [f"{dice[label]:.2f}" + "?" * (paper["confirmed"] != "all") if label in dice else "" for label in classes]
        dagger = " †" if paper.get("exclude_rule", common["exclude_rule"]) != common["exclude_rule"] else ""
        mean = f"{paper['mean']:.2f}" + "?" * (paper["confirmed"] == "none")
        rows.append([f"{paper['method']}, published{dagger}", *organs, mean])
    return rows


def score_table(methods: Mapping[str, Mapping[Scored, float]], classes: Sequence[str], common: Mapping[str, Any],
                metric: str) -> Table:
    """Return the table of scores by method and class, with published rows and notes."""
    published = published_rows(common, classes, metric)
    groups = {volume[:2] for scores in methods.values() for volume in scores}
    n_folds = len({fold for fold, _ in groups})
    notes = [f"{common['dataset']}, setting {common['setting']}, protocol {common['protocol']}, n_part {common['n_part']}: "
             f"{metric.capitalize().replace('Iou', 'IoU')} in %, mean ± sample standard deviation over {len(groups)} "
             f"supports in {n_folds} fold{'s' * (n_folds > 1)} (each the mean over its queries)."]
    if published:
        notes.append("published: numbers of the papers (five folds, one support, only slices that hold the class, encoders from "
                     "COCO or ImageNet; no standard deviation). ?: not confirmed at the source, check before quoting.")
    if any("†" in row[0] for row in published):
        notes.append("†: its public code removes a training slice only when every listed class is in it.")
    return Table(["method", *classes, "mean"], [*measured_rows(methods, classes), *published], notes)


def p_table(baseline: str, p_values: Mapping[tuple[str, str], float], classes: Sequence[str]) -> Table:
    """Return the table of p values against the baseline by method and class, with notes."""
    methods = dict.fromkeys(method for method, _ in p_values)
    rows = [[method, *(_p_text(p_values[method, label]) for label in (*classes, ALL))] for method in methods]
    notes = [f"p of Wilcoxon's signed-rank test against {baseline}, paired by volume (support, query and class), with Holm's "
             f"correction over the rows of a column ({len(methods)}); –: fewer than {MIN_PAIRS} volumes. "
             "Volumes that share a query or a support are not independent, which makes these p too small."]
    return Table(["method", *classes, ALL], rows, notes)


def _p_text(p: float) -> str:
    return "–" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def as_text(table: Table) -> str:
    """Return a table as plain text."""
    return "\n".join([format_table(table.header, table.rows), "", *table.notes])


def as_markdown(table: Table) -> str:
    """Return a table in Markdown."""
    return "\n".join([markdown_table(table.header, table.rows), "", *table.notes])


def as_latex(table: Table) -> str:
    """Return a table in LaTeX, its notes as comments."""
    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(_latex_text, cells)) + r" \\"

    return "\n".join([rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}", r"\hline", line(table.header), r"\hline",
                      *map(line, table.rows), r"\hline", r"\end{tabular}", *(f"% {note}" for note in table.notes)])


def _latex_text(text: str) -> str:
    for plain, latex in {"_": r"\_", "&": r"\&", "%": r"\%", "±": r"$\pm$", "†": r"$^\dagger$", "–": "--", "<": "$<$"}.items():
        text = text.replace(plain, latex)
    return text


def as_csv(methods: Mapping[str, Mapping[Scored, float]], classes: Sequence[str], p_values: Mapping[tuple[str, str], float],
           published: Sequence[Sequence[str]]) -> str:
    """Return a line for each method and class as CSV. The class "mean" is the mean of classes. Its p is that of all volumes."""
    rows: list[list[Any]] = [["method", "class", "mean_percent", "std_percent", "n_supports", "n_volumes", "p_holm"]]

    def text(value: float, factor: float = 1.0) -> str:
        return "" if np.isnan(value) else f"{factor * value:.6g}"

    for method, scores in methods.items():
        for label, column in zip((*classes, "mean"), group_means(scores, classes).T, strict=True):
            mean, std = mean_and_std(column)
            n_volumes = len(scores) if label == "mean" else sum(volume.label == label for volume in scores)
            p = p_values.get((method, ALL if label == "mean" else label), np.nan)
            rows.append([method, label, text(mean, 100), text(std, 100), np.isfinite(column).sum(), n_volumes, text(p)])
    for method, *cells in published:
        of_classes = zip((*classes, "mean"), cells, strict=True)
        rows += [[method, label, cell, "", "", "", ""] for label, cell in of_classes if cell]
    file = io.StringIO()
    write_cells(rows, file, lineterminator="\n")
    return file.getvalue()


def box_plot(methods: Mapping[str, Mapping[Scored, float]], classes: Sequence[str], metric: str, path: Path) -> None:
    """Draw the scores of volumes: a panel per class, in it a line per method, from the top."""
    figure, panels = plt.subplots(1, len(classes), sharex=True, sharey=True, squeeze=False, layout="constrained",
                                  figsize=(2 + 2.4 * len(classes), 1 + 0.27 * len(methods)))
    for k, (axes, label) in enumerate(zip(panels[0], classes, strict=True)):
        values = [[100 * score for volume, score in scores.items() if volume.label == label] for scores in methods.values()]
        axes.boxplot(values, orientation="horizontal", widths=0.7, patch_artist=True, boxprops={"facecolor": "C0", "alpha": 0.6},
                     medianprops={"color": "black"}, flierprops={"markersize": 3},
                     tick_labels=None if k else list(methods), manage_ticks=k == 0)      # one axis for all panels
        axes.set(title=label, xlim=(0, 100))
        axes.grid(axis="x", alpha=0.4)
    panels[0][0].invert_yaxis()
    figure.supxlabel(f"{metric.capitalize().replace('Iou', 'IoU')} of a volume (%)", fontsize="medium")
    save_figure(figure, path)


def output_files(folder: Path) -> list[Path]:
    """Return the paths of the files that this command writes."""
    return [folder / f"comparison.{ending}" for ending in ("txt", "md", "tex", "csv", "png")]


def write(path: Path, content: str) -> None:
    """Write a text, with a line break at its end."""
    write_text(content + "\n" * (not content.endswith("\n")), path)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse_arguments(arguments)
    try:
        runs = find_runs(options.runs, options.metric)
        common, methods = common_config(runs), by_method(runs)
        classes = list(dict.fromkeys(volume.label for run in runs for volume in run.scores))
        if options.baseline not in (*methods, "none"):
            raise InputError(f"--baseline: got {options.baseline!r}, allowed: 'none' or one of {list(methods)}")
        p_values = {} if options.baseline == "none" else p_values_against(options.baseline, methods, classes)
        claim(output_files(options.output), [run.folder for run in runs], overwrite=options.overwrite)
        options.output.mkdir(parents=True, exist_ok=True)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    tables = [score_table(methods, classes, common, options.metric)]
    if p_values:
        tables.append(p_table(options.baseline, p_values, classes))
    for ending, render in (("txt", as_text), ("md", as_markdown), ("tex", as_latex)):
        write(options.output / f"comparison.{ending}", "\n\n".join(map(render, tables)))
    published = published_rows(common, classes, options.metric)
    write(options.output / "comparison.csv", as_csv(methods, classes, p_values, published))
    box_plot(methods, classes, options.metric, options.output / "comparison.png")
    print("\n\n".join(map(as_text, tables)))
    print(f"\ncomparison.txt, .csv, .md, .tex and .png: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
