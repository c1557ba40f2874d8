"""Time our programs, and where there is one, the plain formulation of the same work in the same run.

    python scripts/checks/benchmark.py                         # every part, ResNet-101, 256×256: over an hour on two cores
    python scripts/checks/benchmark.py head load --json out.json
    python scripts/checks/benchmark.py all --quick             # small encoder and volumes: minutes, a test that everything runs
    python scripts/checks/benchmark.py evaluate registration guided page --data-dir data/CHAOST2

The parts:

    evaluate      a fold, four classes, one support and all, against the published procedure (tests/reference/qnet.py)
    bf16          what computing in bf16 changes in the Dice of a fold, against float32
    train         an optimiser step and the loss curves, against the same
    head          refinement and segmentation of slices whose features are given, against the same
    load          one training episode, against the same
    supervoxels   of one case, against a sort of all edges (tests/reference/supervoxels.py)
    registration  of one support to one query, against the package convexAdam
    guided        outlines of one scan from one support without training, with and without stepping stones
    page          answers of the labelling page, when idle and during a run
    tests         the quick tests

Where there is a plain formulation, it and ours alternate after a warm-up, and medians are taken. Both must give the same numbers,
or the exit status is 1. A time that is longer than allowed is marked in the table, and is no error: it depends on the machine.
The table is Markdown, to be pasted into docs/performance.md. What cannot be measured is left out, with a line that says why.
bf16 is left out where it is slower than float32 (`bf16_is_fast` of util/base/device.py).

The plain evaluation, training step and registration run with the C library's default memory management, ours with the settings of
`util/base/device.py`. Data are CHAOST2 in --data-dir, or phantom volumes of the same size. The plain evaluation is timed on
slices spread evenly over fold 0 and scaled to all of them. Each costs the same, and all would take hours. To hold a processor to
AVX2: ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 before the command.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch

from qnet.scripts.checks.benchmarks import evaluation, fast_tests, formulas, page, registration, training
from qnet.scripts.checks.benchmarks.bench import Bench, Measured, Result
from qnet.util.base.arguments import Parser
from qnet.util.base.files import write_text
from qnet.util.base.guard import OVERWRITE_HELP, claim
from qnet.util.base.tables import markdown_table
from qnet.util.run.experiment import one_line_errors

PARTS: Mapping[str, Callable[[Bench], Measured]] = {
    "evaluate": evaluation.measure, "bf16": evaluation.in_bf16, "train": training.train, "head": formulas.head,
    "load": training.load, "supervoxels": formulas.supervoxels, "registration": registration.registration,
    "guided": registration.guided, "page": page.measure, "tests": fast_tests.measure}
# what is done alone in a process whose peak memory is asked for
PEAKS: Mapping[str, Callable[[Bench], None]] = {
    "evaluate": evaluation.one_query, "evaluate_plain": evaluation.one_query_plainly,
    "registration": registration.one_registration,
    "registration_as_package": functools.partial(registration.one_registration, settings=registration.AS_PACKAGE),
    "registration_plain": registration.one_registration_plainly, "guided": registration.one_guided_scan,
    "guided_stones": functools.partial(registration.one_guided_scan, with_stones=True)}


def table(results: Mapping[str, Result]) -> str:
    """Return the Markdown table of all results, a line each."""
    header = ["part", "plain s", "ours s", "ratio", "limit s", "of limit", "allowed s", "peak MB", "agree"]
    return markdown_table(header, [[name, *_row(result)] for name, result in results.items()])


def _row(result: Result) -> list[str]:
    limit, allowed = result.limit_seconds, result.allowed_seconds
    return [_number(result.plain_seconds), _number(result.ours_seconds), _number(result.ratio, "{:.2f}"), _number(limit),
            "" if limit is None else f"{limit / result.ours_seconds:.0%}",
            _number(allowed) + (" **missed**" if allowed is not None and result.ours_seconds > allowed else ""),
            _number(result.peak_mb, "{:.0f}"), {None: "", True: "yes", False: "NO"}[result.agree]]


def _number(value: float | None, form: str = "{:.4g}") -> str:
    return "" if value is None else form.format(value)


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", default=["all"], help=f"{', '.join(PARTS)} or all (default)")
    parser.add_argument("--data-dir", type=Path, help="a CHAOST2 folder; default: phantom volumes of that size")
    parser.add_argument("--encoder", default="resnet101", choices=["resnet101", "resnet50", "small"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="small encoder and volumes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write {part: {plain_seconds, ours_seconds, ratio, agree, …}}")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    parser.add_argument("--peak-of", choices=[*PEAKS], help=argparse.SUPPRESS)   # for `Bench.peak_mb`
    options = parser.parse_args()
    if unknown := set(options.parts) - {*PARTS, "all"}:
        parser.error(f"part: got {', '.join(sorted(unknown))}, allowed: {', '.join(PARTS)}, all")
    return options


def main() -> None:
    """Run the command."""
    options = parse_arguments()
    with one_line_errors():
        claim([options.json] if options.json else [], overwrite=options.overwrite)
    chosen = list(PARTS) if "all" in options.parts else list(dict.fromkeys(options.parts))
    results: dict[str, Result] = {}
    more: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        if options.peak_of:
            PEAKS[options.peak_of](bench)
            print(bench.own_peak_mb())
            return
        print(f"{bench.encoder} on {bench.describe()}; {bench.describe_rates()}")
        if not bench.tells_memory:
            print("left out: peak memory; only Linux tells that of a process")
        for part in chosen:
            measured = PARTS[part](bench)
            results |= measured.results
            more += measured.more
            print(f"{part}: done on {bench.describe()}", file=sys.stderr)
    print(f"\n{table(results)}\n\n({bench.describe()})\n")
    for name, result in results.items():
        print(f"{name}: {result.note}")
    print("", *more, sep="\n\n")
    if options.json:
        machine = {"capability": bench.capability, "threads": torch.get_num_threads()}
        write_text(json.dumps({name: {**asdict(r), "ratio": r.ratio, **machine} for name, r in results.items()}, indent=1),
                   options.json)
    if any(result.agree is False for result in results.values()):
        raise SystemExit("error: plain and ours do not agree")


if __name__ == "__main__":
    main()
