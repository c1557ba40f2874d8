"""Evaluate a snapshot on a test fold.

    qnet test chaost2_setting1 eval_fold=0 reload_model_path=runs/…/snapshots/30000.pth
    qnet test chaost2_setting1 supp_idx=all reload_model_path=untrained
    qnet test chaost2_setting1 guided supp_idx=all          # without training

`qnet report FOLDER` shows the run folder that it prints, `qnet compare FOLDER …` puts several in one table.
"""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qnet.dataloaders.folds import stepping_stones, supports_and_queries, supports_of_queries
from qnet.dataloaders.store import FOLDER as STORE
from qnet.dataloaders.store import Store
from qnet.util.base.device import resolve_device
from qnet.util.base.distributed import is_main, main_first, meet, of_main, share
from qnet.util.base.errors import printable
from qnet.util.engine.evaluate import evaluate
from qnet.util.engine.predictions import QueryResult
from qnet.util.engine.task import TaskReader
from qnet.util.engine.unfinished import FOLDER as UNFINISHED
from qnet.util.engine.unfinished import Unfinished
from qnet.util.options.sections import (
    DataOptions,
    EvaluationOptions,
    ModelOptions,
    ReportOptions,
    RunOptions,
    WholeVolumeOptions,
    section,
)
from qnet.util.predict.loading import load_segmenter
from qnet.util.predict.outline import outline
from qnet.util.predict.request import Request
from qnet.util.predict.shown import shown
from qnet.util.predict.task_command import main as task_command
from qnet.util.results.evaluation import save_query, saved_queries, write_evaluation
from qnet.util.results.report import write_report
from qnet.util.run.experiment import Help, Run, make_experiment, one_line_errors, plain, run_commandline, run_dir
from qnet.util.run.provenance import record_start

PREDICT = """Segment scans from outlined ones, with any method and option.

    qnet predict guided support_image=outlined.nii.gz support_label=outlined_labels.nii.gz query=scans/ output=predicted/
    qnet predict task=liver.task query=scans/ output=predicted/
    qnet predict reload_model_path=runs/…/snapshots/30000.pth support_image=… support_label=… query=… output=…

`guided` needs no training; `qnet segment` runs it with fewer words.
"""
REPORT = """Write report.html of a finished evaluation into its run folder: tables, plots and a viewer of every case.

    qnet report runs/…/QNet_test_CHAOST2_cv0/1
"""

experiment = make_experiment("test", {
    "main": Help(__doc__, ("reload_model_path", "eval_fold", "supp_idx", "whole_volume", "device")),
    "predict": Help(PREDICT, ("support_image", "support_label", "query", "output", "task", "fill", "overwrite",
                              "reload_model_path", "device")),
    "report": Help(REPORT, ("run", "overwrite"))})


@experiment.command
def predict(_config: Mapping[str, Any]) -> None:
    """Segment your own scans from labelled ones. Options: support_image, support_label, query, output, reload_model_path."""
    with one_line_errors():
        config = plain(_config)
        device = resolve_device(config["device"])
        meet(device)
        print(f"on {device} in {config['precision']}")
        request = main_first(lambda: Request.of(config))
        outcome = shown(outline(request))
    print(f"written to {config['output']}")
    if is_main():
        print("\n".join(map(printable, [outcome.summary(), *(f"left out: {line}" for line in outcome.notes)])))
    if outcome.problems:
        raise SystemExit("\n".join(printable(f"error: query {line}") for line in outcome.problems))


@experiment.command
def report(_config: Mapping[str, Any]) -> None:
    """Write report.html of a finished evaluation: tables, plots and a viewer of every case. Give run=<run folder>."""
    with one_line_errors():
        print(f"written: {write_report(**vars(section(ReportOptions, plain(_config))))}")


@experiment.main
@one_line_errors()
def main(_run: Run, _config: Mapping[str, Any]) -> float | None:
    """Evaluate, and return the mean Dice over classes. Each of several processes evaluates its share of the queries."""
    config, folder = plain(_config), run_dir(_run)
    run, data, options = RunOptions.of(config), DataOptions.of(config), section(EvaluationOptions, config)
    device = resolve_device(run.device)
    cases = data.cases()
    supports_of = supports_of_queries(supports_and_queries(
        len(cases), data.spec.n_folds, data.eval_fold, options.protocol, options.supp_idx))
    print(f"on {device} in {run.precision}")
    used = {position for query, supports in supports_of for position in (query, *supports)}
    model = ModelOptions.of(config)
    stones = stepping_stones(len(cases), used, model.n_stones)
    read = [cases[position] for position in sorted({*used, *stones})]
    if is_main() and record_start(folder, device, run.precision, read, run.reload_model_path,
                                   Store(run.place.log_dir / STORE).sums, more=model.outside.files):
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)      # these results come from other data, code or weights
    reader = main_first(lambda: TaskReader(cases, data.spec, supports_of, options.test_label, stones))
    unfinished = Unfinished(folder / UNFINISHED)
    scores = saved_queries(reader, unfinished, folder) if is_main() else {}
    left = of_main([query for query in reader.queries if query not in scores])
    queries = share(left)
    segmenter, said = main_first(lambda: load_segmenter(
        model, run.reload_model_path, device, section(WholeVolumeOptions, config), encode_whole=options.whole_volume,
        queries=[support for support in reader.supports if support.name in queries], supports=reader.supports,
        folder=folder / UNFINISHED))
    print(said)

    def finish(result: QueryResult) -> None:
        scored = save_query(result, data.spec.labels, options.surface_tolerance_mm, folder)
        unfinished.write(reader.key(result.query.name), vars(scored))
        scores[result.query.name] = scored

    if left:
        evaluate(segmenter, reader, queries, options, finish)
    mean_dice = write_evaluation(list(scores.values()), reader, data, options, folder)
    if is_main():
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return mean_dice


def run() -> None:
    """Run the command line.

    Raises:
        SystemExit: as `run_commandline`, and after `task`.
    """
    if sys.argv[1:2] == ["task"]:      # its files are arguments, which sacred's commands cannot have
        sys.argv[:2] = [f"{Path(sys.argv[0]).name} task"]
        sys.exit(task_command())
    run_commandline(experiment, others=["task"])


if __name__ == "__main__":
    run()
