"""The process that outlines one set's scans from one outlined case for scripts/tables/organs.py, and scores them.

    python -m qnet.scripts.tables.organ_sets.worker < job.json

A job is {"outlined": [image, labels], "names": {value: name}, "stones": [image, …], "options": {"section.key": value},
"queries": [[name, image, labels, label map to write], …]}. For everything that happens it prints a line of JSON:
{"event": "ready" | "scored" | "failed", …}. A process of its own has its own peak of memory and its own threads.
"""

from __future__ import annotations

import json
import platform
import re
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import SimpleITK as sitk
import torch

from qnet.dataloaders.itk import labels_on
from qnet.dataloaders.nifti import read_nifti
from qnet.models.confidence import EVIDENCE
from qnet.util.base.errors import InputError
from qnet.util.base.memory import keep_freed_memory
from qnet.util.engine.metrics import dice
from qnet.util.engine.task import label_map_of
from qnet.util.engine.whole_volume import smooth_along_z
from qnet.util.options.config import load_config
from qnet.util.options.sections import PredictorOptions
from qnet.util.predict.predictor import Predictor, Segmentation, join_on_scan
from qnet.util.predict.scans import write_on_scan
from qnet.util.training.as_trained import complete


def work(job: Mapping[str, Any], lines: TextIO) -> None:
    """Outline and score the queries of a job one after the other. One that fails is told, and the others are done.

    Args:
        lines: where the events are written.
    Raises:
        InputError: the outlined case cannot be read.
    """
    def tell(event: str, **what: Any) -> None:
        print(json.dumps({"event": event, **what}), file=lines, flush=True)

    config = load_config("guided")
    for key, value in job["options"].items():
        section, _, name = key.partition(".")
        if not isinstance(config.get(section), dict) or name not in config[section]:
            raise InputError(f"--options: {key}: no such option; allowed: registration.… and guided.… of configs/base.json5")
        config[section][name] = value
    predictor = Predictor.made_of(PredictorOptions.of(complete(config)))
    predictor.given_names = {int(value): name for value, name in job["names"].items()}
    began = time.monotonic()
    predictor.add_support(*job["outlined"])
    for stone in job["stones"]:
        with suppress(InputError):      # it is named when it is outlined
            predictor.add_stone(stone)
    predictor.prepare()
    tell("ready", preparation_s=time.monotonic() - began, processor=processor())
    for name, image, labels, target in job["queries"]:
        try:
            tell("scored", query=name, rows=outlined_and_scored(predictor, Path(image), Path(labels), Path(target)))
        except (InputError, OSError, RuntimeError, MemoryError) as error:       # torch and ITK raise RuntimeError
            tell("failed", query=name, message=" ".join(str(error).split()))


def outlined_and_scored(predictor: Predictor, image: Path, labels: Path, target: Path) -> list[dict[str, Any]]:
    """Outline a scan, write its label map, and return a row for each class that the scan has, by its true labels.

    Args:
        labels: the scan's true labels, which only the scores use.
    Raises:
        InputError: a file cannot be read, or the labels do not fit the scan.
    """
    began = time.monotonic()
    found = predictor.segment(image)
    seconds = time.monotonic() - began
    write_on_scan(found.label_map, found.scan, target)
    truth = sitk.GetArrayFromImage(labels_on(found.scan.original, read_nifti(labels), image, labels))
    carried, evidence = carried_over(predictor, found), found.members[0].evidence
    memory_mb = peak_mb()
    rows = []
    for row in found.numbers():
        label, right = row["label"], truth == row["label"]
        if right.any():
            numbers = evidence.get(label, [float("nan")] * len(EVIDENCE))
            rows.append({"label": label, "name": row["label_name"], "registration": dice(carried == label, right),
                         "guided": dice(found.label_map == label, right),
                         **{key: row[key] for key in ("confidence", "border", "wide_mm")},
                         **dict(zip(EVIDENCE, numbers, strict=True)), "seconds": seconds, "memory_mb": memory_mb})
    return rows


def carried_over(predictor: Predictor, found: Segmentation) -> np.ndarray:
    """Return the label map that registration alone carried over, made as the predictor makes its own."""
    options = predictor.options
    probs = {label: smooth_along_z(carried.astype(np.float32) / 255, options.smooth_z)
             for label, carried in found.members[0].carried.items()}
    outlined = [label_map_of(support.volume) for support in predictor.supports] if options.largest_component else None
    return join_on_scan(probs, found.scan, outlined)


def processor() -> str:
    """Return what computes: the processor's name, what PyTorch uses of it, and the number of threads."""
    name = platform.processor() or platform.machine()
    with suppress(OSError, IndexError):
        name = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))[0]
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def peak_mb() -> float:
    """Return the peak memory of this process in MB."""
    with suppress(OSError, IndexError):     # getrusage would give that of the parent process if it is larger
        return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> int:
    """Run the process and return its exit status."""
    keep_freed_memory()     # before there is another thread, which would get memory of its own
    lines, sys.stdout = sys.stdout, sys.stderr      # what libraries print is no event
    try:
        work(json.load(sys.stdin), lines)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
