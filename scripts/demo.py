"""The demo: phantom volumes → supervoxels → training → evaluation → a table and pictures.

    python scripts/demo.py [options of train.py, such as n_steps=2000]

Everything is written below runs/demo; the table and the pictures are gathered in demo_output.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from util.base.root import ROOT
from util.run.experiment import format_table
from util.run.folders import call, newest_run

RUNS, OUTPUT = ROOT / "runs/demo", ROOT / "demo_output"


def main(options: list[str]) -> None:
    if options[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return
    start = time.perf_counter()
    call("data/phantom.py")
    untrained = evaluate("untrained", options)
    call("train.py", "with", "demo", "resume=never", *options)
    training = newest_run(RUNS / "QNet_train_PHANTOM_cv0")
    snapshot = max((training / "snapshots").glob("*.pth"), key=lambda path: int(path.stem))
    trained = evaluate(str(snapshot), options)

    OUTPUT.mkdir(exist_ok=True)
    for picture in (training / "loss_curve.png", *trained.glob("overview_*.png")):
        shutil.copy(picture, OUTPUT)
    table = compare(*(json.loads((folder / "results.json").read_text()) for folder in (untrained, trained)))
    (OUTPUT / "table.txt").write_text(table + "\n")
    print(f"\nDice on phantom volumes that were not trained on (every support of fold 0):\n\n{table}\n")
    print(f"pictures: {', '.join(sorted(path.name for path in OUTPUT.glob('*.png')))} in {OUTPUT}")
    print(f"done in {time.perf_counter() - start:.0f} s")


def evaluate(weights: str, options: list[str]) -> Path:
    """Score weights on the phantom's fold 0 and return the run folder."""
    call("test.py", "with", "demo", *options, f"reload_model_path={weights}")
    return newest_run(RUNS / "QNet_test_PHANTOM_cv0")


def compare(untrained: dict, trained: dict) -> str:
    before, after = ({**{name: entry["dice_mean"] for name, entry in results["classes"].items()},
                      "mean of classes": results["mean"]["dice_mean"]} for results in (untrained, trained))
    rows = [[name, f"{before[name]:.3f}", f"{after[name]:.3f}", f"{after[name] - before[name]:+.3f}"] for name in after]
    return format_table(["class", "untrained", "trained", "gain"], rows)


if __name__ == "__main__":
    main(sys.argv[1:])
