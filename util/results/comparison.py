"""Gathers the evaluation runs of several methods, and tests the methods against a baseline."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import wilcoxon

from qnet.util.base.errors import InputError
from qnet.util.base.inputs import read_json
from qnet.util.base.tables import read_rows
from qnet.util.options.config import check_options
from qnet.util.options.names import MODELS
from qnet.util.options.sections import ComparedOptions, names_of, section

MIN_PAIRS = 6            # with fewer pairs, p < 0.05 is impossible
ALL = "all classes"


class Scored(NamedTuple):
    """What a score belongs to: one class of a query volume, segmented from a support volume.

    Attributes:
        fold: test fold.
        support: case of the support.
        query: case of the query.
        label: name of the class.
    """

    fold: int
    support: str
    query: str
    label: str


@dataclass(frozen=True)
class Run:
    """A run folder of an evaluation: its method, its options, and its scores, 0 to 1."""

    folder: Path
    method: str
    options: ComparedOptions
    scores: Mapping[Scored, float]


def find_runs(paths: Iterable[str], metric: str = "dice") -> list[Run]:
    """Read all finished evaluations below some folders.

    Args:
        paths: each FOLDER, or NAME=FOLDER to name the method. Without a name, it is the model's, with "(untrained)" if so.
        metric: the column of scores.csv.
    Raises:
        InputError: a folder is missing, holds no scores.csv, or has a file that `qnet test` did not write.
    """
    runs = []
    for given in paths:
        name, equals, path = given.rpartition("=")
        if equals and not name:
            raise InputError(f"{given}: expected a folder, or NAME=FOLDER")
        folders = sorted(file.parent for file in Path(path).rglob("scores.csv"))
        if not folders:
            raise InputError(f"{path}: no finished evaluation (no scores.csv) in it")
        runs += [read_run(folder, metric, name) for folder in folders]
    return runs


def read_run(folder: Path, metric: str, name: str = "") -> Run:
    """Read a run folder of an evaluation. The arguments are as in `find_runs`, with "" for no name.

    Raises:
        InputError: a file is missing or `qnet test` did not write it, or a score is not in 0 to 1.
    """
    try:
        config = read_json(folder / "config.json")
        check_options(config, names_of(ComparedOptions), folder / "config.json")
        options = section(ComparedOptions, config)
        scores = {Scored(options.eval_fold, row["support_case"], row["query_case"], row["label_name"]): float(row[metric])
                  for row in read_rows(folder / "scores.csv")[1]}
        if wrong := [score for score in scores.values() if not 0 <= score <= 1]:
            raise InputError(f"{folder / 'scores.csv'}: {metric}: got {wrong[0]}, allowed: 0 to 1")
        if not scores:
            raise InputError(f"{folder / 'scores.csv'}: holds no score")
        untrained = " (untrained)" if options.reload_model_path == "untrained" else ""
        return Run(folder, name or MODELS[options.model] + untrained, options, scores)
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{folder}: config.json or scores.csv is of no evaluation ({type(error).__name__}: {error})") from None


def protocol_of(run: Run) -> dict[str, Any]:
    """Return the options that make scores comparable."""
    return {key: getattr(run.options, key) for key in ("dataset", "protocol", "n_part", "setting", "exclude_rule")}


def common_config(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the options that make scores comparable, which all runs share.

    Raises:
        InputError: two runs differ in one of them. The message names both.
    """
    first = protocol_of(runs[0])
    for run in runs[1:]:
        for key, value in protocol_of(run).items():
            if value != first[key]:
                raise InputError(f"{run.folder}: {key} is {value!r}, but in {runs[0].folder} it is {first[key]!r}; "
                                 "such scores do not compare")
    return first


def by_method(runs: Sequence[Run]) -> dict[str, dict[Scored, float]]:
    """Pool the scores of all runs of each method.

    Raises:
        InputError: two runs of a method scored the same class, query and support. The message names both.
    """
    pooled: dict[str, dict[Scored, float]] = {}
    origin: dict[tuple[str, Scored], Path] = {}
    for run in runs:
        for scored, score in run.scores.items():
            if (run.method, scored) in origin:
                raise InputError(f"{run.folder}: scores case {scored.query} from support {scored.support} as {run.method}, as "
                                 f"{origin[run.method, scored]} does; leave one out, or name them: NAME=FOLDER")
            origin[run.method, scored] = run.folder
            pooled.setdefault(run.method, {})[scored] = score
    return pooled


def group_means(scores: Mapping[Scored, float], classes: Sequence[str]) -> np.ndarray:
    """Return (G, len(classes) + 1) mean scores over the queries, for each of the G pairs of fold and support.

    The last column is the mean over the classes. NaN stands for no score.
    """
    groups = sorted({(scored.fold, scored.support) for scored in scores})
    table = np.array([[_mean([score for scored, score in scores.items() if (*scored[:2], scored.label) == (*group, label)])
                       for label in classes] for group in groups])
    return np.column_stack([table, [_mean(row[~np.isnan(row)]) for row in table]])


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else np.nan


def mean_and_std(values: np.ndarray) -> tuple[float, float]:
    """Return mean and sample standard deviation of (N,) values, without NaN. With too few values, they are NaN."""
    values = values[~np.isnan(values)]
    return _mean(values), float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def p_values_against(baseline: str, methods: Mapping[str, Mapping[Scored, float]],
                  classes: Sequence[str]) -> dict[tuple[str, str], float]:
    """Test each method against the baseline, for each class and for all, by Wilcoxon's signed-rank test (Wilcoxon 1945).

    Args:
        baseline: one of `methods`.
        methods: scores by name of the method.
        classes: names of the classes.
    Returns:
        p by (method, class or ALL). Holm's correction is over the methods, for each class and for ALL apart. NaN stands for
        fewer than MIN_PAIRS pairs.
    Raises:
        InputError: a method and the baseline were not scored on the same volumes.
    """
    reference = methods[baseline]
    others = {method: scores for method, scores in methods.items() if method != baseline}
    for method, scores in others.items():
        if unpaired := sorted(set(scores) ^ set(reference)):
            raise InputError(f"{method} and {baseline} cannot be paired: {len(unpaired)} volumes are scored for one of them "
                             f"only, such as {', '.join(f'{k} {v}' for k, v in unpaired[0]._asdict().items())}; "
                             "leave runs out, or say --baseline none")
    corrected: dict[tuple[str, str], float] = {}
    for label in (*classes, ALL):
        chosen = [scored for scored in reference if label in (scored.label, ALL)]
        corrected |= holm({(method, label): _p_value([scores[scored] - reference[scored] for scored in chosen])
                           for method, scores in others.items()})
    return corrected


def _p_value(differences: Sequence[float]) -> float:
    if len(differences) < MIN_PAIRS:
        return np.nan
    return float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0


def holm(p_values: Mapping[Any, float]) -> dict[Any, float]:
    """Return the p values with Holm's correction for multiple tests (Holm 1979). NaN stays NaN and is not counted."""
    ordered = sorted((key for key, p in p_values.items() if not np.isnan(p)), key=lambda key: p_values[key])
    corrected, largest = dict.fromkeys(p_values, np.nan), 0.0
    for rank, key in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p_values[key]))
        corrected[key] = largest
    return corrected
