"""A picture of every case: one slice twice, with its labels and with its supervoxels outlined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from skimage.segmentation import find_boundaries

from qnet.data.preparation.inspect_case import CaseReport
from qnet.dataloaders.datasets import DatasetSpec
from qnet.util.base.classes import colours_of, in_figure
from qnet.util.base.files import replacing

CASES_PER_ROW = 4
PANEL_INCHES = 2.4


def draw_contact_sheet(reports: Sequence[CaseReport], spec: DatasetSpec, path: Path) -> None:
    """Write a PNG with two panels per case that has an image. They show the slice with the most classes, as stored.

    If a case lacks the labels or the supervoxels, that panel has no outlines.
    """
    shown = [report for report in reports if report.slices]
    n_rows = max(1, math.ceil(len(shown) / CASES_PER_ROW))
    figure = Figure(figsize=(2 * CASES_PER_ROW * PANEL_INCHES, n_rows * PANEL_INCHES * 1.1 + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_rows, 2 * CASES_PER_ROW, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    colours = colours_of(spec.labels)
    for i, report in enumerate(shown):
        _draw_case(axes[2 * i], axes[2 * i + 1], report, colours)
    names = {label: in_figure(name) for label, name in spec.labels.items()}
    figure.legend(handles=[Line2D([], [], color=colour, label=names[label]) for label, colour in colours.items()],
                  loc="outside upper center", ncols=7, frameon=False)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=100, format="png")


def _draw_case(left: Axes, right: Axes, report: CaseReport, colours: Mapping[int, str]) -> None:
    image = report.slices["image"]
    low, high = np.percentile(image, (0.5, 99.5))
    for ax, text in ((left, f"{report.name}: labels"), (right, f"{report.name}: {report.n_supervoxels} supervoxels")):
        ax.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6),
                  aspect=report.spacing_mm[1] / report.spacing_mm[2])
        ax.set_title(text, fontsize=8)
    for label in report.volumes_ml:
        if (mask := report.slices["label"] == label).any():
            left.contour(mask, levels=[0.5], colors=[colours[label]], linewidths=1)
    if "supervoxels" in report.slices:
        edges = find_boundaries(report.slices["supervoxels"], mode="inner")
        right.imshow(np.dstack([edges, edges, np.zeros_like(edges), edges * 0.8]).astype(float),
                     aspect=report.spacing_mm[1] / report.spacing_mm[2])
