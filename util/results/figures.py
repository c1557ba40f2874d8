"""Figures: the loss curve, and overviews of segmented slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from torch import Tensor

from util.base.files import replacing

TRUTH, PREDICTED = "#2ec4ff", "#ffb000"
MARGINS = {"left": 0.01, "right": 0.99, "bottom": 0.01, "top": 0.9, "wspace": 0.04, "hspace": 0.1}    # of an overview


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, and close it.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as partial:
        figure.savefig(partial, dpi=100, format="png")
    plt.close(figure)


def loss_curve(history: Tensor, path: Path) -> None:
    """Draw query and alignment loss of every step with their running means.

    Args:
        history: (n_steps, losses) from `util.training.loop.train`. The first two columns are drawn.
        path: of the PNG.
    """
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    steps = np.arange(1, len(history) + 1)
    window = max(1, len(history) // 50)
    for losses, name, colour in zip(history.T[:2].numpy(), ("query loss", "alignment loss"), ("C0", "C1"), strict=True):
        axes.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.5)
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        axes.plot(steps[window - 1:], smooth, color=colour, label=f"{name} (mean over {window} steps)")
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None), xlim=(0, len(history)))
    axes.legend()
    save_figure(figure, path)


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
    """Draw segmented slices of one class, each below its support slice.

    Args:
        columns: three pairs of support and query, with outlines in the colours TRUTH and PREDICTED.
        name: of the class.
        path: of the PNG.
    """
    figure, axes = plt.subplots(2, len(columns), figsize=(10, 7.4), gridspec_kw=MARGINS)
    figure.suptitle(f"{name}: support above, query below (blue: truth, orange: prediction)")
    for column, panels in enumerate(columns):
        for row, panel in enumerate(panels):
            _draw(axes[row, column], panel.image, panel.outlines)
            axes[row, column].set_title(panel.title, fontsize=10)
    save_figure(figure, path)


def _draw(axes: plt.Axes, image: np.ndarray, outlines: Mapping[str, np.ndarray]) -> None:
    """Draw a slice with the outlines of masks. The first row is at the bottom, as it is posterior in prepared scans."""
    low, high = np.percentile(image, (1, 99.5))
    axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower")
    for colour, mask in outlines.items():
        if mask.any():
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.2)
    axes.set(xticks=[], yticks=[])      # most of the time went into measuring what is not shown
    axes.set_axis_off()
