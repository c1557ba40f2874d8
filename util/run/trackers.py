"""Trackers, beside Sacred's own files: TensorBoard and MLflow, into local files. `--observer` asks for one.

Their packages are extras: `pip install 'qnet-few-shot-segmentation[tensorboard]'`, or `[mlflow]`.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sacred.observers import RunObserver
from sacred.utils import iterate_flattened
from typing_extensions import override

from qnet.util.base.errors import InputError, did_you_mean
from qnet.util.base.inputs import read_json

MAX_PARAM = 6000          # characters of a parameter that MLflow takes
BATCH = 100               # parameters or metrics that MLflow takes at once


class TensorBoard(RunObserver):
    """Logs to event files in `tensorboard/` of the run folder.

    Args:
        folder: the run folder.
        _log_dir: holds all run folders.
    Raises:
        ImportError: the package is not installed.
    """

    def __init__(self, folder: Path, _log_dir: Path):
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        self.writer = SummaryWriter(folder / "tensorboard", purge_step=0)     # a resumed training logs its earlier steps again

    @override
    def started_event(self, ex_info: Any, command: Any, host_info: Any, start_time: Any, config: Mapping[str, Any],
                      meta_info: Any, _id: Any) -> None:
        """Log the options."""
        self.writer.add_text("config", "```json\n" + json.dumps(config, indent=2, sort_keys=True, default=str) + "\n```")

    @override
    def log_metrics(self, metrics_by_name: Mapping[str, Mapping[str, Any]], info: Any) -> None:
        """Log what is new of the metrics."""
        for name, step, value, moment in entries(metrics_by_name):
            self.writer.add_scalar(name, value, step, walltime=moment)
        self.writer.flush()

    @override
    def completed_event(self, stop_time: Any, result: Any) -> None:
        """Log the results."""
        for name, value in results_of(self.folder).items():
            self.writer.add_scalar(name, value)

    def join(self) -> None:
        """Close the files."""
        self.writer.close()


class Mlflow(RunObserver):
    """Logs to the data base `mlflow.db` in `log_dir`, or to where MLFLOW_TRACKING_URI says. A continued run goes on in its run.

    The arguments and errors are TensorBoard's.
    """

    def __init__(self, folder: Path, log_dir: Path):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")       # a run tells nobody outside of it
        from mlflow import MlflowClient

        self.folder, self.log_dir = folder, log_dir.resolve()
        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.log_dir / 'mlflow.db'}")
        self.run_id = ""

    @override
    def started_event(self, ex_info: Any, command: Any, host_info: Any, start_time: Any, config: Mapping[str, Any],
                      meta_info: Any, _id: Any) -> None:
        """Find the run or make it, and log the options."""
        from mlflow.entities import Param

        name = self.folder.parent.name
        experiment = self.client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self.client.create_experiment(
            name, artifact_location=(self.log_dir / "mlartifacts").as_uri())
        earlier = self.client.search_runs([number], f"tags.run_folder = '{self._tag()}'", max_results=1)
        run = earlier[0] if earlier else self.client.create_run(number, run_name=f"{name}/{self.folder.name}",
                                                                tags={"run_folder": self._tag()})
        self.run_id = run.info.run_id
        self.client.update_run(self.run_id, status="RUNNING")
        known = run.data.params
        params = [Param(key, str(value)[:MAX_PARAM]) for key, value in iterate_flattened(config) if key not in known]
        for first in range(0, len(params), BATCH):
            self.client.log_batch(self.run_id, params=params[first:first + BATCH])

    def _tag(self) -> str:
        return self.folder.resolve().as_posix().replace("'", "_")

    @override
    def log_metrics(self, metrics_by_name: Mapping[str, Mapping[str, Any]], info: Any) -> None:
        """Log what is new of the metrics."""
        self._log([(allowed(name), value, int(1000 * moment), step) for name, step, value, moment in entries(metrics_by_name)])

    @override
    def completed_event(self, stop_time: Any, result: Any) -> None:
        """Log the results."""
        now = int(1000 * time.time())
        self._log([(allowed(name), value, now, 0) for name, value in results_of(self.folder).items()])
        self.client.set_terminated(self.run_id, "FINISHED")

    @override
    def interrupted_event(self, interrupt_time: Any, status: Any) -> None:
        """Say that the run was stopped."""
        self.client.set_terminated(self.run_id, "KILLED")

    @override
    def failed_event(self, fail_time: Any, fail_trace: Any) -> None:
        """Say that the run failed."""
        self.client.set_terminated(self.run_id, "FAILED")

    def _log(self, values: list[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(*of_one) for of_one in values]
        for first in range(0, len(metrics), BATCH):
            self.client.log_batch(self.run_id, metrics=metrics[first:first + BATCH])


TRACKERS: Mapping[str, Callable[[Path, Path], RunObserver]] = {"mlflow": Mlflow, "tensorboard": TensorBoard}


def expect_tracker(name: str) -> None:
    """Raise InputError unless `--observer` names a tracker."""
    if name not in TRACKERS:
        raise InputError(f"--observer: got {name!r}{did_you_mean(name, TRACKERS)}; allowed: {', '.join(TRACKERS)}")


def tracker(name: str, folder: Path, log_dir: Path) -> RunObserver:
    """Return a tracker of a run.

    Args:
        name: one of TRACKERS.
        folder: the run folder.
        log_dir: holds all run folders.
    Raises:
        InputError: its package is not installed.
    """
    try:
        return TRACKERS[name](folder, log_dir)
    except ImportError as error:
        raise InputError(f"--observer {name}: its package is not installed ({error}); "
                         f"pip install 'qnet-few-shot-segmentation[{name}]'") from None


def entries(metrics_by_name: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, int, float, float]]:
    """Yield name, step, value and time (seconds since 1970) of Sacred's metrics."""
    for name, metric in metrics_by_name.items():
        for step, value, moment in zip(metric["steps"], metric["values"], metric["timestamps"], strict=True):
            yield name, int(step), float(value), moment.timestamp()


def results_of(folder: Path) -> dict[str, float]:
    """Return the means in the results of an evaluation: of all metrics, and the Dice of each class; none of a training."""
    if not (folder / "results.json").is_file():
        return {}
    results = read_json(folder / "results.json")
    found = dict[str, float]()
    for prefix, part in (("", results), ("whole volume/", results.get("whole_volume") or {})):
        found |= {prefix + metric: value for metric, value in part.get("mean", {}).items()}
        found |= {f"{prefix}dice {label}": of_class["dice_mean"] for label, of_class in part.get("classes", {}).items()}
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float)) and math.isfinite(value)}


def allowed(name: str) -> str:
    """Return the name of a metric with _ in place of what MLflow does not take."""
    return re.sub(r"[^\w\-. /:]", "_", name)
