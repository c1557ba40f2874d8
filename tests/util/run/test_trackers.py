"""`--observer`: a training and an evaluation are logged to TensorBoard or MLflow as well, and read back by these."""

import json
import sys

import pytest

from qnet.util.base.errors import InputError
from qnet.util.run.trackers import allowed, expect_tracker, results_of, tracker
from tests.programs import TINY, TOY_GRID, entry_point
from tests.toy import write_toy_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_toy_data(tmp_path_factory.mktemp("toy"))


def run(program, observer, log_dir, data, **options):
    updates = {**TINY, "datasets": TOY_GRID, **options, "path": {"log_dir": str(log_dir), "CHAOST2": {"data_dir": str(data)}}}
    return entry_point(program).experiment.run(config_updates=updates, options={"--observer": observer})


def test_tensorboard_reads_back_losses_and_options_and_a_resumed_training_hides_what_it_logs_again(tmp_path, data):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for n_steps in (3, 4):
        done = run("train", "tensorboard", tmp_path, data, n_steps=n_steps, save_snapshot_every=3, resume="auto")
        folder = done.observers[0].folder
        found = EventAccumulator(str(folder / "tensorboard")).Reload()
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        for name, metric in metrics.items():
            logged = [(event.step, event.value) for event in found.Scalars(name)]
            assert logged == [(step, pytest.approx(value)) for step, value in zip(metric["steps"], metric["values"], strict=True)]
        assert '"n_steps": ' in found.Tensors("config/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert len(list((folder / "tensorboard").iterdir())) == 2 and folder.name == "1"


@pytest.mark.whole
def test_mlflow_has_one_run_for_a_run_folder_with_options_and_results(tmp_path, data, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    options = {"reload_model_path": "untrained", "supp_idx": 0, "n_iters": 1, "eval_fold": 0}
    folder = run("test", "mlflow", tmp_path / "runs", data, **options).observers[0].folder
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs/mlflow.db'}")
    experiment, = (found for found in client.search_experiments() if found.name != "Default")
    logged, = client.search_runs([experiment.experiment_id])
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert experiment.name == folder.parent.name and logged.info.status == "FINISHED"
    assert logged.data.params["eval_fold"] == "0" and logged.data.params["optim.lr"]
    assert logged.data.metrics["dice_mean"] == pytest.approx(results["mean"]["dice_mean"])
    for label, of_class in results["classes"].items():
        assert logged.data.metrics[f"dice {label}"] == pytest.approx(of_class["dice_mean"])
    assert not (tmp_path / "mlruns").exists()       # nothing lies beside the runs


@pytest.mark.parametrize(("command", "options", "message"), [
    ("main", {"--observer": "mlfow"}, "--observer: got 'mlfow'; did you mean mlflow?; allowed: mlflow, tensorboard"),
    ("predict", {"--observer": "mlflow"}, "--observer mlflow: predict is not tracked; allowed: with training and evaluation"),
])
def test_what_cannot_be_tracked_is_refused_before_any_work(command, options, message):
    with pytest.raises(SystemExit) as refused:
        entry_point("test").experiment.run(command, options=options)
    assert str(refused.value) == f"error: {message}"


@pytest.mark.parametrize(("name", "package"), [("mlflow", "mlflow"), ("tensorboard", "torch.utils.tensorboard")])
def test_an_absent_package_is_named_with_its_extra(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"its package is not installed .*pip install 'qnet-few-shot-segmentation\[{name}\]'"):
        tracker(name, tmp_path, tmp_path)


def test_names_and_results():
    expect_tracker("tensorboard")
    assert allowed("dice left kidney (α)") == "dice left kidney _α_"


def test_a_training_has_no_results(tmp_path):
    assert results_of(tmp_path) == {}
