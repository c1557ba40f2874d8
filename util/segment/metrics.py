"""How well a mask agrees with the truth: overlap, distance of the surfaces, volume.

Surface distances come from MONAI with surface elements weighted by their area (`use_subvoxels`): voxels of 1.25 × 1.25 ×
7.7 mm have faces of very different size, and counting voxels would let the few large ones weigh too little.

Empty masks: when both are empty there is nothing to find and nothing was, so overlap, surface Dice, precision and recall
are 1, distances and the volume difference are 0. When one is empty, overlap and surface Dice are 0, precision (empty
prediction) or recall (empty truth) is 0 as well, and distances are NaN: they do not exist, and means leave them out.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch

SURFACE_METRICS = ("hd95_mm", "assd_mm", "surface_dice")
METRICS = ("dice", "iou", "precision", "recall", *SURFACE_METRICS, "volume_difference_ml")


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two boolean masks of one shape, in [0, 1]; 1 when both are empty."""
    total = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / total if total else 1.0


def iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two boolean masks of one shape, in [0, 1]; 1 when both are empty."""
    union = int((prediction | truth).sum())
    return int((prediction & truth).sum()) / union if union else 1.0


def precision(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Share of the prediction that is true, in [0, 1]; an empty prediction has 1 when the truth is empty too, else 0."""
    n_predicted = int(prediction.sum())
    return int((prediction & truth).sum()) / n_predicted if n_predicted else float(not truth.any())


def recall(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Share of the truth that was found, in [0, 1]; an empty truth has 1 when the prediction is empty too, else 0."""
    return precision(truth, prediction)


def volume_difference_ml(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Volume of the prediction less that of the truth, in ml."""
    return (int(prediction.sum()) - int(truth.sum())) * float(np.prod(spacing_mm)) / 1000


def surface_metrics(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float],
                    tolerance_mm: float) -> dict[str, float]:
    """Return SURFACE_METRICS of two (D, H, W) boolean masks; for empty ones see the module's text.

    Args:
        spacing_mm: (z, y, x).
        tolerance_mm: surface elements within this distance of the other surface count for the surface Dice.
    Returns:
        "hd95_mm": the larger of the two directions' 95th percentiles of the distance, by area.
        "assd_mm": mean distance over both surfaces.
        "surface_dice": share of both surfaces within the tolerance (Nikolov et al. 2018), 0 to 1.
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
    """Distance to the other surface in mm and area in mm² of every surface element, of the prediction and of the truth."""
    from monai.metrics.utils import get_edge_surface_distance  # takes seconds to import

    masks = [torch.from_numpy(np.pad(mask, 1)) for mask in (prediction, truth)]   # surfaces at the border are surfaces
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy")   # MONAI 1.6.1 warns of its own call
        edges, distances, areas = get_edge_surface_distance(*masks, spacing=[float(s) for s in spacing_mm],
                                                            use_subvoxels=True, symmetric=True)
    return [(distance.double().numpy(), area[edge].double().numpy())
            for edge, distance, area in zip(edges, distances, areas, strict=True)]


def _percentile(values: np.ndarray, weights: np.ndarray, percent: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) >= percent / 100 * weights.sum()
    return float(values[order][reached.argmax()])


def all_metrics(prediction: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float) -> dict[str, float]:
    """Return METRICS of two (D, H, W) boolean masks; the arguments are those of `surface_metrics`."""
    return {"dice": dice(prediction, truth), "iou": iou(prediction, truth), "precision": precision(prediction, truth),
            "recall": recall(prediction, truth), **surface_metrics(prediction, truth, spacing_mm, tolerance_mm),
            "volume_difference_ml": volume_difference_ml(prediction, truth, spacing_mm)}
