"""Check a prepared dataset before training: report on every case, and name every inconsistency.

    qnet check CHAOST2

The report has size, spacing, intensities, number of supervoxels, the volume of each class, and the best Dice that a union
of supervoxels can reach with it. A contact sheet shows a slice of each case with labels and supervoxels outlined.
The exit status is 1 if something is inconsistent.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

if not __package__:     # run as a file: before packages of the same names elsewhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qnet.data.preparation.contact_sheet import draw_contact_sheet
from qnet.data.preparation.inspect_case import CaseReport, inspect_case
from qnet.data.supervoxels.generate_supervoxels import default_n_sv, positive
from qnet.dataloaders.datasets import DatasetSpec, find_cases
from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.guard import OVERWRITE_HELP, claim
from qnet.util.options.config import check_config, load_config
from qnet.util.options.sections import dataset_spec


def main(arguments: list[str] | None = None, draw: Callable[..., None] = draw_contact_sheet) -> int:
    """Run the command; `draw` makes the contact sheet, as `draw_contact_sheet` does. Returns the exit status."""
    options = parse_arguments(arguments)
    try:
        return check(options, draw)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("dataset", help="a key of the dataset table: CHAOST2, CMR, SABS, PHANTOM or one of your own")
    parser.add_argument("--config", metavar="NAME", help="a file of configs/, or any .json5 or .json file, as of your dataset")
    parser.add_argument("--data-dir", type=Path, help="its folder (default: as path.<dataset>.data_dir in the config)")
    parser.add_argument("--n-sv", type=positive, help="which supervoxels (default: as the dataset's configs say)")
    parser.add_argument("--sheet", type=Path, help="the contact sheet (default: runs/check_<dataset>.png)")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    return parser.parse_args(arguments)


def check(options: argparse.Namespace, draw: Callable[..., None]) -> int:
    """Check the dataset, print the report, draw the sheet; return the exit status."""
    config = load_config(*filter(None, [options.config]))
    name = options.dataset
    if name not in config["datasets"]:
        raise InputError(f"dataset: got {name!r}, allowed: {', '.join(config['datasets'])}; "
                         "--config names the file that adds your own")
    check_config({**config, "dataset": name, "test_label": [int(next(iter(config["datasets"][name]["labels"])))],
                  "exclude_label": None})
    spec = dataset_spec(name, config["datasets"][name])
    data_dir = options.data_dir or Path(config["path"][name]["data_dir"])
    n_sv = options.n_sv or (config["n_sv"] if options.config else default_n_sv(name))
    sheet = options.sheet or Path("runs") / f"check_{name}.png"

    cases = find_cases(spec, data_dir, n_sv)
    claim([sheet], [path for case in cases for path in case.files], overwrite=options.overwrite)
    reports = [inspect_case(case, spec) for case in tqdm(cases, unit="case", desc=name)]
    problems = [problem for report in reports for problem in report.problems]
    problems += partners_without_image(spec, data_dir, n_sv, reports) + duplicates(reports)
    print_cases(reports, spec)
    print_classes(reports, spec)
    draw(reports, spec, sheet)
    print(f"\ncontact sheet: {sheet}")
    if without := [report.name for report in reports if report.shape and not report.has_label]:
        print(f"no label for {len(without)} of {len(reports)} cases: {', '.join(without)}; they can be trained on in setting 1")
    print(f"{len(reports)} cases, {len(problems) or 'no'} inconsistenc{'y' if len(problems) < 2 else 'ies'}")
    for problem in problems:
        print(f"  {problem}")
    return 1 if problems else 0


def partners_without_image(spec: DatasetSpec, data_dir: Path, n_sv: int, reports: Sequence[CaseReport]) -> list[str]:
    """Return a line for every label or supervoxel file whose image is missing."""
    problems = []
    for pattern in (spec.label, spec.supervoxels.replace("{n_sv}", str(n_sv))):
        try:
            cases = find_cases(replace(spec, image=pattern), data_dir, n_sv)
        except InputError:     # there is no such file at all; each case reports that
            continue
        known = {report.name for report in reports}
        problems += [f"{case.image}: has no image {spec.image.format(case=case.name)}"
                     for case in cases if case.name not in known]
    return problems


def duplicates(reports: Sequence[CaseReport]) -> list[str]:
    """Return a line for every set of cases with the same image, or with the same number as name."""
    alike = defaultdict(list)
    for report in reports:
        alike["the same number", re.sub(r"\d+", lambda digits: str(int(digits[0])), report.name)].append(report.name)
        if report.digest:
            alike["the same image", report.digest].append(report.name)
    return [f"cases {', '.join(names)}: {what}" for (what, _), names in alike.items() if len(names) > 1]


def print_cases(reports: Sequence[CaseReport], spec: DatasetSpec) -> None:
    """Print a line per case. A class shows its volume in ml and, in brackets, the best Dice of a union of supervoxels."""
    rows = [["case", "size z,y,x", "spacing mm", "intensities", "supervoxels",
             *(f"{value} {name}" for value, name in spec.labels.items())]]
    for report in reports:
        rows.append([report.name, "x".join(map(str, report.shape)), "x".join(f"{s:.2f}" for s in report.spacing_mm),
                     "..".join(f"{v:g}" for v in report.intensity), str(report.n_supervoxels or "-"),
                     *(_volume_and_dice(report, label) for label in spec.labels)])
    print_table(rows)
    print("(per class: volume in ml, and in brackets the best Dice that a union of supervoxels can reach)\n")


def _volume_and_dice(report: CaseReport, label: int) -> str:
    if label not in report.volumes_ml:
        return "-"
    dice = f" ({report.best_dice[label]:.3f})" if label in report.best_dice else ""
    return f"{report.volumes_ml[label]:.0f}{dice}"


def print_classes(reports: Sequence[CaseReport], spec: DatasetSpec) -> None:
    """Print a line per class: number of cases, volumes, and best Dice of a union of supervoxels."""
    rows = [["class", "cases", "ml, lowest", "median", "highest", "best Dice, mean", "lowest"]]
    for label, name in spec.labels.items():
        volumes = [report.volumes_ml[label] for report in reports if label in report.volumes_ml]
        dice = [report.best_dice[label] for report in reports if label in report.best_dice]
        rows.append([f"{label} {name}", str(len(volumes)),
                     *(f"{f(volumes):.0f}" if volumes else "-" for f in (min, np.median, max)),
                     *(f"{f(dice):.3f}" if dice else "-" for f in (np.mean, min))])
    print_table(rows)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells, columns aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
