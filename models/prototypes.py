"""Prototypes by masked average pooling, and soft masks from the distance to them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from qnet.util.base.shapes import expect_shape

AREA_EPS = 1e-5       # added to a mask's area
COSINE_EPS = 1e-8     # smallest norm in the cosine of the anomaly score
CLASS_EPS = 1e-4      # smallest norm in the cosine of a class score
COSINE_SCALE = 20.0   # of both scores


@cache
def _upsampling_matrix(n_cells: int, n_pixels: int) -> Tensor:
    """Return the (n_pixels, n_cells) matrix of the bilinear upsampling (`align_corners=False`) along one axis."""
    return F.interpolate(torch.eye(n_cells)[None], size=n_pixels, mode="linear", align_corners=False)[0].T.contiguous()


def pull_back(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Apply the transpose of the bilinear upsampling to masks: (…, H, W) → (…, h, w).

    For any features F on the grid, Σ upsampled(F)·mask over the pixels equals Σ F·pull_back(mask) over the cells.
    """
    rows, columns = (_upsampling_matrix(cells, pixels).to(masks)
                     for cells, pixels in zip(grid, masks.shape[-2:], strict=True))
    return rows.T @ masks @ columns


def masked_average(features: Tensor, masks: Tensor) -> Tensor:
    """Average the support features inside the masks, first over each slice, then over the shots (Q-Net, eq. 1).

    The published code upsamples the features to the masks' size. Here the masks are pulled back to the features' grid,
    which gives the same sums.

    Args:
        features: (B·S, C, h, w) encoder output. The S shots of an episode are next to each other.
        masks: (B, S, H, W) foreground weight per pixel, in [0, 1].
    Returns:
        (B, C). A support slice with an empty mask counts as zeros.
    Raises:
        ValueError: the axes are wrong, or `features` and `masks` disagree on the number of slices.
    """
    n = expect_shape("masks", masks, "B S H W")
    grid = expect_shape("features", features, "N C h w", N=n["B"] * n["S"])
    masks = masks.to(features.dtype).flatten(0, 1)
    weights = pull_back(masks, (grid["h"], grid["w"])).flatten(1).unsqueeze(2)   # (B·S, h·w, 1)
    total = (features.flatten(2) @ weights).squeeze(2)                            # (B·S, C)
    average = total / (masks.sum(dim=(-2, -1)).unsqueeze(1) + AREA_EPS)
    return average.unflatten(0, (n["B"], n["S"])).mean(dim=1)


def on_grid(masks: Tensor, grid: Sequence[int]) -> Tensor:
    """Resize (B, S, H, W) masks bilinearly (`align_corners=False`) to (B, S, h, w), float32.

    Raises:
        ValueError: the axes are wrong.
    """
    expect_shape("masks", masks, "B S H W")
    return F.interpolate(masks.float(), size=tuple(grid), mode="bilinear", align_corners=False)


def class_score(features: Tensor, prototypes: Tensor) -> Tensor:
    """Return the similarity to a class: the softmax-weighted sum of 20·cos(F, p) over its prototypes (SSL-ALPNet).

    Args:
        features: (B, C, h, w).
        prototypes: (n, C), at least one. With a single one the score is its similarity.
    Returns:
        (B, h, w) in [−20, 20].
    Raises:
        ValueError: the axes are wrong.
    """
    size = expect_shape("features", features, "B C h w")
    expect_shape("prototypes", prototypes, "n C", C=size["C"])
    unit_features, unit_prototypes = (x / x.norm(dim=1, keepdim=True).clamp_min(CLASS_EPS) for x in (features, prototypes))
    similarity = COSINE_SCALE * F.conv2d(unit_features, unit_prototypes[:, :, None, None])   # (B, n, h, w)
    return (similarity.softmax(dim=1) * similarity).sum(dim=1)


def inner_products(features: Tensor, prototypes: Tensor) -> Tensor:
    """Return F·p of every cell, (B, N).

    Many prototypes of one slice are one matrix product, which reads the features once.

    Args:
        features: (B, C, N), or (1, C, N) for all prototypes.
        prototypes: (B, C), or (1, C) for all slices.
    Raises:
        ValueError: the axes are wrong.
    """
    size = expect_shape("features", features, "B C N")
    expect_shape("prototypes", prototypes, "B C", C=size["C"])
    if len(features) == 1:
        return prototypes @ features[0]
    return torch.bmm(prototypes.expand(len(features), -1).unsqueeze(1), features).squeeze(1)


def anomaly_score(features: Tensor, prototypes: Tensor) -> Tensor:
    """Return the distance to the prototype, s = −20·cos(F, p) (Q-Net, eq. 2). A prototype or feature of zeros has cosine 0.

    Args:
        features: (B, C, h, w), or (1, C, h, w) for all prototypes.
        prototypes: (B, C), or (1, C) for all slices.
    Returns:
        (B, h, w) in [−20, 20].
    Raises:
        ValueError: the axes are wrong.
    """
    expect_shape("features", features, "B C h w")
    expect_shape("prototypes", prototypes, "B C", C=features.shape[1])
    cells = features.flatten(2)
    norms = cells.norm(dim=1).clamp_min(COSINE_EPS) * prototypes.norm(dim=1, keepdim=True).clamp_min(COSINE_EPS)
    return (-COSINE_SCALE * inner_products(cells, prototypes) / norms).unflatten(1, features.shape[-2:])


def foreground_probability(features: Tensor, prototypes: Tensor, threshold: Tensor) -> Tensor:
    """Return the soft mask on the feature grid, P = 1 − sigmoid(0.5·(s − T)) with the anomaly score s (Q-Net, eq. 3).

    Args:
        features: (B, C, h, w), or (1, C, h, w) for all prototypes.
        prototypes: (B, C), or (1, C) for all slices.
        threshold: T, (B, 1), or (1, 1) for all slices.
    Returns:
        (B, h, w) in [0, 1].
    Raises:
        ValueError: the axes are wrong.
    """
    expect_shape("threshold", threshold, "B T", T=1)
    return 1 - torch.sigmoid(0.5 * (anomaly_score(features, prototypes) - threshold.unsqueeze(2)))


def fuse(path_probs: Sequence[Tensor], alpha: Sequence[float], image_size: tuple[int, int]) -> Tensor:
    """Upsample the soft mask of each path and average them with weights α (Q-Net).

    Args:
        path_probs: one (B, h, w) per path, in [0, 1].
        alpha: one weight per path.
        image_size: (H, W).
    Returns:
        (B, 2, H, W), the soft mask [1 − P, P].
    Raises:
        ValueError: the axes are wrong, or the numbers of paths and weights differ.
    """
    for probs in path_probs:
        expect_shape("path_probs", probs, "B h w")
    weighted = [weight * F.interpolate(probs.unsqueeze(1), size=image_size, mode="bilinear", align_corners=True)
                for weight, probs in zip(alpha, path_probs, strict=True)]
    foreground = reduce(torch.add, weighted) / sum(alpha)
    return torch.cat([1 - foreground, foreground], dim=1)
