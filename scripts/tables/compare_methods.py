"""Train all methods in the same way, evaluate them trained and untrained, and compare them; some need no training.

    python scripts/tables/compare_methods.py demo
    python scripts/tables/compare_methods.py chaost2_setting1 --options encoder=small pretrained=none n_steps=400 supp_idx=all

The options apply to all methods. The experiment overrides the method's own config. If the data folder lacks superpixels, they
are made in a temporary one.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from scripts.compare import output_files
from util.base.errors import InputError
from util.base.guard import OVERWRITE_HELP, claim
from util.base.root import ROOT
from util.options.config import load_config, named_configs
from util.options.sections import RunPlace
from util.options.table import MODELS, UNTRAINED_MODELS
from util.run.folders import call, newest_run
from util.training.snapshots import newest_snapshot


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="a named config, such as demo or chaost2_setting1")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), help="default: all")
    parser.add_argument("--output", type=Path, help="folder of all run folders and of the comparison; default: "
                        "runs/compare_<experiment>")
    parser.add_argument("--options", nargs="*", default=[], help="for train.py and test.py, such as n_steps=400")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    return parser.parse_args(arguments)


@contextlib.contextmanager
def data_with_superpixels(dataset: str, data_dir: Path, n_sp: int) -> Iterator[Path]:
    """Yield the data folder, or if it lacks superpixels a temporary one with superpixels and links to the rest."""
    if (data_dir / f"superpixels_{n_sp}").is_dir():
        yield data_dir
        return
    if not data_dir.is_dir():
        raise InputError(f"path.{dataset}.data_dir: no folder {data_dir}")
    with tempfile.TemporaryDirectory(prefix="superpixels-") as folder:
        for entry in data_dir.iterdir():
            (Path(folder) / entry.name).symlink_to(entry.resolve())
        call("data/supervoxels/generate_supervoxels.py", dataset, "--superpixels", "--min-size", str(n_sp),
             "--data-dir", str(data_dir), "--output", folder)
        yield Path(folder)


def run_method(model: str, experiment: str, options: list[str], place: RunPlace) -> list[Path]:
    """Train a method, evaluate it untrained and trained, and return the run folders of the evaluations.

    A method that needs no training is evaluated once.
    """
    place = replace(place, model=model)
    named = [model] if model in named_configs() else []
    arguments = ["with", *named, experiment, f"model={model}", *options]
    evaluations: list[list[str]] = [[]]
    if model not in UNTRAINED_MODELS:
        call("train.py", *arguments, "resume=never")
        snapshot = newest_snapshot(ROOT / place.folders("train"))
        evaluations = [["reload_model_path=untrained"], [f"reload_model_path={snapshot}"]]
    folders = []
    for weights in evaluations:
        call("test.py", *arguments, *weights)
        folders.append(newest_run(ROOT / place.folders("test")))
    return folders


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse_arguments(arguments)
    given = dict(option.split("=", 1) for option in options.options if "=" in option)
    output = (options.output or Path(f"runs/compare_{options.experiment}")).resolve()
    try:
        claim(output_files(output), overwrite=options.overwrite)
        config = load_config(options.experiment)
        dataset = given.get("dataset", config["dataset"])
        data_dir = Path(given.get(f"path.{dataset}.data_dir", config["path"][dataset]["data_dir"]))
        place = RunPlace(output, "", dataset, int(given.get("eval_fold", config["eval_fold"])))
        with data_with_superpixels(dataset, ROOT / data_dir, int(given.get("n_sp", config["n_sp"]))) as folder:
            common = [*options.options, f"path.log_dir={output}", f"path.{dataset}.data_dir={folder}"]
            runs = [run for model in options.models for run in run_method(model, options.experiment, common, place)]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    baseline = MODELS["qnet" if "qnet" in options.models else options.models[0]]
    call("scripts/compare.py", *map(str, runs), "--baseline", baseline, "--output", str(output),
         *(["--overwrite"] if options.overwrite else []))
    return 0


if __name__ == "__main__":
    sys.exit(main())
