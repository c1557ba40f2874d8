"""Generate the supervoxels (or, for SSL-ALPNet, the superpixels) of a prepared dataset.

    python data/supervoxels/generate_supervoxels.py CHAOST2 --data-dir data/CHAOST2

Each map has the grid of its image. `supervoxels.json` (`superpixels.json`) beside the maps records for each case the
algorithm and its parameters, the spacing, and the SHA-256 of the image file and of the map's int32 values in (D, H, W)
order. A case is skipped if this record agrees with the options. A map without a record, such as a published one, is never
overwritten. --overwrite replaces also maps that were edited by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.supervoxels.felzenszwalb import generate_supervoxels
from data.supervoxels.superpixels import SIGMA_PX, generate_superpixels
from dataloaders.datasets import SUPERPIXELS, DatasetSpec, find_cases
from dataloaders.nifti import read_array, read_header, write_like
from util.base.checksums import sha256
from util.base.errors import InputError
from util.base.files import made_in, write_text
from util.base.guard import claim, expect_apart, is_made
from util.base.inputs import read_json
from util.options.config import base_config, check_config, load_config, named_configs
from util.options.sections import dataset_spec


@dataclass(frozen=True)
class Task:
    """One case: the image to read, the map to write, and the parameters of the method."""

    kind: str                # "supervoxels" or "superpixels"
    case: str
    image: Path
    output: Path
    parameters: Mapping[str, Any]

    @property
    def record(self) -> Path:
        """The file beside the map that records how it was made."""
        return self.output.with_name(f"{self.kind}.json")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a key of the dataset table in configs/base.json5, such as CHAOST2")
    parser.add_argument("--config", metavar="NAME", help="a file of configs/, or any .json5 file, that changes datasets or n_sv")
    parser.add_argument("--data-dir", type=Path, help="the dataset's folder; default: path.<dataset>.data_dir")
    parser.add_argument("--output", type=Path, help="a folder to write to in place of --data-dir")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="only these cases; default: all that have an image")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count(),
                        help="cases at a time, 0.6 GB each at 256x256x37 voxels; default: one per core (%(default)s)")
    parser.add_argument("--min-size", type=positive,
                        help="voxels of the smallest supervoxel; default: n_sv of --config, or of the dataset's first "
                        "named config, or of base.json5. With --superpixels: pixels; default: 400")
    parser.add_argument("--superpixels", action="store_true", help="make 2D superpixels, slice by slice")
    parser.add_argument("--foreground-threshold", type=float, default=50.0,
                        help="with --superpixels: the body's intensity is above this; default: %(default)s, for CHAOS")
    parser.add_argument("--overwrite", action="store_true",
                        help="where an image or an option changed, make also those maps anew that were changed by hand since")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    """Return the whole number that an option gives, or raise ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: a whole number of at least 1")
    return int(text)


def plan(options: argparse.Namespace) -> list[Task]:
    """Return a task per case.

    Raises:
        InputError: the dataset, config, folder or one of the cases does not exist.
    """
    config = load_config(*filter(None, [options.config]))
    check_config(config)
    if options.dataset not in config["datasets"]:
        raise InputError(f"dataset: got {options.dataset!r}, allowed: one of {sorted(config['datasets'])}")
    spec = dataset_spec(options.dataset, config["datasets"][options.dataset])
    data_dir = options.data_dir or Path(config["path"][options.dataset]["data_dir"])
    n_sv = config["n_sv"] if options.config else default_n_sv(options.dataset)
    kind, pattern, parameters = method(options, spec, n_sv)
    images = {case.name: case.image for case in find_cases(spec, data_dir, parameters["min_size"])}
    if unknown := set(options.cases or ()) - set(images):
        raise InputError(f"--cases: got {' '.join(sorted(unknown))}, allowed: {' '.join(images)}")
    root = options.output or data_dir
    size = parameters["min_size"]
    return [Task(kind, case, image, root / pattern.format(case=case, n_sv=size, n_sp=size), parameters)
            for case, image in images.items() if case in (options.cases or images)]


def method(options: argparse.Namespace, spec: DatasetSpec, n_sv: int) -> tuple[str, str, dict[str, Any]]:
    """Return the kind of map, the pattern of its files, and the parameters that the options ask for. `n_sv`: without them."""
    if options.superpixels:
        return "superpixels", SUPERPIXELS, {
            "algorithm": "felzenszwalb 2d of scikit-image", "sigma": SIGMA_PX, "min_size": options.min_size or 400,
            "foreground_threshold": options.foreground_threshold}
    return "supervoxels", spec.supervoxels, {
        "algorithm": "felzenszwalb 3d, stable sort", "scale": 1.0, "min_size": options.min_size or n_sv}


def default_n_sv(dataset: str) -> int:
    """Return the n_sv of a dataset's first named config, or of base.json5 if the dataset has no config of its own."""
    own = [named["n_sv"] for named in named_configs().values() if named.get("dataset") == dataset and "n_sv" in named]
    return [*own, base_config()["n_sv"]][0]


def read_record(path: Path) -> dict[str, dict]:
    """Return the record: an entry by case. It is empty if there is none. Raises InputError if it is damaged."""
    try:
        return read_json(path) if os.path.lexists(path) else {}
    except InputError as error:
        raise InputError(f"{error}; restore it, or generate elsewhere with --output") from None


def state(task: Task, entry: Mapping | None) -> str:
    """Return "to do", "done", or "foreign" for a map that has no record and was not made here."""
    if not os.path.lexists(task.output):
        return "to do"
    if entry is None:      # after an interruption a map may not be in the record yet
        return "to do" if is_made(task.output, made_in(task.output.parent)) else "foreign"
    wanted = {**task.parameters, "image_sha256": sha256(task.image)}
    return "done" if wanted.items() <= entry.items() else "to do"


def generate(task: Task) -> dict[str, Any]:
    """Write a case's map and return its entry in the record.

    Raises:
        InputError: the image cannot be read, or the method does not accept it.
    """
    image = read_array(task.image)
    # Headers keep spacing in single precision: 7.7 mm reads as 7.6999998.
    spacing_mm = [round(float(step), 4) for step in read_header(task.image).get_zooms()[::-1]]
    min_size = task.parameters["min_size"]
    try:
        if task.kind == "superpixels":
            labels = generate_superpixels(image, min_size, task.parameters["foreground_threshold"])
        else:
            labels = generate_supervoxels(image, spacing_mm, min_size)
    except ValueError as error:
        raise InputError(f"{task.image}: {error}") from None
    write_like(task.image, labels, task.output)
    return {**task.parameters, "spacing_mm": spacing_mm, "image_sha256": sha256(task.image),
            "labels_sha256": hashlib.sha256(labels.astype("<i4").tobytes()).hexdigest()}


def add_to_record(task: Task, entry: Mapping[str, object]) -> None:
    """Add a case's entry to the record."""
    write_text(json.dumps({**read_record(task.record), task.case: entry}, indent=2) + "\n", task.record)


def expect_writable(tasks: Sequence[Task], overwrite: bool) -> None:
    """Raise InputError if a map to be written may not be overwritten, as `util.base.guard.claim` explains."""
    images = [task.image for task in tasks]
    expect_apart([task.record for task in tasks], images)       # its content is kept
    claim([task.output for task in tasks], images, overwrite=overwrite)


def processes(n: int) -> Executor:
    """Return a pool of `n` processes, each started anew."""
    return ProcessPoolExecutor(n, multiprocessing.get_context("spawn"))


def generate_all(tasks: list[Task], jobs: int, pool: Callable[[int], Executor] = processes) -> int:
    """Work through the tasks in `jobs` processes and return how many failed; each of these is named on stderr."""
    n_failed = 0
    with pool(min(jobs, len(tasks))) as workers:
        futures = {workers.submit(generate, task): task for task in tasks}
        for future in tqdm(as_completed(futures), total=len(tasks), unit="case"):
            try:
                add_to_record(futures[future], future.result())
            except (InputError, OSError, MemoryError, BrokenProcessPool) as error:
                tqdm.write(f"error: case {futures[future].case}: {error}", file=sys.stderr)
                n_failed += 1
    return n_failed


def main(arguments: list[str] | None = None, pool: Callable[[int], Executor] = processes) -> int:
    """Run the command, its cases in what `pool` makes of their number. Returns the exit status."""
    options = parse_arguments(arguments)
    try:
        tasks = plan(options)
        record = read_record(tasks[0].record)
        states = [state(task, record.get(task.case)) for task in tasks]
        waiting = [task for task, its_state in zip(tasks, states, strict=True) if its_state == "to do"]
        expect_writable(waiting, options.overwrite)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder = tasks[0].output.parent
    print(f"{folder}: {len(waiting)} of {len(tasks)} cases to do, {states.count('done')} done before")
    if n_foreign := states.count("foreign"):
        print(f"{folder}: left {n_foreign} map(s) as they are, since {tasks[0].record.name} does not list them "
              "(published ones, say); --output generates elsewhere")
    return 1 if waiting and generate_all(waiting, options.jobs, pool) else 0


if __name__ == "__main__":
    sys.exit(main())
