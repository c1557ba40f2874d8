"""Where in the slice an organ may be: where it is in the support, body laid over body.

An encoder that has seen few scans takes one kidney for the other, or the spleen for a kidney. The support's outline says on
which side to look.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

BODY_SHARE = 0.5      # of the slices, in which a pixel is brighter than the dark half below the mean
NEIGHBOURS = 1        # slices above and below the support slice whose outlines count too


def body_box(image: np.ndarray) -> tuple[int, int, int, int]:
    """Return first and last row, first and last column of the body in a z-scored (D, H, W) image.

    The body is the largest part that hangs together of what is brighter than halfway from the minimum to the mean, in most
    slices. The whole image where there is no such thing.
    """
    parts, n_parts = ndimage.label((image > image.min() / 2).mean(axis=0) > BODY_SHARE)
    if n_parts:
        body = parts == np.bincount(parts.ravel())[1:].argmax() + 1
        rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
        if len(rows) > 1 and len(columns) > 1:
            return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    return 0, image.shape[1] - 1, 0, image.shape[2] - 1


def location_weight(masks: np.ndarray, z: int, support_box: tuple[int, int, int, int], query_box: tuple[int, int, int, int],
                    size: tuple[int, ...], sigma_mm: float, pixel_mm: tuple[float, ...]) -> np.ndarray:
    """Return (H, W) weights for a query slice: 1 within the support's outline, exp(−d²/2σ²) at distance d from it.

    Distances are those in the support, before it is laid over the query; so the query's spacing does not matter.

    Args:
        masks: (D, H, W) bool of the support; the outline is that of slice z and its neighbours, which is not empty.
        z: support slice.
        support_box, query_box: from `body_box`; the support's is laid over the query's.
        size: (H, W) of the query.
        sigma_mm: σ.
        pixel_mm: height and width of a pixel of the support.
    """
    outline = masks[max(0, z - NEIGHBOURS):z + NEIGHBOURS + 1].any(axis=0)
    height_mm, width_mm = pixel_mm
    distance = ndimage.distance_transform_edt(~outline, sampling=(height_mm / width_mm, 1))      # in widths
    scale = [(support_box[k + 1] - support_box[k]) / (query_box[k + 1] - query_box[k]) for k in (0, 2)]
    offset = [support_box[k] - s * query_box[k] for k, s in zip((0, 2), scale, strict=True)]
    moved = ndimage.affine_transform(distance, scale, offset=offset, output_shape=size, order=1, mode="nearest")
    return np.exp(-((moved / (sigma_mm / width_mm)) ** 2) / 2).astype(np.float32)
