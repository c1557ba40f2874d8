"""The page of a report: one HTML file with tables, plots, and NiiVue to view every scan with what is laid over it.

It opens from disk, and its content security policy lets it load nothing. Names in it may be anyone's: they are data to its
script.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from nibabel import Nifti1Header
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation

from qnet.dataloaders.nifti import read_array
from qnet.util.base.classes import colours_of
from qnet.util.base.errors import InputError
from qnet.util.base.files import replacing
from qnet.util.viewer import niivue
from qnet.util.viewer.shared import KEYS, THEME

TEMPLATE, STYLE, SCRIPT = (Path(__file__).with_name(f"report_page.{ending}") for ending in ("html", "css", "js"))
MAX_VOXELS = 10 * 2**20     # of an embedded volume; of a larger one every second voxel is shown
MOST_EMBEDDED = 100e6       # characters of all volumes of a page, about 50 scans of CHAOS; browsers fail at some 500e6
PROBABILITY_LEVELS = 15     # few, as they compress well
STORED, SHOWN = (0, 99.9), (1, 99.5)      # percentiles of the intensities that are embedded, and of the window at first


class Column(NamedTuple):
    """A column of the table of cases. Numbers are shown times `factor`.

    Attributes:
        digits: after the point, or significant ones if `significant`; None for text.
    """

    key: str
    title: str
    digits: int | None = None
    factor: int = 1
    significant: bool = False


@dataclass(frozen=True)
class Layers:
    """A scan and what may be laid over it, each (D, H, W) on the scan's own grid.

    Attributes:
        image: intensities.
        affine: (4, 4), from voxel (x, y, z) to mm in NIfTI's directions (right, anterior, superior).
        maps: label maps: "whole" over the whole volume, "protocol" in the protocol's slices, "truth".
        probabilities: by label value, the probability, 0 to 1.
        support: uint8 image of the support, registered to the scan.
    """

    image: np.ndarray
    affine: np.ndarray
    maps: Mapping[str, np.ndarray]
    probabilities: Mapping[int, np.ndarray]
    support: np.ndarray | None = None


def map_if_there(path: Path, shape: tuple[int, ...], kind: type | None = None) -> np.ndarray | None:
    """Return the (D, H, W) values of a mask or map that is laid over a scan, or None.

    Args:
        shape: of the scan.
        kind: of its values; None: any.
    Raises:
        InputError: the file cannot be read, or is not so.
    """
    try:
        if not path.exists():
            return None
    except OSError:      # its name would be too long, so it is not there
        return None
    values = read_array(path)
    if values.shape != shape or values.dtype != (kind or values.dtype):
        expected = f"{np.dtype(kind)} on" if kind else "on"
        raise InputError(f"{path}: {values.dtype} of shape {values.shape}, expected {expected} the grid of its scan, {shape}")
    return values


@dataclass(frozen=True)
class Content:
    """Everything that a page shows except the volumes.

    Attributes:
        title: of the page.
        facts: below the title, by name.
        names: of the labels, by value.
        colours: as "#rrggbb" by label value; others get one of the palette (`qnet.util.base.classes.colours_of`).
        columns: of the table of cases.
        rows: of it: its columns, "view" (number of the view, or None), "label" (its value), "map" (as in `Layers.maps`) and, if
            nothing was found of the label, "empty"; for a scan without truth also "look_at", the voxel [x, y, z] to begin at.
        order: column that the rows are sorted by at first, smallest first; empty labels come before all others.
        hint: what the columns mean.
        views: as from `Volumes.view`, in the order of the viewer's list.
        classes: None, or the summaries of an evaluation: "metrics", "protocol" and "whole".
        plots: each with "image" (PNG in base64) and "text".
        problems: scans that are not shown, a line each.
        correction: None, or how a scan is corrected: the "command" that starts the labelling page, and the address of the "page"
            that leads to it.
    """

    title: str
    facts: Mapping[str, str]
    names: Mapping[int, str]
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    order: str
    hint: str
    views: Sequence[Mapping[str, Any]]
    colours: Mapping[int, str] = field(default_factory=dict)
    classes: Mapping[str, Any] | None = None
    plots: Sequence[Mapping[str, str]] = ()
    problems: Sequence[str] = ()
    correction: Mapping[str, str] | None = None


class Volumes:
    """The volumes that are embedded in a page, as text. A volume that is given twice is embedded once.

    Args:
        values: the label values. In the page, the first is 1.
    """

    def __init__(self, values: Sequence[int]):
        self.values = list(values)
        self.texts: dict[str, int] = {}

    @property
    def full(self) -> bool:
        """Whether no more scans should be embedded."""
        return sum(map(len, self.texts)) >= MOST_EMBEDDED

    def view(self, title: str, layers: Layers) -> dict[str, Any]:
        """Embed a scan with what is laid over it, and return the viewer's entry for it."""
        spacing = voxel_sizes(layers.affine)[::-1]
        step = _step(layers.image.shape, spacing)
        coarse = _coarser(step, spacing)
        low, high = np.percentile(layers.image, STORED)
        slope = max(float(high - low) / 255, 1e-6)
        grey = ((layers.image.astype(np.float32) - low) / slope).round().clip(0, 255).astype(np.uint8)
        return {"title": title, "step": list(step[::-1]),
                "window": [float(value) for value in np.percentile(layers.image, SHOWN)],
                "image": self._add(grey, layers.affine, step, slope, float(low)), **_directions(layers.affine),
                "maps": {name: self._add(self._numbered(label_map), layers.affine, step)
                         for name, label_map in layers.maps.items()},
                "probabilities": {self.values.index(label) + 1: self._add(_levels(probability), layers.affine, coarse,
                                                                          1 / PROBABILITY_LEVELS)
                                  for label, probability in layers.probabilities.items()},
                "support": None if layers.support is None else self._add(layers.support & 0xFC, layers.affine, coarse)}

    def _add(self, values: np.ndarray, affine: np.ndarray, step: Sequence[int], slope: float = 1, intercept: float = 0) -> int:
        every = values[tuple(slice(None, None, n) for n in step)]
        text = nifti_text(every, affine @ np.diag([*step[::-1], 1]), slope, intercept)
        return self.texts.setdefault(text, len(self.texts))

    def _numbered(self, label_map: np.ndarray) -> np.ndarray:
        numbered = np.zeros(label_map.shape, np.uint8 if len(self.values) < 256 else np.uint16)
        for position, value in enumerate(self.values):
            numbered[label_map == value] = position + 1
        return numbered


def left_out(n_shown: int, n_scans: int, which: str) -> str:
    """Return what the page says if only some of the scans are embedded. `which` names them, as "least trusted"."""
    return "" if n_shown == n_scans else (f" Slices are shown of the {n_shown} {which} of {n_scans}, as a page with all of them "
                                          "would be too large to open; the tables are complete.")


def nifti_text(values: np.ndarray, affine: np.ndarray, slope: float, intercept: float) -> str:
    """Return (D, H, W) whole numbers as a gzipped NIfTI file in base64. The values are scaled by `slope`, then `intercept`."""
    header = Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape[::-1])
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header["scl_slope"], header["scl_inter"] = slope, intercept
    header.set_data_offset(352)
    content = header.binaryblock + bytes(4) + np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(gzip.compress(content, mtime=0)).decode("ascii")


def write_report_page(content: Content, volumes: Volumes, path: Path) -> None:
    """Write the page.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_pieces(content, volumes))


def _pieces(content: Content, volumes: Volumes) -> Iterator[str]:
    """Yield the text of the page."""
    keys, script, viewer = KEYS.read_text(encoding="utf-8"), SCRIPT.read_text(encoding="utf-8"), niivue.niivue_script()
    policy = ("default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; connect-src data: blob:; font-src data:; "
              f"base-uri 'none'; form-action 'none'; script-src {_hash(viewer)} {_hash(keys)} {_hash(script)}")
    filled = {"POLICY": policy, "STYLE": THEME.read_text(encoding="utf-8") + STYLE.read_text(encoding="utf-8"),
              "SCRIPT": script, "KEYS": keys, "NIIVUE": viewer,
              "TITLE": html.escape(content.title), "CONTENT": in_script(_as_data(content)),
              "LICENSE": html.escape(niivue.LICENSE.read_text(encoding="utf-8")), "VERSION": niivue.VERSION,
              "NOTICES": html.escape(niivue.NOTICES.read_text(encoding="utf-8")),
              "VOLUMES": "\n".join(f'<script type="text/plain" id="volume-{number}">{text}</script>'
                                   for text, number in volumes.texts.items())}
    for piece in TEMPLATE.read_text(encoding="utf-8").split("@@"):
        yield filled.get(piece, piece)


def in_script(value: Any) -> str:
    """Return a value as JSON that may stand in a script of a page: NaN is null, and no text in it ends the script."""
    return json.dumps(_finite(value), ensure_ascii=False).replace("<", "\\u003c").replace(">", "\\u003e")


def _as_data(content: Content) -> dict[str, Any]:
    colours = colours_of(content.names, content.colours)
    labels = [{"value": value, "name": name, "colour": colours[value]} for value, name in content.names.items()]
    return {"title": content.title, "facts": content.facts, "labels": labels, "hint": content.hint, "order": content.order,
            "columns": [column._asdict() for column in content.columns], "rows": content.rows, "views": content.views,
            "classes": content.classes, "plots": content.plots, "problems": content.problems,
            "correction": content.correction}


def _finite(value: Any) -> Any:
    """Replace NaN and infinity by None, as JSON lacks them."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}'"


def _levels(probability: np.ndarray) -> np.ndarray:
    return (probability * PROBABILITY_LEVELS).round().astype(np.uint8)


def _step(shape: Sequence[int], spacing: np.ndarray) -> tuple[int, ...]:
    """Return the step along each axis (1 takes every voxel, 2 every second one) that leaves at most MAX_VOXELS."""
    step: tuple[int, ...] = (1, 1, 1)
    while math.prod(math.ceil(n / every) for n, every in zip(shape, step, strict=True)) > MAX_VOXELS:
        step = _coarser(step, spacing)
    return step


def _coarser(step: Sequence[int], spacing: np.ndarray) -> tuple[int, ...]:
    """Double the steps of the axes that have less than twice the smallest distance between voxels."""
    distance = spacing * step
    return tuple(2 * every if mm < 2 * distance.min() else every for every, mm in zip(step, distance, strict=True))


def _directions(affine: np.ndarray) -> dict[str, Any]:
    """Return for right, anterior and superior the file's axis, and whether it runs the other way; and the thickest slices."""
    orientation, spacing = io_orientation(affine), voxel_sizes(affine)
    axes = [int(np.flatnonzero(orientation[:, 0] == to)[0]) for to in range(3)]
    widest = int(np.argmax(spacing[axes]))
    return {"axes": axes, "flipped": [bool(orientation[axis, 1] < 0) for axis in axes],
            "across": widest if spacing[axes[widest]] > 1.5 * spacing.min() else 2}
