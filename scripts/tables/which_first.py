"""Print what it is worth to outline the scan first that looks most like the others, and then the one that is least certain.

    python scripts/tables/which_first.py --data-dir data/organs --chaos data/CHAOST2   # a quarter of an hour of a core
    python scripts/tables/which_first.py --data-dir data/organs --sets hippocampus --second   # five more

Each case of a set is outlined from each other one alone, as `organ_sets/from_each.py` says. With `--second` it is also outlined
from each one and each two by `guided`, for the second table. A set is a sub-folder with `images/` and `labels/`, as organs.py
takes it. CHAOS-T2 is two sets: the cases of folds 1 and 2, and the others. How scans are compared was chosen on folds 1 and 2,
hippocampus and mouse_brain.

The Dice, over whole volumes and the mean of the classes, is kept in <output>. What is there, made by the same code of the same
files, is not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from qnet.dataloaders.folds import stepping_stones
from qnet.scripts.tables.confidence import FITTED_CHAOS
from qnet.scripts.tables.organ_sets.cases import CHAOS, OrganSet, chaos_set, sets_in
from qnet.scripts.tables.organ_sets.from_each import Together, alone, together
from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.progress import progress
from qnet.util.base.root import ROOT
from qnet.util.base.tables import format_table
from qnet.util.predict.comparing import compared
from qnet.util.predict.first_scan import Comparison, next_of

CHOSEN_ON = {"hippocampus", "mouse_brain", f"{CHAOS} folds 1, 2"}
FIRST = ("set", "chosen on", "scans", "named", "any", "best", "worst", "rank of the named", "rank correlation")
SECOND = ("set", "firsts and queries", "one alone", "named second", "any second")


class Found(NamedTuple):
    """What is known of a set.

    Attributes:
        dice: of each query, by the outlined case.
        comparison: how alike the scans are.
        second: of each query, from two cases; empty if that was not asked for.
    """

    name: str
    dice: Mapping[str, Mapping[str, float]]
    comparison: Comparison
    second: Mapping[str, Together]


def chaos_parts(folder: Path) -> list[OrganSet]:
    """Return CHAOS-T2 as two sets: folds 1 and 2, and the other cases.

    Raises:
        InputError: as `chaos_set`, or there are too few cases.
    """
    cases = chaos_set(folder).cases
    inside = [case for k, case in enumerate(cases) if k in FITTED_CHAOS]
    parts = [OrganSet(f"{CHAOS} folds 1, 2", inside), OrganSet(f"{CHAOS} others", [case for case in cases if case not in inside])]
    if min(len(part.cases) for part in parts) < 3:
        raise InputError(f"--chaos: {len(cases)} cases in {folder}; allowed: the twenty of CHAOS-T2")
    return parts


def dice_of(dice: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the mean Dice of the other cases, by the outlined one."""
    return {name: float(np.mean([of_query[name] for query, of_query in dice.items() if query != name])) for name in dice}


def row_of_first(found: Found) -> list[str]:
    """Return the row of a set: what the first scan is worth."""
    dice, standings = dice_of(found.dice), found.comparison.standings()
    named, ranked = standings[0].name, sorted(dice, key=lambda name: -dice[name])
    alike = [-one.unlike for one in standings]
    rank = spearmanr(alike, [dice[one.name] for one in standings]).statistic
    numbers = [dice[named], float(np.mean([*dice.values()])), dice[ranked[0]], dice[ranked[-1]]]
    return [found.name, "yes" if found.name in CHOSEN_ON else "no", str(len(dice)), *(f"{number:.3f}" for number in numbers),
            f"{ranked.index(named) + 1} of {len(dice)}", f"{rank:.2f}"]


def second_of(found: Found, first: str) -> str:
    """Return the second scan to outline: that of the lowest expected Dice which is no odd one out, as `next_of` names it."""
    advice = next_of({name: [{"confidence": of_query.confidence[first]}] for name, of_query in found.second.items()
                          if name != first}, found.comparison)
    assert advice is not None       # there are others, and each has a confidence
    return advice.name


def of_two(of_query: Together, one: str, other: str) -> float:
    """Return the Dice of a query from two outlined cases."""
    return of_query.pairs.get(f"{one} {other}", of_query.pairs.get(f"{other} {one}", float("nan")))


def row_of_second(found: Found) -> list[str]:
    """Return the row of a set: what the second scan is worth, the mean over all first ones and all queries that are left."""
    rows: list[list[float]] = []
    for first in found.second:
        named = second_of(found, first)
        for query, of_query in found.second.items():
            if query not in (first, named):
                others = [of_two(of_query, first, second) for second in found.second if second not in (first, query)]
                rows.append([of_query.dice[first], of_two(of_query, first, named), float(np.nanmean(others))])
    return [found.name, str(len(rows)), *(f"{number:.3f}" for number in np.nanmean(rows, axis=0))]


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--data-dir", type=Path, metavar="FOLDER", help="of sets, or one set")
    parser.add_argument("--sets", nargs="+", default=[], metavar="NAME", help="sub-folders of FOLDER; default: all")
    parser.add_argument("--chaos", type=Path, metavar="DIR", help="CHAOS-T2 in its own layout, as two more sets")
    parser.add_argument("--most", type=int, default=6, metavar="N", help="cases of each set, spread evenly; default: %(default)s")
    parser.add_argument("--second", action="store_true", help="measure the second scan, too")
    parser.add_argument("--output", type=Path, default=ROOT / "runs/which_first", help="default: %(default)s")
    arguments = parser.parse_args(given)
    if arguments.data_dir is None and arguments.chaos is None:
        parser.error("--data-dir, --chaos: allowed: one of them, or both")
    return arguments


def found_of(organs: OrganSet, output: Path, *, with_second: bool) -> Found:
    """Return what is to be known of a set.

    Raises:
        InputError: a case cannot be read.
        OSError: a file cannot be written.
    """
    folder, n = output / organs.name, len(organs.cases)
    dice, second = alone(organs.cases, folder), together(organs.cases, folder) if with_second else {}
    with progress(total=n * (n - 1) // 2, desc=f"{organs.name}, comparing", unit="pair") as bar:
        comparison = compared([(case.name, (case.image,)) for case in organs.cases], n, tell=bar.update)
    return Found(organs.name, dice, comparison, second)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parse_arguments(given)
    try:
        sets = [] if arguments.data_dir is None else sets_in(arguments.data_dir.resolve(), arguments.sets)
        sets += [] if arguments.chaos is None else chaos_parts(arguments.chaos.resolve())
        sets = [organs._replace(cases=[organs.cases[k] for k in stepping_stones(len(organs.cases), (), arguments.most)])
                for organs in sets]
        found = [found_of(organs, arguments.output.resolve(), with_second=arguments.second) for organs in sets]
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    print(format_table(FIRST, [row_of_first(one) for one in found]))
    if arguments.second:
        print("\n" + format_table(SECOND, [row_of_second(one) for one in found]))


if __name__ == "__main__":
    main()
