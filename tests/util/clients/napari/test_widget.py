"""The plugin in the real napari, without a screen, against the real server."""

import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from qnet.util.base.root import ROOT
from qnet.util.label.serve import keep_address
from qnet.util.label.session import Session
from tests.labelling import FAST, TOKEN, drawing, nifti, served, write_scans
from tests.toy import toy_case

HAS_SCREEN = "DISPLAY" in os.environ     # as by xvfb-run: then napari draws, by OpenGL, which Qt has not without a screen
if not HAS_SCREEN:
    os.environ["QT_QPA_PLATFORM"] = "offscreen"
napari = pytest.importorskip("napari", reason="napari is not installed; pip install '.[napari]' pyqt6")
MANIFEST = ROOT / "util/clients/napari/napari.yaml"
LIMIT_S = 60


@pytest.fixture(scope="module")
def viewer():
    """Napari's window, or, without a screen, what is behind it: layers, dimensions, and what is chosen."""
    from napari.components import ViewerModel
    from napari.qt import get_qapp
    get_qapp()
    viewer = napari.Viewer(show=False) if HAS_SCREEN else ViewerModel()
    yield viewer
    if HAS_SCREEN:
        viewer.close()


@pytest.fixture
def widget(viewer, tmp_path):
    """In a viewer, with a folder of two scans that a server is at work on."""
    from qnet.util.clients.napari.widget import QNetWidget
    session = Session(write_scans(tmp_path / "scans", [1, 2]))
    with served(session, FAST) as client:
        keep_address(session.own, int(client.host.split(":")[1]), TOKEN)
        widget = QNetWidget(viewer, ["no such program"])
        widget.open_folder(str(session.folder))
        settle(widget)
        assert widget.client is not None, widget.said.text()
        yield widget
        widget.end()
        viewer.layers.clear()


def settle(widget, condition=lambda: True):
    """Wait until the widget has its answer, and a condition holds."""
    from qtpy.QtWidgets import QApplication
    deadline = time.monotonic() + LIMIT_S
    while not (widget.isEnabled() and condition()):
        assert time.monotonic() < deadline, widget.said.text()
        QApplication.instance().processEvents()
        time.sleep(0.01)


def lines(widget):
    return [widget.scans.item(row).text() for row in range(widget.scans.count())]


def open_scan(widget, name):
    """Open a scan, and return its Labels layer."""
    widget.scans.setCurrentRow([one["name"] for one in widget.state["scans"]].index(name))
    widget.open_scan()
    settle(widget)
    return widget.viewer.layers[-1]


def test_the_manifest_is_valid_and_names_what_is_there():
    from npe2 import PluginManifest
    done = subprocess.run([str(Path(sys.executable).with_name("npe2")), "validate", str(MANIFEST)], capture_output=True,
                          encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = PluginManifest.from_file(MANIFEST)
    manifest.validate_imports()
    assert [one.command for one in manifest.contributions.widgets] == [one.id for one in manifest.contributions.commands]


@pytest.mark.whole
def test_outline_one_get_the_others_and_export(widget):
    truth = {name: toy_case(number)[1] for name, number in (("a_1", 1), ("a_2", 2))}
    for name in ("one", "two", "three", "four"):
        widget.new_class.setText(name)
        widget.add_class()
        settle(widget)
    assert [widget.classes.itemText(k) for k in range(4)] == ["1 one", "2 two", "3 three", "4 four"]
    layer = open_scan(widget, "a_1")
    image = widget.viewer.layers[-2]
    assert image.data.shape == layer.data.shape == truth["a_1"].shape and not layer.data.any()
    assert np.allclose(layer.scale, image.scale) and layer.scale[0] > layer.scale[1]
    assert widget.viewer.dims.order == (0, 1, 2)        # the thick slices are turned over
    widget.classes.setCurrentIndex(2)
    widget.use_class()
    assert layer.selected_label == 3
    assert np.allclose(layer.get_color(3)[:3], [int(widget.state["classes"][2]["colour"][k:k + 2], 16) / 255 for k in (1, 3, 5)])
    grid = layer.metadata["qnet"].grid
    layer.data = grid.shown(truth["a_1"].T)
    widget.send()
    settle(widget)
    assert widget.said.text() == "a_1 is sent." and "a_1: outlined" in lines(widget)
    sent = nibabel.Nifti1Image.from_bytes(widget.client.outlines("a_1"))
    np.testing.assert_array_equal(np.asarray(sent.dataobj).T, truth["a_1"])
    widget.run()
    settle(widget, lambda: widget.said.text() == "1 of 1 scans outlined." and not widget.timer.isActive())
    assert [line for line in lines(widget) if line.startswith("a_2: found 0.")] and not widget.bar.isVisible()
    found = open_scan(widget, "a_2")
    assert (truth["a_2"] == grid.of_file(found.data).T).mean() > 0.9 and found.data.any()
    widget.export()
    settle(widget)
    assert "5 files in" not in widget.said.text() and "files in" in widget.said.text()
    assert (Path(widget.state["session"]) / "export/a_2.nii.gz").is_file()


def test_what_was_drawn_elsewhere_since_is_not_replaced(widget):
    layer = open_scan(widget, "a_1")
    widget.client.draw("a_1", nifti(drawing()))
    layer.data = np.ones_like(layer.data)
    widget.send()
    settle(widget)
    assert widget.said.text() == "a_1: was drawn on in another window since; open the scan again"
    np.testing.assert_array_equal(np.asarray(nibabel.Nifti1Image.from_bytes(widget.client.outlines("a_1")).dataobj).T, drawing())
    assert layer in widget.viewer.layers and layer.data.all()       # nor is what was drawn here


def test_it_says_what_it_lacks(widget):
    layer = open_scan(widget, "a_1")
    widget.run()
    settle(widget)
    assert widget.said.text().startswith("Nothing is outlined yet")
    layer.data = np.full(layer.data.shape, 7)
    widget.send()
    settle(widget)
    assert "hold the value 7, allowed: 0, 1" in widget.said.text()
    layer.data = np.full(layer.data.shape, 300)
    widget.send()
    settle(widget)
    assert "allowed: 0 to 255" in widget.said.text()
    widget.viewer.layers.selection.active = widget.viewer.layers[0]
    widget.send()
    assert widget.said.text() == "Choose the Labels layer of a scan of this list."
    folder = widget.state["folder"]
    widget.end()
    widget.run()
    assert widget.said.text() == "Open a folder first."
    widget.open_folder(folder)
    settle(widget)
    widget.viewer.layers.selection.active = layer
    widget.send()
    assert widget.said.text().endswith("its folder is not open; open the folder and the scan again.")


def test_a_folder_without_a_server_says_why(widget, tmp_path):
    (tmp_path / "other").mkdir()
    widget.open_folder(str(tmp_path / "other"))
    settle(widget)
    assert widget.said.text().startswith("no such program: cannot be started")
