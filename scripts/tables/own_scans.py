"""Outline the first of ten CHAOS scans, run scripts/segment.sh's command on them, and print Dice and time of the nine others.

    python scripts/tables/own_scans.py --data-dir data/CHAOST2       # five to ten minutes on two cores

The command runs as on two cores with AVX2: two threads, and no instruction that such a processor lacks. Scans and results are
in <output>, which must be new, as scans that are there would be kept and not timed. --picture draws the outlines.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from qnet.dataloaders.nifti import read_array
from qnet.util.base.arguments import Parser
from qnet.util.base.classes import colours_of
from qnet.util.base.errors import InputError
from qnet.util.base.files import replacing, write_text
from qnet.util.base.guard import claim
from qnet.util.base.root import ROOT
from qnet.util.base.tables import format_table
from qnet.util.engine.metrics import dice
from qnet.util.options.config import base_config
from qnet.util.results.figures import save_figure

IMAGES = "chaos_MR_T2_normalized"
LABELS = {int(value): name for value, name in base_config()["datasets"]["CHAOST2"]["labels"].items()}
AS_ON_AVX2 = {"OMP_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def copy_scans(data: Path, folder: Path, n: int) -> list[str]:
    """Copy the first n images of CHAOS-T2 into a folder, and return the names of the cases.

    Raises:
        InputError: there are fewer.
    """
    cases = sorted((path.name.removeprefix("image_").removesuffix(".nii.gz") for path in (data / IMAGES).glob("image_*.nii.gz")),
                   key=lambda name: (len(name), name))[:n]
    if len(cases) < n:
        raise InputError(f"--data-dir: {len(cases)} images in {data / IMAGES}, allowed: a folder of CHAOS-T2 with at least {n}")
    for case in cases:
        with replacing(folder / f"case {case}.nii.gz") as partial:
            shutil.copy(data / IMAGES / f"image_{case}.nii.gz", partial)
    return cases


def segment(scans: Path, outlined: str, labels: Path, output: Path, options: Sequence[str]) -> tuple[float, float]:
    """Run the command. Return when it began (seconds since the epoch) and its processor time in seconds.

    Raises:
        InputError: it failed.
    """
    began, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    names = [f"{value}={name}" for value, name in LABELS.items()]
    done = subprocess.run([sys.executable, ROOT / "scripts/segment.py", "--scans", scans, "--outlined", f"{outlined}={labels}",
                           "--output", output, "--json", output / "cases.json", *options, "--names", *names],
                          env=os.environ | AS_ON_AVX2)
    if done.returncode:
        raise InputError("scripts/segment.py failed, as it says above")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return began, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def seconds_of(files: Sequence[Path], began: float) -> list[float]:
    """Return how many seconds lay between the writing of each file and of the one before, the first after `began`."""
    written = [path.stat().st_mtime for path in files]
    order = np.argsort(written)
    seconds = np.empty(len(files))
    seconds[order] = np.diff([began, *np.array(written)[order]])
    return seconds.tolist()


def table(cases: Sequence[str], scores: np.ndarray, seconds: Sequence[float]) -> str:
    """Return the table of whole-volume Dice (case, class) in [0, 1] and of seconds."""
    rows = [[case, *(f"{100 * value:.1f}" for value in (*of_case, of_case.mean())), f"{time_s:.0f}"]
            for case, of_case, time_s in zip(cases, scores, seconds, strict=True)]
    mean = ["mean", *(f"{100 * value:.1f}" for value in (*scores.mean(axis=0), scores.mean())), f"{np.mean(seconds):.0f}"]
    return format_table(["case", *LABELS.values(), "mean", "seconds"], [*rows, mean])


def scores_of(found: Path, truth: Path) -> list[float]:
    """Return the Dice of each label over the whole volume."""
    label_map, right = read_array(found), read_array(truth)
    return [dice(label_map == label, right == label) for label in LABELS]


def draw(cases: Sequence[str], made: dict[str, Path], images: Path, scores: np.ndarray, path: Path) -> None:
    """Draw of each case the slice that holds most labels, with the outlines that were found and, dashed, the true ones.

    Args:
        cases: the outlined case, and those that were found.
        made: the label map of each that was found.
        images: the folder of CHAOS-T2's images and labels.
        scores: (case, class) Dice.
        path: of the PNG.
    """
    figure, axes = plt.subplots(2, 5, figsize=(15, 6.4), layout="constrained")
    for axis, case in zip(axes.flat, cases, strict=False):
        image, truth = (read_array(images / f"{kind}_{case}.nii.gz") for kind in ("image", "label"))
        z = int(np.argmax([1000 * len(np.unique(plane)) + (plane > 0).sum() ** 0.5 for plane in truth]))
        axis.imshow(image[z], cmap="gray", vmax=np.percentile(image[z], 99.5), origin="lower")
        maps = {"dashed": truth, **({"solid": read_array(made[case])} if case in made else {})}
        for style, label_map in maps.items():
            for label, colour in colours_of(LABELS).items():
                if (label_map[z] == label).any():
                    axis.contour(label_map[z] == label, levels=[0.5], colors=[colour], linewidths=1.3, linestyles=style)
        found = f"Dice {scores[cases.index(case) - 1].mean():.2f}" if case in made else "outlined by hand"
        axis.set_title(f"case {case}: {found}", fontsize=11)
        axis.set_axis_off()
    save_figure(figure, path)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = Parser(__doc__)
    parser.add_argument("--data-dir", type=Path, default=ROOT / "data/CHAOST2", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/own_scans", help="default: %(default)s")
    parser.add_argument("--options", nargs="*", default=[], help="more options of scripts/segment.py")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw the outlines")
    parser.add_argument("--scans", type=int, default=10, help="how many, with the outlined one; default: %(default)s")
    given = parser.parse_args(arguments)
    output: Path = given.output
    try:
        if (output / "outlined").exists():
            raise InputError(f"--output: {output / 'outlined'} is there; allowed: a folder for a new run")
        claim([output / "table.txt", *([given.picture] if given.picture else [])])
        cases = copy_scans(given.data_dir, output / "scans", given.scans)
        truth = {case: given.data_dir / IMAGES / f"label_{case}.nii.gz" for case in cases}
        began, cpu_s = segment(output / "scans", f"case {cases[0]}", truth[cases[0]], output / "outlined", given.options)
        made = {case: output / f"outlined/case {case}.nii.gz" for case in cases[1:]}
        scores = np.array([scores_of(path, truth[case]) for case, path in made.items()])
        text = table(cases[1:], scores, seconds_of(list(made.values()), began)) + \
            f"\n{time.time() - began:.0f} s in all, {cpu_s:.0f} s of processor time"
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    if given.picture:
        draw(cases, made, given.data_dir / IMAGES, scores, given.picture)
    print(f"\n{text}")
    write_text(text + "\n", output / "table.txt")


if __name__ == "__main__":
    main()
