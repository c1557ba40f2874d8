"""Location weights: an organ is expected where it is in the support, once the two bodies are aligned.

An encoder trained on few scans confuses the two kidneys, or spleen and kidney. The support's mask tells the side.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

BODY_SHARE = 0.5      # a pixel is of the body if it is bright in more than this share of the slices
NEIGHBOURS = 1        # number of slices above and below the support slice whose masks are added


def body_box(image: np.ndarray) -> tuple[int, int, int, int]:
    """Return first row, last row, first column and last column of the body in a z-scored (D, H, W) image.

    A pixel is bright if it lies above the middle between minimum and mean. The body is the largest connected component of
    the pixels that are bright in most slices. Without one, the box is the whole image.
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
    """Return (H, W) weights for a query slice: 1 within the support's mask, exp(−d²/2σ²) at distance d from it.

    Distances are measured in the support, before its body box is mapped onto the query's. So the query's spacing does not
    matter.

    Args:
        masks: (D, H, W) bool of the support, not empty in slice z. The masks of its neighbours are added.
        z: support slice.
        support_box: of the support, from `body_box`.
        query_box: of the query, from `body_box`.
        size: (H, W) of the query.
        sigma_mm: σ in mm.
        pixel_mm: height and width of a support pixel in mm.
    """
    outline = masks[max(0, z - NEIGHBOURS):z + NEIGHBOURS + 1].any(axis=0)
    height_mm, width_mm = pixel_mm
    distance = ndimage.distance_transform_edt(~outline, sampling=(height_mm / width_mm, 1))      # in pixel widths
    scale = [(support_box[k + 1] - support_box[k]) / (query_box[k + 1] - query_box[k]) for k in (0, 2)]
    offset = [support_box[k] - s * query_box[k] for k, s in zip((0, 2), scale, strict=True)]
    moved = ndimage.affine_transform(distance, scale, offset=offset, output_shape=size, order=1, mode="nearest")
    return np.exp(-((moved / (sigma_mm / width_mm)) ** 2) / 2).astype(np.float32)
