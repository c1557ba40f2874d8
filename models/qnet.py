"""Q-Net (Shen et al. 2022, arXiv 2208.11451)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from models.anomaly import AnomalyModel
from models.encoder import DualPathEncoder, Features
from models.prototypes import foreground_probability, fuse, masked_average
from models.refinement import refine


class QNet(AnomalyModel):
    """Prototypes per path, a threshold predicted from the query, and prototypes refined on the query at test time.

    Args:
        encoder: gives one feature map per path and, unless it is to be learned as in ADNet, a threshold per image.
        alpha: weight of each path's soft mask, in the order of the encoder's paths.
        n_iters: refinements of the prototypes in evaluation mode.
        background_weight, ignore_label: see FewShotModel.
        t_loss_scaler: see AnomalyModel.
    """

    def __init__(self, encoder: DualPathEncoder, alpha: Sequence[float], n_iters: int = 7, background_weight: float = 0.1,
                 ignore_label: int = 255, t_loss_scaler: float = 1.0):
        super().__init__(encoder, background_weight, ignore_label, t_loss_scaler)
        self.alpha = tuple(alpha)
        self.n_iters = n_iters

    def prototypes(self, support_features: Features, support_masks: Tensor) -> tuple[Tensor, ...]:
        """Return one (B, C) prototype per path, from the features of B·S support slices and their (B, S, H, W) masks."""
        return tuple(masked_average(feature_map, support_masks) for feature_map in support_features.maps)

    def segment(self, query_features: Features, prototypes: tuple[Tensor, ...]) -> Tensor:
        """Return the (B, 2, H, W) soft mask [1 − P, P] of B query slices.

        `prototypes` are one (B, C) per path, or (1, C) when all slices share them. In evaluation mode each slice's
        prototypes are refined first.
        """
        threshold = query_features.threshold
        if not self.training:
            prototypes = tuple(refine(feature_map, p, threshold, self.n_iters)
                               for feature_map, p in zip(query_features.maps, prototypes, strict=True))
        path_probs = [foreground_probability(feature_map, p, threshold)
                      for feature_map, p in zip(query_features.maps, prototypes, strict=True)]
        return fuse(path_probs, self.alpha, query_features.image_size)
