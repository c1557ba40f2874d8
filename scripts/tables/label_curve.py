"""Label scans through the labelling page's own requests, with the true outlines in the place of a hand, and count the strokes.

    python scripts/tables/label_curve.py data/CHAOST2
    python scripts/tables/label_curve.py data/CHAOST2 --all
    python scripts/tables/label_curve.py ../shared/data/organs/spine --cases 8

One case is outlined, and the others follow. Then, in each round, the cases of the lowest confidence are corrected, and the others
are outlined again. It goes as `label_person.py` says: from slice to slice by the page's own keys, and the page fills the slices
between, or lets them follow. With `--all` all slices of a class are drawn. A slice that is nearly right is not drawn, but said to
be right. The table has the mean Dice over whole volumes of the cases that are left, against strokes, looks and estimated minutes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qnet.dataloaders.datasets import Case, find_cases
from qnet.dataloaders.nifti import read_array
from qnet.scripts.tables.label_person import Labour, Person
from qnet.util.base.arguments import Parser
from qnet.util.base.classes import colours_of, default_name
from qnet.util.base.errors import InputError
from qnet.util.base.tables import format_table
from qnet.util.engine.metrics import dice
from qnet.util.label.client import PageClient, running
from qnet.util.options.config import base_config
from qnet.util.options.sections import dataset_spec

DATASET = "CHAOST2"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("data", type=Path, help="folder of CHAOS-T2, as data/README.md has it, or one with images/ and labels/")
    parser.add_argument("--cases", type=int, default=10, help="so many, the first ones; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="of correction; default: %(default)s")
    parser.add_argument("--each", type=int, default=2, help="cases that are corrected in a round; default: %(default)s")
    parser.add_argument("--all", action="store_true", help="draw all slices, and use no key of the page")
    parser.add_argument("--careful", action="store_true", help="by way of stepping stones")
    return parser.parse_args(arguments)


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
            person = Person(client, name, truth[name], labour)
            person.outline_all() if options.all else person.outline()
            client.set_done(name)
        made += len(chosen)
        left = [name for name in left if name not in chosen]
        seconds = run_round(client, options.careful)
        scores = {name: mean_dice(client, name, truth[name]) for name in left}
        earlier = f"{np.mean([before[name] for name in left]):.3f}" if before else "–"
        paid = [str(labour.strokes), str(labour.looks), f"{labour.seconds / 60:.0f}"]
        rows.append([str(made), ", ".join(chosen), *paid, str(len(left)), earlier,
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
    print(format_table(["outlines made", "of", "strokes", "looks", "minutes", "cases left", "their Dice before", "after",
                        "lowest", "seconds"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
