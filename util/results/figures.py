"""Figures: the loss curve, and overviews of segmented slices."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from skimage.measure import find_contours
from torch import Tensor

from qnet.util.base.classes import in_figure
from qnet.util.base.files import replacing

TRUTH, PREDICTED = "#2ec4ff", "#ffb000"
PITCH = 1.04, 1.1      # of the slices in an overview, whose longer side is 1


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, and close it.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as partial:
        figure.savefig(partial, dpi=100, format="png", pil_kwargs={"compress_level": 3})
    plt.close(figure)


def loss_curve(history: Tensor, path: Path) -> None:
    """Draw query and alignment loss of every step with their running means.

    Args:
        history: (n_steps, losses) from `qnet.util.training.loop.train`. The first two columns are drawn.
        path: of the PNG.
    """
    figure, axes = plt.subplots(figsize=(8, 4.5), gridspec_kw={"left": 0.1, "right": 0.96, "bottom": 0.12, "top": 0.97})
    steps = np.arange(1, len(history) + 1)
    window = max(1, len(history) // 50)
    for losses, name, colour in zip(history.T[:2].numpy(), ("query loss", "alignment loss"), ("C0", "C1"), strict=True):
        axes.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.5)
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        axes.plot(steps[window - 1:], smooth, color=colour, label=f"{name} (mean over {window} steps)")
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None), xlim=(0, len(history)))
    axes.legend()
    save_figure(figure, path)


def volume_curves(at: Sequence[float], volumes_ml: Mapping[str, Sequence[float]], colours: Mapping[str, str], axis: str) -> str:
    """Return a plot of volumes over time, as PNG in base64.

    Args:
        at: times, or numbers of phases.
        volumes_ml: of each label at these times, by its name.
        colours: by name.
        axis: what `at` is.
    """
    figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    for name, volumes in volumes_ml.items():
        axes.plot(at, volumes, marker="o", markersize=3, color=colours.get(name), label=in_figure(name))
    axes.set(xlabel=axis, ylabel="ml", ylim=(0, None))
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, dpi=100, format="png")
    plt.close(figure)
    return base64.b64encode(content.getvalue()).decode()


class Panel(NamedTuple):
    """A slice with its title.

    Attributes:
        image: (H, W).
        outlines: (H, W) bool masks by colour.
    """

    title: str
    image: np.ndarray
    outlines: Mapping[str, np.ndarray]


def overview(columns: Sequence[tuple[Panel, Panel]], name: str, path: Path) -> None:
    """Draw segmented slices of one class, each below its support slice. All share a pair of axes, since a pair takes 30 ms.

    Args:
        columns: three pairs of support and query, with outlines in the colours TRUTH and PREDICTED.
        name: of the class.
        path: of the PNG.
    """
    figure = plt.figure(figsize=(10, 7.4))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.92))
    axes.set_axis_off()
    figure.suptitle(f"{in_figure(name)}: support above, query below (blue: truth, orange: prediction)")
    for column, panels in enumerate(columns):
        for row, panel in enumerate(reversed(panels)):
            _draw(axes, (column + 0.5) * PITCH[0], row * PITCH[1], panel)
    axes.set(xlim=(0, PITCH[0] * len(columns)), ylim=(0, PITCH[1] * 2))
    save_figure(figure, path)


def _draw(axes: plt.Axes, middle: float, bottom: float, panel: Panel) -> None:
    """Draw a slice, its longer side of length 1. Its first row is at the bottom: in prepared scans that row is posterior."""
    height, width = np.array(panel.image.shape) / max(panel.image.shape)
    extent = (middle - width / 2, middle + width / 2, bottom, bottom + height)
    low, high = np.percentile(panel.image, (1, 99.5))
    axes.imshow(panel.image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", extent=extent)
    for colour, mask in panel.outlines.items():
        for line in find_contours(mask, 0.5):
            y, x = (line.T + 0.5) / max(mask.shape)
            axes.add_line(Line2D(extent[0] + x, bottom + y, color=colour, linewidth=1.2))
    axes.text(middle, bottom + height + 0.02, panel.title, fontsize=10, ha="center")
