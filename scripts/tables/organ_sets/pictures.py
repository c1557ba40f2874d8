"""The pictures of docs/organs.md: scans with the outlines that were found and, dashed, the true ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import numpy as np
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from qnet.util.base.classes import colours_of
from qnet.util.results.figures import save_figure

MARGIN = 0.3           # around the labels, of their size
PANEL_INCHES = 3.4     # high, …
LEAST_INCHES, MOST_INCHES = 7.5, 11      # … and all together wide
Panel = tuple[str, Path, Path | None, Path]      # title, image, label map that was found, true labels


def draw(panels: Sequence[Panel], names: Mapping[int, str], path: Path) -> None:
    """Draw scans side by side, each in the slice that holds most labels, cut to them with a margin.

    Args:
        panels: the first one's labels choose the direction of the slices.
        names: of the labels; "label 1", … for those that have none.
        path: of the PNG.
    """
    values = sorted({int(value) for _, _, _, labels in panels for value in np.unique(canonical(labels)[0])} - {0})
    colours = colours_of(values)
    normal = best_slice(*canonical(panels[0][3]))[0]
    widths = [_width(labels, normal) for _, _, _, labels in panels]
    inches = min(PANEL_INCHES, MOST_INCHES / sum(widths))
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01)
    figure, axes = plt.subplots(1, len(panels), figsize=(max(inches * sum(widths), LEAST_INCHES), inches + 0.7), layout=layout,
                                width_ratios=widths, squeeze=False)
    for axis, (title, image, found, truth) in zip(axes.flat, panels, strict=True):
        _panel(axis, image, found, truth, normal, colours)
        axis.set_title(title, fontsize=9)
    handles = [Line2D([], [], color=colour, label=names.get(value, f"label {value}")) for value, colour in colours.items()]
    handles += [Line2D([], [], color="#888888", label="found"), Line2D([], [], color="#888888", linestyle="--", label="truth")]
    n_rows = 1 if len(handles) <= 7 else 2
    figure.legend(handles=handles, loc="outside lower center", ncols=-(-len(handles) // n_rows), fontsize=8, frameon=False)
    save_figure(figure, path)


def canonical(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a volume with axes to right, anterior and superior, and its spacing in mm along them."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    return np.asanyarray(image.dataobj), np.array(image.header.get_zooms()[:3])


def best_slice(labels: np.ndarray, spacing_mm: np.ndarray, normals: Sequence[int] | None = None) -> tuple[int, int]:
    """Return axis and index of the slice that holds most labels and, of those that hold as many, most of them in mm².

    Args:
        normals: axes to choose from. None: that of thick slices, if there is one, else all.
    """
    if normals is None:
        thickest = int(np.argmax(spacing_mm))
        normals = [thickest] if spacing_mm[thickest] > 1.5 * spacing_mm.min() else range(3)
    found = []
    for normal in normals:
        pixel_mm2 = np.delete(spacing_mm, normal).prod()
        for index, plane in enumerate(np.moveaxis(labels, normal, 0)):
            inside = plane[plane > 0]
            found.append((len(np.unique(inside)), len(inside) * pixel_mm2, normal, index))
    _, _, normal, index = max(found)
    return normal, index


def _panel(axis: plt.Axes, image: Path, found: Path | None, truth: Path, normal: int, colours: Mapping[int, str]) -> None:
    (scan, spacing_mm), (labels, _) = canonical(image), canonical(truth)
    _, index = best_slice(labels, spacing_mm, [normal])
    window = _window(np.take(labels, index, normal))

    def shown(volume: np.ndarray) -> np.ndarray:
        return np.take(volume, index, normal)[window].T[:, ::-1]      # up is up; the patient's right or front is on the left

    picture = shown(scan).astype(np.float32)
    low, high = np.percentile(picture, (0.5, 99.7))
    across, up = np.delete(spacing_mm, normal)
    axis.imshow(picture, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=up / across, interpolation="bilinear")
    maps = [("solid", shown(labels))] if found is None else [("dashed", shown(labels)), ("solid", shown(canonical(found)[0]))]
    for style, label_map in maps:
        for value, colour in colours.items():
            if (label_map == value).any():
                axis.contour(label_map == value, levels=[0.5], colors=[colour], linewidths=1.3, linestyles=style)
    axis.set_axis_off()


def _width(labels: Path, normal: int) -> float:
    """Return the width of what is shown of a scan, in heights."""
    values, spacing_mm = canonical(labels)
    across, up = _window(np.take(values, best_slice(values, spacing_mm, [normal])[1], normal))
    across_mm, up_mm = np.delete(spacing_mm, normal)
    return float((across.stop - across.start) * across_mm / ((up.stop - up.start) * up_mm))


def _window(plane: np.ndarray) -> tuple[slice, slice]:
    """Return the part of a plane that holds labels, with a margin; all of it if there are none."""
    spans = []
    for axis in range(2):
        inside = np.flatnonzero(plane.any(axis=1 - axis))
        first, last = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, plane.shape[axis])
        margin = max(4, round(MARGIN * (last - first)))
        spans.append(slice(max(0, first - margin), min(plane.shape[axis], last + margin)))
    return spans[0], spans[1]
