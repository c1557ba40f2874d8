"""Libraries that only some formats need. They are an extra of the package, and are imported when they are used."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from qnet.util.base.errors import InputError

EXTRA = "pip install 'qnet-few-shot-segmentation[formats]'"


def highdicom(what: str) -> ModuleType:
    """Return the library that reads and writes DICOM segmentations.

    Args:
        what: the file or option that needs it.
    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("highdicom") is None:
        raise InputError(f"{what}: DICOM segmentations need the library highdicom, which is not installed; it comes with {EXTRA}")
    return importlib.import_module("highdicom")
