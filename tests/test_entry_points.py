"""train.py and test.py, whole, on the toy data, and what they say to bad input."""

import csv
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch

from qnet.util.base.root import ROOT
from qnet.util.run.experiment import run_commandline
from qnet.util.training.snapshots import read_snapshot
from tests.programs import TINY, entry_point, run
from tests.toy import CASES, toy_case, write, write_toy_data

FINE = np.diag([-1.0, 1.0, 5.0, 1.0])       # voxels of 1 × 1 × 5 mm; those of the toy data have 2 × 2 × 7.7


def test_training_leaves_snapshots_metrics_and_a_curve(trained):
    assert trained.parent.name == "QNet_train_CHAOST2_cv0" and trained.name == "1"
    assert sorted(path.name for path in (trained / "snapshots").glob("*.pth")) == ["2.pth", "3.pth"]
    metrics = json.loads((trained / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["total_loss"]["steps"] == [2, 3]
    assert metrics["lr"]["values"] == pytest.approx([0.001 * 0.98, 0.001 * 0.98])
    assert (trained / "loss_curve.png").read_bytes().startswith(b"\x89PNG")


def test_training_changes_the_weights_and_the_episodes_follow_the_seed(trained, toy_data, tmp_path):
    other = run("train", tmp_path, toy_data, seed=1)
    histories = [read_snapshot(folder / "snapshots/3.pth").history for folder in (trained, other)]
    assert not torch.equal(*histories)


@pytest.fixture(scope="module")
def tested(trained, toy_data, tmp_path_factory):
    return run("test", tmp_path_factory.mktemp("tested"), toy_data, supp_idx="all",
               reload_model_path=str(trained / "snapshots/3.pth"))


@pytest.mark.whole
def test_scores_agree_with_the_predictions_on_disk(tested):
    rows = list(csv.DictReader((tested / "scores.csv").open(encoding="utf-8")))
    assert list(rows[0]) == ["label_name", "label", "support_case", "query_case", "dice", "iou", "precision", "recall",
                             "hd95_mm", "assd_mm", "surface_dice", "volume_difference_ml"]
    fold = {"1", "2"}                                   # five cases, five folds: a case and the next fold's first
    assert {(row["support_case"], row["query_case"]) for row in rows} == {("1", "2"), ("2", "1")}
    assert len(rows) == 4 * len(fold)
    for row in rows:
        name = f"{row['query_case']}_{row['label_name'].replace(' ', '_')}_supp{row['support_case']}.nii.gz"
        file = nibabel.load(tested / "predictions" / name)
        mask = np.asanyarray(file.dataobj).transpose(2, 1, 0) > 0
        image, label_map, _ = toy_case(int(row["query_case"]))
        truth = label_map == int(row["label"])
        assert mask.shape == image.shape and np.allclose(file.affine, np.diag([-2.0, 2.0, 7.7, 1.0]))
        assert not mask[~truth.any(axis=(1, 2))].any()  # the protocol segments slices with the class only
        overlap = (mask & truth).sum()
        assert float(row["dice"]) == pytest.approx(2 * overlap / (mask.sum() + truth.sum()))
        assert float(row["iou"]) == pytest.approx(overlap / (mask | truth).sum())


@pytest.mark.whole
def test_results_are_means_of_the_rows(tested):
    rows = list(csv.DictReader((tested / "scores.csv").open(encoding="utf-8")))
    results = json.loads((tested / "results.json").read_text(encoding="utf-8"))
    for name, entry in results["classes"].items():
        values = [float(row["dice"]) for row in rows if row["label_name"] == name]
        assert entry["n"] == len(values)
        assert entry["dice_mean"] == pytest.approx(np.mean(values)) and entry["dice_std"] == pytest.approx(np.std(values))
    assert results["mean"]["dice_mean"] == pytest.approx(np.mean([e["dice_mean"] for e in results["classes"].values()]))
    assert set(results["supports"]) == {"1", "2"}


@pytest.mark.whole
def test_whole_volumes_are_scored_beside_the_protocol(tested, trained, toy_data, tmp_path):
    rows = list(csv.DictReader((tested / "scores_whole_volume.csv").open(encoding="utf-8")))
    results = json.loads((tested / "results.json").read_text(encoding="utf-8"))["whole_volume"]
    assert len(rows) == len(list((tested / "probabilities_whole_volume").glob("*.nii.gz"))) == 8
    for row in rows:
        name = f"{row['query_case']}_{row['label_name'].replace(' ', '_')}_supp{row['support_case']}.nii.gz"
        mask = np.asanyarray(nibabel.load(tested / "predictions_whole_volume" / name).dataobj).transpose(2, 1, 0) > 0
        truth = toy_case(int(row["query_case"]))[1] == int(row["label"])
        assert float(row["dice"]) == pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    liver = [float(row["dice"]) for row in rows if row["label_name"] == "liver"]
    assert results["classes"]["liver"]["dice_mean"] == pytest.approx(np.mean(liver))
    without = run("test", tmp_path, toy_data, supp_idx=0, test_label=[1], whole_volume=False,
                  reload_model_path=str(trained / "snapshots/3.pth"))
    assert not list(without.glob("*whole_volume*"))


@pytest.mark.whole
def test_each_volume_has_its_own_spacing(tested, trained, toy_data, tmp_path):
    """Two spacings in one data set: what a pair gives is what it gives where all volumes have its support's spacing."""
    fine, mixed = (write_toy_data(tmp_path / name) for name in ("fine", "mixed"))
    for data, cases in ((fine, CASES), (mixed, [2])):
        for number in cases:
            image, label_map, _ = toy_case(number)
            write(data / f"chaos_MR_T2_normalized/image_{number}.nii.gz", image, FINE)
            write(data / f"chaos_MR_T2_normalized/label_{number}.nii.gz", label_map, FINE)
    options = {"supp_idx": "all", "test_label": [1, 4], "reload_model_path": str(trained / "snapshots/3.pth")}
    of_spacing = {name: run("test", tmp_path / name, data, **options) for name, data in (("fine", fine), ("mixed", mixed))}
    of_spacing["coarse"] = tested

    def probs(spacing, support, query, label):
        name = f"{query}_{label}_supp{support}.nii.gz"
        return np.asanyarray(nibabel.load(of_spacing[spacing] / "probabilities_whole_volume" / name).dataobj)

    for label in ("liver", "spleen"):
        np.testing.assert_array_equal(probs("mixed", 1, 2, label), probs("coarse", 1, 2, label))
        np.testing.assert_array_equal(probs("mixed", 2, 1, label), probs("fine", 2, 1, label))
        assert (probs("mixed", 2, 1, label) != probs("coarse", 2, 1, label)).any()
    for row in csv.DictReader((of_spacing["mixed"] / "scores_whole_volume.csv").open(encoding="utf-8")):
        voxel_ml = 1 * 1 * 5 / 1000 if row["query_case"] == "2" else 2 * 2 * 7.7 / 1000
        n_voxels = float(row["volume_difference_ml"]) / voxel_ml
        assert n_voxels == pytest.approx(round(n_voxels), abs=1e-3)
    lengths = [[float(row["assd_mm"]) for row in csv.DictReader((of_spacing[name] / "scores.csv").open(encoding="utf-8"))
                if row["query_case"] == "2" and row["label_name"] in ("liver", "spleen")] for name in ("mixed", "fine", "coarse")]
    assert lengths[0] == pytest.approx(lengths[1]) and lengths[0] != pytest.approx(lengths[2])


@pytest.mark.whole
def test_one_picture_per_class(tested):
    assert sorted(path.name for path in tested.glob("overview_*.png")) == [
        "overview_left_kidney.png", "overview_liver.png", "overview_right_kidney.png", "overview_spleen.png"]


@pytest.mark.whole
def test_batch_size_changes_no_score(tested, trained, toy_data, tmp_path):
    other = run("test", tmp_path, toy_data, supp_idx="all", test_label=[1, 4], eval_batch_size=1,
                reload_model_path=str(trained / "snapshots/3.pth"))
    read = [[float(row["dice"]) for row in csv.DictReader((folder / "scores.csv").open(encoding="utf-8"))
             if row["label_name"] in ("liver", "spleen")]
            for folder in (tested, other)]
    assert read[0] == pytest.approx(read[1], abs=2e-3)


@pytest.mark.whole
def test_corrected_protocol_uses_the_extra_case(trained, toy_data, tmp_path):
    folder = run("test", tmp_path, toy_data, protocol="corrected", supp_idx=0, test_label=[1],
                 reload_model_path=str(trained / "snapshots/3.pth"))
    rows = list(csv.DictReader((folder / "scores.csv").open(encoding="utf-8")))
    assert {(row["support_case"], row["query_case"]) for row in rows} == {("2", "1")}


@pytest.mark.whole
def test_published_checkpoint_of_names_and_tensors_alone_loads(trained, toy_data, tmp_path):
    plain = tmp_path / "published.pth"
    torch.save(dict(read_snapshot(trained / "snapshots/3.pth").model), plain)
    assert (run("test", tmp_path, toy_data, supp_idx=0, test_label=[1], reload_model_path=str(plain)) / "scores.csv").is_file()


@pytest.mark.whole
def test_setting_2_and_ground_truth_training_run(toy_data, tmp_path):
    run("train", tmp_path, toy_data, use_gt=True, test_label=[1], n_steps=1)
    with pytest.raises(SystemExit, match="no training volume"):   # every slice of the toy holds a kidney or is empty
        run("train", tmp_path, toy_data, exclude_label=[1, 2, 3, 4], n_steps=1)


def test_true_false_and_null_on_the_command_line(monkeypatch):
    given, real = [], entry_point("test").experiment
    experiment = SimpleNamespace(run_commandline=given.extend, get_usage=real.get_usage, named_configs=real.named_configs,
                                 gather_commands=real.gather_commands)
    monkeypatch.setattr("sys.argv", ["test.py", "with", "demo", "augment=true", "whole_volume=false", "run=null", "output=truth"])
    run_commandline(experiment)
    assert given == ["test.py", "with", "demo", "augment=True", "whole_volume=False", "run=None", "output=truth"]


@pytest.mark.whole
def test_missing_data_folder_on_the_command_line(warm, tmp_path):
    done = subprocess.run(
        [sys.executable, "train.py", "with", *(f"{key}={value}" for key, value in TINY.items()),
         f"path.log_dir={tmp_path}", f"path.CHAOST2.data_dir={tmp_path / 'nowhere'}"],
        cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if not line.startswith(("INFO", "ERROR - train - Failed after"))]
    assert errors == [f"error: path.CHAOST2.data_dir: no folder {tmp_path / 'nowhere'}; data/README.md of the repository "
                      "says how to get the data"]


@pytest.mark.parametrize(("arguments", "said"), [
    (["train", "--help"], "Train a method on the supervoxels"), (["test", "--help"], "Evaluate a snapshot on a test fold"),
    (["test", "help", "predict"], "Segment your own scans"), (["test", "predict", "--help"], "Segment your own scans"),
    (["test", "help", "report"], "Write report.html"),
    (["test", "help", "main"], "Evaluate, and return"), (["train", "help", "main"], "Train, and return")])
def test_help_is_that_of_the_program(arguments, said, monkeypatch, capsys, handlers_stay):
    monkeypatch.setattr("sys.argv", [f"{arguments[0]}.py", *arguments[1:]])
    with pytest.raises(SystemExit) as stop:
        run_commandline(entry_point(arguments[0]).experiment)
    printed = capsys.readouterr().out
    assert not stop.value.code and said in printed and "What train.py and test.py share" not in printed


@pytest.mark.whole
def test_help_on_a_terminal_of_ascii():
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-X", "importtime", "test.py", "--help"], cwd=ROOT, env={**os.environ, **ascii_only},
                          capture_output=True)
    assert done.returncode == 0 and done.stdout.isascii() and len(done.stdout) > 500, done.stderr
    # nobody waits for what only some runs need
    imported = {line.rpartition(b"|")[2].strip() for line in done.stderr.splitlines()}
    assert b"torch" in imported and not {b"torchvision", b"timm", b"scipy.stats"} & imported
