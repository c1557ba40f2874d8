"""Evaluate every fold's newest snapshot and print one table over the folds (see scripts/val.sh).

    python scripts/val.py           # every finished training below the log folders of configs/, a table for each experiment
    python scripts/val.py CHAOST2 1 --folds 0 1 --options supp_idx=all
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

if not __package__:     # run as a file: before packages of the same names elsewhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.guard import OVERWRITE_HELP, claim
from qnet.util.base.inputs import read_json
from qnet.util.base.root import ROOT
from qnet.util.base.tables import format_table, write_rows
from qnet.util.options.config import base_config, check_config, check_options, load_config, named_configs, run_dataset
from qnet.util.options.names import MODELS, current_names
from qnet.util.options.record import Record
from qnet.util.options.sections import OPTIONS, EvaluationOptions, Role, RunPlace, WholeVolumeOptions, section, with_role
from qnet.util.run.folders import call, newest_run, numbered_runs
from qnet.util.training.snapshots import newest_snapshot, read_snapshot, snapshots_in

CONFIGS = {
    ("CHAOST2", "1"): ["chaost2_setting1"],
    ("CHAOST2", "1_scratch"): ["chaost2_setting1_scratch"],
    ("CHAOST2", "2"): ["chaost2_setting2_liver_spleen", "chaost2_setting2_kidneys"],
    ("CMR", "1"): ["cmr_setting1"],
}
# Two trainings are different if one of these options differs: all options without the fold, the options that may change when a
# training is resumed, and the precision that "auto" chose.
OF_TRAINING = [key for key in OPTIONS if key not in ("eval_fold", "precision", *with_role(Role.RESUME)) or key == "n_steps"]
# options that change the scores of a training
SCORING = {"n_iters", *(field.name for cls in (EvaluationOptions, WholeVolumeOptions) for field in fields(cls)
                        if field.name != "eval_batch_size")}
ALL_FOLDS = [0, 1, 2, 3, 4]      # split_arguments of scripts/common.sh has them too
STOPPED = (130, 143, -2, -15)      # exit statuses of a program that Ctrl-C or SIGTERM ended


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("dataset", nargs="?", choices=sorted({dataset for dataset, _ in CONFIGS}),
                        help="without dataset and setting: every training below the log folders of configs/")
    parser.add_argument("setting", nargs="?", choices=["1", "1_scratch", "2"])
    parser.add_argument("--folds", nargs="+", type=int, default=ALL_FOLDS)
    parser.add_argument("--options", nargs="*", default=[], help="for test.py, such as supp_idx=all, or adnet")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    arguments = parser.parse_args(given)
    if arguments.dataset is None and arguments.setting is None:
        return arguments
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
            folder = RunPlace.of(settings(name, fold, options)).folders("train")
            snapshot = newest_snapshot(ROOT / folder)
            if snapshot is None:
                raise InputError(f"{folder}: no snapshot of {name}, fold {fold}; train it first")
            read_snapshot(snapshot)
            found[name, fold] = snapshot
    return found


def evaluate(name: str, fold: int, snapshot: Path, options: list[str], call: Callable[..., None]) -> dict[str, float]:
    """Run test.py, which takes the network as the snapshot was trained; return each class's mean Dice."""
    call("test.py", "with", name, f"eval_fold={fold}", *options, f"reload_model_path={snapshot}")
    return dice_of(newest_run(ROOT / RunPlace.of(settings(name, fold, options)).folders("test")))


def dice_of(run: Path) -> dict[str, float]:
    """Return each class's mean Dice in an evaluation."""
    path = run / "results.json"
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
    """Run the command; `call` runs test.py, as `qnet.util.run.folders.call` does."""
    arguments = parse_arguments(given)
    try:
        if arguments.dataset is None:
            every_training(arguments.folds, arguments.options, arguments.overwrite, call)
        else:
            one_setting(arguments, call)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


def one_setting(arguments: argparse.Namespace, call: Callable[..., None]) -> None:
    """Evaluate the newest snapshot of each fold of a setting; print one table and write it."""
    configs = CONFIGS[arguments.dataset, arguments.setting]
    config = settings(configs[0], 0, arguments.options)
    output = ROOT / config["path"]["log_dir"] / f"val_{MODELS[config['model']]}.csv"
    claim([output], overwrite=arguments.overwrite)
    found = snapshots(configs, arguments.folds, arguments.options)
    scores: dict[int, dict[str, float]] = {fold: {} for fold in arguments.folds}
    for (name, fold), snapshot in found.items():
        scores[fold] |= evaluate(name, fold, snapshot, arguments.options, call)
    header, rows = table(scores)
    print(f"\n{arguments.dataset}, setting {arguments.setting}: Dice in %, each fold's mean over supports and queries\n")
    print(format_table(header, rows))
    write_rows([dict(zip(header, row, strict=True)) for row in rows], header, output)
    print(f"\nalso in {output}")


def every_training(folds: list[int], options: list[str], overwrite: bool, call: Callable[..., None]) -> None:
    """Evaluate every finished training of the log folders; print a table for each experiment, and what was left out and why.

    Raises:
        InputError: there is none.
        SystemExit: with status 1 at the end, when test.py failed for one.
    """
    folders = log_folders(options)
    output = folders[0] / "val.csv"
    claim([output], overwrite=overwrite)
    trainings, left_out = find_trainings(folders, folds)
    experiments, more = by_experiment(trainings)
    left_out += more
    lines: list[dict[str, Any]] = []
    failed = False
    for experiment in experiments:
        scores: dict[int, dict[str, float]] = {}
        for training in experiment:
            try:
                scores[training.config["eval_fold"]] = training.evaluate(options, call)
            except SystemExit as error:
                if error.code in STOPPED:
                    raise
                failed = True
                left_out.append(f"{_shown(training.folder)}: test.py failed, as it says above")
        if scores:
            header, rows = table(scores)
            title = describe(experiment[0], options)
            print(f"\n{title}: Dice in %, each fold's mean over supports and queries\n\n{format_table(header, rows)}")
            lines += [{"experiment": title, "class": name, "fold": fold, "dice": dice}
                      for fold, by_class in scores.items() for name, dice in by_class.items()]
            write_rows(lines, ("experiment", "class", "fold", "dice"), output)
    if left_out:
        print("\n  ".join(["\nleft out:", *left_out]))
    if not experiments:
        raise InputError(f"{', '.join(map(_shown, folders))}: no finished training below; "
                         "bash scripts/train_abd_mr.sh makes those of CHAOS-T2")
    if lines:
        print(f"\nalso in {_shown(output)}")
    if failed:
        raise SystemExit(1)


def log_folders(options: list[str]) -> list[Path]:
    """Return the folders that hold run folders: `path.log_dir` of the options, or of base.json5 and all named configs."""
    if given := [option.partition("=")[2] for option in options if option.startswith("path.log_dir=")]:
        return [ROOT / given[-1]]
    configs = [base_config(), *named_configs().values()]
    return list(dict.fromkeys(ROOT / config["path"]["log_dir"] for config in configs if "log_dir" in config.get("path", {})))


@dataclass(frozen=True)
class Training:
    """A finished training: its run folder, its own config, its last snapshot."""

    folder: Path
    config: Mapping[str, Any]
    snapshot: Path

    def evaluate(self, options: list[str], call: Callable[..., None]) -> dict[str, float]:
        """Run test.py with the training's own config; return each class's mean Dice."""
        log_dir = self.folder.parent.parent
        call("test.py", "with", str(self.folder / "config.json"), f"path.log_dir={log_dir}", "resume=auto", *options,
             f"reload_model_path={self.snapshot}")
        return dice_of(newest_run(section(RunPlace, self.config, log_dir=log_dir).folders("test")))


def find_trainings(folders: list[Path], folds: list[int]) -> tuple[list[Training], list[str]]:
    """Return the finished trainings, the newest of each fold first, and a line for each that is not finished or damaged."""
    found, left_out = [], []
    for folder in (run for log_dir in folders for runs in sorted(log_dir.glob("*_train_*_cv*")) for run in numbered_runs(runs)):
        try:
            config = current_names(read_json(folder / "config.json"))
            check_options(config, ("model", "eval_fold", "n_steps", "dataset", "protocol"), folder / "config.json")
            run_dataset(config, folder / "config.json")     # what else may be wrong with an old config, test.py says
            snapshot = folder / "snapshots" / f"{config['n_steps']}.pth"
            if config["eval_fold"] not in folds:
                continue
            if read_json(folder / "run.json").get("status") != "COMPLETED" or not snapshot.is_file():
                newest = next(iter(snapshots_in(folder / "snapshots")), None)
                left_out.append(f"{_shown(folder)}: unfinished, step {newest.stem if newest else 0} of {config['n_steps']}")
                continue
            read_snapshot(snapshot)
            found.append(Training(folder, config, snapshot))
        except InputError as error:
            left_out.append(f"{_shown(folder)}: cannot be scored ({error})")
    return found, left_out


def by_experiment(trainings: list[Training]) -> tuple[list[list[Training]], list[str]]:
    """Group trainings that differ in the fold alone, and leave out what does not belong in one table with the first of them."""
    experiments: list[list[Training]] = []
    left_out = []
    for training in trainings:
        group = next((group for group in experiments if _differing(training, group[0], OF_TRAINING) is None), None)
        if group is None:
            experiments.append([training])
        elif key := _differing(training, group[0], SCORING):
            left_out.append(f"{_shown(training.folder)}: another protocol, {key}={training.config.get(key)!r}; in the table of "
                            f"{_shown(group[0].folder)} it is {group[0].config.get(key)!r}")
        elif same := [other for other in group if other.config["eval_fold"] == training.config["eval_fold"]]:
            left_out.append(f"{_shown(training.folder)}: the same training as {_shown(same[0].folder)}, which is newer")
        else:
            group.append(training)
    return experiments, left_out


def _differing(training: Training, other: Training, keys: Collection[str]) -> str | None:
    """Return the first of some options in which two trainings differ; "model" for different log folders or data sets."""
    if any(training.config[key] != other.config[key] for key in ("model", "dataset")) \
            or training.folder.parent.parent != other.folder.parent.parent:
        return "model"
    return Record({**base_config(), **training.config}).differing(other.config, set(OPTIONS) - set(keys))


def describe(training: Training, options: list[str]) -> str:
    """Name an experiment by log folder, method and data set, by what its config file does not say, and by how it is scored."""
    config, log_dir = training.config, training.folder.parent.parent
    expected = next((load_config(name) for name, changes in named_configs().items()
                     if ROOT / changes.get("path", {}).get("log_dir", "-") == log_dir), base_config())
    changed = [f"{key}={config[key]}".replace(" ", "") for key in OF_TRAINING
               if key in config and key not in ("path", "datasets", "model") and config[key] != expected[key]]
    scored = [option for option in options if not option.startswith("path.")]
    return (f"{_shown(log_dir)}: {MODELS[config['model']]}, {config['dataset']}{', with ' * bool(changed)}{' '.join(changed)}; "
            f"{config['protocol']} protocol{', but ' * bool(scored)}{' '.join(scored)}")


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
