"""TPM, RPT and GMRD written plainly, one slice after the other: what the tests compare ours with.

Features are upsampled to the image and averaged there; loops run over regions, descriptors, heads and pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from qnet.models.gmrd import GMRD, fill_indices
from qnet.models.rpt import RPT


def mean_inside(features: Tensor, mask: Tensor, align_corners: bool = False) -> Tensor:
    """(C, h, w) features, upsampled to the (H, W) mask, which may be soft → (C,)."""
    wide = F.interpolate(features[None], size=mask.shape, mode="bilinear", align_corners=align_corners)[0]
    return torch.stack([(channel * mask).sum() / (mask.sum() + 1e-5) for channel in wide])


def score(features: Tensor, prototype: Tensor) -> Tensor:
    """(C, h, w), (C,) → (h, w) anomaly score −20·cos."""
    return torch.stack([torch.stack([-20 * F.cosine_similarity(features[:, y, x], prototype, dim=0)
                                     for x in range(features.shape[2])]) for y in range(features.shape[1])])


def probability(features: Tensor, prototype: Tensor, threshold: Tensor) -> Tensor:
    """(C, h, w), (C,), number → (h, w)."""
    return 1 - torch.sigmoid(0.5 * (score(features, prototype) - threshold))


def wide(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w) → (H, W), corners on corners."""
    return F.interpolate(grid[None, None], size=size, mode="bilinear", align_corners=True)[0, 0]


# ---- TPM

def mixture_probability(features: Tensor, means: Tensor, shares: Tensor, threshold: float, prior: float) -> Tensor:
    """(C, h, w), (K, C), (K,) → (h, w) by the formulas with the two widths, in float64."""
    alpha = 20.0
    e = math.exp(alpha * 2 * (1 + threshold / alpha) / 2)
    heights = []
    for variance in (2 / alpha * (1 - 1 / e), 2 / alpha * (e - 1)):
        heights.append(sum(share * torch.exp((score(features, mean).double() / -alpha - 1) / variance) / math.sqrt(variance)
                           for mean, share in zip(means, shares, strict=True)))
    return prior * heights[0] / (prior * heights[0] + (1 - prior) * heights[1])


# ---- RPT

def farthest_points(places: list[tuple[int, int]], first: int, n_points: int) -> list[int]:
    """Positions in `places` of the points, beginning with `first`."""
    chosen = [first]
    while len(chosen) < n_points:
        distances = [min((y - places[c][0]) ** 2 + (x - places[c][1]) ** 2 for c in chosen) for y, x in places]
        chosen.append(max(range(len(places)), key=lambda k: (distances[k], -k)))
    return chosen


def regions(features: Tensor, mask: Tensor, first: int, n_regions: int) -> Tensor:
    """(C, h, w) features, (H, W) mask with enough cells → (N, C)."""
    small = F.interpolate(mask[None, None], size=features.shape[1:], mode="bilinear", align_corners=False)[0, 0]
    places = [(y, x) for y in range(small.shape[0]) for x in range(small.shape[1]) if small[y, x] > 0]
    centres = [places[k] for k in farthest_points(places, first, n_regions)]
    members: list[list[Tensor]] = [[] for _ in centres]
    for y, x in places:
        distances = [(y - cy) ** 2 + (x - cx) ** 2 for cy, cx in centres]
        members[distances.index(min(distances))].append(features[:, y, x])
    return torch.stack([torch.stack(cells).mean(0) for cells in members])


def attention_block(model: RPT, R: Tensor, q: Tensor) -> Tensor:
    """(N, C) regions and the query's (C,) prototype → (N, C)."""
    block, C = model.block, len(q)
    a = torch.stack([region @ q for region in R])
    xi = math.floor((a.min() + a.mean()).item() / 2)
    s = torch.tensor([-10000.0 if value < xi else 0.0 for value in a])
    w = torch.softmax(a + s, dim=0)
    Z = block.norm(torch.outer(w, q) + R)
    query, key, value = (torch.relu(Z @ layer.weight.T + layer.bias) for layer in block.to_heads)
    heads = []
    for head in range(3):
        part = slice(head * C, (head + 1) * C)
        heads.append(torch.softmax(query[:, part] @ key[:, part].T / math.sqrt(C), dim=1) @ value[:, part])
    joined = torch.cat(heads, dim=1) @ block.from_heads.weight.T + block.from_heads.bias
    y = block.norm_attention(torch.relu(joined) + Z)
    enter, _, leave = block.feed_forward
    inner = F.gelu(y @ enter.weight.T + enter.bias)
    return block.norm_output(y + inner @ leave.weight.T + leave.bias)


def rpt_probability(model: RPT, query: Tensor, threshold: Tensor, p: Tensor, R: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, h, w) query, (C,) prototype, (N, C) regions → (H, W)."""
    def averaged(mask: Tensor) -> Tensor:
        return (query * mask).sum((1, 2)) / (mask.sum() + 1e-5)

    q = averaged(probability(query, p, threshold))
    for _ in range(3):
        R = attention_block(model, R, q)
        p_k = R.mean(0) + (p if model.settings.form == "2024" else 0)
        q = averaged(probability(query, p_k, threshold))
    return wide(probability(query, p_k, threshold), size)


# ---- GMRD

def morphology(mask: Tensor, pick: str) -> Tensor:
    """One 3×3 dilation ("max") or erosion ("min") of an (H, W) mask; what is beyond the border does not count."""
    H, W = mask.shape
    return torch.tensor([[getattr(mask[max(y - 1, 0):y + 2, max(x - 1, 0):x + 2], pick)() for x in range(W)] for y in range(H)])


def descriptors(model: GMRD, features: Tensor, mask: Tensor) -> list[Tensor]:
    """(C, h, w) features, (H, W) mask of the mixing grid's size → [(K + 2, C) of background, of foreground]."""
    up = F.interpolate(features[None], size=mask.shape, mode="bilinear", align_corners=True)[0]
    C = len(up)
    eroded = morphology(morphology(mask, "min"), "min")
    widened = morphology(morphology(1 - mask if model.settings.edge == "published" else mask, "max"), "max")
    result = []
    for of_class, edge, mixer in ((1 - mask, widened - mask, model.mixers[0]), (mask, mask - eroded, model.mixers[1])):
        columns, chosen = up.reshape(C, -1), fill_indices(of_class.flatten()).tolist()
        filled = torch.stack([columns[:, k] for k in chosen], dim=1)
        first, _, _, second = mixer
        hidden = filled @ first.weight.T + first.bias
        mixed = (hidden.relu() if model.settings.relu else hidden) @ second.weight.T + second.bias     # (C, K)
        means = [torch.stack([(channel * weights).sum() / (weights.sum() + 1e-5) for channel in up])
                 for weights in (of_class, edge)]
        result.append(torch.cat([mixed.T, torch.stack(means)]))
    return result


def gmrd_probability(model: GMRD, query: Tensor, of_classes: list[Tensor], size: tuple[int, int]) -> Tensor:
    """(C, h, w) query → (H, W) probability of foreground."""
    logits = []
    for decoder, of_class in zip(model.decoders, of_classes, strict=True):
        maps = torch.stack([score(query, descriptor) / -20 for descriptor in of_class])[None]
        x = F.conv2d(maps, decoder.enter.weight).relu()
        first, _, second = decoder.residual
        x = x + F.conv2d(F.conv2d(x, first.weight, padding=1).relu(), second.weight, padding=1)
        third, _, _, last = decoder.leave
        logits.append(wide(F.conv2d(F.conv2d(x, third.weight, padding=1).relu(), last.weight)[0, 0], size))
    return torch.stack(logits).softmax(dim=0)[1]


def extra_losses(support: list[Tensor], query: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Descriptors of background and foreground → the intra and the inter loss."""
    def cos(a: Tensor, b: Tensor) -> Tensor:
        return F.cosine_similarity(a, b, dim=0)

    intra = torch.tensor(2.0)
    for s, q in zip(support, query, strict=True):
        best = [max(cos(one, other) for other in q[:-2]) for one in s[:-2]]
        intra = intra - torch.stack([*best, cos(s[-2], q[-2]), cos(s[-1], q[-1])]).mean()
    inter = sum(torch.stack([cos(a, b) for a in background for b in foreground]).mean().clamp_min(0)
                for background, foreground in (support, query)) + torch.zeros(())
    return intra, inter
