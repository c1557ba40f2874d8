"""What scripts/slurm_array.sh looks for: the newest snapshot of a training, and the newest evaluations to compare.

    python scripts/newest.py snapshot cmr_setting1 --folds 3                    # print its path
    python scripts/newest.py compare cmr_setting1 chaost2_setting1 --options adnet
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:     # run as a file: before packages of the same names elsewhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qnet.scripts import compare
from qnet.scripts.val import ALL_FOLDS, settings, snapshots
from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.root import ROOT
from qnet.util.options.sections import RunPlace
from qnet.util.results.comparison import Run, protocol_of, read_run
from qnet.util.run.folders import newest_run


def parse_arguments(given: list[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("what", choices=["snapshot", "compare"])
    parser.add_argument("configs", nargs="+", help="named configs; one with one of --folds for 'snapshot'")
    parser.add_argument("--folds", nargs="+", type=int, default=ALL_FOLDS)
    parser.add_argument("--options", nargs="*", default=[], help="those of the trainings, such as adnet or path.log_dir=…")
    return parser.parse_args(given)


def main(given: list[str] | None = None, call: Callable[[list[str]], int] = compare.main) -> int:
    """Run the command; `call` is scripts/compare.py. Returns the exit status."""
    arguments = parse_arguments(given)
    try:
        if arguments.what == "snapshot":
            for path in snapshots(arguments.configs, arguments.folds, arguments.options).values():
                print(path)
            return 0
        tables = comparisons(arguments.configs, arguments.folds, arguments.options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return max(call(words) for words in tables)


def comparisons(configs: Sequence[str], folds: Sequence[int], options: Sequence[str]) -> list[list[str]]:
    """Return the arguments of scripts/compare.py for each set of configs whose scores compare.

    Configs that scored the same volumes with one method are told apart by their names.

    Raises:
        InputError: an evaluation is missing or damaged.
    """
    groups: dict[tuple, dict[str, list[Run]]] = {}
    for config in configs:
        for fold in folds:
            run = read_run(newest_run(ROOT / RunPlace.of(settings(config, fold, list(options))).folders("test")), "dice")
            groups.setdefault(tuple(protocol_of(run).values()), {}).setdefault(config, []).append(run)
    return [_arguments(runs_of, [option for option in options if "=" not in option]) for runs_of in groups.values()]


def _arguments(runs_of: dict[str, list[Run]], named: Sequence[str]) -> list[str]:
    scored = [(run.method, score) for runs in runs_of.values() for run in runs for score in run.scores]
    same = len(set(scored)) < len(scored)
    volumes: dict[str, set] = {}
    words = []
    for config, runs in runs_of.items():
        for run in runs:
            method = f"{run.method}, {Path(config).stem}" if same else run.method
            volumes.setdefault(method, set()).update(run.scores)
            words.append(f"{method}={run.folder}")
    first = next(iter(volumes))
    paired = len(volumes) > 1 and all(of_method == volumes[first] for of_method in volumes.values())
    output = ROOT / "runs" / "_".join(["comparison", *(Path(name).stem for name in (*runs_of, *named))])
    return [*words, "--baseline", first if paired else "none", "--output", str(output)]


if __name__ == "__main__":
    sys.exit(main())
