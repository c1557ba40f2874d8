"""RPT (Zhu et al. 2023, MICCAI): regional prototypes of the support, which a small transformer turns towards the query.

Written from a description of the public code, docs/comparison.md. Two states of that code differ, and both can be had: `form`
"2023" is that of the paper's time, "2024" today's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qnet.models.anomaly import AnomalyModel, threshold_of
from qnet.models.base import hard_mask, mean_where_predicted, safe_log
from qnet.models.encoder import Features
from qnet.models.prototypes import AREA_EPS, foreground_probability, fuse, masked_average, on_grid
from qnet.models.regions import farthest_points, nearest_centre
from qnet.models.settings import RPTSettings
from qnet.util.base.shapes import expect_shape

if TYPE_CHECKING:
    from qnet.util.base.episode import Episode

N_PASSES, N_HEADS, DROPOUT = 3, 3, 0.1
SHUT_OUT = -10000.0                     # added to the affinity of a region below the threshold
BOUNDARY_REACH, BOUNDARY_SLACK = 3, 5   # pixels: θ0 and θ of the boundary loss
ETA_STEP, ETA_EVERY = 0.01, 5000        # the boundary loss gains this weight every so many steps; Dice loses it
PERIPHERY_WEIGHT, MSE_WEIGHT = 0.1, 0.1

Prototypes = tuple[Tensor, Tensor]      # p (B, C) and regions (B, N, C)


class RPT(AnomalyModel):
    """One prototype and N regional ones; three passes of one transformer block free them of what the query lacks.

    Args:
        encoder: gives one feature map of C channels, and a threshold per image.
        n_channels: C.
        settings: RPTSettings; N is its n_regions.
        background_weight, ignore_label: FewShotModel explains them.
    """

    steps: Tensor      # (1,) training steps so far, for the weights of form "2023"

    def __init__(self, encoder: nn.Module, n_channels: int, settings: RPTSettings, background_weight: float, ignore_label: int):
        super().__init__(encoder, background_weight, ignore_label, t_loss_scaler=0.0)       # no loss of RPT has it
        self.settings = settings
        self.block = RegionBlock(n_channels)
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))
        self.loss_names = ("query", "boundary", "dice") if settings.form == "2023" \
            else ("query", "align", "self", "periphery", "mse")

    def prototypes(self, support_features: Features, support_masks: Tensor) -> Prototypes:
        """Return the average of the foreground, (B, C), and of each region, (B, N, C).

        The cells of all shots form the regions together. A support without foreground gives zeros.

        Args:
            support_features: of B·S support slices, (B·S, C, h, w).
            support_masks: (B, S, H, W) of 0 and 1.
        Raises:
            ValueError: the axes are wrong, or features and masks disagree on the number of slices.
        """
        features = support_features.maps[0]
        average = masked_average(features, support_masks)
        inside = on_grid(support_masks, features.shape[-2:]) > 0                                 # (B, S, h, w)
        shots = features.unflatten(0, inside.shape[:2]).movedim(2, -1)                           # (B, S, h, w, C)
        return average, torch.stack([self._regions(*episode) for episode in zip(shots, inside, strict=True)])

    def segment(self, query_features: Features, prototypes: Prototypes) -> Tensor:
        """Return the (B, 2, H, W) soft mask [1 − P, P] of B query slices.

        Args:
            query_features: of B slices, or of one slice for all B prototypes, with a threshold.
            prototypes: of B episodes, or of one for all slices.
        Raises:
            ValueError: the axes are wrong, or the features carry no threshold.
        """
        average, regions = prototypes
        feature_map, threshold = query_features.maps[0], threshold_of(query_features)
        p = average
        of_query = soft_average(feature_map, foreground_probability(feature_map, p, threshold))
        for _ in range(N_PASSES):
            regions = self.block(regions, of_query)
            p = regions.mean(dim=1) + (average if self.settings.form == "2024" else 0)
            of_query = soft_average(feature_map, foreground_probability(feature_map, p, threshold))
        return self._soft_mask(query_features, p)

    def segment_each(self, query_features: Features, prototypes: Sequence[Prototypes]) -> Tensor:
        """Return the (K, 2, H, W) soft masks of one query slice, all at once."""
        average, regions = (torch.cat(same) for same in zip(*prototypes, strict=True))
        return self.segment(query_features, (average, regions))

    def losses(self, support: Features, query: Features, episode: Episode) -> dict[str, Tensor]:
        """Return the losses of `form`, each with its weight."""
        prototypes = self.prototypes(support, episode.support_masks)
        probs = self.segment(query, prototypes)
        losses = {"query": self.query_loss(safe_log(probs), episode.query_masks.long())}
        if self.settings.form == "2023":
            eta = (1 - ETA_STEP * (self.steps // ETA_EVERY).float()).clamp_min(0).squeeze()
            self.steps += 1
            return {**losses, "boundary": (1 - eta) * boundary_loss(probs, episode.query_masks == 1),
                    "dice": eta * dice_loss(probs, episode.query_masks == 1)}
        predicted = hard_mask(probs)
        of_query = masked_average(query.maps[0], predicted.unsqueeze(1))                         # (B, C)
        return {**losses, "align": self._align(support, query, of_query, predicted, episode.support_masks),
                "self": self._self(query, episode.query_masks),
                "periphery": PERIPHERY_WEIGHT * self._periphery(support, prototypes[0], episode.support_masks),
                "mse": MSE_WEIGHT * mean_where_predicted((of_query - prototypes[0]).square(), predicted)}

    def _regions(self, shots: Tensor, inside: Tensor) -> Tensor:
        """Return the (N, C) mean features of the regions of one episode's (S, h, w, C) shots."""
        cells, places = shots[inside], inside.nonzero()[:, 1:].cpu().numpy()                     # (n, C), (n, 2)
        if self.settings.corner and len(cells) < self.settings.n_regions:
            _, h, w, _ = shots.shape
            corner = np.stack(np.divmod(np.arange(min(self.settings.n_regions, h * w)), w), axis=1)
            cells, places = torch.cat([cells, shots[0].flatten(0, 1)[:len(corner)]]), np.concatenate([places, corner])
        if not len(cells):
            return shots.new_zeros(self.settings.n_regions, shots.shape[-1])
        region, n_found = nearest_centre(places, farthest_points(places, self.settings.n_regions))
        belongs = F.one_hot(torch.from_numpy(region).to(cells.device), n_found).to(cells.dtype)  # (n, n_found)
        means = belongs.T @ cells / belongs.sum(0).unsqueeze(1)
        return means[torch.arange(self.settings.n_regions, device=means.device) % n_found]

    @staticmethod
    def _soft_mask(features: Features, p: Tensor, threshold: Tensor | None = None) -> Tensor:
        """Return the (B, 2, H, W) soft mask from (B, C) prototypes alone, by the features' own threshold or another."""
        threshold = threshold_of(features) if threshold is None else threshold
        return fuse([foreground_probability(features.maps[0], p, threshold)], (1.0,), features.image_size)

    def _align(self, support: Features, query: Features, of_query: Tensor, predicted: Tensor, support_masks: Tensor) -> Tensor:
        n_shots = support_masks.shape[1]
        of_shots, threshold = (x.repeat_interleave(n_shots, dim=0) for x in (of_query, threshold_of(query)))
        log_probs = safe_log(self._soft_mask(support, of_shots, threshold))
        return mean_where_predicted(F.nll_loss(log_probs, support_masks.flatten(0, 1).long(), reduction="none"), predicted)

    def _self(self, query: Features, masks: Tensor) -> Tensor:
        own = masked_average(query.maps[0], (masks == 1).unsqueeze(1))
        return F.nll_loss(safe_log(self._soft_mask(query, own)), masks.long(), ignore_index=self.ignore_label)

    def _periphery(self, support: Features, average: Tensor, masks: Tensor) -> Tensor:
        """Return the loss of what a mask that is one pixel wider adds, as a probability of the rim."""
        wider = dilated(masks)
        n_shots = masks.shape[1]
        outer, inner = (self._soft_mask(support, p.repeat_interleave(n_shots, dim=0))[:, 1]
                        for p in (masked_average(support.maps[0], wider), average))
        rim = (wider - masks).flatten(0, 1).long()
        return F.nll_loss(safe_log(torch.stack([1 - (outer - inner), outer - inner], dim=1)), rim)


class RegionBlock(nn.Module):
    """Takes from the regions what the query lacks, and lets them attend to each other.

    Args:
        n_channels: C.
    """

    def __init__(self, n_channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(n_channels)
        to_heads = [nn.Linear(n_channels, N_HEADS * n_channels) for _ in range(3)]                # query, key, value
        self.to_heads = nn.ModuleList(to_heads)
        self.from_heads = nn.Linear(N_HEADS * n_channels, n_channels)
        self.norm_attention = nn.LayerNorm(n_channels)
        self.feed_forward = nn.Sequential(nn.Linear(n_channels, 2 * n_channels), nn.GELU(), nn.Linear(2 * n_channels, n_channels))
        self.norm_output = nn.LayerNorm(n_channels)
        self.dropout = nn.Dropout(DROPOUT)
        for layer in to_heads:
            nn.init.normal_(layer.weight, std=math.sqrt(2 / (2 * n_channels)))
        nn.init.xavier_normal_(self.from_heads.weight)

    def forward(self, regions: Tensor, of_query: Tensor) -> Tensor:
        """Turn (B, N, C) regions into (B, N, C) by a (B, C) prototype of the query; either may be one for all.

        Raises:
            ValueError: the axes are wrong.
        """
        n = expect_shape("regions", regions, "B N C")
        expect_shape("of_query", of_query, "B C", C=n["C"])
        weights = region_weights((regions @ of_query.unsqueeze(2)).squeeze(2))                   # (B, N)
        z = self.norm(weights.unsqueeze(2) * of_query.unsqueeze(1) + regions)
        y = self.norm_attention(self._attention(z) + z)
        return self.norm_output(y + self.feed_forward(y))

    def _attention(self, z: Tensor) -> Tensor:
        heads = [layer(z).relu().unflatten(2, (N_HEADS, -1)).transpose(1, 2) for layer in self.to_heads]   # (B, heads, N, C)
        query, key, value = heads
        attention = self.dropout((query @ key.mT / math.sqrt(z.shape[2])).softmax(dim=-1))
        return self.dropout(self.from_heads((attention @ value).transpose(1, 2).flatten(2))).relu()


def region_weights(affinity: Tensor) -> Tensor:
    """Return the (B, N) softmax of affinities. Those below the floor of (minimum + mean)/2 are shut out."""
    least = ((affinity.amin(1, keepdim=True) + affinity.mean(1, keepdim=True)) / 2).floor()
    return torch.where(affinity < least, affinity + SHUT_OUT, affinity).softmax(dim=1)


def soft_average(features: Tensor, masks: Tensor) -> Tensor:
    """Return the (B, C) mean of (B, C, h, w) features under soft (B, h, w) masks; the features may be one for all masks."""
    cells, weights = features.flatten(2).mT, masks.flatten(1).unsqueeze(1)                       # (B, N, C), (B, 1, N)
    return (weights @ cells).squeeze(1) / (masks.flatten(1).sum(1, keepdim=True) + AREA_EPS)


def dilated(masks: Tensor) -> Tensor:
    """Return (…, H, W) masks of 0 and 1, one pixel wider, diagonals included."""
    return F.max_pool2d(masks.flatten(0, -3).float(), 3, 1, 1).view(masks.shape)


def dice_loss(probs: Tensor, truth: Tensor) -> Tensor:
    """Return 1 − (2I + 1)/(U + 1) of the (B, 2, H, W) soft mask and the (B, H, W) truth. A sigmoid is applied, as published."""
    foreground = probs[:, 1].sigmoid().flatten(1)
    truth = truth.flatten(1).to(foreground)
    overlap, sizes = (foreground * truth).sum(1), foreground.sum(1) + truth.sum(1)
    return (1 - (2 * overlap + 1) / (sizes + 1)).mean()


def boundary_loss(probs: Tensor, truth: Tensor) -> Tensor:
    """Return one minus the F1 of boundaries (Bokhovkin and Burnaev 2019, arXiv 1905.07852), the mean over both classes.

    A softmax is applied to the probabilities, as published.

    Args:
        probs: (B, 2, H, W).
        truth: (B, H, W) bool.
    """
    eps = 1e-7
    found, true = (_boundary(masks) for masks in (probs.softmax(dim=1), torch.stack([~truth, truth], dim=1).to(probs)))
    wide_found, wide_true = (F.max_pool2d(masks, BOUNDARY_SLACK, 1, BOUNDARY_SLACK // 2) for masks in (found, true))
    precision = (found * wide_true).sum((2, 3)) / (found.sum((2, 3)) + eps)
    recall = (wide_found * true).sum((2, 3)) / (true.sum((2, 3)) + eps)
    return (1 - 2 * precision * recall / (precision + recall + eps)).mean()


def _boundary(masks: Tensor) -> Tensor:
    """Return the inner rim of soft (B, 2, H, W) masks."""
    outside = 1 - masks
    return F.max_pool2d(outside, BOUNDARY_REACH, 1, BOUNDARY_REACH // 2) - outside
