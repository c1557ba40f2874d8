"""A module of 3D Slicer: outline a scan in the Segment Editor, send it as an example, and get the other scans of the folder.

Slicer loads it by Edit → Application Settings → Modules → Additional module paths, with the folder of this file. It sends the
requests of the labelling page by ../../client.py, and needs nothing in Slicer's own Python. docs/api.md explains it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import ctk
import numpy as np
import qt
import slicer
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

CLIENT = Path(__file__).resolve().parents[2] / "client.py"
SCAN, FOLDER, DRAWN = "QNet.scan", "QNet.folder", "QNet.drawn"      # attributes of a segmentation
LABELMAP = 1            # of vtkSlicerVolumesLogic.AddArchetypeVolume
POLL_MS = 500


def load_client() -> Any:
    """Return the module client.py of the same installation of qnet.

    Raises:
        RuntimeError: it is not there.
    """
    if "qnet_client" not in sys.modules:
        spec = spec_from_file_location("qnet_client", CLIENT)
        if spec is None or spec.loader is None or not CLIENT.is_file():
            raise RuntimeError(f"{CLIENT}: no such file; allowed: this module in its place in an installation of qnet")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules["qnet_client"] = module
    return sys.modules["qnet_client"]


class QNet(ScriptedLoadableModule):
    """What Slicer shows of the module."""

    def __init__(self, parent: Any):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "QNet: outline one scan, get the rest"
        parent.categories = ["Segmentation"]
        parent.contributors = ["The authors of qnet-few-shot-segmentation"]
        parent.helpText = ("Open a folder of scans, outline your organs in one of them in the Segment Editor, send it, and let "
                           "the computer outline the others. This is no medical device.")


class QNetLogic(ScriptedLoadableModuleLogic):
    """Turns scans into volumes, and segmentations into outlines. Its `client` sends the requests."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.client: Any = None

    def open(self, folder: str, program: str) -> None:
        """Find the server of a folder, or start it.

        Args:
            program: the command qnet of an installation.
        Raises:
            RuntimeError: there is no server, and none could be started.
        """
        self.close()
        # not Slicer's own libraries, which another Python would load
        self.client = load_client().Client.open(folder, [program, "label"], slicer.util.startupEnvironment())

    def close(self) -> None:
        """Leave the folder. Its server ends if this module started it; nothing that was sent is lost."""
        if self.client is not None:
            self.client.close()
            self.client = None

    def open_scan(self, name: str) -> tuple[Any, Any]:
        """Return nodes of a scan: its volume, and its present outlines as a segmentation with a segment for each class.

        Raises:
            RuntimeError: it cannot be read.
        """
        state, drawn = self.client.state(), self.client.scan(name)["drawn"]     # before the outlines are read
        volume = _volume(self.client.image(name), name)
        content = self.client.outlines(name)
        labels = None if content is None else _volume(content, f"{name} label map", LABELMAP)
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{name} outlines")
        segmentation.CreateDefaultDisplayNodes()
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        for key, text in ((SCAN, name), (FOLDER, state["folder"]), (DRAWN, str(drawn))):
            segmentation.SetAttribute(key, text)
        classes = state["classes"] if state["named"] or content is not None else []
        for one in classes:
            segment = segmentation.GetSegmentation().AddEmptySegment("", one["name"], _rgb(one["colour"]))
            if labels is not None:
                mask = (slicer.util.arrayFromVolume(labels) == one["value"]).astype(np.uint8)
                if mask.any():
                    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, segment, labels)
        if labels is not None:
            slicer.mrmlScene.RemoveNode(labels)
        return volume, segmentation

    def send(self, segmentation: Any) -> list[str]:
        """Send a segmentation of `open_scan` as the outlines of its scan, which is an example then.

        Returns:
            A line for each pair of segments that overlap.
        Raises:
            RuntimeError: it is none of this folder, or is refused.
        """
        name = segmentation.GetAttribute(SCAN)
        if name is None or segmentation.GetAttribute(FOLDER) != self.client.state()["folder"]:
            raise RuntimeError(f"{segmentation.GetName()}: is of no scan of this folder; allowed: outlines of a scan that was "
                               "opened here")
        masks, colours, volume = self._segments(segmentation)
        label_map, notes = join(masks, self.client.add_classes(colours))
        drawn = self.client.draw(name, _content(label_map, volume), int(segmentation.GetAttribute(DRAWN)))
        segmentation.SetAttribute(DRAWN, str(drawn))
        self.client.set_done(name)
        return notes

    def _segments(self, segmentation: Any) -> tuple[dict[str, np.ndarray], dict[str, str], Any]:
        """Return masks (K, J, I) and colours of segments that are not empty, by name, and the volume on whose voxels they are."""
        role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        volume, segments = segmentation.GetNodeReference(role), segmentation.GetSegmentation()
        if volume is None:
            raise RuntimeError(f"{segmentation.GetName()}: its scan was removed; allowed: to open the scan again")
        masks, colours = {}, {}
        for number in range(segments.GetNumberOfSegments()):
            segment = segments.GetNthSegment(number)
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segments.GetNthSegmentID(number), volume) > 0
            name = segment.GetName().strip()
            if name in masks:
                raise RuntimeError(f"{segmentation.GetName()}: two segments have the name {name}; allowed: a name for each")
            if mask.any():
                masks[name], colours[name] = mask, _hex(segment.GetColor())
        if not masks:
            raise RuntimeError(f"{segmentation.GetName()}: is empty; allowed: a segment with voxels")
        return masks, colours, volume


def join(masks: dict[str, np.ndarray], values: dict[str, int]) -> tuple[np.ndarray, list[str]]:
    """Return one label map, uint8, of masks that may overlap, and a line for each pair that does.

    A voxel of several goes to the one that has the fewest voxels; of two that have equally many, to the later one.
    """
    order = sorted(masks, key=lambda name: -int(masks[name].sum()))     # stable: the later one of two is painted later
    label_map, notes = np.zeros(next(iter(masks.values())).shape, np.uint8), []
    for number, name in enumerate(order):
        for other in order[:number]:
            both = int((masks[name] & masks[other]).sum())
            if both:
                notes.append(f"{both} voxels are in {other} and in {name}; {name}, the smaller, gets them")
        label_map[masks[name]] = values[name]
    return label_map, notes


def _volume(content: bytes, name: str, options: int = 0) -> Any:
    """Return a volume node with the content of a NIfTI file."""
    folder = tempfile.mkdtemp()
    try:
        path = Path(folder) / "volume.nii"
        path.write_bytes(content)
        node = slicer.modules.volumes.logic().AddArchetypeVolume(str(path), name, options)
        if node is None:
            raise RuntimeError(f"{name}: Slicer cannot read it; allowed: a scan whose axes are at right angles")
        slicer.mrmlScene.RemoveNode(node.GetStorageNode())      # its file goes; the scene is saved with files of its own
        return node
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _content(label_map: np.ndarray, volume: Any) -> bytes:
    """Return a (K, J, I) label map on the voxels of a volume as the content of a NIfTI file."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    folder = tempfile.mkdtemp()
    try:
        path = Path(folder) / "labels.nii"
        node.CopyOrientation(volume)
        slicer.util.updateVolumeFromArray(node, label_map)
        storage.SetFileName(str(path))
        if not storage.WriteData(node):
            raise RuntimeError(f"{volume.GetName()}: Slicer cannot write its label map")
        return path.read_bytes()
    finally:
        slicer.mrmlScene.RemoveNode(storage)
        slicer.mrmlScene.RemoveNode(node)
        shutil.rmtree(folder, ignore_errors=True)


def _rgb(colour: str) -> list[float]:
    return [int(colour[k:k + 2], 16) / 255 for k in (1, 3, 5)]


def _hex(rgb: Any) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


class QNetWidget(ScriptedLoadableModuleWidget):
    """The panel of the module."""

    def setup(self) -> None:
        """Build it."""
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = QNetLogic()
        self.state: dict[str, Any] = {"scans": []}
        self.folder, self.program = ctk.ctkPathLineEdit(), ctk.ctkPathLineEdit()
        self.folder.filters, self.program.filters = ctk.ctkPathLineEdit.Dirs, ctk.ctkPathLineEdit.Files
        self.folder.settingKey, self.program.settingKey = "QNet/Folder", "QNet/Program"
        if not self.program.currentPath:
            self.program.currentPath = shutil.which("qnet") or ""
        self.scans, self.careful = qt.QListWidget(), qt.QCheckBox("careful: better, and takes several times as long")
        self.segmentation = slicer.qMRMLNodeComboBox()
        self.segmentation.nodeTypes = ["vtkMRMLSegmentationNode"]
        self.segmentation.addEnabled = self.segmentation.removeEnabled = False
        self.segmentation.setMRMLScene(slicer.mrmlScene)
        self.bar, self.said = qt.QProgressBar(), qt.QLabel("Choose a folder of scans, and the command qnet of an installation.")
        self.said.wordWrap = True
        self.bar.hide()
        self.timer = qt.QTimer()
        self.timer.setInterval(POLL_MS)
        self.timer.connect("timeout()", self.look)
        form = qt.QFormLayout()
        self.layout.addLayout(form)
        for label, one in (("Scans:", self.folder), ("qnet:", self.program), ("", self._button("Open the folder", self.open)),
                           ("", self.scans), ("", self._button("Open the scan", self.open_scan)),
                           ("Outlines:", self.segmentation),
                           ("", self._button("Send as an example", self.send)),
                           ("", self._button("Outline the others", self.run)), ("", self.careful), ("", self.bar),
                           ("", self._button("Stop", self.stop)), ("", self._button("Export", self.export)), ("", self.said)):
            form.addRow(label, one)
        self.layout.addStretch(1)

    def _button(self, text: str, action: Any) -> Any:
        button = qt.QPushButton(text)
        button.connect("clicked(bool)", lambda _checked=False: self._do(action))
        return button

    def _do(self, action: Any) -> None:
        """Do what the person asks for; say why if it is refused."""
        slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
        try:
            if self.logic.client is None and action != self.open:
                raise RuntimeError("Open a folder first.")
            action()
        except RuntimeError as error:
            self.said.text = str(error)
        finally:
            slicer.app.restoreOverrideCursor()

    def cleanup(self) -> None:
        """End with Slicer, and before the module is loaded again."""
        self.timer.stop()
        self.logic.close()

    def open(self) -> None:
        """Open the chosen folder."""
        self.folder.addCurrentPathToHistory()
        self.program.addCurrentPathToHistory()
        self.logic.open(self.folder.currentPath, self.program.currentPath)
        self.said.text = "Open a scan, draw its segments in the Segment Editor, and send it as an example."
        self._show(self.logic.client.state())

    def open_scan(self) -> None:
        """Open the chosen scan."""
        row = self.scans.currentRow
        if not 0 <= row < len(self.state["scans"]):
            raise RuntimeError("No scan is chosen.")
        volume, segmentation = self.logic.open_scan(self.state["scans"][row]["name"])
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        self.segmentation.setCurrentNode(segmentation)
        self.said.text = f"{volume.GetName()} is open."

    def send(self) -> None:
        """Send the chosen segmentation."""
        segmentation = self.segmentation.currentNode()
        if segmentation is None:
            raise RuntimeError("No outlines are chosen.")
        notes = self.logic.send(segmentation)
        self.said.text = "\n".join([f"{segmentation.GetAttribute(SCAN)} is sent.", *notes])
        self._show(self.logic.client.state())

    def run(self) -> None:
        """Outline the scans without outlines."""
        self.logic.client.begin(self.careful.checked)
        self.said.text = "The others are outlined. You may go on meanwhile."
        self.timer.start()

    def stop(self) -> None:
        """Stop outlining. What was found stays."""
        self.logic.client.stop()

    def export(self) -> None:
        """Write the outlines of all scans as files, and as segmentations of Slicer."""
        written = self.logic.client.export(["seg.nrrd"])
        self.said.text = "\n".join([f"{len(written['files'])} files in {written['folder']}", *written["problems"]])

    def look(self) -> None:
        """Show how far the run is."""
        try:
            self._show(self.logic.client.state())
        except RuntimeError as error:
            self.timer.stop()
            self.said.text = str(error)

    def _show(self, state: dict[str, Any]) -> None:
        row, run = self.scans.currentRow, state["run"]
        chosen = self.state["scans"][row]["name"] if 0 <= row < len(self.state["scans"]) else None
        if state["scans"] != self.state["scans"]:
            self.scans.clear()
            for scan in state["scans"]:
                self.scans.addItem(_line(scan))
            names = [scan["name"] for scan in state["scans"]]
            self.scans.setCurrentRow(names.index(chosen) if chosen in names else 0)
        self.state = state
        self.bar.setRange(0, run["total"])
        self.bar.setValue(run["done"])
        self.bar.setVisible(run["state"] != "idle")
        if run["state"] == "idle" and self.timer.active:
            self.timer.stop()
            self.said.text = " ".join([run["message"] or "", *run["failures"]])


def _line(scan: dict[str, Any]) -> str:
    """Return the line of a scan in the list."""
    confidence = f" {scan['confidence']:.2f}" if scan["state"] == "found" and scan["confidence"] is not None else ""
    return f"{scan['name']}: {scan['problem'] or scan['state']}{confidence}"


class QNetTest(ScriptedLoadableModuleTest):
    """Tests of Slicer's *Reload and Test*, which need no server."""

    def runTest(self) -> None:      # noqa: N802  Slicer calls it so
        """Run them."""
        slicer.mrmlScene.Clear(0)
        self.test_segments_become_the_same_voxels()

    def test_segments_become_the_same_voxels(self) -> None:
        """Two segments that overlap, in a volume that is turned."""
        load_client()
        volume = slicer.util.addVolumeFromArray(np.zeros((4, 6, 5), np.int16), name="scan")
        volume.SetIJKToRASDirections(0, -1, 0, 0, 0, 1, -1, 0, 0)
        volume.SetSpacing(0.5, 0.7, 3.0)
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "outlines")
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        large, small = np.zeros((2, 4, 6, 5), np.uint8)
        large[1:3, 1:5, 1:4] = small[2:, 2:4, 3:] = 1
        for name, colour, mask in (("large", "#e69f00", large), ("small", "#56b4e9", small)):
            segment = segmentation.GetSegmentation().AddEmptySegment("", name, _rgb(colour))
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, segment, volume)
        masks, colours, reference = QNetLogic()._segments(segmentation)
        label_map, notes = join(masks, {"large": 1, "small": 2})
        assert colours == {"large": "#e69f00", "small": "#56b4e9"} and reference.GetID() == volume.GetID()
        assert (label_map == np.where(small, 2, large)).all() and len(notes) == 1
        again = _volume(_content(label_map, volume), "again", LABELMAP)
        assert (slicer.util.arrayFromVolume(again) == label_map).all()
        assert np.allclose(_matrix(again), _matrix(volume), atol=1e-4)


def _matrix(volume: Any) -> np.ndarray:
    """Return the matrix of a volume from its voxels to the patient."""
    directions = np.zeros((3, 3))
    volume.GetIJKToRASDirections(directions)
    return np.column_stack([directions * volume.GetSpacing(), volume.GetOrigin()])
