"""ADNet (Hansen et al. 2022, Medical Image Analysis 78, 102385)."""

from __future__ import annotations

from torch import Tensor

from models.anomaly import AnomalyModel
from models.base import safe_log
from models.encoder import Features
from models.prototypes import foreground_probability, fuse, masked_average


class ADNet(AnomalyModel):
    """One prototype, and one learned threshold on the distance to it.

    The encoder is a SinglePathEncoder; the other arguments are AnomalyModel's.
    """

    def prototypes(self, support_features: Features, support_masks: Tensor) -> Tensor:
        """Return one (B, C) prototype, from the features of B·S support slices and their (B, S, H, W) masks."""
        return masked_average(support_features.maps[0], support_masks)

    def segment(self, query_features: Features, prototypes: Tensor) -> Tensor:
        """Return the (B, 2, H, W) soft mask [1 − P, P] of B query slices; `prototypes` is (B, C), or (1, C) for all."""
        return self._on_both_grids(query_features, prototypes)[1]

    def log_probs_and_mask(self, features: Features, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B, 2, H, W) log-probabilities, and the (B, h, w) hard mask; a tie is background."""
        foreground, probs = self._on_both_grids(features, prototypes)
        return safe_log(probs), (foreground > 1 - foreground).float()

    def _on_both_grids(self, features: Features, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Return P on the feature grid, (B, h, w), and [1 − P, P] on the image's."""
        foreground = foreground_probability(features.maps[0], prototypes, features.threshold)
        return foreground, fuse([foreground], (1.0,), features.image_size)
