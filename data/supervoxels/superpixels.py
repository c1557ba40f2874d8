"""2D superpixels, slice by slice: the pseudo-labels for training SSL-ALPNet (Ouyang et al. 2020)."""

from __future__ import annotations

import numpy as np
from skimage.segmentation import felzenszwalb, relabel_sequential

from qnet.data.supervoxels.felzenszwalb import largest_filled_component

SIGMA_PX = 1
FOREGROUND = 50.0       # for CHAOS


def generate_superpixels(image: np.ndarray, min_size: int, foreground_threshold: float = FOREGROUND) -> np.ndarray:
    """Cut each slice into superpixels with scikit-image's `felzenszwalb`, and remove the background.

    In scikit-image the order of equal costs depends on the NumPy build, so another build may give other superpixels.

    Args:
        image: (D, H, W) finite intensities, which are not scaled.
        min_size: pixels of the smallest superpixel before the background is removed.
        foreground_threshold: the body is the largest 8-connected component of higher intensity, with holes filled.
    Returns:
        int32 (D, H, W). Numbers 1, 2, … restart in each slice. 0 is background. A slice without a body is all 0.
    Raises:
        ValueError: the image has not three axes or holds NaN or infinity.
    """
    if image.ndim != 3:
        raise ValueError(f"image: expected axes (D, H, W), got shape {image.shape}")
    if not np.isfinite(image).all():
        raise ValueError("image: expected finite values, got NaN or infinity")
    return np.stack([_slice_superpixels(image_slice.astype(np.float64), min_size, foreground_threshold)
                     for image_slice in image])


def _slice_superpixels(image: np.ndarray, min_size: int, foreground_threshold: float) -> np.ndarray:
    body = largest_filled_component(image > foreground_threshold)
    segments = felzenszwalb(image, sigma=SIGMA_PX, min_size=min_size) + 1
    return relabel_sequential(np.where(body, segments, 0))[0].astype(np.int32)
