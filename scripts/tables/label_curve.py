"""Label CHAOS cases through the labelling page's own requests, with the true outlines in the place of a hand.

    python scripts/tables/label_curve.py data/CHAOST2
    python scripts/tables/label_curve.py data/CHAOST2 --cases 10 --rounds 3 --each 2

One case is outlined, and the others follow. Then, in each round, the cases of the lowest confidence are corrected, and the others
are outlined again. The table has the mean Dice over whole volumes of the cases that are left, against the outlines made.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np

from qnet.dataloaders.datasets import Case, find_cases
from qnet.dataloaders.nifti import read_array, write_like
from qnet.util.base.classes import colours_of
from qnet.util.base.errors import InputError
from qnet.util.base.tables import format_table
from qnet.util.engine.metrics import dice
from qnet.util.label.client import Client, running, scan_path
from qnet.util.options.config import base_config
from qnet.util.options.sections import dataset_spec

DATASET = "CHAOST2"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of CHAOS-T2, as data/README.md has it")
    parser.add_argument("--cases", type=int, default=10, help="so many, the first ones; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="of correction; default: %(default)s")
    parser.add_argument("--each", type=int, default=2, help="cases that are corrected in a round; default: %(default)s")
    parser.add_argument("--careful", action="store_true", help="by way of stepping stones")
    return parser.parse_args(arguments)


def copy_scans(cases: Sequence[Case], folder: Path) -> dict[str, np.ndarray]:
    """Copy the images of cases into a folder, and return the true label map of each, (D, H, W) uint8, by the scan's name."""
    truth = {}
    for case in cases:
        shutil.copy(case.image, folder / f"case_{case.name}.nii.gz")
        truth[f"case_{case.name}"] = read_array(case.label).astype(np.uint8)
    return truth


def as_drawn(label_map: np.ndarray, scan: Path) -> bytes:
    """Return a (D, H, W) label map on a scan's grid as the content of a NIfTI file."""
    with tempfile.TemporaryDirectory() as folder:
        write_like(scan, label_map, Path(folder) / "drawn.nii")
        return (Path(folder) / "drawn.nii").read_bytes()


def mean_dice(client: Client, name: str, truth: np.ndarray) -> float:
    """Return the mean Dice of the classes over the whole volume, of a scan's present outlines."""
    _, content = client.ask("GET", scan_path(name, "outlines"))
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    found = np.asarray(image.dataobj).transpose(2, 1, 0)
    return float(np.mean([dice(found == label, truth == label) for label in np.unique(truth[truth > 0])]))


def outline(client: Client, names: Sequence[str], truth: dict[str, np.ndarray], folder: Path) -> None:
    """Give cases their true outlines, as a person would draw them, and mark them as done."""
    for name in names:
        client.draw(name, as_drawn(truth[name], folder / f"{name}.nii.gz"))
        client.set_done(name)


def run_round(client: Client, careful: bool) -> float:
    """Outline the others, and return the seconds that took.

    Raises:
        RuntimeError: a case failed.
    """
    begun = time.monotonic()
    ended = client.run(careful)
    if ended["failures"] or ended["done"] != ended["total"]:
        raise RuntimeError(f"{ended['message']} {ended['failures']}")
    return time.monotonic() - begun


def give_classes(client: Client) -> None:
    """Give the classes of CHAOS-T2 their names and colours."""
    labels = dataset_spec(DATASET, base_config()["datasets"][DATASET]).labels
    colours = colours_of(labels)
    classes = [{"value": value, "name": name, "colour": colours[value]} for value, name in labels.items()]
    client.tell("PUT", "/api/classes", {"classes": classes})


def chaos_cases(data: Path, n: int) -> list[Case]:
    """Return the first cases of CHAOS-T2. Raises InputError as `find_cases`."""
    return find_cases(dataset_spec(DATASET, base_config()["datasets"][DATASET]), data, base_config()["n_sv"])[:n]


def curve(client: Client, truth: dict[str, np.ndarray], folder: Path, options: argparse.Namespace) -> list[list[str]]:
    """Return the rows of the table."""
    rows, chosen, n_made = [], [next(iter(truth))], 0
    left = list(truth)
    before: dict[str, float] = {}
    for _ in range(options.rounds + 1):
        outline(client, chosen, truth, folder)
        n_made += len(chosen)
        left = [name for name in left if name not in chosen]
        seconds = run_round(client, options.careful)
        scores = {name: mean_dice(client, name, truth[name]) for name in left}
        earlier = f"{np.mean([before[name] for name in left]):.3f}" if before else "–"
        rows.append([str(n_made), ", ".join(chosen), str(len(left)), earlier, f"{np.mean(list(scores.values())):.3f}",
                     f"{min(scores.values()):.3f}", f"{seconds:.0f}"])
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
        cases = chaos_cases(options.data, options.cases)
        with tempfile.TemporaryDirectory() as scans:
            folder = Path(scans)
            truth = copy_scans(cases, folder)
            with running(folder) as (client, _):
                give_classes(client)
                rows = curve(client, truth, folder, options)
    except (InputError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(format_table(["outlines made", "of", "cases left", "their Dice before", "after", "lowest", "seconds"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
