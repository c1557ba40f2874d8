"""How a class grows in 3D to where the scan looks different, by fast marching (Sethian, PNAS 1996): from a slice or scribbles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

LEAST_SPREAD = 0.04         # of the range of values nearby
MAD_TO_SD = 1.4826
STILL = 1e-4        # speed in voxels that are quite unlike


def likeness(image: np.ndarray, sample: np.ndarray, spacing_mm: Sequence[float], wider: float) -> np.ndarray:
    """Return how much voxels are like a sample, (D, H, W) in (0, 1]: by a normal distribution with its median and spread.

    Args:
        image: (D, H, W).
        sample: (D, H, W) bool, not empty.
        spacing_mm: (z, y, x).
        wider: the spread of likeness, in spreads of the sample.
    """
    smooth = gaussian_filter(image.astype(np.float32), min(spacing_mm) / np.asarray(spacing_mm))
    values = smooth[sample]
    middle = np.median(values)
    spread = MAD_TO_SD * np.median(np.abs(values - middle))
    least = LEAST_SPREAD * np.ptp(np.percentile(smooth, [1, 99]))
    return np.maximum(np.exp(-0.5 * ((smooth - middle) / (wider * max(spread, least, np.finfo(np.float32).tiny))) ** 2), STILL)


def arrival(speed: np.ndarray, seeds: np.ndarray, spacing_mm: Sequence[float], reach_mm: float) -> np.ndarray:
    """Return when a front that starts from seeds arrives in each voxel, (D, H, W); infinite where that is after `reach_mm`.

    Args:
        speed: (D, H, W), of the front, more than 0; at 1 it takes 1 for a mm.
        seeds: (D, H, W) bool.
        spacing_mm: (z, y, x).
    """
    image = sitk.GetImageFromArray(speed.astype(np.float32))
    image.SetSpacing([float(mm) for mm in spacing_mm[::-1]])
    places = [(*map(int, place), 0) for place in np.argwhere(seeds)[:, ::-1]]
    times = sitk.GetArrayFromImage(sitk.FastMarching(image, places, 1.0, reach_mm)) if places else np.full(speed.shape, np.inf)
    return np.where(times < reach_mm, times, np.inf)
