"""On a GPU, where there is one: training, both protocols, predict, the same bits twice. tests/test_fake_cuda.py needs none."""

import csv
import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch

from qnet.util.base.root import ROOT
from qnet.util.training.snapshots import read_snapshot
from tests.models.test_methods import METHODS
from tests.programs import TINY, predict, run

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module", params=METHODS)
def trained_on_gpu(request, toy_data, tmp_path_factory):
    name = request.param
    return name, run("train", tmp_path_factory.mktemp(name), toy_data, *METHODS[name], model=name, device="cuda", num_workers=1)


@pytest.mark.whole
def test_training_and_evaluation(trained_on_gpu, toy_data, tmp_path):
    name, folder = trained_on_gpu
    snapshot = folder / "snapshots/3.pth"
    assert read_snapshot(snapshot).history.isfinite().all()
    dice = {}
    for device in ("cuda", "cpu"):
        scored = run("test", tmp_path / device, toy_data, model=name, device=device, supp_idx=0, reload_model_path=str(snapshot))
        for file in ("scores.csv", "scores_whole_volume.csv"):
            rows = csv.DictReader((scored / file).read_text(encoding="utf-8").splitlines())
            dice[device, file] = [float(row["dice"]) for row in rows]
    for file in ("scores.csv", "scores_whole_volume.csv"):
        assert dice["cuda", file] == pytest.approx(dice["cpu", file], abs=0.02)      # TF32


@pytest.mark.whole
def test_predict(trained_on_gpu, toy_data, tmp_path):
    images = toy_data / "chaos_MR_T2_normalized"
    for device in ("cuda", "cpu"):
        predict(reload_model_path=trained_on_gpu[1] / "snapshots/3.pth", support_image=images / "image_1.nii.gz",
                support_label=images / "label_1.nii.gz", query=images / "image_2.nii.gz", output=tmp_path / device, device=device)
    cuda, cpu = (np.asanyarray(nibabel.load(tmp_path / device / "image_2.nii.gz").dataobj) for device in ("cuda", "cpu"))
    assert (cuda != cpu).mean() < 0.02


@pytest.mark.whole
@pytest.mark.parametrize("name", METHODS)
def test_deterministic_training_gives_the_same_bits_twice(name, toy_data, tmp_path):
    """Each in a process of its own, as cuBLAS reads its setting when it is first used."""
    options = {**TINY, "model": name, "device": "cuda", "deterministic": "true", "n_steps": 20, "path.CHAOST2.data_dir": toy_data}
    weights = []
    for k in range(2):
        command = [sys.executable, "train.py", "with", *METHODS[name], *(f"{key}={value}" for key, value in options.items()),
                   f"path.log_dir={tmp_path / str(k)}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr[-2000:]
        run_file, = (tmp_path / str(k)).rglob("run.json")
        assert json.loads(run_file.read_text(encoding="utf-8"))["status"] == "COMPLETED"
        weights.append(read_snapshot(run_file.parent / "snapshots/20.pth").model)
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
