"""The report: one self-contained HTML file about an evaluation, with scores, plots and a viewer of every case."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy

from qnet.dataloaders.datasets import Case, DatasetSpec, find_cases
from qnet.dataloaders.nifti import read_affine
from qnet.dataloaders.volumes import read_image, read_label_of
from qnet.util.base.classes import colours_of, in_figure
from qnet.util.base.errors import InputError
from qnet.util.base.guard import claim
from qnet.util.base.inputs import read_json
from qnet.util.base.progress import progress
from qnet.util.base.tables import read_rows as read_table
from qnet.util.engine.metrics import METRICS
from qnet.util.engine.predictions import WARPED
from qnet.util.options.config import check_options, run_dataset
from qnet.util.options.sections import ShownOptions, dataset_spec, names_of, section
from qnet.util.results.report_page import Column, Content, Layers, Volumes, left_out, map_if_there, write_report_page
from qnet.util.results.scores import SCORE_COLUMNS, WHOLE, WHOLE_COLUMNS, prediction_name, warped_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOT_NUMBERS = ("label_name", "support_case", "query_case")
LATER_COLUMNS = ("confidence",)      # tables of earlier versions lack these
MAPS = {"protocol": "predictions", "whole": f"predictions_{WHOLE}"}      # folders by their names in the page
COLUMNS = (Column("query_case", "query"), Column("support_case", "support"), Column("label_name", "class"),
           Column("evaluation", "evaluation"), Column("dice", "Dice", 1, 100), Column("iou", "IoU", 1, 100),
           Column("precision", "precision", 1, 100), Column("recall", "recall", 1, 100), Column("hd95_mm", "HD95, mm", 1),
           Column("assd_mm", "ASSD, mm", 1), Column("surface_dice", "surface Dice", 1, 100),
           Column("volume_difference_ml", "ΔV, ml", 1))
TRUST_COLUMNS = (Column("agreement", "agreement", 2), Column("margin", "margin", 1), Column("confidence", "confidence", 2))
HINT = ("Known without labels: agreement, the mean Dice with what the other supports give; margin, the mean distance of the "
        "anomaly score from the threshold; confidence, the Dice that is to be expected.")


def write_report(run: str | None, overwrite: bool = False) -> Path:
    """Write report.html into the run folder of an evaluation, and return its path.

    Args:
        run: the run folder.
        overwrite: replace a report.html that this project did not write, or that was changed since.
    Raises:
        InputError: there is no run folder, the evaluation is not finished, its data were moved, or report.html may not be
            written.
        OSError: the file cannot be written.
    """
    if run is None:
        raise InputError("run: got null, allowed: the run folder of an evaluation, as runs/QNet_test_CHAOST2_cv0/1")
    folder = Path(run)
    config, summary = _read_json(folder / "config.json"), _read_json(folder / "results.json")
    check_options(config, names_of(ShownOptions), folder / "config.json")
    options = section(ShownOptions, config)
    for key in ("classes", "mean", "supports"):
        if not isinstance(summary.get(key), dict):
            raise InputError(f"{folder / 'results.json'}: {key}: got nothing, allowed: what `qnet test` writes")
    rows = read_rows(folder / "scores.csv", SCORE_COLUMNS)
    whole_rows = (read_rows(folder / f"scores_{WHOLE}.csv", WHOLE_COLUMNS) if (folder / f"scores_{WHOLE}.csv").exists() else [])
    entry, data_dir = run_dataset(config, folder / "config.json")
    spec = dataset_spec(options.dataset, entry)
    cases = {case.name: case for case in find_cases(spec, data_dir, options.n_sv)}
    report = folder / "report.html"
    claim([report], [*(path for case in cases.values() for path in case.files), *folder.glob("*.json"), *folder.glob("*.csv"),
                     *folder.glob("*/*.nii.gz")], overwrite=overwrite, remedy="overwrite=true")
    pairs = sorted({(row["query_case"], row["support_case"]) for row in rows + whole_rows}, key=lambda pair: (len(pair[0]), pair))
    if gone := [query for query, _ in pairs if query not in cases]:
        raise InputError(f"{folder}: case {gone[0]} is no longer in {data_dir}")
    volumes, views = Volumes(list(spec.labels)), {}
    for query, support in progress(_worst_first(pairs, rows + whole_rows), desc="report", unit="case"):
        if not volumes.full:
            layers = _layers(folder, cases[query], spec, support)
            views[query, support] = volumes.view(f"{query}, from support {support}", layers)
    shown = [pair for pair in pairs if pair in views]
    trust = [column for column in TRUST_COLUMNS if any(row.get(column.key) is not None for row in whole_rows)]
    content = Content(
        title=f"{spec.name}, fold {options.eval_fold}", facts=_facts(options, summary), names=spec.labels,
        columns=[*COLUMNS, *trust], rows=_shown_rows(rows, whole_rows, shown), order="dice",
        views=[views[pair] for pair in shown], hint=(HINT if trust else "") + left_out(len(shown), len(pairs), "worst cases"),
        classes={"metrics": METRICS, "protocol": summary, "whole": summary.get(WHOLE)},
        plots=[plot for plot in (plot_distributions(rows, whole_rows), plot_trust(whole_rows)) if plot])
    write_report_page(content, volumes, report)
    return report


def _shown_rows(rows: Sequence[Mapping[str, Any]], whole_rows: Sequence[Mapping[str, Any]],
                shown: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return the rows of the table of cases: those of the protocol and those over whole volumes, each with its view."""
    number = {pair: k for k, pair in enumerate(shown)}
    return [{**row, "view": number.get((row["query_case"], row["support_case"])), "map": kind, "evaluation": said}
            for kind, said, of_kind in (("protocol", "protocol", rows), ("whole", "whole volume", whole_rows)) for row in of_kind]


def _worst_first(pairs: Sequence[tuple[str, str]], rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the pairs of query and support, those with the lowest Dice first."""
    lowest: dict[tuple[str, str], float] = {}
    for row in rows:
        pair, dice = (row["query_case"], row["support_case"]), row["dice"]
        lowest[pair] = min(lowest.get(pair, math.inf), math.inf if dice is None or math.isnan(dice) else dice)
    return sorted(pairs, key=lambda pair: lowest[pair])


def _read_json(path: Path) -> dict:
    try:
        return read_json(path)
    except InputError as error:
        raise InputError(f"run: {error}; allowed: the run folder of a finished evaluation") from None


def read_rows(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of a CSV file of scores. Numbers become float, empty cells None.

    Raises:
        InputError: the file is missing, has no rows, lacks one of `columns`, or has text in place of a number.
    """
    try:
        rows = [{key: _cell(row, key) for key in columns} for row in read_table(path)[1]]
    except (KeyError, csv.Error, ValueError) as error:
        reason = f"lacks the column {error}" if isinstance(error, KeyError) else str(error).removeprefix(f"{path}: ")
        raise InputError(f"{path}: {reason}") from None
    if not rows or any(row[key] is None for row in rows for key in NOT_NUMBERS):
        raise InputError(f"{path}: got no whole row, allowed: what `qnet test` writes")
    return rows


def _cell(row: Mapping[str, str], key: str) -> str | float | None:
    if key in LATER_COLUMNS and key not in row:
        return None
    return row[key] if key in NOT_NUMBERS else float(row[key]) if row[key] else None


def _facts(options: ShownOptions, summary: Mapping[str, Any]) -> dict[str, str]:
    weights = {} if options.reload_model_path is None else {"weights": str(options.reload_model_path), "encoder": options.encoder}
    return {**weights, "computed in": options.precision, "protocol": options.protocol,
            "support volumes": ", ".join(summary["supports"]), "parts": str(options.n_part),
            "refinements": str(options.n_iters), "surface tolerance": f"{options.surface_tolerance_mm} mm"}


def _layers(folder: Path, case: Case, spec: DatasetSpec, support: str) -> Layers:
    """Read a case, its truth, and what was predicted for it from a support."""
    image = read_image(case.image)

    def of_labels(kind: str) -> dict[int, np.ndarray]:
        """Return by label the mask or probability map that a folder of the run has."""
        found = {label: map_if_there(folder / kind / prediction_name(case.name, name, support), image.shape, np.uint8)
                 for label, name in spec.labels.items()}
        return {label: values for label, values in found.items() if values is not None}

    maps = {name: join_masks(masks) for name, kind in MAPS.items() if (masks := of_labels(kind))}
    probabilities = {label: values / 255 for label, values in of_labels(f"probabilities_{WHOLE}").items()}
    return Layers(image, read_affine(case.image), {**maps, "truth": read_label_of(case, spec, image)}, probabilities,
                  map_if_there(folder / WARPED / warped_name(case.name, support), image.shape, np.uint8))


def join_masks(masks: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return the label map of some masks by label, at least one. Where they overlap, the last one counts."""
    label_map = np.zeros(next(iter(masks.values())).shape, np.int16)
    for label, mask in masks.items():
        label_map[mask > 0] = label
    return label_map


def plot_distributions(rows: Sequence[Mapping[str, Any]], whole_rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Draw Dice and HD95 of every volume by class, for the protocol and whole volumes.

    Args:
        rows: of scores.csv.
        whole_rows: of scores_whole_volume.csv; may be empty.
    Returns:
        "image", a PNG in base64, and "text", the caption.
    """
    figure = _figure(11, 3.8)
    names = list(dict.fromkeys(row["label_name"] for row in rows))
    for axes, metric, text in zip(figure.subplots(1, 2), ("dice", "hd95_mm"), ("Dice", "HD95, mm"), strict=True):
        for shift, scored, colour, what in ((-0.18, rows, "C0", "protocol"), (0.18, whole_rows, "C1", "whole volume")):
            values = [[row[metric] for row in scored if row["label_name"] == name and _is_number(row[metric])] for name in names]
            if not any(values):
                continue
            positions = np.arange(len(names)) + shift
            axes.boxplot(values, positions=positions, widths=0.28, showfliers=False, medianprops={"color": colour})
            for x, dots in zip(positions, values, strict=True):
                axes.plot(x + np.linspace(-0.08, 0.08, len(dots)), dots, "o", color=colour, alpha=0.6, markersize=4)
            axes.plot([], [], "o", color=colour, label=what)
        axes.set(xticks=range(len(names)), ylabel=text)
        axes.set_xticklabels(map(in_figure, names))
    axes.legend(frameon=False)
    return {"image": _png(figure), "text": "Every query volume is a dot: Dice, and 95% Hausdorff distance (HD95)."}


def plot_trust(whole_rows: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    """Draw Dice against the trust numbers "agreement", "margin" and "confidence", which need no labels.

    Args:
        whole_rows: of scores_whole_volume.csv.
    Returns:
        "image" and "text" as `plot_distributions`; None if none of the numbers is known for three volumes.
    """
    numbers = [(key, text) for key, text in (("agreement", "agreement with other supports"),
                                             ("margin", "mean distance of the score from the threshold"),
                                             ("confidence", "confidence of the method"))
               if sum(_is_number(row[key]) for row in whole_rows) >= 3]
    if not numbers:
        return None
    colours = colours_of(int(row["label"]) for row in whole_rows)
    figure, correlations = _figure(5.5 * len(numbers), 3.8), []
    for axes, (key, text) in zip(np.ravel(figure.subplots(1, len(numbers))), numbers, strict=True):
        known = [row for row in whole_rows if _is_number(row[key])]
        for label, name in {int(row["label"]): row["label_name"] for row in known}.items():
            same = [row for row in known if row["label"] == label]
            axes.plot([row[key] for row in same], [row["dice"] for row in same], "o", color=colours[label], alpha=0.7,
                      markersize=5, label=in_figure(name))
        correlation = scipy.stats.spearmanr([row[key] for row in known], [row["dice"] for row in known]).statistic
        correlations.append(f"{text}: {correlation:.2f}")
        axes.set(xlabel=text, ylabel="Dice, whole volume", ylim=(-0.02, 1.02))
    axes.legend(frameon=False)
    return {"image": _png(figure), "text": "What can be known without labels, and the true Dice. Rank correlation (Spearman), "
            + "; ".join(correlations) + ": 1 would rank every case rightly, 0 is chance."}


def _is_number(value: float | None) -> bool:
    return value is not None and np.isfinite(value)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # predict draws none, and starts sooner without
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> str:
    content = io.BytesIO()
    figure.savefig(content, dpi=100, format="png")
    return base64.b64encode(content.getvalue()).decode()
