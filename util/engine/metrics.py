"""Metrics of a mask against the truth: overlap, surface distance, volume.

Surface distances come from MONAI, with each surface element weighted by its area (`use_subvoxels`). Voxels of 1.25 × 1.25 ×
7.7 mm have faces of very different areas; a count of voxels would give the large faces too little weight.

Empty masks: if both are empty, overlap, surface Dice, precision and recall are 1, distances and the volume difference are 0.
If one is empty, overlap, surface Dice, precision and recall are 0. Distances are NaN then, and means leave them out.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch

SURFACE_METRICS = ("hd95_mm", "assd_mm", "surface_dice")
METRICS = ("dice", "iou", "precision", "recall", *SURFACE_METRICS, "volume_difference_ml")


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the Dice coefficient of two boolean masks of one shape, 0 to 1; 1 if both are empty."""
    total = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / total if total else 1.0


def iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the intersection over union of two boolean masks of one shape, 0 to 1; 1 if both are empty."""
    union = int((prediction | truth).sum())
    return int((prediction & truth).sum()) / union if union else 1.0


def precision(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of the prediction that is true, 0 to 1. An empty prediction has 1 if the truth is empty too, else 0."""
    n_predicted = int(prediction.sum())
    return int((prediction & truth).sum()) / n_predicted if n_predicted else float(not truth.any())


def recall(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of the truth that was found, 0 to 1. An empty truth has 1 if the prediction is empty too, else 0."""
    return precision(truth, prediction)


def volume_difference_ml(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Return the volume of the prediction minus that of the truth, in ml. `spacing_mm` is (z, y, x)."""
    return (int(prediction.sum()) - int(truth.sum())) * float(np.prod(spacing_mm)) / 1000


def surface_metrics(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float],
                    tolerance_mm: float) -> dict[str, float]:
    """Return SURFACE_METRICS of two (D, H, W) boolean masks. The module's docstring covers empty masks.

    Args:
        spacing_mm: (z, y, x).
        tolerance_mm: a surface element counts for the surface Dice if the other surface is at most this far away.
    Returns:
        "hd95_mm": 95th percentile of the distance by area, the larger of the two directions.
        "assd_mm": mean distance over both surfaces, by area.
        "surface_dice": share of both surfaces within the tolerance, 0 to 1 (Nikolov et al. 2018).
    """
    if not prediction.any() or not truth.any():
        both_empty = not prediction.any() and not truth.any()
        distance, overlap = (0.0, 1.0) if both_empty else (float("nan"), 0.0)
        return dict(zip(SURFACE_METRICS, (distance, distance, overlap), strict=True))
    surfaces = _surfaces(prediction, truth, spacing_mm)
    areas = np.concatenate([area for _, area in surfaces])
    distances = np.concatenate([distance for distance, _ in surfaces])
    return {"hd95_mm": max(_percentile(*surface, 95) for surface in surfaces),
            "assd_mm": float((distances * areas).sum() / areas.sum()),
            "surface_dice": float(areas[distances <= tolerance_mm].sum() / areas.sum())}


def _surfaces(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return distance to the other surface (mm) and area (mm²) of the surface elements, of the prediction and of the truth."""
    from monai.metrics.utils import get_edge_surface_distance  # its import takes seconds

    found, true = (torch.from_numpy(np.pad(mask, 1)) for mask in (prediction, truth))   # a mask at the border has a surface there
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy")   # MONAI 1.6.1 warns about its own call
        edges, distances, areas = get_edge_surface_distance(found, true, spacing=[float(s) for s in spacing_mm],
                                                            use_subvoxels=True, symmetric=True)
    return [(distance.double().numpy(), area[edge].double().numpy())
            for edge, distance, area in zip(edges, distances, areas, strict=True)]


def _percentile(values: np.ndarray, weights: np.ndarray, percent: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) >= percent / 100 * weights.sum()
    return float(values[order][reached.argmax()])


def all_metrics(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float) -> dict[str, float]:
    """Return METRICS of two (D, H, W) boolean masks. The arguments are those of `surface_metrics`."""
    return {"dice": dice(prediction, truth), "iou": iou(prediction, truth), "precision": precision(prediction, truth),
            "recall": recall(prediction, truth), **surface_metrics(prediction, truth, spacing_mm, tolerance_mm),
            "volume_difference_ml": volume_difference_ml(prediction, truth, spacing_mm)}
