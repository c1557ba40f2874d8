"""Query-informed prototype refinement (Q-Net, section 2.4), for a batch of slices at once and without autograd.

The published procedure uses Adam to minimise the mean binary cross-entropy between the input n(F) and the *target* n(F').
F' is F with the prototype p in place of the predicted foreground M, and n(X) = sigmoid((X − min X)/(max X − min X)).
With u = (F − min F)/(max F − min F), the input is sigmoid(u). So the loss is linear in the target with slope −u/N, and

    dLoss/dp_c = −1/N · (Σ_M u_c) · t'(p_c)  +  the part that reaches p through min F' and max F',

where t' is the derivative of x ↦ sigmoid((x − min F')/(max F' − min F')). The second part is 0 unless a component of p is
itself the minimum or maximum of F'. So an iteration costs two products with the C×hw feature matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qnet.models.prototypes import COSINE_EPS, COSINE_SCALE, inner_products
from qnet.util.base.shapes import expect_shape

LEARNING_RATE, BETA1, BETA2, ADAM_EPS = 0.01, 0.9, 0.999, 1e-8   # PyTorch's defaults of Adam, but for the rate
TINY = 1e-12                                                     # smallest range, that of a constant feature map


@torch.no_grad()
def refine(features: Tensor, prototypes: Tensor, threshold: Tensor, n_iters: int) -> Tensor:
    """Refine each slice's prototype on that slice (Q-Net, section 2.4).

    Args:
        features: (B, C, h, w) query features of one path, or (1, C, h, w) for all prototypes.
        prototypes: (B, C), or (1, C) for all slices.
        threshold: (B, 1), or (1, 1) for all slices.
        n_iters: number of Adam steps. 0 returns the prototypes unchanged.
    Returns:
        (B, C). A prototype that predicts no foreground stays unchanged.
    Raises:
        ValueError: the axes are wrong.
    """
    size = expect_shape("features", features, "B C h w")
    expect_shape("prototypes", prototypes, "N C", C=size["C"])
    expect_shape("threshold", threshold, "B T", T=1)
    p = prototypes.expand(max(size["B"], len(prototypes)), -1).clone()
    slices = _Slices(features.flatten(2))
    mean, square = torch.zeros_like(p), torch.zeros_like(p)
    for step in range(1, n_iters + 1):
        gradient = slices.gradient(p, slices.foreground(p, threshold))
        mean.lerp_(gradient, 1 - BETA1)
        square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        p -= LEARNING_RATE * (mean / (1 - BETA1**step)) / ((square / (1 - BETA2**step)).sqrt() + ADAM_EPS)
    return p


class _Slices:
    """The features of a batch of slices, (B, C, N) or (1, C, N) for all prototypes, and what iterations do not change."""

    def __init__(self, features: Tensor):
        self.features = features
        self.norms = features.norm(dim=1).clamp_min(COSINE_EPS)                       # (B, N)
        self.cell_min, self.cell_max = features.amin(1), features.amax(1)              # (B, N)
        self.low = self.cell_min.amin(1, keepdim=True)                                 # (B, 1)
        self.range = (self.cell_max.amax(1, keepdim=True) - self.low).clamp_min(TINY)  # (B, 1)

    def foreground(self, p: Tensor, threshold: Tensor) -> Tensor:
        """Return the (B, N) hard mask of the cells where P > 1 − P. A tie is background."""
        norms = self.norms * p.norm(dim=1, keepdim=True).clamp_min(COSINE_EPS)
        score = -COSINE_SCALE * inner_products(self.features, p) / norms
        probability = 1 - torch.sigmoid(0.5 * (score - threshold))
        return probability > 1 - probability

    def gradient(self, p: Tensor, mask: Tensor) -> Tensor:
        """Return dLoss/dp, (B, C)."""
        n_values = self.features[0].numel()
        area = mask.sum(1, keepdim=True)
        p_low, p_high = p.amin(1, keepdim=True), p.amax(1, keepdim=True)
        rest_low = torch.where(mask, torch.inf, self.cell_min).amin(1, keepdim=True)
        rest_high = torch.where(mask, -torch.inf, self.cell_max).amax(1, keepdim=True)
        low, high = torch.minimum(p_low, rest_low), torch.maximum(p_high, rest_high)
        span = (high - low).clamp_min(TINY)

        sum_u = inner_products(self.features.mT, mask.to(p.dtype))                     # (B, C): Σ_M F, then Σ_M u
        sum_u = (sum_u - area * self.low) / self.range
        v = (p - low) / span
        target = torch.sigmoid(v)
        weight = sum_u * target * (1 - target)                                         # (B, C)
        gradient = weight / span

        inside = ((p_low < rest_low) | (p_high > rest_high)).squeeze(1) & (area > 0).squeeze(1)
        for b in inside.nonzero().flatten().tolist():   # rare: p sets the minimum or the maximum of F'
            gradient[b] += self._through_extremes(b, p[b], mask[b], weight[b], v[b], low[b], span[b], rest_low[b], rest_high[b])
        return gradient.mul_(-1 / n_values).masked_fill_(area == 0, 0)

    def _through_extremes(self, b: int, p: Tensor, mask: Tensor, weight: Tensor, v: Tensor, low: Tensor, span: Tensor,
                          rest_low: Tensor, rest_high: Tensor) -> Tensor:
        """Return the part of slice b's gradient that passes through the minimum and maximum of F', times −N."""
        of_slice = b if len(self.features) > 1 else 0
        rest = self.features[of_slice][:, ~mask]
        rest_v = (rest - low) / span
        target = torch.sigmoid(rest_v)
        rest_weight = (rest - self.low[of_slice]) / self.range[of_slice] * target * (1 - target)
        to_low = ((weight * (v - 1)).sum() + (rest_weight * (rest_v - 1)).sum()) / span
        to_high = -((weight * v).sum() + (rest_weight * rest_v).sum()) / span
        out = torch.zeros_like(p)
        if p.min() < rest_low:
            out += to_low * _share(p == p.min())
        if p.max() > rest_high:
            out += to_high * _share(p == p.max())
        return out


def _share(where: Tensor) -> Tensor:
    """Return the shares of a gradient. Ties share it evenly, as in autograd."""
    return where / where.sum()
