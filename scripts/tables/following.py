"""Correct some slices of found outlines by the true ones, and show how right the whole is without and with what follows.

    python scripts/tables/following.py data/CHAOST2 --cases 5
    python scripts/tables/following.py ../shared/data/organs/spine --cases 3

The first case is the support of `guided`, and each other one a query. Of each class every third slice and its ends are corrected,
or every sixth, or three slices or one in the middle. The table has the mean Dice over whole volumes of classes found:
as found, with the corrected slices alone, with the slices between them by shape, and as the page lets the others follow. It takes
half a minute a case.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from qnet.dataloaders.gaps import fill_between
from qnet.dataloaders.geometry import spacing_of
from qnet.dataloaders.nifti import read_affine, write_like
from qnet.scripts.tables.label_curve import copy_cases
from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.tables import format_table
from qnet.util.engine.metrics import dice
from qnet.util.label.following import follow
from qnet.util.predict.predictor import Predictor

PLANS = {"every third": 3, "every sixth": 6}
MIDDLE = {"three": (0.25, 0.5, 0.75), "one": (0.5,)}        # shares of the way along the class


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("data", type=Path, help="folder of CHAOS-T2, as data/README.md has it, or one with images/ and labels/")
    parser.add_argument("--cases", type=int, default=5, help="so many, the first ones; default: %(default)s")
    return parser.parse_args(arguments)


def found_maps(folder: Path, truth: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray, list[float]]]:
    """Yield name, found (D, H, W) label map and spacing in mm, (z, y, x), of each case but the first, which is the support."""
    first, *others = truth
    predictor = Predictor.untrained("guided")
    write_like(folder / f"{first}.nii.gz", truth[first], folder / "support_labels.nii.gz")
    predictor.add_support(folder / f"{first}.nii.gz", folder / "support_labels.nii.gz")
    for name in others:
        path = folder / f"{name}.nii.gz"
        yield name, predictor.segment(path).label_map, spacing_of(read_affine(path))[::-1].tolist()


def plans_of(truth: np.ndarray, found: np.ndarray) -> dict[str, list[int]]:
    """Return the slices that a person corrects of a class, by the name of the plan."""
    held, used = (np.flatnonzero(mask.any(axis=(1, 2))).tolist() for mask in (truth, found))
    beyond = [number for number in used if not held[0] <= number <= held[-1]]
    middle = {name: sorted({held[int(share * (len(held) - 1))] for share in shares}) for name, shares in MIDDLE.items()}
    return {**{name: sorted({*held[::step], held[-1], *beyond}) for name, step in PLANS.items()}, **middle}


def scores(found: np.ndarray, truth: np.ndarray, drawn: list[int], spacing_mm: list[float]) -> list[float]:
    """Return the Dice of a class as found, corrected, filled by shape, and with what follows."""
    corrected = found.copy()
    corrected[drawn] = truth[drawn]
    by_shape, _ = fill_between(corrected, drawn, 0, spacing_mm)
    followed, _ = follow(found, corrected, drawn, 0, spacing_mm)
    return [dice(mask, truth) for mask in (found, corrected, by_shape, followed)]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options, of_plan = parse_arguments(arguments), dict[str, list[list[float]]]()
    try:
        with tempfile.TemporaryDirectory() as scans:
            truth = copy_cases(options.data, options.cases, Path(scans))
            for name, found, spacing_mm in found_maps(Path(scans), truth):
                for value in np.unique(truth[name][truth[name] > 0]):
                    masks = truth[name] == value, found == value
                    for plan, drawn in plans_of(*masks).items() if masks[1].any() else ():
                        of_plan.setdefault(plan, []).append(scores(masks[1], masks[0], drawn, spacing_mm))
                print(name, file=sys.stderr)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = [[plan, str(len(rows)), *(f"{score:.3f}" for score in np.mean(rows, axis=0))] for plan, rows in of_plan.items()]
    print(format_table(["corrected slices", "classes", "as found", "corrected", "by shape", "following"], table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
