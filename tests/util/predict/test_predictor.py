"""The predictor in Python; tests/util/predict/test_outline.py has what `test.py predict` makes of it."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from qnet.util.base.errors import InputError
from qnet.util.options.config import base_config
from qnet.util.options.record import Record
from qnet.util.options.sections import ModelOptions
from qnet.util.predict.predictor import Predictor
from qnet.util.training.building import build_model
from qnet.util.training.snapshots import save_snapshot
from tests.programs import predict
from tests.toy import toy_case, write


@pytest.fixture
def scans(toy_data):
    """Return the path of a toy case's image or label map."""
    return lambda number, kind="image": toy_data / f"chaos_MR_T2_normalized/{kind}_{number}.nii.gz"


@pytest.fixture
def predictor(trained, scans):
    predictor = Predictor.load(trained / "snapshots/3.pth", device="cpu", precision="float32", n_iters=0)
    predictor.add_support(scans(1), scans(1, "label"))
    return predictor


def test_a_scan_that_failed_leaves_nothing_to_the_next(predictor, trained, scans):
    model = predictor.segmenter.encoder.model
    wanted = predictor.segment(scans(3))

    def out_of_memory(*_):
        raise MemoryError("no room")

    model.segment = out_of_memory       # after the scan was encoded
    with pytest.raises(MemoryError):
        predictor.segment(scans(2))
    del model.segment
    found = predictor.segment(scans(3))
    np.testing.assert_array_equal(found.label_map, wanted.label_map)
    for label, probs in wanted.on_grid.items():
        np.testing.assert_array_equal(found.on_grid[label], probs)
    assert any((probs != predictor.segment(scans(2)).on_grid[label]).any() for label, probs in wanted.on_grid.items())


def test_the_kind_of_image_that_was_given_comes_back(predictor, scans):
    of_path = predictor.segment(scans(2)).image
    of_nibabel = predictor.segment(nibabel.load(scans(2))).image
    of_sitk = predictor.segment(sitk.ReadImage(scans(2))).image
    assert isinstance(of_path, nibabel.Nifti1Image) and isinstance(of_nibabel, nibabel.Nifti1Image)
    assert isinstance(of_sitk, sitk.Image)
    np.testing.assert_allclose(of_path.affine, nibabel.load(scans(2)).affine, atol=1e-5)
    np.testing.assert_array_equal(of_nibabel.affine, nibabel.load(scans(2)).affine)
    array = np.asarray(of_path.dataobj)
    np.testing.assert_array_equal(np.asarray(of_nibabel.dataobj), array)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(of_sitk).transpose(2, 1, 0), array)


def test_what_is_missing_or_wrong_is_one_line(trained, scans):
    predictor = Predictor.load(trained / "snapshots/3.pth", device="cpu")
    with pytest.raises(InputError, match="no outlined scan yet; add_support gives one"):
        predictor.segment(scans(2))
    with pytest.raises(InputError, match="support image: expected a volume with 3 axes, got shape"):
        predictor.add_support(nibabel.Nifti1Image(np.zeros((2, 2, 2, 2), np.float32), np.eye(4)), scans(1, "label"))
    with pytest.raises(InputError, match="device: got 'gpu', allowed"):
        Predictor.load(trained / "snapshots/3.pth", device="gpu")
    with pytest.raises(InputError, match="reload_model_path: got null"):
        Predictor.untrained("qnet")


def test_a_result_never_takes_the_place_of_the_scan(predictor, scans, tmp_path):
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(scans(2).read_bytes())
    with pytest.raises(InputError, match="is read, as"):
        predictor.segment(scan).save(scan, overwrite=True)
    assert scan.read_bytes() == scans(2).read_bytes()


@pytest.mark.whole
def test_a_stepping_stone_is_none_when_it_is_segmented_itself(scans, monkeypatch):
    coarse = {"affine": False, "zoom": False, "finest": 3.0, "n_steps": 1}
    predictor = Predictor.untrained("registration", device="cpu", registration={**base_config()["registration"], **coarse})
    with pytest.raises(InputError, match="add_support comes before add_stone"):
        predictor.add_stone(scans(2))
    predictor.add_support(scans(1), scans(1, "label"))
    for number in (2, 3):
        predictor.add_stone(scans(number))
    tasks, members = [], predictor.segmenter.members
    predictor.segmenter.members = lambda task, *options: tasks.append(task) or members(task, *options)
    monkeypatch.chdir(scans(1).parent)
    for scan in ("image_2.nii.gz", scans(10)):
        predictor.segment(scan)
    assert [[stone.name for stone in task.stones] for task in tasks] == [["stone 2"], ["stone 1", "stone 2"]]
    assert all(stone.label_map is None for task in tasks for stone in task.stones)


def snapshot_of(config, path):
    """A snapshot of an untrained network with some options."""
    model = build_model(ModelOptions.of(config))
    save_snapshot(path, record=Record(config), model=model.state_dict(), step=1, optimizer={}, scheduler={},
                  history=torch.zeros(1, 2), log=[], refused=[])
    return path


def of_two_labels():
    base = base_config()
    entry = {**base["datasets"]["CHAOST2"], "labels": {"1": "LV", "2": "RV"}, "file_values": {},
             "grid": {"spacing_mm": [2.0, 2.0, 8.0], "size_px": 64, "orientation": None, "window": None}}
    return {**base, "encoder": "small", "dataset": "HEART", "datasets": {"HEART": entry}, "test_label": [1, 2],
            "exclude_label": [2],
            "path": {**base["path"], "HEART": {"data_dir": "data/HEART"}}}


@pytest.mark.whole
def test_a_snapshot_of_two_labels_is_sound(tmp_path):
    path = snapshot_of(of_two_labels(), tmp_path / "1.pth")
    for number in (1, 2):
        image, label_map, _ = toy_case(number)
        write(tmp_path / f"image_{number}.nii.gz", image)
        write(tmp_path / f"label_{number}.nii.gz", label_map * (label_map < 3))
    predictor = Predictor.load(path, device="cpu", precision="float32", n_iters=0)
    predictor.add_support(tmp_path / "image_1.nii.gz", tmp_path / "label_1.nii.gz")
    assert predictor.names == {1: "LV", 2: "RV"} and predictor.segment(tmp_path / "image_2.nii.gz").label_map.shape == (8, 64, 64)
    predict(reload_model_path=path, support_image=tmp_path / "image_1.nii.gz", support_label=tmp_path / "label_1.nii.gz",
            query=tmp_path / "image_2.nii.gz", output=tmp_path / "out")
    assert "RV" in (tmp_path / "out/cases.csv").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="test_label: got 3, allowed for HEART"):
        Predictor.load(path, device="cpu", test_label=[3])


@pytest.mark.parametrize(("key", "value", "said"), [
    ("datasets", [], r"datasets: got \[\], allowed: an object"),
    ("datasets", {"CHAOST2": [1]}, r"datasets\[\.\.\.\]: got .*, allowed"),
    ("datasets", None, "datasets: got None"), ("path", 7, "path: got 7, allowed: an object"),
    ("dataset", ["CHAOST2"], "dataset: got"),
    ("datasets", {"CHAOST2": {"labels": 7}}, "datasets.CHAOST2.labels: got 7")])
def test_a_snapshot_with_other_options_than_ours_is_one_line(key, value, said, tmp_path):
    path = snapshot_of({**base_config(), "encoder": "small"}, tmp_path / "1.pth")
    content = torch.load(path, weights_only=True)
    torch.save({**content, "config": json.dumps({**json.loads(content["config"]), key: value})}, path)
    with pytest.raises(InputError, match=said):
        Predictor.load(path, device="cpu")
    with pytest.raises(SystemExit, match=f"^error: .*{said}"):
        predict(reload_model_path=path, support_image="a", support_label="a", query="a", output="a")


@pytest.mark.parametrize("text", ["[", "[]", "7", "[" * 10000, '{"a":' * 40 + "1" + "}" * 40, 7, None, b"{}"], ids=range(8))
def test_options_of_a_snapshot_that_are_none(text, tmp_path):
    path = snapshot_of({**base_config(), "encoder": "small"}, tmp_path / "1.pth")
    torch.save({**torch.load(path, weights_only=True), "config": text}, path)
    with pytest.raises(InputError, match=r"1\.pth: ") as caught:
        Predictor.load(path, device="cpu")
    assert str(caught.value).isprintable()
