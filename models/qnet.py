"""Q-Net (Shen et al. 2022, arXiv 2208.11451)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from qnet.models.anomaly import AnomalyModel, threshold_of
from qnet.models.base import hard_mask
from qnet.models.encoder import DualPathEncoder, Features
from qnet.models.prototypes import anomaly_score, foreground_probability, fuse, masked_average
from qnet.models.refinement import refine


class QNet(AnomalyModel):
    """A prototype per path, a threshold predicted from the query, and prototypes refined on the query at test time.

    Args:
        encoder: gives one feature map per path, and a threshold per image unless that is learned as in ADNet.
        alpha: weight of each path's soft mask, in the order of the encoder's paths.
        n_iters: refinement steps of the prototypes in evaluation mode.
        background_weight, ignore_label: FewShotModel explains them.
        t_loss_scaler: AnomalyModel explains it.
    """

    encoder: DualPathEncoder

    def __init__(self, encoder: DualPathEncoder, alpha: Sequence[float], n_iters: int, background_weight: float,
                 ignore_label: int, t_loss_scaler: float):
        super().__init__(encoder, background_weight, ignore_label, t_loss_scaler)
        self.alpha = tuple(alpha)
        self.n_iters = n_iters

    def prototypes(self, support_features: Features, support_masks: Tensor) -> tuple[Tensor, ...]:
        """Return one (B, C) prototype per path.

        Args:
            support_features: of B·S support slices, one (B·S, C, h, w) per path.
            support_masks: (B, S, H, W) of 0 and 1.
        Raises:
            ValueError: the axes are wrong, or features and masks disagree on the number of slices.
        """
        return tuple(masked_average(feature_map, support_masks) for feature_map in support_features.maps)

    def segment(self, query_features: Features, prototypes: tuple[Tensor, ...]) -> Tensor:
        """Return the (B, 2, H, W) soft mask [1 − P, P] of B query slices.

        In evaluation mode each slice's prototypes are refined first.

        Args:
            query_features: of B slices, or of one slice for all B prototypes, with a threshold.
            prototypes: one (B, C) per path, or (1, C) for all slices.
        Raises:
            ValueError: the axes are wrong, or the features carry no threshold.
        """
        threshold = query_informed_threshold(query_features)
        if not self.training:
            prototypes = tuple(refine(feature_map, p, threshold, self.n_iters)
                               for feature_map, p in zip(query_features.maps, prototypes, strict=True))
        path_probs = [foreground_probability(feature_map, p, threshold)
                      for feature_map, p in zip(query_features.maps, prototypes, strict=True)]
        return fuse(path_probs, self.alpha, query_features.image_size)

    def segment_each(self, query_features: Features, prototypes: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """Return the (K, 2, H, W) soft masks of one query slice. Its features are read once for all K prototypes."""
        return self.segment(query_features, tuple(torch.cat(of_path) for of_path in zip(*prototypes, strict=True)))


def query_informed_threshold(query_features: Features) -> Tensor:
    """Return the (B, 1) threshold T on the anomaly score of each query slice (Q-Net, section 2.3).

    The query decides what counts as an anomaly: the encoder predicts T from the query's own coarse stage, while it encodes
    (`DualPathEncoder.predicted_threshold`). Where ADNet's learned threshold or that of the support is asked for, it is in the
    features in its place.

    Args:
        query_features: of B slices.
    Raises:
        ValueError: they carry no threshold.
    """
    return threshold_of(query_features)


class SupportThresholdQNet(QNet):
    """Q-Net with the threshold that segments the support slices best. It serves for comparison, as it needs no training.

    The arguments are those of QNet. The encoder's threshold is not used.
    """

    N_CANDIDATES = 101

    def prototypes(self, support_features: Features, support_masks: Tensor) -> tuple[Tensor, ...]:
        """Return one (B, C) prototype per path, and the (B, 1) threshold. The arguments are those of QNet."""
        prototypes = super().prototypes(support_features, support_masks)
        return (*prototypes, self._best_threshold(support_features, prototypes, support_masks))

    def segment(self, query_features: Features, prototypes: tuple[Tensor, ...]) -> Tensor:
        """Return the (B, 2, H, W) soft mask [1 − P, P] of B query slices, as QNet does."""
        *of_paths, threshold = prototypes
        return super().segment(replace(query_features, threshold=threshold), tuple(of_paths))

    @torch.no_grad()
    def _best_threshold(self, support: Features, prototypes: Sequence[Tensor], masks: Tensor) -> Tensor:
        """Return the (B, 1) quantile of the support's anomaly scores that has the highest Dice on the (B, S, H, W) masks."""
        B, S = masks.shape[:2]
        of_slices = [p.repeat_interleave(S, dim=0) for p in prototypes]
        scores = anomaly_score(support.maps[0], of_slices[0]).reshape(B, -1)
        levels = torch.linspace(0, 1, self.N_CANDIDATES, device=scores.device)
        candidates = torch.quantile(scores, levels, dim=1)                                       # (candidates, B)
        truth = masks.flatten(1).bool()
        overlaps = []
        for threshold in candidates:
            T = threshold.repeat_interleave(S).unsqueeze(1)
            probs = [foreground_probability(feature_map, p, T) for feature_map, p in zip(support.maps, of_slices, strict=True)]
            foreground = hard_mask(fuse(probs, self.alpha, support.image_size)).view(B, -1)
            overlaps.append(2 * (foreground & truth).sum(1) / (foreground.sum(1) + truth.sum(1)).clamp_min(1))
        best = torch.stack(overlaps).argmax(dim=0, keepdim=True)                                 # (1, B)
        return candidates.gather(0, best).T
