"""The module of 3D Slicer: its panel with fakes of Slicer's window, its voxels on Slicer's own MRML where that is installed."""

import ast
import json
from pathlib import Path
from unittest.mock import MagicMock

import nibabel
import numpy as np
import pytest

from qnet.util.clients import client as client_module
from qnet.util.label.serve import keep_address
from qnet.util.label.session import Session
from tests.dataloaders.outlines.made import PLACES, SHAPE, nifti, outlines
from tests.kinds import grid
from tests.labelling import FAST, TOKEN, drawing, served, write_scans
from tests.labelling import nifti as content_of
from tests.toy import AFFINE, toy_case
from tests.util.clients.slicer.mrml import FILE, fake_slicer, load_module, real_slicer

NAMES = {1: "one", 2: "two", 3: "three", 4: "four"}


@pytest.fixture
def module(monkeypatch):
    return load_module(fake_slicer(), monkeypatch)


@pytest.fixture
def real(monkeypatch):
    pytest.importorskip("slicer_core", reason="Slicer's MRML is not installed; pip install slicer-core")
    return load_module(real_slicer(), monkeypatch)


@pytest.fixture
def folder(tmp_path):
    """With a server that is at work on it."""
    session = Session(write_scans(tmp_path / "scans", [1, 2]))
    with served(session, FAST) as client:
        keep_address(session.own, int(client.host.split(":")[1]), TOKEN)
        yield session.folder


def test_it_is_python_of_slicer_and_finds_the_client(module):
    ast.parse(FILE.read_text(encoding="utf-8"), feature_version=(3, 9))
    assert Path(module.load_client().__file__) == Path(client_module.__file__)
    assert module.load_client() is module.load_client()


def test_without_the_client_it_says_where_it_should_be(module, monkeypatch, tmp_path):
    monkeypatch.setattr(module.sys, "modules", {})
    (tmp_path / "QNet.py").write_text("", encoding="utf-8")
    module.CLIENT = tmp_path / "client.py"
    with pytest.raises(RuntimeError, match=r"client.py: no such file; allowed: this module in its place"):
        module.load_client()


def test_overlapping_segments_go_to_the_smaller_and_that_is_told(module):
    large, small, last = np.zeros((3, 2, 3, 4), bool)
    large[:, :2], small[0, 1, :3], last[0, 1, 1:] = True, True, True
    label_map, notes = module.join({"small": small, "large": large, "last": last}, {"large": 1, "small": 2, "last": 3})
    assert label_map.dtype == np.uint8 and label_map[0, 1].tolist() == [2, 3, 3, 3] and (label_map == 1).sum() == 12
    assert notes == ["3 voxels are in large and in small; small, the smaller, gets them",
                     "3 voxels are in large and in last; last, the smaller, gets them",
                     "2 voxels are in small and in last; last, the smaller, gets them"]


# ---- the panel, with the real server and a logic of which only the voxels are fakes ----

@pytest.fixture
def panel(module, folder):
    panel = module.QNetWidget()
    panel.setup()
    panel.folder.currentPath, panel.program.currentPath = str(folder), "no such program"
    yield panel
    panel.cleanup()
    assert panel.logic.client is None and not panel.timer.active


def press(panel, action):
    panel._do(getattr(panel, action))
    return panel.said.text


def test_the_panel_says_what_it_lacks(panel, tmp_path):
    for action in ("open_scan", "send", "run", "stop", "export"):
        assert press(panel, action) == "Open a folder first."
    panel.folder.currentPath = str(tmp_path)
    assert press(panel, "open").startswith("no such program: cannot be started (No such file or directory); allowed: the command")


def test_the_panel_opens_sends_and_runs(panel, folder):
    assert press(panel, "open").startswith("Open a scan") and panel.scans.items == ["a_1: empty", "a_2: empty"]
    assert press(panel, "send") == "No outlines are chosen."
    assert press(panel, "run").startswith("Nothing is outlined yet")
    volume, segmentation = MagicMock(), MagicMock()
    volume.GetName.return_value, segmentation.GetAttribute.return_value = "a_1", "a_1"
    panel.logic.open_scan = MagicMock(return_value=(volume, segmentation))
    panel.scans.setCurrentRow(0)
    assert press(panel, "open_scan") == "a_1 is open." and panel.segmentation.currentNode() is segmentation
    panel.logic.open_scan.assert_called_once_with("a_1")
    panel.logic.send = MagicMock(return_value=["a note"])
    assert press(panel, "send") == "a_1 is sent.\na note"
    panel.logic.send.assert_called_once_with(segmentation)
    panel.logic.client.draw("a_1", content_of(drawing()))
    panel.logic.client.set_done("a_1")
    assert press(panel, "run").startswith("The others are outlined") and panel.timer.active
    press(panel, "stop")
    while panel.timer.active:
        panel.timer.handlers["timeout()"]()
    assert panel.said.text and "a_1: outlined" in panel.scans.items
    panel.logic.client.set_done("a_1", False)       # so that the export makes no task file
    assert press(panel, "export") == f"3 files in {folder / 'label_page/export'}"


def test_a_server_that_ended_is_told_and_not_asked_again(panel):
    press(panel, "open")
    panel.timer.start()
    panel.logic.client.host = "127.0.0.1:1"
    panel.look()
    assert "the server does not answer" in panel.said.text and not panel.timer.active


# ---- on Slicer's own MRML ----

def test_slicers_own_test_passes(real):
    real.QNetTest().runTest()


@pytest.fixture
def logic(real, folder):
    logic = real.QNetLogic()
    logic.open(str(folder), "no such program")
    yield logic
    logic.close()


def turned(real, volume, mask, affine, back=False):
    """Turn a (D, H, W) mask of a file into one of Slicer's volume of it, or back, by where its voxels lie in the patient.

    Slicer turns volumes round whose axes are left-handed.
    """
    of_volume = np.vstack([real._matrix(volume), [0, 0, 0, 1]])
    to_file = np.linalg.inv(affine) @ of_volume
    index = np.argwhere(mask.T) @ (to_file if back else np.linalg.inv(to_file))[:3, :3].T
    index = index + (to_file if back else np.linalg.inv(to_file))[:3, 3]
    assert np.abs(index - np.rint(index)).max() < 0.02
    other = np.zeros_like(mask)
    other.T[tuple(np.rint(index).astype(int).T)] = True
    return other


def add_segment(real, segmentation, volume, name, mask, colour=(1, 0, 0)):
    segment = segmentation.GetSegmentation().AddEmptySegment("", name, colour)
    real.slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), segmentation, segment, volume)


def array(content):
    return np.asarray(nibabel.Nifti1Image.from_bytes(content).dataobj).T


@pytest.mark.whole
def test_outline_one_in_slicer_get_the_other(real, logic):
    truth = {name: toy_case(number)[1] for name, number in (("a_1", 1), ("a_2", 2))}
    volume, segmentation = logic.open_scan("a_1")
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0 and volume.GetName() == "a_1"
    assert real.slicer.util.arrayFromVolume(volume).shape == truth["a_1"].shape
    for value, name in NAMES.items():
        add_segment(real, segmentation, volume, name, turned(real, volume, truth["a_1"] == value, AFFINE))
    assert logic.send(segmentation) == []
    np.testing.assert_array_equal(array(logic.client.outlines("a_1")), truth["a_1"])
    assert [one["name"] for one in logic.client.classes()] == list(NAMES.values())
    assert logic.client.scan("a_1")["state"] == "outlined" and logic.client.classes()[0]["colour"] == "#ff0000"
    assert logic.client.run()["message"] == "1 of 1 scans outlined."
    logic.client.add_classes({"nowhere": "#123456"})
    volume, found = logic.open_scan("a_2")
    masks, _, _ = logic._segments(found)
    given = array(logic.client.outlines("a_2"))
    assert {*masks} == {*NAMES.values()} and found.GetSegmentation().GetNumberOfSegments() == 5
    assert [round(255 * part) for part in found.GetSegmentation().GetNthSegment(4).GetColor()] == [0x12, 0x34, 0x56]
    for value, name in NAMES.items():
        np.testing.assert_array_equal(turned(real, volume, masks[name], AFFINE, back=True), given == value)
        assert ((given == value) == (truth["a_2"] == value)).mean() > 0.9
    assert real.slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 0      # nothing is left behind


LEFT_HANDED = {f"left-handed {axes}": grid(shape=SHAPE, axes=axes) for axes in ("LPI", "RPS", "IPL")}


@pytest.mark.parametrize("place", [*(one for one in PLACES if one != "tilted"), *LEFT_HANDED])
def test_outlines_stay_where_they_were_drawn(place, real, tmp_path):
    affine = (PLACES | LEFT_HANDED)[place]      # a tilted one has no right angles, which Slicer's volumes have
    nifti(tmp_path, affine)
    session = Session(tmp_path)
    with served(session) as client:
        keep_address(session.own, int(client.host.split(":")[1]), TOKEN)
        logic = real.QNetLogic()
        logic.open(str(tmp_path), "no such program")
        volume, segmentation = logic.open_scan("scan")
        for value in np.unique(outlines())[1:]:
            add_segment(real, segmentation, volume, f"class {value}", turned(real, volume, outlines() == value, affine))
        assert logic.send(segmentation) == []
        content = array(logic.client.outlines("scan"))
        values = {one["name"]: one["value"] for one in logic.client.classes()}
        for value in np.unique(outlines())[1:]:
            np.testing.assert_array_equal(content == values[f"class {value}"], outlines() == value)
        volume, again = logic.open_scan("scan")
        for name, mask in logic._segments(again)[0].items():
            np.testing.assert_array_equal(turned(real, volume, mask, affine, back=True), outlines() == int(name.split()[1]))


def test_a_tilted_scan_is_refused(real, tmp_path):
    nifti(tmp_path, PLACES["tilted"])
    logic = real.QNetLogic()
    with served(Session(tmp_path)) as logic.client:
        with pytest.raises(RuntimeError, match="scan: Slicer cannot read it; allowed: a scan whose axes are at right angles"):
            logic.open_scan("scan")
        assert real.slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0


def test_what_cannot_be_sent_is_said_and_nothing_changes(real, logic):
    volume, segmentation = logic.open_scan("a_1")
    before = json.dumps(logic.client.state())
    with pytest.raises(RuntimeError, match="a_1 outlines: is empty"):
        logic.send(segmentation)
    mask = drawing() == 1
    for _ in range(2):
        add_segment(real, segmentation, volume, "liver", mask)
    with pytest.raises(RuntimeError, match="two segments have the name liver"):
        logic.send(segmentation)
    other = real.slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    with pytest.raises(RuntimeError, match="other: is of no scan of this folder"):
        logic.send(other)
    assert json.dumps(logic.client.state()) == before
    segmentation.GetSegmentation().RemoveSegment(segmentation.GetSegmentation().GetNthSegmentID(1))
    logic.client.draw("a_1", content_of(drawing(slices=slice(1, 2))))
    with pytest.raises(RuntimeError, match="a_1: was drawn on in another window since"):
        logic.send(segmentation)
    np.testing.assert_array_equal(array(logic.client.outlines("a_1")), drawing(slices=slice(1, 2)))
    real.slicer.mrmlScene.RemoveNode(volume)
    with pytest.raises(RuntimeError, match="its scan was removed"):
        logic.send(segmentation)
