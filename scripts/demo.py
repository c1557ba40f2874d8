"""The demo: phantom volumes → supervoxels → training → evaluation → a table and pictures; and guided, which needs no training.

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

if not __package__:     # run as a file: before packages of the same names elsewhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qnet.util.base.classes import file_name
from qnet.util.base.files import replacing, write_text
from qnet.util.base.guard import claim
from qnet.util.base.root import ROOT
from qnet.util.base.tables import format_table
from qnet.util.options.config import load_config
from qnet.util.run.experiment import one_line_errors
from qnet.util.run.folders import call, newest_run

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
    guided = evaluate("Guided", ["guided", "registration.stones=0", *options])
    untrained = evaluate("QNet", [*options, "reload_model_path=untrained"])
    call("train.py", "with", "demo", "resume=never", *options)
    training = newest_run(RUNS / "QNet_train_PHANTOM_cv0")
    snapshot = max((training / "snapshots").glob("*.pth"), key=lambda path: int(path.stem))
    trained = evaluate("QNet", [*options, f"reload_model_path={snapshot}"])

    for name in pictures:
        if (picture := (training if name == "loss_curve.png" else trained) / name).exists():
            with replacing(output / name) as partial:
                shutil.copy(picture, partial)
    table = compare({name: json.loads((folder / "results.json").read_text(encoding="utf-8")) for name, folder in (
        ("Q-Net untrained", untrained), ("Q-Net trained", trained), ("guided, without training", guided))})
    write_text(table + "\n", output / "table.txt")
    print(f"\nDice on phantom volumes that were not trained on (every support of fold 0):\n\n{table}\n")
    print(f"pictures: {', '.join(sorted(pictures))} in {output}")
    print(f"done in {time.perf_counter() - start:.0f} s")


def evaluate(method: str, options: list[str]) -> Path:
    """Score a method on the phantom's fold 0. Return the run folder."""
    call("test.py", "with", "demo", *options)
    return newest_run(RUNS / f"{method}_test_PHANTOM_cv0")


def compare(results: dict[str, dict]) -> str:
    """Return the table of mean Dice by class, with a column for each results.json."""
    rows = [[name, *(f"{of_one['classes'][name]['dice_mean']:.3f}" for of_one in results.values())]
            for name in next(iter(results.values()))["classes"]]
    mean = ["mean of classes", *(f"{of_one['mean']['dice_mean']:.3f}" for of_one in results.values())]
    return format_table(["class", *results], [*rows, mean])


if __name__ == "__main__":
    main(sys.argv[1:])
