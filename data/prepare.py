"""Turn a downloaded dataset into the folder that training reads: images, labels, supervoxels and classmaps.

    qnet prepare chaos --source ~/downloads/CHAOS --target data/CHAOST2
    torchrun --nproc-per-node 4 -m qnet prepare …             # processes share out the cases, also on several machines

data/README.md of the repository describes where to get each dataset, and its folder before and after.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

if not __package__:     # run as a file: before packages of the same names elsewhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qnet.data.preparation import recipes
from qnet.data.preparation.maps import generate_maps
from qnet.data.preparation.own_dataset import config_text, describe_dataset, shared_orientation, whole_values, without_labels
from qnet.data.preparation.raw import RawCase
from qnet.data.preparation.recipes import Finder, Recipe
from qnet.data.preparation.run import expect_writable, find_out, find_raw_cases, prepare_dataset
from qnet.data.supervoxels.generate_supervoxels import default_n_sv, positive
from qnet.dataloaders.datasets import DatasetSpec, Grid
from qnet.dataloaders.resampling import IN_PLANE_PX
from qnet.util.base.arguments import Parser
from qnet.util.base.classes import named_value
from qnet.util.base.distributed import cores_per_process, first_tells, is_main, leave, main_does, meet, silence
from qnet.util.base.errors import InputError
from qnet.util.base.guard import OVERWRITE_HELP
from qnet.util.base.kept import Kept
from qnet.util.options.config import MAX_SIZE_PX, SPACING_MM

LABEL_PATTERN = "label_{case}.nii.gz"
KEPT_VALUES = ".values.jsonl"       # in --target: the values in each raw label file


def main(arguments: list[str] | None = None, make_maps: Callable[..., bool] = generate_maps) -> int:
    """Run the command; `make_maps` makes the supervoxels, as `generate_maps` does. Returns the exit status."""
    if not is_main():
        silence()
    with first_tells():
        options = parse_arguments(arguments)
    meet()
    try:
        complete = prepare_own(options, make_maps) if options.download == "nifti" else \
            prepare(known_recipe(options), options, make_maps)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    leave()
    return 0 if complete else 1


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    downloads = parser.add_subparsers(dest="download", required=True, metavar="{chaos,cmr,sabs,nifti}")
    for name, dataset, text in (("chaos", "CHAOST2", "CHAOS challenge, T2-SPIR MRI: DICOM series and PNG masks"),
                                ("cmr", "CMR", "MS-CMRSeg 2019, bSSFP: *_C0.nii.gz and *_C0_manual.nii.gz"),
                                ("sabs", "SABS", "Synapse BTCV abdominal CT: img0001.nii.gz and label0001.nii.gz"),
                                ("nifti", None, "your own images, labelled or not, any MRI or CT: NIfTI")):
        command = downloads.add_parser(name, help=text, description=text)
        add_common_options(command, dataset)
        if name != "chaos":
            command.add_argument("--trust-image-geometry", action="store_true",
                                 help="labels have the place of their image, whatever their own files say")
        if name == "nifti":
            add_own_options(command)
    return parser.parse_args(arguments)


def add_common_options(command: argparse.ArgumentParser, dataset: str | None) -> None:
    """Add the options that all downloads have."""
    command.add_argument("--source", type=Path, required=True, help="the folder of the unpacked download")
    command.add_argument("--target", type=Path, required=True, help=f"the folder to write, as data/{dataset or 'MINE'}")
    command.add_argument("--n-sv", type=positive,
                         help="voxels of the smallest supervoxel; default: n_sv of the dataset's configs")
    command.add_argument("--superpixels", action="store_true", help="make 2D superpixels as well, for SSL-ALPNet")
    command.add_argument("--jobs", type=positive, default=cores_per_process(),
                         help="cases at a time, in each process of torchrun; default: one per core (%(default)s)")
    command.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)


def add_own_options(command: argparse.ArgumentParser) -> None:
    """Add the options for a user's own files."""
    command.add_argument("--image", type=file_pattern, default="image_{case}.nii.gz",
                         help="image files below --source, {case} standing for the case's name; default: %(default)s")
    command.add_argument("--label", type=file_pattern,
                         help=f"label files, likewise; default: {LABEL_PATTERN}. Cases may lack one: training in setting 1 "
                              "needs none")
    command.add_argument("--spacing", type=spacing_mm, nargs=3, required=True, metavar=("X", "Y", "Z"),
                         help="voxel size after preparation, in mm")
    command.add_argument("--size", type=size_px, default=IN_PLANE_PX,
                         help="width and height after preparation, in pixels; default: %(default)s")
    command.add_argument("--window", type=float, nargs=2, metavar=("LOW", "HIGH"),
                         help="for CT: clip to these intensities and scale to 0…255; default: cut the brightest 0.5 %%")
    command.add_argument("--names", type=named_value, nargs="*", default=[], metavar="VALUE=NAME",
                         help="class names, such as 1=liver; others are called by their value")


def spacing_mm(text: str) -> float:
    """Return the spacing that an option gives, or raise ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not SPACING_MM[0] <= value <= SPACING_MM[1]:
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: a number from {SPACING_MM[0]} to {SPACING_MM[1]}")
    return value


def size_px(text: str) -> int:
    """Return the size that an option gives, or raise ArgumentTypeError."""
    if positive(text) > MAX_SIZE_PX:
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: at most {MAX_SIZE_PX}")
    return int(text)


def file_pattern(text: str) -> str:
    """Return the file pattern that an option gives, or raise ArgumentTypeError."""
    if text.count("{case}") != 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, allowed: a path below --source with {{case}} in it once")
    return text


def known_recipe(options: argparse.Namespace) -> Recipe:
    """Return the recipe of a published dataset."""
    if options.download == "chaos":
        return recipes.chaos()
    return {"cmr": recipes.cmr, "sabs": recipes.sabs}[options.download](options.trust_image_geometry)


def prepare(recipe: Recipe, options: argparse.Namespace, make_maps: Callable[..., bool]) -> bool:
    """Prepare images and labels, then the maps of all cases that are there; return whether all are complete."""
    complete = prepare_dataset(recipe, options.source, options.target, options.jobs, options.overwrite)
    if not holds_images(options.target, recipe.spec):
        return False
    n_sv = options.n_sv or default_n_sv(recipe.spec.name)
    for size in (n_sv, None) if options.superpixels else (n_sv,):
        complete &= make_maps(recipe.spec, options.target, size, options.jobs, options.overwrite)
    return complete


def holds_images(target: Path, spec: DatasetSpec) -> bool:
    """Return whether any case has been prepared."""
    return main_does(lambda: any(target.glob(spec.image.format(case="*"))))


def prepare_own(options: argparse.Namespace, make_maps: Callable[..., bool]) -> bool:
    """Prepare a user's own files, then print the named config that makes the dataset known."""
    name = options.target.resolve().name
    find = partial(recipes.find_nifti, image=options.image, label=options.label or LABEL_PATTERN)
    raw_cases = main_does(partial(own_cases, options, name, find))
    values = Kept(options.target / KEPT_VALUES, whole_values)
    find_out(values, [case.label for case in raw_cases if case.label is not None], options.jobs, "values of the labels")
    spec = main_does(lambda: describe_dataset(
        name, raw_cases, dict(options.names),
        Grid(tuple(options.spacing), options.size, shared_orientation(raw_cases), options.window and tuple(options.window)),
        values.of))
    complete = prepare(recipes.nifti(spec, find, options.trust_image_geometry), options, make_maps)
    if not holds_images(options.target, spec):
        return False
    print(f"// save as {spec.name.lower()}.json5, then: qnet train {spec.name.lower()}.json5")
    print(config_text(spec, str(options.target), options.n_sv or default_n_sv(spec.name)), end="")
    return complete


def own_cases(options: argparse.Namespace, name: str, find: Finder) -> list[RawCase]:
    """Return the cases of a user's own files, from which a dataset of this name can be made.

    Raises:
        InputError: as `find_raw_cases` and `expect_writable`, or an option does not fit.
    """
    if options.window and options.window[0] >= options.window[1]:
        raise InputError(f"--window: got {options.window}, allowed: LOW below HIGH")
    raw_cases, _ = find_raw_cases(options.source, find)
    if options.label and all(case.label is None for case in raw_cases):
        raise InputError(f"--label: no file {options.label} below {options.source}; leave it out if no case has labels")
    expect_writable(without_labels(name, raw_cases), options.target, raw_cases, options.overwrite)
    return raw_cases


if __name__ == "__main__":
    sys.exit(main())
