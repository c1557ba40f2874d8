"""Outlines from a registered label map and the query's own appearance. Nothing is trained.

The registered map says where a class lies. Where it is sure, the query's own voxels say how the class looks in this scan, and
how its surroundings look; a linear discriminant between the two, with the blurred map as prior, draws the border. A guided
filter (He, Sun and Tang 2013) then lets the border follow the edges of the image. All lengths follow the thickness of the class.

Not every class gains by this. So it is tried on the outlined scan first, whose truth is known (`tried`): the truth is displaced
as registrations are displaced, and drawn again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from qnet.models.contents import CONTENT_LEVEL
from qnet.models.sampling import bounds_of, column, grid_mm, margin_box, sample
from qnet.models.settings import GuidedSettings
from qnet.util.base.shapes import expect_shape

MIN_VOXELS = 20        # fewer sure voxels than this say nothing about a class
PRIOR_EPS = 0.01       # the prior's probabilities are clipped to this … 1 − this
FAR_LOGIT = -20.0      # outside the neighbourhood of a class
MIN_WIDTH = 0.15       # in voxels; a narrower blur is none
SCALES = (0.3, 0.6, 1.2)     # of the blurs that describe the appearance, in widths of the prior's blur
WIDEST_BLUR = 1.6      # in spacings of the registration's wide grid: no blur is wider than a registration errs
AMPLITUDES = (1.0, 2.0, 4.0, 6.0)   # of the displacements that are tried, in spacings of the wide grid (root mean square)
SMOOTH_FIELD = 4.0     # their smoothness, in the same unit
TRIED_MARGIN = 8.0     # around the class, in the same unit
LEAST_GAIN = 0.002     # of Dice where it was tried; less is no gain


def thickness_mm(mask: Tensor, spacing_mm: Sequence[float]) -> float:
    """Return how thick a (D, H, W) mask is: twice the 95th percentile of the distance to its border; 0 of an empty one."""
    spans = bounds_of(mask.bool())
    if spans is None:
        return 0.0
    inside = F.pad(mask.bool()[tuple(slice(*span) for span in spans)], [1] * 6).cpu().numpy()
    distance = ndimage.distance_transform_edt(inside, sampling=list(spacing_mm))
    return 2 * float(np.percentile(distance[inside], 95))


def blur_mm(thickness: float, wide_mm: float, settings: GuidedSettings) -> float:
    """Return the width (σ) of the prior's blur for a class of a thickness, in a scan whose wide grid has a spacing."""
    return min(settings.blur * thickness, WIDEST_BLUR * wide_mm)


def outline(images: Tensor, registered: Tensor, spacing_mm: Sequence[float], sigma_mm: float,
            settings: GuidedSettings, features: Tensor | None = None) -> Tensor:
    """Outline a class in a scan, or in a box of it.

    Args:
        images: (C, D, H, W) of a scan, its channels, each from black to white as 0 to 1.
        registered: (D, H, W) probability of the class, carried over from the support.
        spacing_mm: (D, H, W).
        sigma_mm: width of the prior's blur (`blur_mm`), which all other lengths follow.
        features: (C, D, H, W) features beside those of the channels, such as an encoder's; None: no others.
    Returns:
        (D, H, W) probability. A class of which the map is nowhere sure keeps its blurred map; an empty map stays empty.
    Raises:
        ValueError: the axes are wrong or disagree.
    """
    n = expect_shape("images", images, "C D H W")
    del n["C"]
    expect_shape("registered", registered, "D H W", **n)
    if features is not None:
        expect_shape("features", features, "C D H W", **n)
    content = (images > CONTENT_LEVEL).any(dim=0)
    channels = [standardised(appearance(image, spacing_mm, sigma_mm), content) for image in images]
    X = torch.cat([*channels, *([] if features is None else [standardised(features.float(), content)])])
    prior = blur(registered[None], (sigma_mm,) * 3, spacing_mm)
    probs = class_logits(X, registered[None], prior, settings).sigmoid()
    filtered = [guided_filter(probs, of_channel[0], settings.filter * sigma_mm, settings.filter_eps, spacing_mm)
                for of_channel in channels]
    return torch.cat(filtered).mean(dim=0).clamp(0, 1)


def class_logits(X: Tensor, registered: Tensor, prior: Tensor, settings: GuidedSettings) -> Tensor:
    """(K, D, H, W) logits, each class against its own surroundings, from (C, D, H, W) features."""
    logits = torch.full_like(registered, FAR_LOGIT)
    for k, (mask, smooth) in enumerate(zip(registered, prior, strict=True)):
        region = smooth > settings.near / 8
        foreground, background = mask > settings.sure, (smooth > settings.near) & (mask < settings.clear)
        own = torch.zeros((), device=X.device)
        if min(foreground.sum(), background.sum()) >= MIN_VOXELS:
            weights, offset = discriminant(X[:, background], X[:, foreground])
            own = (weights @ X[:, region] + offset).clamp(-settings.clip, settings.clip)
        logits[k, region] = own + settings.prior_weight * smooth[region].logit(PRIOR_EPS) + settings.bias
    return logits


def discriminant(background: Tensor, foreground: Tensor, shrinkage: float = 0.02) -> tuple[Tensor, Tensor]:
    """Fisher's linear discriminant of (C, N) and (C, M) features: weights (C,) and an offset.

    weights · x + offset is the log-likelihood ratio of two Gaussians of one covariance, which is drawn `shrinkage` of its mean
    variance towards a multiple of the identity.
    """
    means = [samples.mean(dim=1) for samples in (background, foreground)]
    scatter = (torch.cov(background, correction=0) + torch.cov(foreground, correction=0)) / 2
    eye = torch.eye(len(scatter), device=scatter.device)
    scatter = scatter + (shrinkage * scatter.diagonal().mean() + 1e-6) * eye
    weights = torch.linalg.solve(scatter, means[1] - means[0])
    return weights, -(weights * (means[0] + means[1])).sum() / 2


def appearance(image: Tensor, spacing_mm: Sequence[float], sigma_mm: float) -> Tensor:
    """(6, D, H, W): the image, itself blurred at three scales, its deviation within the middle one, and the slope of the finest.

    Args:
        sigma_mm: what the scales are multiples of (`SCALES`).
    """
    image = image[None]
    fine, middle, coarse = (blur(image, (scale * sigma_mm,) * 3, spacing_mm) for scale in SCALES)
    deviation = (blur(image.square(), (SCALES[1] * sigma_mm,) * 3, spacing_mm) - middle.square()).clamp_min(0).sqrt()
    return torch.cat([image, fine, middle, coarse, deviation, slope(fine, spacing_mm)])


def slope(maps: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """Length of the gradient of (K, D, H, W) maps, by central differences; per mm."""
    total = torch.zeros_like(maps)
    for axis, spacing in enumerate(spacing_mm, start=1):
        pad = [0] * 6
        pad[2 * (3 - axis)] = pad[2 * (3 - axis) + 1] = 1
        steps = F.pad(maps, pad, mode="replicate").diff(n=1, dim=axis)
        n = maps.shape[axis]
        total += ((steps.narrow(axis, 1, n) + steps.narrow(axis, 0, n)) / (2 * float(spacing))).square()
    return total.sqrt()


def standardised(maps: Tensor, body: Tensor) -> Tensor:
    """(C, D, H, W) maps with mean 0 and deviation 1 over the body, or over everything where there is none."""
    inside = maps[:, body] if body.sum() > 1 else maps.flatten(1)
    mean, deviation = inside.mean(dim=1), inside.std(dim=1, correction=0).clamp_min(1e-6)
    return (maps - mean.view(-1, 1, 1, 1)) / deviation.view(-1, 1, 1, 1)


def guided_filter(maps: Tensor, image: Tensor, radius_mm: float, eps: float, spacing_mm: Sequence[float]) -> Tensor:
    """Guided filter of (K, D, H, W) maps by a standardised (D, H, W) image, with Gaussian windows."""
    def mean(x: Tensor) -> Tensor:
        return blur(x, (radius_mm,) * 3, spacing_mm)

    image = image[None]
    mean_image, mean_maps = mean(image), mean(maps)
    slopes = (mean(image * maps) - mean_image * mean_maps) / (mean(image.square()) - mean_image.square() + eps)
    return mean(slopes) * image + mean(mean_maps - slopes * mean_image)


def blur(maps: Tensor, sigma_mm: Sequence[float], spacing_mm: Sequence[float]) -> Tensor:
    """Gaussian blur of (K, D, H, W) maps, σ in mm along (D, H, W), the edge values repeated outside."""
    for axis, (sigma, spacing) in enumerate(zip(sigma_mm, spacing_mm, strict=True), start=1):
        width = float(sigma) / float(spacing)
        if width >= MIN_WIDTH:
            matrix = _blur_matrix(maps.shape[axis], width).to(maps)
            maps = (maps.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return maps


@cache
def _blur_matrix(n: int, width: float) -> Tensor:
    """(n, n) matrix of a Gaussian blur of σ `width` along an axis of n, cut at 3 σ. A product is faster than a convolution."""
    reach = math.ceil(3 * width)
    kernel = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * width * width))
    sources = (torch.arange(n)[:, None] + torch.arange(-reach, reach + 1)).clamp(0, n - 1)
    return torch.zeros(n, n).scatter_add_(1, sources, (kernel / kernel.sum()).expand(n, -1))


def displaced(mask: Tensor, spacing_mm: Sequence[float], field_mm: Tensor) -> Tensor:
    """(D, H, W) soft map of a mask, each point taken from a place that lies (3, D, H, W) mm away."""
    places = grid_mm(mask.shape, spacing_mm, mask.device) + field_mm
    return sample(mask.float()[None], places / column(spacing_mm, places))[0]


def smooth_field(shape: Sequence[int], spacing_mm: Sequence[float], smooth_mm: float, seed: int) -> Tensor:
    """(3, D, H, W) random displacements, smooth over `smooth_mm`, of root mean square length 1."""
    noise = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
    field = blur(noise, (smooth_mm,) * 3, spacing_mm)
    return field / field.square().sum(dim=0).mean().sqrt().clamp_min(1e-9)


@dataclass(frozen=True)
class Trial:
    """What drawing the border did to a displaced truth.

    Attributes:
        before: Dice of the displaced truth.
        gains: by the name of the settings, what Dice gained.
    """

    before: float
    gains: Mapping[str, float]


def tried(images: Tensor, mask: Tensor, spacing_mm: Sequence[float], wide_mm: float,
          settings: Mapping[str, GuidedSettings]) -> list[Trial]:
    """Draw the border of a class anew on the scan where it is known, from displaced truths, by several settings.

    Args:
        images: (C, D, H, W) of the outlined scan, its channels, 0 to 1.
        mask: (D, H, W) of the class.
        wide_mm: spacing of the wide grid, which displacements follow.
    Returns:
        A trial for each of `AMPLITUDES`, less and less of Dice before.
    """
    spans = bounds_of(mask.bool())
    assert spans is not None
    box = margin_box(spans, spacing_mm, (TRIED_MARGIN * wide_mm,) * 3, mask.shape)
    images, truth = images[(slice(None), *box)], mask[box].bool()
    thickness = thickness_mm(truth, spacing_mm)
    trials = []
    field = smooth_field(truth.shape, spacing_mm, SMOOTH_FIELD * wide_mm, seed=0).to(images)
    for amplitude in AMPLITUDES:
        moved = displaced(truth, spacing_mm, amplitude * wide_mm * field)
        before = dice(moved > 0.5, truth)
        gains = {}
        for name, of_one in settings.items():
            drawn = outline(images, moved, spacing_mm, blur_mm(thickness, wide_mm, of_one), of_one)
            gains[name] = dice(drawn > 0.5, truth) - before
        trials.append(Trial(before, gains))
    return trials


def gain(trials: Sequence[Trial], name: str, expected: float) -> float:
    """Return what settings gained in Dice where the displaced truth had an expected Dice, between trials linearly."""
    points = sorted((trial.before, trial.gains[name]) for trial in trials)
    return _between(points, expected)


def _between(points: Sequence[tuple[float, float]], x: float) -> float:
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / max(x1 - x0, 1e-9)
    return points[-1][1]


def dice(first: Tensor, second: Tensor) -> float:
    """Return the Dice of two masks, 0 to 1; 1 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def label_map(probs: Tensor) -> Tensor:
    """(D, H, W): k + 1 where class k of (K, D, H, W) is the most probable and above ½, else 0."""
    best, which = probs.max(dim=0)
    return torch.where(best > 0.5, which + 1, 0)
