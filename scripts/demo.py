"""The demo: phantom volumes → supervoxels → training → evaluation → a table and pictures.

    python scripts/demo.py [--overwrite] [options of train.py, such as n_steps=2000]

Everything is written below runs/demo. The table and the pictures are copied to demo_output. There --overwrite replaces also
files that an earlier demo did not make.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from util.base.files import replacing, write_text
from util.base.guard import claim
from util.base.root import ROOT
from util.base.tables import format_table
from util.options.config import load_config
from util.results.scores import file_name
from util.run.experiment import one_line_errors
from util.run.folders import call, newest_run

RUNS, OUTPUT = ROOT / "runs/demo", ROOT / "demo_output"


def main(options: list[str], output: Path = OUTPUT) -> None:
    """Run the demo; its table and pictures go into `output`."""
    if options[:1] in (["-h"], ["--help"]):
        print(__doc__)
        return
    overwrite = "--overwrite" in options
    options = [option for option in options if option != "--overwrite"]
    labels = load_config("demo")["datasets"]["PHANTOM"]["labels"].values()
    pictures = ["loss_curve.png", *(f"overview_{file_name(label)}.png" for label in labels)]
    with one_line_errors():
        claim([output / name for name in ("table.txt", *pictures)], overwrite=overwrite)
    start = time.perf_counter()
    call("data/phantom.py")
    untrained = evaluate("untrained", options)
    call("train.py", "with", "demo", "resume=never", *options)
    training = newest_run(RUNS / "QNet_train_PHANTOM_cv0")
    snapshot = max((training / "snapshots").glob("*.pth"), key=lambda path: int(path.stem))
    trained = evaluate(str(snapshot), options)

    for name in pictures:
        if (picture := (training if name == "loss_curve.png" else trained) / name).exists():
            with replacing(output / name) as partial:
                shutil.copy(picture, partial)
    table = compare(*(json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in (untrained, trained)))
    write_text(table + "\n", output / "table.txt")
    print(f"\nDice on phantom volumes that were not trained on (every support of fold 0):\n\n{table}\n")
    print(f"pictures: {', '.join(sorted(pictures))} in {output}")
    print(f"done in {time.perf_counter() - start:.0f} s")


def evaluate(weights: str, options: list[str]) -> Path:
    """Score weights on the phantom's fold 0. Return the run folder."""
    call("test.py", "with", "demo", *options, f"reload_model_path={weights}")
    return newest_run(RUNS / "QNet_test_PHANTOM_cv0")


def compare(untrained: dict, trained: dict) -> str:
    """Return the table of mean Dice by class, from the two results.json."""
    before, after = ({**{name: entry["dice_mean"] for name, entry in results["classes"].items()},
                      "mean of classes": results["mean"]["dice_mean"]} for results in (untrained, trained))
    rows = [[name, f"{before[name]:.3f}", f"{after[name]:.3f}", f"{after[name] - before[name]:+.3f}"] for name in after]
    return format_table(["class", "untrained", "trained", "gain"], rows)


if __name__ == "__main__":
    main(sys.argv[1:])
