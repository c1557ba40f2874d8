"""GMRD (Cheng et al. 2024, IEEE Transactions on Medical Imaging): many learned descriptors of each class, and learned decoders.

Written from a description of the public code, docs/comparison.md. That code had two losses more at the time of the paper; both
forms can be had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qnet.models.base import FewShotModel, mean_where_predicted
from qnet.models.encoder import Features
from qnet.models.prototypes import AREA_EPS, COSINE_EPS
from qnet.models.settings import GMRDSettings
from qnet.util.base.shapes import expect_shape

if TYPE_CHECKING:
    from qnet.util.base.episode import Episode

RIM = 2                                # pixels
MIXER_DROPOUT, DECODER_DROPOUT = 0.2, 0.1
SEED = 2025

Descriptors = tuple[Tensor, Tensor]    # of background (B, K + 2, C) and foreground (B, K' + 2, C)


class GMRD(FewShotModel):
    """Descriptors of a class are its mean, the mean of its rim, and learned mixtures of its pixels.

    A decoder turns the maps of their similarities to the query into a class score. There is no threshold.

    Args:
        encoder: gives one feature map.
        settings: GMRDSettings.
        background_weight, ignore_label: FewShotModel explains them.
    """

    def __init__(self, encoder: nn.Module, settings: GMRDSettings, background_weight: float, ignore_label: int):
        super().__init__(encoder, background_weight, ignore_label)
        self.settings = settings
        numbers = (settings.n_background, settings.n_foreground)
        self.mixers = nn.ModuleList(_mixer(settings.mix_px**2, n, settings.relu) for n in numbers)
        self.decoders = nn.ModuleList(Decoder(n, settings.n_foreground) for n in numbers)
        if settings.extra_weight:
            self.loss_names = (*self.loss_names, "intra", "inter")

    def prototypes(self, support_features: Features, support_masks: Tensor) -> Descriptors:
        """Return the (B, K + 2, C) descriptors of background and of foreground, means over the shots; the last two: mean, rim.

        Args:
            support_features: of B·S support slices, (B·S, C, h, w).
            support_masks: (B, S, H, W) of 0 and 1.
        Raises:
            ValueError: the axes are wrong, or features and masks disagree on the number of slices.
        """
        n = expect_shape("support_masks", support_masks, "B S H W")
        expect_shape("support_features", support_features.maps[0], "N C h w", N=n["B"] * n["S"])
        size = (self.settings.mix_px, self.settings.mix_px)
        features = F.interpolate(support_features.maps[0], size=size, mode="bilinear", align_corners=True)
        masks = (F.adaptive_avg_pool2d(support_masks.flatten(0, 1).unsqueeze(1).float(), size) > 0).float()   # (B·S, 1, h, w)
        weights = ((1 - masks, background_edge(masks, self.settings.edge)), (masks, masks - _eroded(masks)))
        background, foreground = (self._descriptors(mixer, features, *of_class).unflatten(0, (n["B"], n["S"])).mean(dim=1)
                                  for mixer, of_class in zip(self.mixers, weights, strict=True))
        return background, foreground

    def segment(self, query_features: Features, prototypes: Descriptors) -> Tensor:
        """Return the (B, 2, H, W) soft mask [1 − P, P] of B query slices.

        Args:
            query_features: of B slices, or of one slice for all B descriptors.
            prototypes: of B episodes, or of one for all slices.
        Raises:
            ValueError: the axes are wrong.
        """
        return self._scores(query_features, prototypes).softmax(dim=1)

    def segment_each(self, query_features: Features, prototypes: Sequence[Descriptors]) -> Tensor:
        """Return the (K, 2, H, W) soft masks of one query slice, all at once."""
        background, foreground = (torch.cat(of_class) for of_class in zip(*prototypes, strict=True))
        return self.segment(query_features, (background, foreground))

    def log_probs_and_mask(self, features: Features, prototypes: Descriptors) -> tuple[Tensor, Tensor]:
        """Return the (B, 2, H, W) log-probabilities and the (B, H, W) hard mask. Not clamped: sure errors must teach."""
        scores = self._scores(features, prototypes)
        return scores.log_softmax(dim=1), scores[:, 1] > scores[:, 0]

    def losses(self, support: Features, query: Features, episode: Episode) -> dict[str, Tensor]:
        """Return the losses, with the two extra ones where the settings give them a weight."""
        of_support = self.prototypes(support, episode.support_masks)
        log_probs, predicted = self.log_probs_and_mask(query, of_support)
        of_query = self.prototypes(query, predicted.unsqueeze(1))
        n_shots = episode.support_masks.shape[1]
        background, foreground = (of_class.repeat_interleave(n_shots, dim=0) for of_class in of_query)
        losses = {"query": self.query_loss(log_probs, episode.query_masks.long()),
                  "align": self.alignment_loss(support, query, predicted, (background, foreground), episode.support_masks)}
        if self.settings.extra_weight:
            extra = {"intra": intra_loss(of_support, of_query), "inter": inter_loss(of_support) + inter_loss(of_query)}
            losses |= {name: self.settings.extra_weight * mean_where_predicted(loss, predicted) for name, loss in extra.items()}
        return losses

    def _descriptors(self, mixer: nn.Module, features: Tensor, masks: Tensor, edges: Tensor) -> Tensor:
        """Return (N, K + 2, C) of (N, C, h, w) features, (N, 1, h, w) masks and weights of the rim."""
        filled = [columns[:, fill_indices(mask)] for columns, mask in zip(features.flatten(2), masks.flatten(1), strict=True)]
        whole = masks.flatten(1).any(dim=1).to(features.dtype)[:, None, None]                    # 0: no pixel to fill with
        mixed = mixer(torch.stack(filled) * whole).mT                                            # (N, K, C)
        means = [weighted_mean(features, weights) for weights in (masks, edges)]
        return torch.cat([mixed, torch.stack(means, dim=1)], dim=1)

    def _scores(self, features: Features, descriptors: Descriptors) -> Tensor:
        """Return the (B, 2, H, W) scores of the classes, background first."""
        cells = F.normalize(features.maps[0].flatten(2), dim=1, eps=COSINE_EPS)                  # (B, C, N)
        maps = [decoder((F.normalize(of_class, dim=2, eps=COSINE_EPS) @ cells).unflatten(2, features.maps[0].shape[-2:]))
                for decoder, of_class in zip(self.decoders, descriptors, strict=True)]
        return F.interpolate(torch.cat(maps, dim=1), size=features.image_size, mode="bilinear", align_corners=True)


class Decoder(nn.Module):
    """Turns the similarity maps of a class into its score, without biases and norms.

    Args:
        n_learned: learned descriptors of the class; there are two more maps.
        n_last: channels before the score.
    """

    def __init__(self, n_learned: int, n_last: int):
        super().__init__()
        self.enter = nn.Conv2d(n_learned + 2, n_learned, 1, bias=False)
        self.residual = nn.Sequential(nn.Conv2d(n_learned, n_learned, 3, padding=1, bias=False), nn.ReLU(),
                                      nn.Conv2d(n_learned, n_learned, 3, padding=1, bias=False))
        self.leave = nn.Sequential(nn.Conv2d(n_learned, n_last, 3, padding=1, bias=False), nn.ReLU(),
                                   nn.Dropout2d(DECODER_DROPOUT), nn.Conv2d(n_last, 1, 1, bias=False))
        for module in [module for module in self.modules() if isinstance(module, nn.Conv2d)][:-1]:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, maps: Tensor) -> Tensor:
        """Turn (B, n_learned + 2, h, w) cosines into (B, 1, h, w) scores."""
        maps = self.enter(maps).relu()
        return self.leave(maps + self.residual(maps))


def _mixer(n_pixels: int, n_descriptors: int, relu: bool) -> nn.Sequential:
    """Return the layers that mix the pixels of each channel."""
    return nn.Sequential(nn.Linear(n_pixels, n_descriptors), nn.Dropout(MIXER_DROPOUT), nn.ReLU() if relu else nn.Identity(),
                         nn.Linear(n_descriptors, n_descriptors))


def fill_indices(mask: Tensor) -> Tensor:
    """Return for each pixel the number of the pixel that stands for it: itself inside the mask, outside one of the inside.

    Where the inside has enough pixels, each is drawn at most once. Else all of them come several times, and some once more. The
    draw is seeded by the mask, so that a slice gives the same descriptors whatever came before.

    Args:
        mask: (n,) of 0 and 1.
    Returns:
        (n,) int64; 0 … n − 1 for an empty mask.
    """
    inside, outside = (torch.nonzero(part).flatten().cpu().numpy() for part in (mask > 0, mask <= 0))
    indices = np.arange(len(mask))
    if len(inside):
        rng = np.random.default_rng([SEED, len(inside), int(inside.sum())])
        whole, rest = divmod(len(outside), len(inside))
        indices[outside] = np.concatenate([rng.permutation(inside)[:rest], *[inside] * whole])
    return torch.from_numpy(indices).to(mask.device)


def weighted_mean(features: Tensor, weights: Tensor) -> Tensor:
    """Return the (N, C) mean of (N, C, h, w) features by (N, 1, h, w) weights, which may be negative."""
    return (features * weights).sum((2, 3)) / (weights.sum((2, 3)) + AREA_EPS)


def background_edge(masks: Tensor, edge: str) -> Tensor:
    """Return the weights of the background's rim for (N, 1, h, w) masks of the foreground.

    "meant" is the rim that two dilations of the mask add. "published" is two dilations of the background, less the mask: 1 on all
    of the background, 0 on the inner rim, and −1 in the interior.
    """
    return _dilated(1 - masks) - masks if edge == "published" else _dilated(masks) - masks


def _dilated(masks: Tensor) -> Tensor:
    return F.max_pool2d(masks, 2 * RIM + 1, 1, RIM)


def _eroded(masks: Tensor) -> Tensor:
    """Erode; what lies beyond the image's border takes nothing away."""
    return -F.max_pool2d(-masks, 2 * RIM + 1, 1, RIM)


def intra_loss(of_support: Descriptors, of_query: Descriptors) -> Tensor:
    """Return (B,) how far the descriptors of support and query differ within a class: 2 − mean cosines of both classes.

    A learned descriptor is compared with the query's nearest, the mean with the mean, the rim with the rim.
    """
    agreements = []
    for support, query in zip(of_support, of_query, strict=True):
        cosines = _cosines(support, query)                                                       # (B, K + 2, K + 2)
        learned = cosines[:, :-2, :-2].amax(dim=2)
        agreements.append(torch.cat([learned, cosines.diagonal(dim1=1, dim2=2)[:, -2:]], dim=1).mean(dim=1))
    return 2 - agreements[0] - agreements[1]


def inter_loss(descriptors: Descriptors) -> Tensor:
    """Return the (B,) mean cosine of the two classes' descriptors, at least 0."""
    return _cosines(*descriptors).mean(dim=(1, 2)).clamp_min(0)


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    return F.normalize(first, dim=2, eps=COSINE_EPS) @ F.normalize(second, dim=2, eps=COSINE_EPS).mT
