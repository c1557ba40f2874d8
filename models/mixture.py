"""Several prototypes of a class: a mixture of Gaussians on the unit sphere, found by expectation and maximisation (TPM)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qnet.models.prototypes import COSINE_EPS, COSINE_SCALE
from qnet.util.base.shapes import expect_shape

N_STEPS = 100          # at most
MOVED = 1e-4           # the search ends when no mean moves more than this
NOISE = 0.05           # largest component of the noise that tells the means apart at the start
MIN_VARIANCE = 1e-4
SEED = 0               # of that noise, which is the same for every slice


def fit_mixture(features: Tensor, weights: Tensor, n_components: int) -> tuple[Tensor, Tensor]:
    """Fit a mixture of spherical Gaussians to normalised features. Gradients pass through the last step's means alone.

    Args:
        features: (B, C, N), N cells.
        weights: (B, N) of the cells, not negative.
        n_components: K.
    Returns:
        (B, K, C) means and (B, K) shares, which add up to 1. Without any weight all means are the same and nearly 0.
    Raises:
        ValueError: the axes are wrong.
    """
    n = expect_shape("features", features, "B C N")
    expect_shape("weights", weights, "B N", B=n["B"], N=n["N"])
    cells = F.normalize(features, dim=1).mT                                                     # (B, N, C)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(COSINE_EPS)
    with torch.no_grad():
        noise = torch.rand(n_components, n["C"], generator=torch.Generator().manual_seed(SEED)).to(cells)
        means = (weights.unsqueeze(1) @ cells) + NOISE * (2 * noise - 1)                        # (B, K, C)
        shares = torch.full((n["B"], n_components), 1 / n_components).to(cells)
        variances = torch.ones_like(shares)
        for _ in range(N_STEPS):
            belongs = _responsibilities(cells, means, shares, variances) * weights.unsqueeze(1)  # (B, K, N)
            before, mass = means, belongs.sum(2)                                                 # (B, K)
            means = _means(cells, belongs, mass)
            spread = (belongs * _square_distances(cells, means)).sum(2) / mass.clamp_min(COSINE_EPS)
            variances = (spread / n["C"]).clamp_min(MIN_VARIANCE)
            shares = mass / mass.sum(1, keepdim=True).clamp_min(COSINE_EPS)
            if (means - before).abs().max() < MOVED:
                break
    return _means(cells, belongs, mass), shares


def _square_distances(cells: Tensor, means: Tensor) -> Tensor:
    """Return (B, K, N) squared distances of (B, N, C) cells to (B, K, C) means."""
    return torch.cdist(means, cells).square()


def _responsibilities(cells: Tensor, means: Tensor, shares: Tensor, variances: Tensor) -> Tensor:
    """Return (B, K, N) the chance that a cell belongs to a component."""
    variances = variances.unsqueeze(2)
    density = -0.5 * (_square_distances(cells, means) / variances + cells.shape[2] * variances.log())
    return (density + shares.clamp_min(COSINE_EPS).log().unsqueeze(2)).softmax(dim=1)


def _means(cells: Tensor, belongs: Tensor, mass: Tensor) -> Tensor:
    return belongs @ cells / mass.clamp_min(COSINE_EPS).unsqueeze(2)


def mixture_logits(features: Tensor, means: Tensor, shares: Tensor, threshold: Tensor) -> Tensor:
    """Return the logit of foreground at even odds. With one component it is (T − S)/2 with the anomaly score S.

    Foreground and background are mixtures about the same means, the background's wider. Both widths follow from the
    threshold T, so that they are equally likely at S = T.

    Args:
        features: (B, C, h, w), or (1, C, h, w) for all means.
        means: (B, K, C), or (1, K, C) for all slices.
        shares: (B, K), or (1, K).
        threshold: T, (B, 1), or (1, 1).
    Returns:
        (B, h, w).
    Raises:
        ValueError: the axes are wrong.
    """
    n = expect_shape("features", features, "B C h w")
    expect_shape("means", means, "B K C", C=n["C"])
    expect_shape("threshold", threshold, "B T", T=1)
    unit = features.flatten(2) / features.flatten(2).norm(dim=1, keepdim=True).clamp_min(COSINE_EPS)
    cosine = (means / means.norm(dim=2, keepdim=True).clamp_min(COSINE_EPS)) @ unit              # (B, K, N)
    ratio = (COSINE_SCALE + threshold).clamp_min(COSINE_EPS)           # log of e = exp(α·T_D²/2), with T_D² = 2(1 + T/α)
    narrow, wide = (-torch.expm1(-ratio)).log(), torch.expm1(ratio).log()       # log of α/2 times the two variances
    log_shares = shares.clamp_min(COSINE_EPS).log().unsqueeze(2)
    heights = []
    for log_variance in (narrow, wide):
        slope = 0.5 * COSINE_SCALE * (-log_variance).exp()                                       # 1/σ², (B, 1)
        heights.append((log_shares + slope.unsqueeze(2) * (cosine - 1)).logsumexp(dim=1) - 0.5 * log_variance)
    return (heights[0] - heights[1]).unflatten(1, (n["h"], n["w"]))
