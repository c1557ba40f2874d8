"""Train all methods in the same way, evaluate them trained and untrained, and compare them; some need no training.

    python scripts/tables/compare_methods.py demo
    python scripts/tables/compare_methods.py chaost2_setting1 --folds 0 1 --priors none registration --trained-only \\
        --options encoder=small pretrained=none n_steps=100 supp_idx=all pseudo_labels=supervoxels

A method is a model or a named config of one. The options apply to all methods, and the experiment overrides the method's own
config. If the data folder lacks superpixels that are trained on, they are made in a temporary one. Finished trainings and
evaluations of the output folder are kept: give the command again to go on.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from qnet.scripts.compare import output_files
from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.guard import OVERWRITE_HELP, claim
from qnet.util.base.root import ROOT
from qnet.util.options.config import load_config, named_configs
from qnet.util.options.names import MODELS, OUTSIDE_MODELS, UNTRAINED_MODELS
from qnet.util.options.sections import RunPlace
from qnet.util.run.folders import call, numbered_runs
from qnet.util.training.snapshots import newest_snapshot

VARIANTS = {"tpm_mixture": "TPM, 5 prototypes", "rpt": "RPT (2024)", "rpt_2023": "RPT (2023)", "gmrd_2025": "GMRD (2025)",
            "gmrd_small": "GMRD-small"}      # named configs, with their names in tables
METHODS = {**{name: MODELS[name] for name in MODELS if name not in OUTSIDE_MODELS}, **VARIANTS}
WITH_PRIOR = {"none": "", "registration": " + registration"}      # behind a method's name
LARGE = ("gmrd", "gmrd_2025")            # for a GPU
DEFAULT = [name for name in METHODS if name not in LARGE]


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("experiment", help="a named config, such as demo or chaost2_setting1")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=DEFAULT,
                        help=f"default: all but {' and '.join(LARGE)}, which want a GPU")
    parser.add_argument("--folds", nargs="+", type=int, help="default: eval_fold of the experiment")
    parser.add_argument("--priors", nargs="+", choices=["none", "registration"], default=["none"],
                        help="each trained network is scored with each spatial prior; default: %(default)s")
    parser.add_argument("--trained-only", action="store_true", help="do not score untrained networks")
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


class Row(NamedTuple):
    """A row of the table: its name, what test.py is given for it, and whether the method is trained for it."""

    name: str
    options: tuple[str, ...]
    trained: bool


def rows_of(method: str, priors: Sequence[str], trained_only: bool) -> list[Row]:
    """Return the rows of a method."""
    name = METHODS[method]
    if model_of(method) in UNTRAINED_MODELS:
        return [Row(name, (), False)]
    untrained = [] if trained_only else [Row(f"{name} (untrained)", ("reload_model_path=untrained",), False)]
    return [*untrained, *(Row(name + WITH_PRIOR[prior], (f"spatial_prior={prior}",), True) for prior in priors)]


def named(method: str) -> list[str]:
    """Return the named config of a method, if there is one."""
    return [method] if method in named_configs() else []


def model_of(method: str) -> str:
    """Return the model of a method."""
    return load_config(*named(method))["model"] if named(method) else method


class Comparison:
    """The runs of one experiment. Those of a method are in <output>/<method>/, each evaluation's in a folder with its row's name.

    Args:
        experiment: a named config.
        options: for train.py and test.py, as KEY=VALUE.
        output: folder of the run folders.
    """

    def __init__(self, experiment: str, options: Sequence[str], output: Path):
        self.experiment, self.options, self.output = experiment, list(options), output
        given = dict(option.split("=", 1) for option in options if "=" in option)
        config = load_config(experiment)
        self.dataset = given.get("dataset", config["dataset"])
        self.fold = int(given.get("eval_fold", config["eval_fold"]))
        self.n_sp = int(given.get("n_sp", config["n_sp"]))
        self.pseudo_labels = given.get("pseudo_labels")
        key = f"path.{self.dataset}.data_dir"
        self.data_dir = ROOT / Path(given.get(key, config["path"][self.dataset]["data_dir"]))

    def takes_superpixels(self, method: str) -> bool:
        """Return whether a method is trained on superpixels."""
        own = load_config(*named(method), self.experiment)["pseudo_labels"]
        return model_of(method) not in UNTRAINED_MODELS and (self.pseudo_labels or own) == "superpixels"

    def runs(self, method: str, fold: int, rows: Sequence[Row], data_dir: Path) -> list[str]:
        """Train and evaluate what is not yet done, and return NAME=FOLDER of each evaluation."""
        arguments = ["with", *named(method), self.experiment, f"model={model_of(method)}", *self.options, f"eval_fold={fold}",
                     f"path.{self.dataset}.data_dir={data_dir}"]
        found = []
        for row in rows:
            folder = self.output / method / row.name
            if not self._finished(method, fold, folder):
                weights = self._weights(method, fold, arguments) if row.trained else []
                call("test.py", *arguments, *row.options, *weights, f"path.log_dir={folder}")
            found.append(f"{row.name}={self._finished(method, fold, folder)[0]}")
        return found

    def _weights(self, method: str, fold: int, arguments: Sequence[str]) -> list[str]:
        """Train a method, unless that is done, and return the option that names its snapshot."""
        call("train.py", *arguments, f"path.log_dir={self.output / method}")
        return [f"reload_model_path={newest_snapshot(self._run_folders(method, fold, self.output / method, 'train'))}"]

    def _finished(self, method: str, fold: int, folder: Path) -> list[Path]:
        """Return the finished evaluations in a folder, the newest first."""
        return [run for run in numbered_runs(self._run_folders(method, fold, folder, "test")) if (run / "results.json").is_file()]

    def _run_folders(self, method: str, fold: int, folder: Path, mode: str) -> Path:
        return RunPlace(folder, model_of(method), self.dataset, fold).folders(mode)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse_arguments(arguments)
    output = (options.output or ROOT / f"runs/compare_{options.experiment}").resolve()
    try:
        claim(output_files(output), overwrite=options.overwrite)
        comparison = Comparison(options.experiment, options.options, output)
        superpixels = any(map(comparison.takes_superpixels, options.methods))
        with (data_with_superpixels(comparison.dataset, comparison.data_dir, comparison.n_sp) if superpixels
              else contextlib.nullcontext(comparison.data_dir)) as data_dir:
            runs = [run for fold, method in itertools.product(options.folds or [comparison.fold], options.methods)
                    for run in comparison.runs(method, fold, rows_of(method, options.priors, options.trained_only), data_dir)]
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    baseline = rows_of("qnet" if "qnet" in options.methods else options.methods[0], options.priors, options.trained_only)[-1].name
    call("scripts/compare.py", *runs, "--baseline", baseline, "--output", str(output),
         *(["--overwrite"] if options.overwrite else []))
    return 0


if __name__ == "__main__":
    sys.exit(main())
