"""Make, show and check task files: outlined scans and a method in one file, for others to use.

    qnet task create liver.task --support scan.nii.gz labels.nii.gz --names 1=liver
    qnet task show liver.task
    qnet task check liver.task

`qnet predict task=liver.task query=scans/ output=predicted/` segments scans with one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from qnet.util.base.arguments import Parser
from qnet.util.base.checksums import sha256
from qnet.util.base.classes import ALIKE_RULE, alike, coloured_value, named_value
from qnet.util.base.errors import InputError, printable
from qnet.util.base.guard import OVERWRITE_HELP
from qnet.util.base.tables import format_table
from qnet.util.options.config import load_config
from qnet.util.predict.predictor import Predictor
from qnet.util.predict.scans import volumes_ml
from qnet.util.taskfile.manifest import MAX_TEXT, Label, Manifest, is_licence
from qnet.util.taskfile.task_file import TaskFile, UnknownLabelError, create, opened, options_for


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{create,show,check}")
    make = commands.add_parser("create", help="write a task file of outlined scans")
    make.add_argument("--support", nargs=2, action="append", required=True, type=Path, metavar=("SCAN", "LABELS"),
                      help="an outlined scan (NIfTI, or a folder of DICOM slices) and its label file; may be given several times")
    make.add_argument("--names", nargs="*", default=[], type=named_value, metavar="VALUE=NAME", help="as 1=liver 2=spleen")
    make.add_argument("--colours", nargs="*", default=[], type=coloured_value, metavar="VALUE=COLOUR", help="as 1=#e69f00")
    make.add_argument("--licence", default="", type=licence_note, metavar="TEXT", help="terms for whoever uses scans and weights")
    make.add_argument("--snapshot", type=Path, metavar="FILE", help="of a training; without it, the method is guided")
    make.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    show = commands.add_parser("show", help="print what a task file holds")
    check = commands.add_parser("check", help="read all of a task file, and make its model")
    for command in (make, show, check):
        command.add_argument("task", type=Path, metavar="FILE.task")
    return parser.parse_args(given)


def licence_note(text: str) -> str:
    """Return the text of an option, or raise ArgumentTypeError if it is too long."""
    if not is_licence(text):
        raise argparse.ArgumentTypeError(f"got {len(text)} characters, allowed: {MAX_TEXT}")
    return text


def labels_of(names: Mapping[int, str], colours: Mapping[int, str]) -> dict[int, Label]:
    """Return the labels that options name. What they leave out is empty.

    Raises:
        InputError: two have names that are the same in names of files.
    """
    if two := alike(names.values()):
        raise InputError(f"--names: got {two[0]!r} and {two[1]!r}, allowed: {ALIKE_RULE}")
    return {value: Label(names.get(value, ""), colours.get(value, "")) for value in {*names, *colours}}


def make_task(arguments: argparse.Namespace) -> None:
    """Write the task file that the options describe."""
    options = options_for(load_config("guided"), arguments.snapshot)
    manifest = Manifest(labels_of(dict(arguments.names), dict(arguments.colours)), arguments.licence, options, 0, {})
    supports = [(image, labels) for image, labels in arguments.support]
    try:
        create(arguments.task, supports, manifest, arguments.snapshot, overwrite=arguments.overwrite)
    except UnknownLabelError as error:
        raise InputError(f"--names, --colours: {error}") from None


def described(content: TaskFile) -> str:
    """Return what a task file holds, as text for people."""
    manifest = content.manifest
    volumes = [volumes_ml(labels) for _, labels in content.supports]
    rows = [[f"{value} {label.name}", label.colour, *(f"{of_scan.get(value, 0):.1f}" for of_scan in volumes)]
            for value, label in manifest.labels.items()]
    scans = [f"scan {number}: {_times(image.GetSize())} voxels of {_times(image.GetSpacing())} mm"
             for number, (image, _) in enumerate(content.supports, 1)]
    columns = [f"ml in scan {number}" for number in range(1, manifest.n_supports + 1)]
    return "\n".join([format_table(["label", "colour", *columns], rows), "", *scans, f"method: {manifest.options['model']}",
                      f"grid: {_grid(manifest)}", f"licence: {printable(manifest.licence) or 'nothing is said'}"])


def _times(lengths: Sequence[float]) -> str:
    return " × ".join(f"{length:g}" for length in lengths)


def _grid(manifest: Manifest) -> str:
    if "datasets" not in manifest.options:
        return "each scan's own"
    grid = manifest.options["datasets"][manifest.options["dataset"]]["grid"]
    return f"{_times([grid['size_px']] * 2)} pixels, voxels of {_times(grid['spacing_mm'])} mm"


def main(given: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    arguments = parse_arguments(given)
    try:
        if arguments.command == "create":
            make_task(arguments)
        if arguments.command in ("create", "check"):
            Predictor.load(arguments.task, device="cpu")
        with opened(arguments.task) as content:
            print(described(content))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.task}: {'written' if arguments.command == 'create' else 'sound'}, sha256 {sha256(arguments.task)}")
    return 0


if __name__ == "__main__":      # so the labelling page starts it, without what qnet.test imports for evaluations
    sys.exit(main())
