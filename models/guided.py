"""Outlines from a registered label map and the query's own appearance. Nothing is trained.

The registered map says where a class lies, to within a centimetre. Where it is sure, the query's own voxels say how the class
looks in this very scan, and how its surroundings look; a linear discriminant between the two, with the blurred map as prior,
draws the border. A guided filter (He, Sun and Tang 2013) then lets the border follow the edges of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from models.registration import BODY_LEVEL, Registration, RegistrationModel, RegistrationSettings, scaled
from models.volume import VolumeSegmentation
from util.base.shapes import expect_shape

MIN_VOXELS = 20        # fewer sure voxels than this say nothing about a class
PRIOR_EPS = 0.01       # the prior's probabilities are clipped to this … 1 − this
FAR_LOGIT = -20.0      # outside the neighbourhood of a class
MIN_WIDTH = 0.15       # in voxels; a narrower blur is none


@dataclass(frozen=True)
class GuidedSettings:
    """Settings of `outline`; lengths in mm, along (D, H, W).

    Foreground of a class are the voxels where the registered map is above `sure`; background those where the blurred map is
    above `near` but the map below `clear`. The logit is (discriminant, clipped to ±`clip`) + `prior_weight` · logit(blurred
    map) + `bias`.
    """

    blur_mm: tuple[float, float, float] = (4.0, 5.0, 5.0)
    sure: float = 0.6
    near: float = 0.02
    clear: float = 0.2
    clip: float = 4.0
    prior_weight: float = 1.5
    bias: float = 0.5
    filter_mm: float = 4.0
    filter_eps: float = 0.05
    margin_mm: float = 30.0


def outline(query: Tensor, registered: Tensor, spacing_mm: Sequence[float], settings: GuidedSettings | None = None,
            features: Tensor | None = None) -> Tensor:
    """Outline K classes in a query volume.

    Args:
        query: (D, H, W) volume, any intensity range.
        registered: (K, D, H, W) probabilities of the classes, carried over from the support.
        spacing_mm: (D, H, W).
        features: (C, D, H, W) features beside the intensities at several scales, such as an encoder's; None: no others.
    Returns:
        (K, D, H, W) probabilities, each class against its surroundings; `label_map` chooses among them. A class of which the
        map is nowhere sure keeps its blurred map; an empty map stays empty.
    Raises:
        ValueError: the axes are wrong or disagree.
    """
    settings = settings or GuidedSettings()
    n = expect_shape("query", query, "D H W")
    expect_shape("registered", registered, "K D H W", **n)
    if features is not None:
        expect_shape("features", features, "C D H W", **n)
    probs = torch.zeros_like(registered)
    box = neighbourhood(registered, spacing_mm, settings.margin_mm)
    if box is not None:
        probs[(slice(None), *box)] = _outline_in_box(query, registered, spacing_mm, settings, features, box)
    return probs


def _outline_in_box(query: Tensor, registered: Tensor, spacing_mm: Sequence[float], settings: GuidedSettings,
                    features: Tensor | None, box: tuple[slice, ...]) -> Tensor:
    image = scaled(query)
    body = image > BODY_LEVEL
    X = standardised(appearance(image[box], spacing_mm), body[box])
    if features is not None:
        X = torch.cat([X, standardised(features[(slice(None), *box)].float(), body[box])])
    near = registered[(slice(None), *box)]
    probs = class_logits(X, near, blur(near, settings.blur_mm, spacing_mm), settings).sigmoid()
    return guided_filter(probs, X[0], settings.filter_mm, settings.filter_eps, spacing_mm).clamp(0, 1)


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


def appearance(image: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """(7, D, H, W): the image, itself blurred in the plane by 1.5, 3 and 6 mm, its deviation within 3 mm, a blur across slices,
    and the slope of the 1.5 mm blur."""
    image = image[None]
    fine, middle, coarse = (blur(image, (0, s, s), spacing_mm) for s in (1.5, 3.0, 6.0))
    deviation = (blur(image.square(), (0, 3.0, 3.0), spacing_mm) - middle.square()).clamp_min(0).sqrt()
    across = blur(image, (8.0, 2.0, 2.0), spacing_mm)
    return torch.cat([image, fine, middle, coarse, deviation, across, slope(fine)])


def slope(maps: Tensor) -> Tensor:
    """Length of the in-plane gradient of (K, D, H, W) maps, by central differences; per pixel."""
    dy, dx = (F.pad(maps, pad, mode="replicate").diff(n=1, dim=axis) for axis, pad in ((2, (0, 0, 1, 1)), (3, (1, 1, 0, 0))))
    dy, dx = (dy[:, :, 1:] + dy[:, :, :-1]) / 2, (dx[..., 1:] + dx[..., :-1]) / 2
    return (dy.square() + dx.square()).sqrt()


def standardised(maps: Tensor, body: Tensor) -> Tensor:
    """(C, D, H, W) maps with mean 0 and deviation 1 over the body, or over everything where there is none."""
    inside = maps[:, body] if body.sum() > 1 else maps.flatten(1)
    mean, deviation = inside.mean(dim=1), inside.std(dim=1, correction=0).clamp_min(1e-6)
    return (maps - mean.view(-1, 1, 1, 1)) / deviation.view(-1, 1, 1, 1)


def guided_filter(maps: Tensor, image: Tensor, radius_mm: float, eps: float, spacing_mm: Sequence[float]) -> Tensor:
    """Guided filter of (K, D, H, W) maps by a standardised (D, H, W) image, slice by slice, with Gaussian windows."""
    def mean(x: Tensor) -> Tensor:
        return blur(x, (0, radius_mm, radius_mm), spacing_mm)

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


def neighbourhood(registered: Tensor, spacing_mm: Sequence[float], margin_mm: float) -> tuple[slice, ...] | None:
    """The box around all classes, with a margin; None where no class is."""
    anywhere = registered.sum(dim=0) > 0.1
    if not anywhere.any():
        return None
    box = []
    for axis, spacing in enumerate(spacing_mm):
        others = [other for other in range(3) if other != axis]
        found = torch.nonzero(anywhere.any(dim=others[1]).any(dim=others[0])).flatten()
        margin = math.ceil(margin_mm / float(spacing))
        box.append(slice(max(0, int(found[0]) - margin), int(found[-1]) + margin + 1))
    return tuple(box)


def label_map(probs: Tensor) -> Tensor:
    """(D, H, W): k + 1 where class k of (K, D, H, W) is the most probable and above ½, else 0."""
    best, which = probs.max(dim=0)
    return torch.where(best > 0.5, which + 1, 0)


class GuidedModel(RegistrationModel):
    """The registered label map, its border drawn by the query's own appearance (`outline`).

    Args:
        registration: settings of the registration.
        settings: of the outline.
    """

    def __init__(self, registration: RegistrationSettings | None = None, settings: GuidedSettings | None = None):
        super().__init__(registration)
        self.guided = settings or GuidedSettings()

    def segment_volume(self, query: Tensor, support: Tensor, support_masks: Tensor, query_spacing_mm: Sequence[float],
                       ways: Sequence[Sequence[Registration]]) -> VolumeSegmentation:
        """See VolumeModel. The confidence is that of the registration."""
        carried = super().segment_volume(query, support, support_masks, query_spacing_mm, ways)
        return replace(carried, probs=outline(query, carried.registered, query_spacing_mm, self.guided))
