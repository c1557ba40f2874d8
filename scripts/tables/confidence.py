"""Find the weights of the confidence (models/confidence.py), and print how far it is right on other sets.

    python scripts/tables/organs.py --data-dir data/organs --chaos data/CHAOST2 --output runs/organs
    python scripts/tables/confidence.py --rows runs/organs/organs.csv --lesions data/CHAOST2 \\
        --fit hippocampus mouse_brain CHAOS-T2

The rows of organs.csv have the numbers that the confidence is made of, and the true Dice. The weights are fitted to the sets of
--fit, of CHAOS-T2 to the queries of folds 1 and 2 alone, and reported on all others. Lesions have no counterpart in another
patient: two are painted into the liver of the first case of --lesions, and whatever is found for them in others has Dice 0.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr
from torch import Tensor

from qnet.dataloaders.nifti import read_array, read_spacing_mm
from qnet.dataloaders.volumes import Volume
from qnet.models.confidence import EVIDENCE, TERMS, terms
from qnet.scripts.tables.organ_sets.cases import CHAOS, Case, chaos_set
from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.progress import progress
from qnet.util.base.tables import markdown_table
from qnet.util.engine.segmenters import VolumeSegmenter
from qnet.util.engine.task import Task
from qnet.util.options.config import load_config
from qnet.util.options.sections import PredictorOptions
from qnet.util.predict.predictor import Predictor
from qnet.util.training.as_trained import complete

LESIONS = "painted lesions"
FITTED_CHAOS = range(4, 13)        # positions of the cases of folds 1 and 2
N_QUERIES, N_STONES = 6, 2         # of the painted lesions
RIDGE = 1e-3


class Row(NamedTuple):
    """A class of a query: the set, the query's name, the numbers of EVIDENCE, and the true Dice."""

    set: str
    query: str
    evidence: Sequence[float]
    dice: float


def rows_of(path: Path) -> Iterator[Row]:
    """Yield the rows of an organs.csv. A class that has vanished is none: its confidence is 0 without a model."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            evidence = [float(row[name] or "nan") for name in EVIDENCE]
            if np.isfinite(evidence).all():
                yield Row(row["set"], row["query"], evidence, float(row["guided"]))


def painted(case: Case) -> Volume:
    """Return an image of CHAOS-T2 with a bright and a dark lesion painted into its liver, and the label map of these."""
    image, labels = read_array(case.image).astype(np.float32), read_array(case.labels)
    liver, spacing = labels == 1, read_spacing_mm(case.image)
    lesions, random = np.zeros(labels.shape, np.int16), np.random.default_rng(0)
    index = np.meshgrid(*(np.arange(n) * mm for n, mm in zip(image.shape, spacing, strict=True)), indexing="ij")
    for label, (radius_mm, sign) in enumerate(((9.0, 1.0), (14.0, -1.0)), start=1):
        centre = random.choice(np.argwhere(liver)) * spacing
        inside = sum((axis - middle) ** 2 for axis, middle in zip(index, centre, strict=True)) < radius_mm ** 2
        image[inside] += sign * 2.5 * image[liver].std()
        lesions[inside] = label
    return Volume("outlined", image, lesions, spacing)


def rows_of_lesions(folder: Path) -> Iterator[Row]:
    """Outline some cases of CHAOS-T2 like one with painted lesions, and yield the rows: there is nothing to be found.

    Raises:
        InputError: the folder has no cases.
    """
    cases = chaos_set(folder).cases
    predictor = Predictor.made_of(PredictorOptions.of(complete(load_config("guided"))))
    segmenter, support = predictor.segmenter, painted(cases[0])
    assert isinstance(segmenter, VolumeSegmenter)

    def volume(case: Case) -> Volume:
        return Volume(case.name, read_array(case.image).astype(np.float32), None, read_spacing_mm(case.image))

    stones = tuple(volume(case) for case in cases[-N_STONES:])
    for case in progress(cases[1:1 + N_QUERIES], desc=LESIONS, unit="scan"):
        query = volume(case)
        for member in segmenter.members(Task(query, (support,), (1, 2), stones)):
            yield from (Row(LESIONS, case.name, evidence, 0.0) for evidence in member.evidence.values()
                        if np.isfinite(evidence).all())
        segmenter.release(query)


def fitted(rows: Sequence[Row]) -> np.ndarray:
    """Return the weights of the terms with the least squared error of the Dice. Sets count alike, but lesions twice.

    To trust what is nothing is the worse mistake.
    """
    inputs, dice = _terms(rows), np.array([row.dice for row in rows])
    names = [row.set for row in rows]
    shares = np.array([(2 if name == LESIONS else 1) / names.count(name) for name in names]) / len(set(names))

    def loss(weights: np.ndarray) -> float:
        return float(shares @ (_logistic(inputs @ weights) - dice) ** 2 + RIDGE * weights[1:] @ weights[1:])

    return minimize(loss, np.zeros(inputs.shape[1])).x


def _terms(rows: Sequence[Row]) -> np.ndarray:
    return terms(Tensor([row.evidence for row in rows])).double().numpy()


def _logistic(x: np.ndarray) -> np.ndarray:
    return torch.from_numpy(x).sigmoid().numpy()


def report(rows: Sequence[Row], fitted_to: Sequence[bool], weights: np.ndarray) -> str:
    """Return the weights, and a table of each set: how far the confidence is from the Dice, and how they rank alike."""
    found, dice = _logistic(_terms(rows) @ weights), np.array([row.dice for row in rows])
    lines = []
    names = {(row.set, used) for row, used in zip(rows, fitted_to, strict=True)}
    for name, used in [*sorted(names), ("all that were fitted to", True), ("all others", False)]:
        chosen = np.array([of == used and (row.set == name or name.startswith("all "))
                           for row, of in zip(rows, fitted_to, strict=True)])
        if chosen.any():
            rank = spearmanr(found[chosen], dice[chosen]).statistic if np.ptp(dice[chosen]) > 0 else np.nan
            numbers = [dice[chosen].mean(), found[chosen].mean(), np.abs(found - dice)[chosen].mean(), rank, found[chosen].max()]
            lines.append([name, "yes" if used else "no", str(chosen.sum()),
                          *("–" if np.isnan(number) else f"{number:.3f}" for number in numbers)])
    header = ["set", "fitted to", "rows", "Dice", "confidence", "mean error", "rank correlation", "highest"]
    named = ", ".join(f"{name}: {weight:.3f}" for name, weight in zip(TERMS, weights, strict=True))
    return f"weights: {named}\n\n{markdown_table(header, lines)}"


def main(given: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = Parser(__doc__)
    parser.add_argument("--rows", type=Path, required=True, metavar="CSV", help="organs.csv of scripts/tables/organs.py")
    parser.add_argument("--lesions", type=Path, metavar="DIR", help="CHAOS-T2 in its own layout, to paint lesions into")
    parser.add_argument("--fit", nargs="+", required=True, metavar="SET", help="sets of the rows to fit the weights to")
    arguments = parser.parse_args(given)
    try:
        rows = list(rows_of(arguments.rows))
        if missing := sorted(set(arguments.fit) - {row.set for row in rows}):
            raise InputError(f"--fit: {missing[0]}: no such set in {arguments.rows}")
        order = [case.name for case in chaos_set(arguments.lesions).cases] if arguments.lesions else []
        if arguments.lesions:
            rows += rows_of_lesions(arguments.lesions)
    except (OSError, InputError) as error:
        raise SystemExit(f"error: {error}") from None
    of_chaos = [order[k] for k in FITTED_CHAOS if k < len(order)]
    fit_to = [row.set in (*arguments.fit, LESIONS) and (row.set != CHAOS or row.query in of_chaos) for row in rows]
    print(report(rows, fit_to, fitted([row for row, used in zip(rows, fit_to, strict=True) if used])))


if __name__ == "__main__":
    main()
