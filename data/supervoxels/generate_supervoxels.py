"""Generate the supervoxels (or, for SSL-ALPNet, the superpixels) of a prepared dataset.

    python -m qnet.data.supervoxels.generate_supervoxels CHAOST2 --data-dir data/CHAOST2
    torchrun --nproc-per-node 4 -m qnet.data.supervoxels.generate_supervoxels …     # processes share out the cases

Each map has the grid of its image. `supervoxels.json` (`superpixels.json`) beside the maps records for each case the
algorithm and its parameters, the spacing, and the SHA-256 of the image file and of the map's int32 values in (D, H, W)
order. A case is skipped if this record agrees with the options. A map without a record, such as a published one, is never
overwritten. --overwrite replaces also maps that were edited by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

if not __package__:     # run as a file: before packages of the same names elsewhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from qnet.data.supervoxels.felzenszwalb import generate_supervoxels
from qnet.data.supervoxels.superpixels import FOREGROUND, SIGMA_PX, generate_superpixels
from qnet.dataloaders.datasets import SUPERPIXELS, DatasetSpec, find_cases
from qnet.dataloaders.nifti import read_array, read_spacing_mm, write_like
from qnet.util.base.arguments import Parser
from qnet.util.base.checksums import sha256
from qnet.util.base.distributed import (
    cores_per_process,
    first_tells,
    is_main,
    join,
    leave,
    main_does,
    meet,
    of_main,
    share,
    silence,
)
from qnet.util.base.errors import InputError
from qnet.util.base.files import STALE_S, made_in, remove_partial_files, write_text
from qnet.util.base.guard import claim, expect_apart, is_made
from qnet.util.base.inputs import read_json
from qnet.util.base.kept import Kept
from qnet.util.base.locks import alone
from qnet.util.base.pool import processes
from qnet.util.base.progress import progress
from qnet.util.options.config import base_config, check_config, load_config, named_configs
from qnet.util.options.sections import dataset_spec

KEPT_SUMS = ".image_sums.jsonl"      # beside the maps: the checksums of their images


@dataclass(frozen=True)
class CaseMap:
    """The map of a case: the image to read, the file to write, and the parameters of the method."""

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
    parser = Parser(__doc__)
    parser.add_argument("dataset", help="a key of the dataset table in configs/base.json5, such as CHAOST2")
    parser.add_argument("--config", metavar="NAME",
                        help="a file of configs/, or a .json5 or .json file, that changes datasets or n_sv")
    parser.add_argument("--data-dir", type=Path, help="the dataset's folder; default: path.<dataset>.data_dir")
    parser.add_argument("--output", type=Path, help="a folder to write to in place of --data-dir")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="only these cases; default: all that have an image")
    parser.add_argument("--jobs", type=positive, default=cores_per_process(),
                        help="cases at a time, 0.6 GB each at 256x256x37 voxels, in each process of torchrun; default: one per "
                        "core (%(default)s)")
    parser.add_argument("--min-size", type=positive,
                        help="voxels of the smallest supervoxel; default: n_sv of --config, or of the dataset's first "
                        "named config, or of base.json5. With --superpixels: pixels; default: n_sp of --config, or of base.json5")
    parser.add_argument("--superpixels", action="store_true", help="make 2D superpixels, slice by slice")
    parser.add_argument("--foreground-threshold", type=float, default=FOREGROUND,
                        help="with --superpixels: the body's intensity is above this; default: %(default)s, for CHAOS")
    parser.add_argument("--overwrite", action="store_true",
                        help="where an image or an option changed, make also those maps anew that were changed by hand since")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    """Return the whole number that an option gives, or raise ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: a whole number of at least 1")
    return int(text)


def plan(options: argparse.Namespace) -> list[CaseMap]:
    """Return the map of each case.

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
    size = options.min_size or (config["n_sp"] if options.superpixels else n_sv)
    kind, pattern, parameters = method(spec, size, superpixels=options.superpixels, foreground=options.foreground_threshold)
    images = {case.name: case.image for case in find_cases(spec, data_dir, n_sv)}
    if unknown := set(options.cases or ()) - set(images):
        raise InputError(f"--cases: got {' '.join(sorted(unknown))}, allowed: {' '.join(images)}")
    root = options.output or data_dir
    return [CaseMap(kind, case, image, root / pattern.format(case=case, n_sv=size, n_sp=size), parameters)
            for case, image in images.items() if case in (options.cases or images)]


def method(spec: DatasetSpec, min_size: int, *, superpixels: bool,
           foreground: float = FOREGROUND) -> tuple[str, str, dict[str, Any]]:
    """Return the kind of map, the pattern of its files, and the parameters of the method.

    Args:
        spec: the dataset.
        min_size: voxels of the smallest supervoxel, or pixels of the smallest superpixel.
        superpixels: make these.
        foreground: their `foreground_threshold`.
    """
    if superpixels:
        return "superpixels", SUPERPIXELS, {
            "algorithm": "felzenszwalb 2d of scikit-image", "sigma": SIGMA_PX, "min_size": min_size,
            "foreground_threshold": foreground}
    return "supervoxels", spec.supervoxels, {"algorithm": "felzenszwalb 3d, stable sort", "scale": 1.0, "min_size": min_size}


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


def states(maps: Sequence[CaseMap], sums: Kept) -> list[str]:
    """Return the state of each map of one folder: "to do", "done", or "foreign" for a map without a record, not made here.

    Args:
        sums: gives the checksums of the images.
    Raises:
        InputError: the record is damaged.
    """
    record, made = read_record(maps[0].record), made_in(maps[0].output.parent)

    def state(planned: CaseMap) -> str:
        if not os.path.lexists(planned.output):
            return "to do"
        entry = record.get(planned.case)
        if entry is None:      # after an interruption a map may not be in the record yet
            return "to do" if is_made(planned.output, made) else "foreign"
        wanted = {**planned.parameters, "image_sha256": sums.of(planned.image)}
        return "done" if wanted.items() <= entry.items() else "to do"

    return [state(planned) for planned in maps]


def waiting(maps: Sequence[CaseMap], overwrite: bool) -> tuple[list[CaseMap], list[str]]:
    """Return the maps of one folder that are to be made, and the state of each map. Half written maps of killed programs go away.

    Raises:
        InputError: the record is damaged; or a map may not be overwritten, as `qnet.util.base.guard.claim` explains.
    """
    sums = Kept(maps[0].record.with_name(KEPT_SUMS), sha256)
    its_states = states(maps, sums)
    to_do = [planned for planned, state in zip(maps, its_states, strict=True) if state == "to do"]
    images = [planned.image for planned in to_do]
    expect_apart([planned.record for planned in to_do], images)       # its content is kept
    claim([planned.output for planned in to_do], images, overwrite=overwrite)
    remove_partial_files(maps[0].output.parent, STALE_S)
    sums.save()
    return to_do, its_states


def generate(planned: CaseMap) -> dict[str, Any]:
    """Write a case's map and return its entry in the record.

    Raises:
        InputError: the image cannot be read, or the method does not accept it.
    """
    image = read_array(planned.image)
    # Headers keep spacing in single precision: 7.7 mm reads as 7.6999998.
    spacing_mm = [round(step, 4) for step in read_spacing_mm(planned.image)]
    min_size = planned.parameters["min_size"]
    try:
        if planned.kind == "superpixels":
            labels = generate_superpixels(image, min_size, planned.parameters["foreground_threshold"])
        else:
            labels = generate_supervoxels(image, spacing_mm, min_size)
    except ValueError as error:
        raise InputError(f"{planned.image}: {error}") from None
    write_like(planned.image, labels, planned.output)
    return {**planned.parameters, "spacing_mm": spacing_mm, "image_sha256": sha256(planned.image),
            "labels_sha256": hashlib.sha256(labels.astype("<i4").tobytes()).hexdigest()}


def add_to_record(entries: Mapping[str, Mapping[str, object]], path: Path) -> None:
    """Add the entries of some cases to the record, to which other processes may be adding theirs."""
    with alone(path.parent):
        write_text(json.dumps({**read_record(path), **entries}, indent=2) + "\n", path)


def generate_all(maps: Sequence[CaseMap], jobs: int, pool: Callable[[int], Executor] = processes) -> int:
    """Make the maps and return how many failed; each of these is named on stderr.

    Each of several processes works through its share, in `jobs` processes of its own. Every process must call this.
    """
    own, n_failed = share(maps), 0
    with pool(min(jobs, max(1, len(own)))) as workers, progress(total=len(own), unit="case", disable=not own) as bar:
        left = {workers.submit(generate, planned): planned for planned in own}
        while left:
            finished = [(left.pop(future), future) for future in wait(left, return_when=FIRST_COMPLETED).done]
            for error in record_results(finished):
                tqdm.write(f"error: {error}", file=sys.stderr)
                n_failed += 1
            bar.update(len(finished))
    return of_main(sum(join([n_failed])))


def record_results(finished: Sequence[tuple[CaseMap, Future]]) -> list[str]:
    """Add what the maps of one folder gave to the record, and return a line about each that failed."""
    entries, errors = {}, []
    for planned, future in finished:
        try:
            entries[planned.case] = future.result()
        except (InputError, OSError, MemoryError, BrokenProcessPool) as error:
            errors.append(f"case {planned.case}: {error}")
    try:
        if entries:
            add_to_record(entries, finished[0][0].record)
    except (InputError, OSError) as error:
        errors += [f"case {case}: {error}" for case in entries]
    return errors


def main(arguments: list[str] | None = None, pool: Callable[[int], Executor] = processes) -> int:
    """Run the command, its cases in what `pool` makes of their number. Returns the exit status."""
    if not is_main():
        silence()
    with first_tells():
        options = parse_arguments(arguments)
    meet()
    try:
        n_failed = generate_all(main_does(partial(to_do, options)), options.jobs, pool)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    leave()
    return 1 if n_failed else 0


def to_do(options: argparse.Namespace) -> list[CaseMap]:
    """Return the maps that are to be made, and print how many there are.

    Raises:
        InputError: as `plan` and `waiting`.
    """
    maps = plan(options)
    to_do, its_states = waiting(maps, options.overwrite)
    folder = maps[0].output.parent
    print(f"{folder}: {len(to_do)} of {len(maps)} cases to do, {its_states.count('done')} done before")
    if n_foreign := its_states.count("foreign"):
        print(f"{folder}: left {n_foreign} map(s) as they are, since {maps[0].record.name} does not list them "
              "(published ones, say); --output generates elsewhere")
    return to_do


if __name__ == "__main__":
    sys.exit(main())
