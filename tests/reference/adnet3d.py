"""ADNet's head in 3D, written plainly: loops over slices, rows and columns of the feature grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = torch.finfo(torch.float32).eps


def corner(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """(D, H, W) → (D, h, w): the pixel at the corner of each cell."""
    cells = torch.zeros(len(mask), *grid)
    for z in range(len(mask)):
        for y in range(grid[0]):
            for x in range(grid[1]):
                cells[z, y, x] = mask[z, y * mask.shape[1] // grid[0], x * mask.shape[2] // grid[1]]
    return cells


def mean_of_cells(features: Tensor, mask: Tensor) -> Tensor:
    """(C, D, h, w) features, (D, H, W) mask → (C,)."""
    cells = corner(mask, (features.shape[2], features.shape[3]))
    total, n = torch.zeros(len(features)), 0
    for z, y, x in cells.nonzero().tolist():
        total, n = total + features[:, z, y, x], n + 1
    return total / (n + 1e-5)


def on_grid(features: Tensor, prototype: Tensor, t: float) -> Tensor:
    """(C, D, h, w), (C,) → (D, h, w) foreground probability."""
    probs = torch.zeros(features.shape[1:])
    for z in range(features.shape[1]):
        for y in range(features.shape[2]):
            for x in range(features.shape[3]):
                cosine = features[:, z, y, x] @ prototype / (features[:, z, y, x].norm() * prototype.norm())
                probs[z, y, x] = 1 - torch.sigmoid(0.5 * (-20 * cosine - t))
    return probs


def soft_mask(features: Tensor, prototype: Tensor, t: float, size: tuple[int, int]) -> Tensor:
    """(C, D, h, w), (C,) → (D, H, W), by the trilinear upsampling of the published code, corners on corners."""
    wide = (features.shape[1], *size)
    return F.interpolate(on_grid(features, prototype, t)[None, None], size=wide, mode="trilinear", align_corners=True)[0, 0]


def cross_entropy(foreground: Tensor, mask: Tensor, background_weight: float) -> Tensor:
    """Of a (D, H, W) probability, the weighted mean."""
    weights = torch.where(mask == 1, 1.0, background_weight)
    chosen = torch.where(mask == 1, foreground, 1 - foreground).clamp(EPS, 1 - EPS).log()
    return -(weights * chosen).sum() / weights.sum()


def episode_losses(support: Tensor, support_mask: Tensor, query: Tensor, query_mask: Tensor, t: float,
                   background_weight: float) -> dict[str, Tensor]:
    """Query loss on the voxels, and alignment loss on the feature grid with the query's predicted cells."""
    grid = (query.shape[2], query.shape[3])
    prototype = mean_of_cells(support, support_mask)
    predicted = (on_grid(query, prototype, t) > 0.5).float()
    of_query = mean_of_cells(query, predicted)
    wide = (query_mask.shape[1], query_mask.shape[2])
    return {"query": cross_entropy(soft_mask(query, prototype, t, wide), query_mask, background_weight),
            "align": cross_entropy(on_grid(support, of_query, t), corner(support_mask, grid), 1.0)}
