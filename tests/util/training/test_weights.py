"""Pretrained files under their real names, and snapshots, whole and broken."""

import errno
import shutil
import zipfile

import pytest
import torch
import torchvision

from qnet.util.base.errors import InputError
from qnet.util.base.files import LIST, partial_name
from qnet.util.options.record import Record
from qnet.util.training.snapshots import newest_readable, newest_snapshot, prune_snapshots, read_snapshot, save_snapshot
from qnet.util.training.weights import PRETRAINED, load_pretrained, load_state, pretrained_url
from tests.networks import dual_path


@pytest.fixture(scope="module")
def backbone():
    return dual_path("resnet50").backbone


def test_published_file_names():
    names = {key: pretrained_url(*key).rpartition("/")[2] for key in PRETRAINED}
    assert names["resnet101", "imagenet"] == "resnet101-63fe2227.pth"
    assert names["resnet101", "coco"] == "deeplabv3_resnet101_coco-586e9e4e.pth"


@pytest.mark.whole
def test_imagenet_file(backbone, tmp_path):
    source = torchvision.models.resnet50(weights=None).state_dict()
    path = tmp_path / pretrained_url("resnet50", "imagenet").rpartition("/")[2]
    torch.save(source, path)
    said = load_pretrained(backbone, "resnet50", "imagenet", tmp_path)
    assert said == f"encoder: 320 of 320 backbone tensors loaded from {path}"
    assert torch.equal(backbone.layer3[2].conv2.weight, source["layer3.2.conv2.weight"])


@pytest.mark.whole
def test_coco_file_has_no_fc(backbone, tmp_path):
    deeplab = torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None).state_dict()
    path = tmp_path / pretrained_url("resnet50", "coco").rpartition("/")[2]
    torch.save(deeplab, path)
    before = backbone.fc.weight.clone()
    said = load_pretrained(backbone, "resnet50", "coco", tmp_path)
    assert said == f"encoder: 318 of 320 backbone tensors loaded from {path}; left as initialised: fc"
    assert torch.equal(backbone.conv1.weight, deeplab["backbone.conv1.weight"]) and torch.equal(backbone.fc.weight, before)


def test_a_file_that_fits_nowhere_is_refused(backbone, tmp_path):
    torch.save({"module.conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"pretrained: of the 1 tensors of .*other.pth, none fits encoder 'resnet50'"):
        load_pretrained(backbone, "resnet50", str(tmp_path / "other.pth"), tmp_path)


def test_none_says_so(backbone, tmp_path):
    assert "pretrained: none" in load_pretrained(backbone, "resnet50", "none", tmp_path)


def test_other_architecture_names_the_tensors():
    model = torch.nn.Linear(2, 3)
    state = {"weight": torch.zeros(4, 2), "extra": torch.zeros(1)}
    with pytest.raises(InputError, match=r"1 missing \(bias\); 1 unknown \(extra\); "
                                         r"1 of another shape \(weight \(4, 2\) for \(3, 2\)\)"):
        load_state(model, state, "w.pth")


def small_snapshot(path, step=1):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_snapshot(path, model=model.state_dict(), step=step, optimizer=optimizer.state_dict(), scheduler=scheduler.state_dict(),
                  history=torch.zeros(step, 2), record=Record({"encoder": "small", "path": {"log_dir": "runs"}}))
    return model


def test_snapshot_round_trip_leaves_no_partial_file(tmp_path):
    model = small_snapshot(tmp_path / "snapshots/1.pth")
    snapshot = read_snapshot(tmp_path / "snapshots/1.pth")
    assert snapshot.step == 1 and snapshot.config["path"] == {"log_dir": "runs"}
    assert torch.equal(snapshot.model["weight"], model.weight)
    assert snapshot.optimizer["state"][0]["momentum_buffer"] is not None
    assert {path.name for path in (tmp_path / "snapshots").iterdir()} == {"1.pth", LIST}


def test_one_flipped_bit_in_a_tensor_is_found(tmp_path):
    small_snapshot(tmp_path / "1.pth")
    content = bytearray((tmp_path / "1.pth").read_bytes())
    with zipfile.ZipFile(tmp_path / "1.pth") as archive:
        values = archive.read(next(entry for entry in archive.infolist() if "/data/" in entry.filename))
    content[content.index(values)] ^= 1
    (tmp_path / "1.pth").write_bytes(content)
    torch.load(tmp_path / "1.pth", weights_only=True)       # sees nothing
    with pytest.raises(InputError, match=r"1.pth: cannot be read as weights .*does not have its check sum"):
        read_snapshot(tmp_path / "1.pth")


def test_a_damaged_snapshot_is_passed_over_and_named(tmp_path, capsys):
    for step in (2, 10, 9):
        small_snapshot(tmp_path / f"{step}.pth", step)
    (tmp_path / "10.pth").write_bytes((tmp_path / "10.pth").read_bytes()[:-100])
    assert newest_readable(tmp_path).step == 9
    warning = capsys.readouterr().out
    assert warning.startswith(f"warning: {tmp_path}/10.pth: cannot be read") and f"; {tmp_path}/9.pth is used" in warning
    for step in (2, 9):
        (tmp_path / f"{step}.pth").write_bytes(b"")
    assert newest_readable(tmp_path) is None and "starts from the beginning" in capsys.readouterr().out


def test_pruning_keeps_the_last_and_what_is_later_than_this_step(tmp_path):
    for step in (1, 2, 3, 10):
        small_snapshot(tmp_path / f"{step}.pth", step)
    prune_snapshots(tmp_path, 3, keep=2)
    assert sorted(path.stem for path in tmp_path.glob("*.pth")) == ["10", "2", "3"]


def test_pruning_leaves_what_somebody_else_put_there(tmp_path):
    for step in (2, 3, 4):
        small_snapshot(tmp_path / f"{step}.pth", step)
    shutil.copy(tmp_path / "2.pth", tmp_path / "1.pth")
    shutil.copy(tmp_path / "3.pth", tmp_path / "2.pth")
    prune_snapshots(tmp_path, 4, keep=1)
    assert sorted(path.stem for path in tmp_path.glob("*.pth")) == ["1", "2", "4"]


def test_a_full_disk_is_one_error_and_leaves_the_earlier_snapshot(tmp_path):
    small_snapshot(tmp_path / "1.pth")
    before = (tmp_path / "1.pth").read_bytes()
    partial_name(tmp_path / "1.pth").symlink_to("/dev/full")       # every write to it says that the disk is full
    with pytest.raises(OSError, match="No space left on device") as caught:
        small_snapshot(tmp_path / "1.pth")
    assert caught.value.filename == str(tmp_path / "1.pth") and caught.value.errno == errno.ENOSPC
    assert {path.name for path in tmp_path.iterdir()} == {"1.pth", LIST} and (tmp_path / "1.pth").read_bytes() == before


def test_incomplete_snapshot(tmp_path):
    torch.save({"model": {}, "step": 3}, tmp_path / "half.pth")
    with pytest.raises(InputError, match=r"half.pth: not a snapshot of a training"):
        read_snapshot(tmp_path / "half.pth")


def test_newest_snapshot_counts_runs_and_steps_as_numbers(tmp_path):
    for run, step in (("2", 900), ("10", 200), ("10", 1000), ("9", 5000)):
        (tmp_path / run / "snapshots").mkdir(parents=True, exist_ok=True)
        (tmp_path / run / "snapshots" / f"{step}.pth").touch()
    (tmp_path / "11").mkdir()
    assert newest_snapshot(tmp_path) == tmp_path / "10/snapshots/1000.pth"
    assert newest_snapshot(tmp_path / "nothing") is None
