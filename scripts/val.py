"""Evaluate every fold's newest snapshot and print one table over the folds (see scripts/val.sh).

    python scripts/val.py CHAOST2 1 --folds 0 1 --options supp_idx=all
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from util.base.errors import InputError
from util.base.inputs import read_json
from util.base.root import ROOT
from util.base.tables import format_table
from util.options.config import check_config, load_config
from util.options.table import MODELS
from util.run.folders import call, newest_run, run_folders
from util.training.snapshots import newest_snapshot, read_snapshot

CONFIGS = {
    ("CHAOST2", "1"): ["chaost2_setting1"],
    ("CHAOST2", "1_scratch"): ["chaost2_setting1_scratch"],
    ("CHAOST2", "2"): ["chaost2_setting2_liver_spleen", "chaost2_setting2_kidneys"],
    ("CMR", "1"): ["cmr_setting1"],
}


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted({dataset for dataset, _ in CONFIGS}))
    parser.add_argument("setting", choices=["1", "1_scratch", "2"])
    parser.add_argument("--folds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--options", nargs="*", default=[], help="for test.py, such as supp_idx=all, or adnet")
    arguments = parser.parse_args(given)
    if (arguments.dataset, arguments.setting) not in CONFIGS:
        parser.error(f"{arguments.dataset} has no setting {arguments.setting}")
    return arguments


def settings(name: str, fold: int, options: list[str]) -> dict:
    """Return the config of a run, as far as its folders depend on it."""
    given = dict(option.split("=", 1) for option in options if "=" in option)
    config = load_config(name, *(option for option in options if "=" not in option))
    config["eval_fold"] = fold
    config["model"] = given.get("model", config["model"])
    config["path"]["log_dir"] = given.get("path.log_dir", config["path"]["log_dir"])
    check_config(config)
    return config


def snapshots(configs: list[str], folds: list[int], options: list[str]) -> dict[tuple[str, int], Path]:
    """Return the newest snapshot of each config and fold. All of them are read before any is evaluated.

    Raises:
        InputError: one is missing or damaged.
    """
    found = {}
    for name in configs:
        for fold in folds:
            folder = run_folders(settings(name, fold, options), "train")
            snapshot = newest_snapshot(ROOT / folder)
            if snapshot is None:
                raise InputError(f"{folder}: no snapshot of {name}, fold {fold}; train it first")
            read_snapshot(snapshot)
            found[name, fold] = snapshot
    return found


def evaluate(name: str, fold: int, snapshot: Path, options: list[str], call: Callable[..., None] = call) -> dict[str, float]:
    """Run test.py, which takes the network as the snapshot was trained; return each class's mean Dice."""
    call("test.py", "with", name, f"eval_fold={fold}", *options, f"reload_model_path={snapshot}")
    path = newest_run(ROOT / run_folders(settings(name, fold, options), "test")) / "results.json"
    try:
        return {label: float(entry["dice_mean"]) for label, entry in read_json(path)["classes"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not the summary of test.py ({type(error).__name__}: {error})") from None


def table(scores: dict[int, dict[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows: the Dice of each class in every fold, and mean ± population standard deviation over the folds."""
    classes = list(dict.fromkeys(name for by_class in scores.values() for name in by_class))
    lines = {name: [by_class.get(name, np.nan) for by_class in scores.values()] for name in classes}
    lines["mean of classes"] = np.nanmean(list(lines.values()), axis=0).tolist()
    rows = [[name, *(f"{100 * value:.2f}" for value in values), f"{100 * np.nanmean(values):.2f} ± {100 * np.nanstd(values):.2f}"]
            for name, values in lines.items()]
    return ["class", *(f"fold {fold}" for fold in scores), "mean ± std"], rows


def main(given: list[str] | None = None, call: Callable[..., None] = call) -> None:
    arguments = parse_arguments(given)
    configs = CONFIGS[arguments.dataset, arguments.setting]
    try:
        found = snapshots(configs, arguments.folds, arguments.options)
        scores: dict[int, dict[str, float]] = {fold: {} for fold in arguments.folds}
        for (name, fold), snapshot in found.items():
            scores[fold] |= evaluate(name, fold, snapshot, arguments.options, call)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    header, rows = table(scores)
    print(f"\n{arguments.dataset}, setting {arguments.setting}: Dice in %, each fold's mean over supports and queries\n")
    print(format_table(header, rows))
    config = settings(configs[0], 0, arguments.options)
    output = ROOT / config["path"]["log_dir"] / f"val_{MODELS[config['model']]}.csv"
    with output.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    print(f"\nalso in {output}")


if __name__ == "__main__":
    main()
