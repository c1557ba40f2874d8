"""Slicer's modules for tests: its real MRML where slicer-core is installed, and fakes of its window, which no package has."""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from qnet.util.base.root import ROOT

FILE = ROOT / "util/clients/slicer/QNet/QNet.py"


class Base:
    """Each of Slicer's base classes of scripted modules."""

    def __init__(self, parent=None):
        self.parent, self.layout = parent, MagicMock()

    def setup(self):
        pass


class Signals:
    """A widget of Qt by PythonQt: attributes that can be set, and signals that are connected by their names."""

    def __init__(self, text=""):
        self.text, self.handlers, self.checked = text, {}, False

    def connect(self, signal, handler):
        self.handlers[signal] = handler

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, MagicMock())
        return getattr(self, name)


class Path(Signals):
    """ctkPathLineEdit."""

    Dirs, Files = "dirs", "files"

    def __init__(self):
        super().__init__()
        self.currentPath = ""


class Items(Signals):
    """QListWidget."""

    def __init__(self):
        super().__init__()
        self.items, self.currentRow = [], -1

    def clear(self):
        self.items, self.currentRow = [], -1

    def addItem(self, text):        # noqa: N802
        self.items.append(text)

    def setCurrentRow(self, row):       # noqa: N802
        self.currentRow = row


class Nodes(Signals):
    """qMRMLNodeComboBox."""

    node = None

    def currentNode(self):      # noqa: N802
        return self.node

    def setCurrentNode(self, node):     # noqa: N802
        self.node = node


class Timer(Signals):
    """QTimer."""

    active = False

    def start(self):
        self.active = True

    def stop(self):
        self.active = False


def fakes_of_the_window() -> dict[str, Any]:
    """Return fakes of qt, ctk and slicer.ScriptedLoadableModule by name."""
    qt: Any = ModuleType("qt")
    ctk: Any = ModuleType("ctk")
    scripted = ModuleType("slicer.ScriptedLoadableModule")
    for name in ("QCheckBox", "QProgressBar", "QLabel", "QPushButton", "QFormLayout"):
        setattr(qt, name, type(name, (Signals,), {}))
    qt.QListWidget, qt.QTimer, qt.Qt, ctk.ctkPathLineEdit = Items, Timer, MagicMock(), Path
    for name in ("", "Logic", "Widget", "Test"):
        setattr(scripted, f"ScriptedLoadableModule{name}", type(f"Base{name}", (Base,), {}))
    return {"qt": qt, "ctk": ctk, "slicer.ScriptedLoadableModule": scripted}


def real_slicer() -> Any:
    """Return the module slicer of slicer-core with a scene, and with the logics that Slicer's own modules have."""
    import slicer
    import vtk

    slicer.vtk, slicer.mrmlScene = vtk, slicer.vtkMRMLScene()
    made = {"colors": slicer.vtkSlicerColorLogic(), "segmentations": slicer.vtkSlicerSegmentationsModuleLogic(),
            "volumes": slicer.vtkSlicerVolumesLogic()}
    for logic in made.values():
        logic.SetMRMLScene(slicer.mrmlScene)
    slicer.modules = SimpleNamespace(**{name: SimpleNamespace(logic=lambda logic=logic: logic) for name, logic in made.items()})
    return slicer


def fake_slicer() -> Any:
    """Return a module slicer that has nothing but what the panel asks for."""
    slicer: Any = ModuleType("slicer")
    slicer.mrmlScene = slicer.modules = None
    slicer.util = MagicMock()
    return slicer


def load_module(slicer: Any, monkeypatch) -> Any:
    """Return the module QNet as Slicer loads it."""
    slicer.app, slicer.qMRMLNodeComboBox = MagicMock(), Nodes
    monkeypatch.setattr(slicer.util, "startupEnvironment", lambda: dict(os.environ))
    monkeypatch.setattr(slicer.util, "setSliceViewerLayers", MagicMock())
    for name, module in {"slicer": slicer, **fakes_of_the_window()}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "qnet_client", raising=False)
    spec = spec_from_file_location("QNet", FILE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
