"""The widget of napari: opens the scans of a folder, sends outlines of a Labels layer, and lets the server outline the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Labels
from napari.qt.threading import create_worker
from napari.utils import DirectLabelColormap
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from qnet.util.base.root import module_command, module_environment
from qnet.util.clients.client import Client
from qnet.util.clients.napari.voxels import Grid, read, write

if TYPE_CHECKING:
    import napari

KEY = "qnet"                    # in the metadata of a layer
COMMAND = (*module_command("qnet"), "label")
POLL_MS = 500
MAX_VALUE = 255
AT_WORK = ("starting", "running", "stopping")


@dataclass
class Drawing:
    """What a Labels layer is of.

    Attributes:
        name: of the scan.
        client: of its server.
        grid: of the scan.
        drawn: how often the scan's outlines were saved when they were read or sent.
    """

    name: str
    client: Client
    grid: Grid
    drawn: int


class QNetWidget(QWidget):
    """Opens a folder of scans, and does by requests to its server what the labelling page does.

    Args:
        napari_viewer: where scans are shown.
        command: starts the server of a folder.
    Attributes:
        client: of the folder that is open.
    """

    def __init__(self, napari_viewer: napari.Viewer, command: Sequence[str] = COMMAND):
        super().__init__()
        self.viewer, self.command = napari_viewer, tuple(command)
        self.client: Client | None = None
        self.state: dict[str, Any] = {}
        self.said = QLabel("Open a folder of scans.")
        self.said.setWordWrap(True)
        self.scans, self.classes, self.new_class = QListWidget(), QComboBox(), QLineEdit()
        self.new_class.setPlaceholderText("name of a new class")
        self.careful, self.bar = QCheckBox("careful: better, and takes several times as long"), QProgressBar()
        self.bar.hide()
        self.timer = QTimer(self)
        self.timer.setInterval(POLL_MS)
        self.timer.timeout.connect(self.look)
        self._arrange()
        self.scans.itemDoubleClicked.connect(self.open_scan)
        self.classes.activated.connect(self.use_class)
        self.viewer.layers.selection.events.active.connect(self.use_class)
        QApplication.instance().aboutToQuit.connect(self.end)

    def _arrange(self) -> None:
        rows = ([self._button("Open a folder", self.choose_folder)], [self.scans],
                [self._button("Open the scan", self.open_scan), self._button("Send as an example", self.send)],
                [QLabel("Class"), self.classes], [self.new_class, self._button("Add the class", self.add_class)],
                [self._button("Outline the others", self.run), self._button("Stop", self.stop)], [self.careful], [self.bar],
                [self._button("Export", self.export)], [self.said])
        layout = QVBoxLayout(self)
        for row in rows:
            line = QHBoxLayout()
            for one in row:
                line.addWidget(one)
            layout.addLayout(line)

    def _button(self, text: str, action: Callable[[], Any]) -> QPushButton:
        button = QPushButton(text)
        button.clicked.connect(lambda: action())
        return button

    def _ask(self, then: Callable[[Any], None], function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function in a thread, and take its answer in this one. Meanwhile no button can be pressed."""
        worker = create_worker(function, *arguments, _ignore_errors=True)
        worker.returned.connect(then)
        worker.errored.connect(lambda error: self.say(str(error)))
        worker.finished.connect(lambda: self.setEnabled(True))
        self.setEnabled(False)
        worker.start()

    def say(self, text: str) -> None:
        """Show a line at the bottom."""
        self.said.setText(text)

    # ---- folder and scans ----

    def choose_folder(self) -> None:
        """Let the person choose a folder of scans."""
        if folder := QFileDialog.getExistingDirectory(self, "A folder of scans"):
            self.open_folder(folder)

    def open_folder(self, folder: str) -> None:
        """Find the server of a folder, or start one."""
        self.end()
        self.say(f"Opening {folder} …")
        self._ask(self._take_client, Client.open, folder, self.command, module_environment())

    def _take_client(self, client: Client) -> None:
        self.client = client
        self.say("Double-click a scan, draw your classes in its Labels layer, and send it as an example.")
        self.look()

    def end(self) -> None:
        """Leave the folder. Its server ends if this widget started it; nothing that was sent is lost."""
        self.timer.stop()
        if self.client is not None:
            self.client.close()
            self.client = None

    def look(self) -> None:
        """Ask for the state, and show it."""
        if self.client is not None:
            try:
                self._show(self.client.state())
            except RuntimeError as error:
                self.timer.stop()
                self.say(str(error))

    def _show(self, state: dict[str, Any]) -> None:
        run, was_at_work = state["run"], self.timer.isActive()
        if state["scans"] != self.state.get("scans"):
            chosen = self.chosen()
            self.scans.clear()
            self.scans.addItems([_line(scan) for scan in state["scans"]])
            names = [scan["name"] for scan in state["scans"]]
            self.scans.setCurrentRow(names.index(chosen) if chosen in names else 0)
        if state["classes"] != self.state.get("classes"):
            self._show_classes(state["classes"])
        self.state = state
        if run["state"] in AT_WORK:
            self.timer.start()
            self.bar.setRange(0, run["total"])
            self.bar.setValue(run["done"])
        elif was_at_work:
            self.timer.stop()
            self.say(" ".join([run["message"] or "", *run["failures"]]))
        self.bar.setVisible(run["state"] in AT_WORK)

    def chosen(self) -> str | None:
        """Return the name of the scan that is chosen in the list; None if none is."""
        row = self.scans.currentRow()
        return self.state["scans"][row]["name"] if 0 <= row < len(self.state.get("scans", ())) else None

    def open_scan(self, *_: Any) -> None:
        """Open the chosen scan: its image, and its present outlines as a Labels layer."""
        if self.client is None or (name := self.chosen()) is None:
            self.say("No scan is chosen.")
        else:
            self._ask(self._add_layers, _load, self.client, name)

    def _add_layers(self, loaded: tuple[Drawing, np.ndarray, np.ndarray]) -> None:
        drawing, image, labels = loaded
        scale = drawing.grid.scale
        self.viewer.add_image(image, name=drawing.name, scale=scale)
        self.viewer.add_labels(labels, name=f"{drawing.name} outlines", scale=scale, metadata={KEY: drawing},
                               colormap=_colours(self.state["classes"]))
        across = int(np.argmax(scale))      # slices are the thickest way
        self.viewer.dims.order = (across, *(axis for axis in range(3) if axis != across))
        self.say(f"{drawing.name} is open.")

    # ---- classes ----

    def _show_classes(self, classes: list[dict[str, Any]]) -> None:
        chosen = self.classes.currentData()
        self.classes.clear()
        for one in classes:
            self.classes.addItem(f"{one['value']} {one['name']}", one["value"])
        self.classes.setCurrentIndex(max(0, self.classes.findData(chosen)))
        for layer in self.viewer.layers:
            if KEY in layer.metadata:
                layer.colormap = _colours(classes)
        self.use_class()

    def use_class(self, *_: Any) -> None:
        """Let the layer that is chosen draw the class that is chosen."""
        layer = self.viewer.layers.selection.active
        if layer is not None and KEY in layer.metadata and self.classes.currentData() is not None:
            layer.selected_label = self.classes.currentData()

    def add_class(self) -> None:
        """Add the class whose name is typed."""
        name = self.new_class.text().strip()
        if self.client is None or not name:
            self.say("Open a folder, and type the name of the class.")
        else:
            of_next = (self.state["next_class"] if self.state["named"] else None) or self.state["classes"][0]
            self._ask(self._take_class, self.client.add_classes, {name: of_next["colour"]})

    def _take_class(self, values: dict[str, int]) -> None:
        self.new_class.clear()
        self.look()
        self.classes.setCurrentIndex(self.classes.findData(*values.values()))
        self.use_class()

    # ---- outlines and runs ----

    def send(self) -> None:
        """Send the Labels layer that is chosen as the outlines of its scan, which is an example then."""
        layer = self.viewer.layers.selection.active
        if not isinstance(layer, Labels) or KEY not in layer.metadata:
            self.say("Choose the Labels layer of a scan of this list.")
        elif layer.metadata[KEY].client is not self.client:
            self.say(f"{layer.name}: its folder is not open; open the folder and the scan again.")
        else:
            self._ask(self._sent, _send, layer.metadata[KEY], np.asarray(layer.data))

    def _sent(self, drawing: Drawing) -> None:
        self.say(f"{drawing.name} is sent.")
        self.look()

    def run(self) -> None:
        """Let the server outline the scans without outlines."""
        if self.client is None:
            self.say("Open a folder first.")
        else:
            self._ask(lambda _: self._begun(), self.client.begin, self.careful.isChecked())

    def _begun(self) -> None:
        self.say("The others are outlined. You may go on meanwhile.")
        self.timer.start()
        self.look()

    def stop(self) -> None:
        """Stop outlining. What was found stays."""
        if self.client is not None:
            self._ask(lambda _: self.look(), self.client.stop)

    def export(self) -> None:
        """Write the outlines of all scans as files."""
        if self.client is None:
            self.say("Open a folder first.")
        else:
            self._ask(self._exported, self.client.export)

    def _exported(self, written: dict[str, Any]) -> None:
        self.say("\n".join([f"{len(written['files'])} files in {written['folder']}", *written["problems"]]))


def _load(client: Client, name: str) -> tuple[Drawing, np.ndarray, np.ndarray]:
    """Return what a scan's layers are of, its image, and its outlines, (z, y, x)."""
    drawn = client.scan(name)["drawn"]      # before the outlines: what is drawn in between is noticed
    image, grid = read(client.image(name))
    content = client.outlines(name)
    if content is None:
        return Drawing(name, client, grid, drawn), image, np.zeros(image.shape, np.uint8)
    labels, of_labels = read(content)
    if of_labels.shape != grid.shape or not np.allclose(of_labels.affine, grid.affine, atol=1e-3):
        raise RuntimeError(f"{name}: its outlines are on other voxels than its image; allowed: to open it on the labelling page")
    return Drawing(name, client, grid, drawn), image, labels.astype(np.uint8)


def _send(drawing: Drawing, labels: np.ndarray) -> Drawing:
    """Send (z, y, x) outlines of a scan, and make it an example."""
    if not 0 <= labels.min() <= labels.max() <= MAX_VALUE:
        raise RuntimeError(f"{drawing.name}: holds the values {labels.min()} to {labels.max()}, allowed: 0 to {MAX_VALUE}")
    drawing.drawn = drawing.client.draw(drawing.name, write(labels, drawing.grid), drawing.drawn)
    drawing.client.set_done(drawing.name)
    return drawing


def _line(scan: dict[str, Any]) -> str:
    """Return the line of a scan in the list."""
    confidence = f" {scan['confidence']:.2f}" if scan["state"] == "found" and scan["confidence"] is not None else ""
    return f"{scan['name']}: {scan['problem'] or scan['state']}{confidence}"


def _colours(classes: list[dict[str, Any]]) -> DirectLabelColormap:
    return DirectLabelColormap(color_dict={None: "white", 0: "transparent", **{one["value"]: one["colour"] for one in classes}})
