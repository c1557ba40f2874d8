"""Query-informed prototype refinement (Q-Net, section 2.4), for a batch of slices at once and without autograd.

The published procedure minimises, with Adam, the mean binary cross-entropy between the input n(F) and the *target* n(F'),
where F' is F with the prototype p put in place of the predicted foreground M, and n(X) = sigmoid((X − min X)/(max X − min X)).
With u = (F − min F)/(max F − min F), the input is sigmoid(u), so the loss is linear in the target with slope −u/N, and

    dLoss/dp_c = −1/N · (Σ_M u_c) · t'(p_c)  +  the part that reaches p through min F' and max F',

t' being the derivative of x ↦ sigmoid((x − min F')/(max F' − min F')). The second part is there only where a component of p
is itself the minimum or maximum of F'. So an iteration costs two products with the C×hw feature matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.prototypes import COSINE_EPS, COSINE_SCALE
from util.checks import expect_shape

LEARNING_RATE, BETA1, BETA2, ADAM_EPS = 0.01, 0.9, 0.999, 1e-8   # Adam with PyTorch's defaults but for the rate
TINY = 1e-12                                                     # range of a constant feature map


@torch.no_grad()
def refine(features: Tensor, prototypes: Tensor, threshold: Tensor, n_iters: int) -> Tensor:
    """Refine each slice's prototype on that slice.

    Args:
        features: (B, C, h, w) query features of one path.
        prototypes: (B, C), or (1, C) for all slices.
        threshold: (B, 1).
        n_iters: number of Adam steps; 0 returns the prototypes as they are.
    Returns:
        (B, C). A slice in which nothing is predicted as foreground keeps its prototype.
    Raises:
        ValueError: the axes are wrong.
    """
    size = expect_shape("features", features, "B C h w")
    expect_shape("prototypes", prototypes, "N C", C=size["C"])
    p = prototypes.expand(size["B"], -1).clone()
    slices = _Slices(features.flatten(2))
    mean, square = torch.zeros_like(p), torch.zeros_like(p)
    for step in range(1, n_iters + 1):
        gradient = slices.gradient(p, slices.foreground(p, threshold))
        mean.lerp_(gradient, 1 - BETA1)
        square.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        p -= LEARNING_RATE * (mean / (1 - BETA1**step)) / ((square / (1 - BETA2**step)).sqrt() + ADAM_EPS)
    return p


class _Slices:
    """The (B, C, N) features of a batch of slices and what of them stays the same over the iterations."""

    def __init__(self, features: Tensor):
        self.features = features
        self.norms = features.norm(dim=1).clamp_min(COSINE_EPS)                       # (B, N)
        self.cell_min, self.cell_max = features.amin(1), features.amax(1)              # (B, N)
        self.low = self.cell_min.amin(1, keepdim=True)                                 # (B, 1)
        self.range = (self.cell_max.amax(1, keepdim=True) - self.low).clamp_min(TINY)  # (B, 1)

    def foreground(self, p: Tensor, threshold: Tensor) -> Tensor:
        """Hard mask (B, N) of the cells where [1 − P, P] has its maximum in P; a tie is background."""
        dot = torch.bmm(p.unsqueeze(1), self.features).squeeze(1)
        score = -COSINE_SCALE * dot / (self.norms * p.norm(dim=1, keepdim=True).clamp_min(COSINE_EPS))
        probability = 1 - torch.sigmoid(0.5 * (score - threshold))
        return probability > 1 - probability

    def gradient(self, p: Tensor, mask: Tensor) -> Tensor:
        """dLoss/dp, (B, C)."""
        n_values = self.features[0].numel()
        area = mask.sum(1, keepdim=True)
        p_low, p_high = p.amin(1, keepdim=True), p.amax(1, keepdim=True)
        rest_low = self.cell_min.masked_fill(mask, torch.inf).amin(1, keepdim=True)
        rest_high = self.cell_max.masked_fill(mask, -torch.inf).amax(1, keepdim=True)
        low, high = torch.minimum(p_low, rest_low), torch.maximum(p_high, rest_high)
        span = (high - low).clamp_min(TINY)

        sum_u = torch.bmm(self.features, mask.unsqueeze(2).to(p.dtype)).squeeze(2)     # (B, C): Σ_M F, then Σ_M u
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
        """What reaches p of slice b through the minimum and the maximum of F', times −N."""
        rest = self.features[b][:, ~mask]
        rest_v = (rest - low) / span
        target = torch.sigmoid(rest_v)
        rest_weight = (rest - self.low[b]) / self.range[b] * target * (1 - target)
        to_low = ((weight * (v - 1)).sum() + (rest_weight * (rest_v - 1)).sum()) / span
        to_high = -((weight * v).sum() + (rest_weight * rest_v).sum()) / span
        out = torch.zeros_like(p)
        if p.min() < rest_low:
            out += to_low * _share(p == p.min())
        if p.max() > rest_high:
            out += to_high * _share(p == p.max())
        return out


def _share(where: Tensor) -> Tensor:
    """Ties share a gradient evenly, as autograd has it."""
    return where / where.sum()
