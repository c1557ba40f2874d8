"""Finished evaluation runs of several methods, gathered and tested against a baseline."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import wilcoxon

from util.base.errors import InputError
from util.base.inputs import read_json
from util.options.config import check_options
from util.options.table import MODELS, Role, with_role

MIN_PAIRS = 6            # fewer pairs cannot give p < 0.05
ALL = "all classes"
COMPARED_OPTIONS = with_role(Role.COMPARED)


class Volume(NamedTuple):
    """A class of a query volume, segmented from a support volume."""

    fold: int
    support: str
    query: str
    label: str


@dataclass(frozen=True)
class Run:
    """What a run folder of test.py says: its config, and the score of every volume in [0, 1]."""

    folder: Path
    method: str
    config: Mapping[str, Any]
    scores: Mapping[Volume, float]


def find_runs(paths: Iterable[str], metric: str = "dice") -> list[Run]:
    """Read the runs in some folders. `NAME=FOLDER` names the method; otherwise it is the model, "untrained" where it is so.

    Raises:
        InputError: a folder is missing, holds no scores.csv, or a file in it is not what test.py writes.
    """
    runs = []
    for given in paths:
        name, equals, path = given.rpartition("=")
        if equals and not name:
            raise InputError(f"{given}: expected a folder, or NAME=FOLDER")
        folders = sorted(file.parent for file in Path(path).rglob("scores.csv"))
        if not folders:
            raise InputError(f"{path}: no finished run of test.py (no scores.csv) in it")
        runs += [read_run(folder, metric, name) for folder in folders]
    return runs


def read_run(folder: Path, metric: str, name: str = "") -> Run:
    try:
        config = read_json(folder / "config.json")
        check_options(config, COMPARED_OPTIONS, folder / "config.json")
        with (folder / "scores.csv").open(newline="", encoding="utf-8") as file:
            scores = {Volume(config["eval_fold"], row["support_case"], row["query_case"], row["label_name"]): float(row[metric])
                      for row in csv.DictReader(file)}
        if wrong := [score for score in scores.values() if not 0 <= score <= 1]:
            raise InputError(f"{folder / 'scores.csv'}: {metric}: got {wrong[0]}, allowed: 0 to 1")
        if not scores:
            raise InputError(f"{folder / 'scores.csv'}: holds no score")
        untrained = " (untrained)" if config["reload_model_path"] == "untrained" else ""
        return Run(folder, name or MODELS.get(config["model"], config["model"]) + untrained, config, scores)
    except InputError:
        raise
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{folder}: config.json or scores.csv is not one of test.py ({type(error).__name__}: {error})") from None


def setting(config: Mapping[str, Any]) -> str:
    """Return "1", or "2" where slices with the test classes were removed from training."""
    return "1" if config["exclude_label"] is None else "2"


def common_config(runs: Sequence[Run]) -> dict[str, Any]:
    """Return what decides how scores were made; an InputError names two runs that differ in it."""
    def protocol(run: Run) -> dict[str, Any]:
        config = {key: run.config[key] for key in ("dataset", "protocol", "n_part")}
        return {**config, "setting": setting(run.config), "exclude_rule": run.config["exclude_rule"]}

    first = protocol(runs[0])
    for run in runs[1:]:
        for key, value in protocol(run).items():
            if value != first[key]:
                raise InputError(f"{run.folder}: {key} is {value!r}, but in {runs[0].folder} it is {first[key]!r}; "
                                 "such scores do not compare")
    return first


def by_method(runs: Sequence[Run]) -> dict[str, dict[Volume, float]]:
    """Pool the runs of each method; an InputError names two runs that scored the same volume."""
    pooled: dict[str, dict[Volume, float]] = {}
    origin: dict[tuple[str, Volume], Path] = {}
    for run in runs:
        for volume, score in run.scores.items():
            if (run.method, volume) in origin:
                raise InputError(f"{run.folder}: scores case {volume.query} from support {volume.support} as {run.method}, as "
                                 f"{origin[run.method, volume]} does; leave one out, or name them: NAME=FOLDER")
            origin[run.method, volume] = run.folder
            pooled.setdefault(run.method, {})[volume] = score
    return pooled


def group_means(scores: Mapping[Volume, float], classes: Sequence[str]) -> np.ndarray:
    """Return (groups, classes + 1): the mean over queries for each fold and support, and then over classes. NaN: no score."""
    groups = sorted({(volume.fold, volume.support) for volume in scores})
    table = np.array([[_mean([score for volume, score in scores.items() if (*volume[:2], volume.label) == (*group, label)])
                       for label in classes] for group in groups])
    return np.column_stack([table, [_mean(row[~np.isnan(row)]) for row in table]])


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else np.nan


def mean_and_std(values: np.ndarray) -> tuple[float, float]:
    """Mean and sample standard deviation of the values that are not NaN; NaN where there are too few."""
    values = values[~np.isnan(values)]
    return _mean(values), float(np.std(values, ddof=1)) if len(values) > 1 else np.nan


def p_values_against(baseline: str, methods: Mapping[str, Mapping[Volume, float]],
                  classes: Sequence[str]) -> dict[tuple[str, str], float]:
    """Wilcoxon's signed-rank test of each other method against the baseline, for each class and for all, by paired volumes.

    Returns:
        p by (method, class or ALL), with Holm's correction over the methods, for each class and for ALL on its own; NaN where
        there are fewer than MIN_PAIRS.
    Raises:
        InputError: a method was not scored on the baseline's volumes.
    """
    reference = methods[baseline]
    others = {method: scores for method, scores in methods.items() if method != baseline}
    for method, scores in others.items():
        if unpaired := sorted(set(scores) ^ set(reference)):
            raise InputError(f"{method} and {baseline} cannot be paired: {len(unpaired)} volumes are scored for one of them "
                             f"only, such as {', '.join(f'{k} {v}' for k, v in unpaired[0]._asdict().items())}; "
                             "leave runs out, or say --baseline none")
    corrected = {}
    for label in (*classes, ALL):
        chosen = [volume for volume in reference if label in (volume.label, ALL)]
        corrected |= holm({(method, label): _p_value([scores[volume] - reference[volume] for volume in chosen])
                           for method, scores in others.items()})
    return corrected


def _p_value(differences: Sequence[float]) -> float:
    if len(differences) < MIN_PAIRS:
        return np.nan
    return float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0


def holm(p_values: Mapping[Any, float]) -> dict[Any, float]:
    """Correct p values for their number (Holm 1979); NaN stays and does not count."""
    ordered = sorted((key for key, p in p_values.items() if not np.isnan(p)), key=p_values.get)
    corrected, largest = dict.fromkeys(p_values, np.nan), 0.0
    for rank, key in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p_values[key]))
        corrected[key] = largest
    return corrected
