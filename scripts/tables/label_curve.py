"""Label scans through the labelling page's own requests, with the true outlines in the place of a hand, and count the strokes.

    python scripts/tables/label_curve.py data/CHAOST2
    python scripts/tables/label_curve.py data/CHAOST2 --every 3
    python scripts/tables/label_curve.py ../shared/data/organs/spine --cases 8 --every 3

One case is outlined, and the others follow. Then, in each round, the cases of the lowest confidence are corrected, and the others
are outlined again. With `--every 3` every third slice of a class and its ends are drawn, and the page fills the slices between.
A slice that is nearly right is not drawn, but said to be right. The table has the mean Dice over whole volumes of the cases that
are left, against strokes and estimated minutes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import binary_erosion, label

from qnet.dataloaders.datasets import Case, find_cases
from qnet.dataloaders.nifti import read_array
from qnet.util.base.classes import colours_of, default_name
from qnet.util.base.errors import InputError
from qnet.util.base.tables import format_table
from qnet.util.engine.metrics import dice
from qnet.util.label.client import PageClient, running
from qnet.util.options.config import base_config
from qnet.util.options.sections import dataset_spec

DATASET = "CHAOST2"
NEARLY_RIGHT = 0.9      # Dice of a slice that a person leaves as it is
PX_A_SECOND, SLICE_S = 100.0, 6.0       # estimates: how fast a person draws, and how long looking at a slice takes


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of CHAOS-T2, as data/README.md has it, or one with images/ and labels/")
    parser.add_argument("--cases", type=int, default=10, help="so many, the first ones; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="of correction; default: %(default)s")
    parser.add_argument("--each", type=int, default=2, help="cases that are corrected in a round; default: %(default)s")
    parser.add_argument("--every", type=int, default=1, help="draw every so many slices, and fill the others; default: all")
    parser.add_argument("--careful", action="store_true", help="by way of stepping stones")
    return parser.parse_args(arguments)


@dataclass
class Labour:
    """What a person has paid so far.

    Attributes:
        strokes: closed lines that were drawn.
        seconds: estimated.
    """

    strokes: int = 0
    seconds: float = 0.0

    def look(self) -> None:
        """Count a look at a slice."""
        self.seconds += SLICE_S

    def draw(self, mask: np.ndarray) -> None:
        """Count the strokes round the parts of a (H, W) mask. To empty a slice is one stroke."""
        self.strokes += max(label(mask)[1], 1)
        self.seconds += float((mask & ~binary_erosion(mask)).sum()) / PX_A_SECOND


def copy_scans(cases: Sequence[Case], folder: Path) -> dict[str, np.ndarray]:
    """Copy the images of cases into a folder, and return the true label map of each, (D, H, W) uint8, by the scan's name."""
    truth = {}
    for case in cases:
        shutil.copy(case.image, folder / f"case_{case.name}.nii.gz")
        truth[f"case_{case.name}"] = read_array(case.label).astype(np.uint8)
    return truth


def mean_dice(client: PageClient, name: str, truth: np.ndarray) -> float:
    """Return the mean Dice of the classes over the whole volume, of a scan's present outlines."""
    found = client.present(name, truth.shape)
    return float(np.mean([dice(found == value, truth == value) for value in np.unique(truth[truth > 0])]))


def draw_as_a_person(client: PageClient, name: str, truth: np.ndarray, every: int, labour: Labour) -> None:
    """Outline a case, or correct what was found of it: every so many slices, and the page fills between.

    Args:
        truth: (D, H, W) uint8.
        labour: counts what is drawn.
    """
    present, slices = client.present(name, truth.shape), dict[str, Any]()
    for value in np.unique(truth[truth > 0]).tolist():
        after, drawn = present.copy(), chosen_slices(truth == value, present == value, every)
        for number in drawn:
            draw_slice(after[number], truth[number], value, labour)
        slices[str(value)] = {"0": {"drawn": drawn, "filled": []}}
        client.change(name, present, after, slices)
        between = [number for first, second in pairwise(drawn) for number in range(first + 1, second)]
        is_to_fill = ((after != present).any() and ((truth == value) | (present == value))[between].any())
        present = after
        if is_to_fill:
            filled, numbers = client.propose(name, present, "fill", value=value, slices=drawn)
            slices[str(value)] = {"0": {"drawn": drawn, "filled": numbers}}
            client.change(name, present, filled, slices)
            present = filled


def chosen_slices(truth: np.ndarray, found: np.ndarray, every: int) -> list[int]:
    """Return the slices to draw or to look at: every so many of the class and its ends, and those where it was found beyond."""
    held, used = np.flatnonzero(truth.any(axis=(1, 2))).tolist(), np.flatnonzero(found.any(axis=(1, 2))).tolist()
    beyond = [number for number in used if not held[0] <= number <= held[-1]]
    return sorted({*held[::every], held[-1], *beyond})


def draw_slice(drawn: np.ndarray, truth: np.ndarray, value: int, labour: Labour) -> None:
    """Draw a class in a slice, (H, W), in place, unless it is nearly right."""
    labour.look()
    if (drawn == value).any() == (truth == value).any() and dice(drawn == value, truth == value) >= NEARLY_RIGHT:
        return
    labour.draw(truth == value)
    drawn[drawn == value] = 0
    drawn[truth == value] = value


def run_round(client: PageClient, careful: bool) -> float:
    """Outline the others, and return the seconds that took.

    Raises:
        RuntimeError: a case failed.
    """
    begun = time.monotonic()
    ended = client.run(careful)
    if ended["failures"] or ended["done"] != ended["total"]:
        raise RuntimeError(f"{ended['message']} {ended['failures']}")
    return time.monotonic() - begun


def give_classes(client: PageClient, names: dict[int, str] | None = None) -> None:
    """Give the classes their names and colours.

    Args:
        names: by value; those of CHAOS-T2 if None.
    """
    labels = names or dataset_spec(DATASET, base_config()["datasets"][DATASET]).labels
    colours = colours_of(labels)
    classes = [{"value": value, "name": name, "colour": colours[value]} for value, name in labels.items()]
    client.tell("PUT", "/api/v1/classes", {"classes": classes})


def chaos_cases(data: Path, n: int) -> list[Case]:
    """Return the first cases of CHAOS-T2. Raises InputError as `find_cases`."""
    return find_cases(dataset_spec(DATASET, base_config()["datasets"][DATASET]), data, base_config()["n_sv"])[:n]


def copy_folder(data: Path, n: int, folder: Path) -> dict[str, np.ndarray]:
    """Copy the first scans of images/ into a folder, and return the label map of each, as `copy_scans`.

    Raises:
        InputError: there is none.
    """
    truth = {}
    for image in sorted((data / "images").glob("*.nii.gz"))[:n]:
        shutil.copy(image, folder)
        truth[image.name.removesuffix(".nii.gz")] = read_array(data / "labels" / image.name).astype(np.uint8)
    if not truth:
        raise InputError(f"{data / 'images'}: holds no scan, allowed: *.nii.gz, with label maps of the same names in labels/")
    return truth


def copy_cases(data: Path, n: int, folder: Path) -> dict[str, np.ndarray]:
    """Copy the first scans of CHAOS-T2, or of a folder with images/ and labels/, as `copy_scans` and `copy_folder`."""
    return copy_folder(data, n, folder) if (data / "images").is_dir() else copy_scans(chaos_cases(data, n), folder)


def curve(client: PageClient, truth: dict[str, np.ndarray], options: argparse.Namespace) -> list[list[str]]:
    """Return the rows of the table."""
    rows, chosen, made, labour = [], [next(iter(truth))], 0, Labour()
    left = list(truth)
    before: dict[str, float] = {}
    for _ in range(options.rounds + 1):
        for name in chosen:
            draw_as_a_person(client, name, truth[name], options.every, labour)
            client.set_done(name)
        made += len(chosen)
        left = [name for name in left if name not in chosen]
        seconds = run_round(client, options.careful)
        scores = {name: mean_dice(client, name, truth[name]) for name in left}
        earlier = f"{np.mean([before[name] for name in left]):.3f}" if before else "–"
        rows.append([str(made), ", ".join(chosen), str(labour.strokes), f"{labour.seconds / 60:.0f}", str(len(left)), earlier,
                     f"{np.mean(list(scores.values())):.3f}", f"{min(scores.values()):.3f}", f"{seconds:.0f}"])
        print("  ".join(rows[-1]), file=sys.stderr)
        before, in_order = scores, [scan["name"] for scan in client.state()["scans"] if scan["state"] == "found"]
        chosen = in_order[:options.each]
        if len(in_order) <= options.each:
            break
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse_arguments(arguments)
    try:
        with tempfile.TemporaryDirectory() as scans:
            folder, is_plain = Path(scans), (options.data / "images").is_dir()
            truth = copy_cases(options.data, options.cases, folder)
            values = sorted({int(value) for label_map in truth.values() for value in np.unique(label_map[label_map > 0])})
            with running(folder) as (client, _):
                give_classes(client, {value: default_name(value) for value in values} if is_plain else None)
                rows = curve(client, truth, options)
    except (InputError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_table(["outlines made", "of", "strokes", "minutes", "cases left", "their Dice before", "after", "lowest",
                        "seconds"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
