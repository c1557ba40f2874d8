"""The worked example of docs/outside_models.md, and UniverSeg's stand-in, through test.py into a table."""

import csv
import re
import sys

import pytest
import torch

from qnet.scripts.compare import main as compare
from qnet.util.base.root import ROOT
from tests.programs import TOY_GRID, predict, run
from tests.util.training.test_outside import UNIVERSEG


def dice_of(folder):
    return [float(row["dice"]) for row in csv.DictReader((folder / "scores.csv").open(encoding="utf-8"))]


@pytest.fixture
def brightness(tmp_path):
    """The file that the page shows."""
    code, = re.findall(r"```python\n(.*?)```", (ROOT / "docs/outside_models.md").read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "brightness.py"
    path.write_text(code, encoding="utf-8")
    return path


@pytest.mark.whole
def test_the_example_is_evaluated_and_stands_in_a_table(brightness, trained, toy_data, tmp_path):
    ours = run("test", tmp_path, toy_data, supp_idx="all", test_label=[1, 4], n_iters=1,
               reload_model_path=str(trained / "snapshots/3.pth"))
    outside = {"network": f"{brightness}:Brightness"}
    theirs = run("test", tmp_path, toy_data, model="outside", supp_idx="all", test_label=[1, 4], outside=outside)
    assert theirs.parent.name == "Outside_test_CHAOST2_cv0" and len(dice_of(theirs)) == 4
    assert sum(dice_of(theirs)) / 4 > 0.4                      # the toy organs differ from each other in brightness alone
    with_prior = run("test", tmp_path, toy_data, model="outside", supp_idx="all", test_label=[1, 4], outside=outside,
                     spatial_prior="registration", registration={"finest": 3.0, "n_steps": 1, "affine": False})
    named = [f"Brightness={theirs}", f"Brightness + registration={with_prior}"]
    assert compare([str(ours), *named, "--output", str(tmp_path / "t")]) == 0
    rows = list(csv.DictReader((tmp_path / "t/comparison.csv").open(encoding="utf-8")))
    assert {row["method"] for row in rows} >= {"QNet", "Brightness", "Brightness + registration"}


@pytest.mark.whole
def test_predict_goes_on_until_the_network_changes(brightness, toy_data, tmp_path, capsys):
    """What was made with another version of the network's file is made anew."""
    images, kept = toy_data / "chaos_MR_T2_normalized", "1 of 1 queries were there already"
    for found in (False, True, False):
        predict(model="outside", outside={"network": f"{brightness}:Brightness"}, support_image=images / "image_1.nii.gz",
                support_label=images / "label_1.nii.gz", query=images / "image_2.nii.gz", output=tmp_path / "out",
                datasets=TOY_GRID)
        assert (kept in capsys.readouterr().out) == found
        if found:
            brightness.write_text(brightness.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")


def test_a_snapshot_is_no_network_from_elsewhere(brightness, trained, toy_data, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: reload_model_path: got .*, allowed with model 'outside'"):
        run("test", tmp_path, toy_data, model="outside", supp_idx=0, outside={"network": f"{brightness}:Brightness"},
            reload_model_path=str(trained / "snapshots/3.pth"))
    with pytest.raises(SystemExit, match=r"^error: outside.network: got None, allowed: a Python file"):
        run("test", tmp_path, toy_data, model="outside", supp_idx=0)


@pytest.mark.whole
def test_universegs_stand_in(toy_data, tmp_path, monkeypatch):
    (tmp_path / "universeg.py").write_text(UNIVERSEG, encoding="utf-8")
    torch.save({"scale": torch.tensor([8.0])}, tmp_path / "weights.pt")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "universeg", raising=False)
    folder = run("test", tmp_path, toy_data, model="universeg", supp_idx="all", outside={"weights": str(tmp_path / "weights.pt")})
    sys.modules.pop("universeg", None)
    assert folder.parent.name == "UniverSeg_test_CHAOST2_cv0" and min(dice_of(folder)) > 0.5      # it copies the support's mask
