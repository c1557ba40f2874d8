"""Segmentations of 3D Slicer, `.seg.nrrd`: label maps in layers, and for each segment its layer, value, name and colour.

The form is described at https://slicer.readthedocs.io/en/latest/user_guide/modules/segmentations.html.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from qnet.dataloaders.itk import quiet, with_geometry
from qnet.dataloaders.outlines.segments import Outlines, Segment, flat_voxels, joined
from qnet.dataloaders.reading import HEADER_BYTES, nrrd_layers
from qnet.util.base.errors import InputError
from qnet.util.base.files import replacing
from qnet.util.base.inputs import expect_file

ENDING = ".seg.nrrd"
KEY = re.compile(r"Segment(\d+)_(Name|Color|Layer|LabelValue):=(.*)")
FIELD_END = re.compile(rb"\r?\n\r?\n")


def _head(path: Path) -> tuple[bytes, int]:
    """Return the header of an NRRD file, and where its values begin.

    Raises:
        InputError: it has no end.
    """
    with expect_file(path).open("rb") as file:
        head = file.read(HEADER_BYTES)
    if not head.startswith(b"NRRD"):
        raise InputError(f"{path}: cannot be read as NRRD (it does not begin as one)")
    end = FIELD_END.search(head)
    if end is None:
        raise InputError(f"{path}: cannot be read as NRRD (its header has no end within {HEADER_BYTES} bytes)")
    return head[:end.start()], end.end()


def is_segmentation(path: Path) -> bool:
    """Return whether an NRRD file names segments."""
    if not path.name.lower().endswith(".nrrd") or not path.is_file():
        return False
    with path.open("rb") as file:
        return re.search(rb"^Segment\d+_\w+:=", file.read(HEADER_BYTES), re.MULTILINE) is not None


def read_seg_nrrd(path: Path, image: sitk.Image, image_name: Path | str) -> Outlines:
    """Return the segments on the grid of a scan.

    Raises:
        InputError: the file is damaged, lies elsewhere than the scan, or names other layers or values than it may.
    """
    head, start = _head(path)
    facts: dict[int, dict[str, str]] = {}
    for line in head.decode("utf-8", "replace").splitlines():
        if found := KEY.fullmatch(line.rstrip()):
            facts.setdefault(int(found[1]), {})[found[2]] = found[3].strip()
    with tempfile.TemporaryDirectory() as folder:       # ITK's reader crashes on long lines, as Slicer's settings are
        copy = Path(folder) / "labels.nrrd"
        _copy_without_keys(path, head, start, copy)
        try:
            layers, to_patient = nrrd_layers(copy)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), str(path))) from None
    segments = []
    for number, known in sorted(facts.items()):
        layer = _whole(known.get("Layer", str(min(number, layers.shape[3] - 1))), 0, layers.shape[3] - 1, path, "layer")
        value = _whole(known.get("LabelValue", "1"), 0, 2**31, path, "label value")
        inside = layers[..., layer] == value
        voxels = flat_voxels(inside, to_patient, image, str(path), image_name)
        segments.append(Segment(value, known.get("Name", ""), _colour(known.get("Color"), path), voxels))
    return joined(segments, image, path)


def _copy_without_keys(path: Path, head: bytes, start: int, copy: Path) -> None:
    fields = [line for line in head.splitlines() if b":=" not in line and not line.startswith(b"#")]
    if any(re.match(rb"\s*data\s?file\s*:", line, re.IGNORECASE) for line in fields):
        raise InputError(f"{path}: has its values in another file; allowed: one file with header and values")
    with path.open("rb") as source, copy.open("wb") as target:
        target.write(b"\n".join(fields) + b"\n\n")
        source.seek(start)
        while block := source.read(2**20):
            target.write(block)


def _whole(text: str, least: int, most: int, path: Path, what: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise InputError(f"{path}: got the {what} {text[:40]!r} of a segment, allowed: a whole number from {least} to {most}")
    return int(text)


def _colour(text: str | None, path: Path) -> str | None:
    """Return "0.5 0.25 1" as "#8040ff"."""
    if not text:
        return None
    try:
        parts = [round(float(part) * 255) for part in text.split()]
    except (ValueError, OverflowError):
        parts = []
    if len(parts) != 3 or not all(0 <= part <= 255 for part in parts):
        raise InputError(f"{path}: got the colour {text[:40]!r} of a segment, allowed: three numbers from 0 to 1")
    return "#{:02x}{:02x}{:02x}".format(*parts)


def write_seg_nrrd(label_map: np.ndarray, image: sitk.Image, names: Mapping[int, str], colours: Mapping[int, str],
                   path: Path) -> None:
    """Write a (D, H, W) label map on the grid of a scan as a segmentation.

    Raises:
        OSError: the file cannot be written.
    """
    labels = with_geometry(label_map, image)
    extent = " ".join(f"0 {n - 1}" for n in image.GetSize())
    for number, (value, name) in enumerate(names.items()):
        rgb = " ".join(f"{int(colours[value][k:k + 2], 16) / 255:.6g}" for k in (1, 3, 5))
        for key, text in {"ID": f"Segment_{value}", "Name": name, "NameAutoGenerated": "0", "Color": rgb, "ColorAutoGenerated": "0",
                          "Layer": "0", "LabelValue": str(value), "Extent": extent, "Tags": "|"}.items():
            labels.SetMetaData(f"Segment{number}_{key}", text)
    labels.SetMetaData("Segmentation_MasterRepresentation", "Binary labelmap")
    labels.SetMetaData("Segmentation_ContainedRepresentationNames", "Binary labelmap|")
    labels.SetMetaData("Segmentation_ReferenceImageExtentOffset", "0 0 0")
    with replacing(path) as partial, quiet():
        try:
            sitk.WriteImage(labels, partial, useCompression=True)
        except RuntimeError as error:
            raise OSError(f"{path}: cannot be written ({str(error).strip().splitlines()[-1]})") from None
