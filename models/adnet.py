"""ADNet (Hansen et al. 2022, Medical Image Analysis 78, 102385)."""

from __future__ import annotations

from torch import Tensor

from qnet.models.anomaly import AnomalyModel, threshold_of
from qnet.models.base import safe_log
from qnet.models.encoder import Features
from qnet.models.prototypes import foreground_probability, fuse, masked_average


class ADNet(AnomalyModel):
    """One foreground prototype, and one learned threshold on the distance to it.

    The encoder is a SinglePathEncoder. AnomalyModel explains the other arguments.
    """

    def prototypes(self, support_features: Features, support_masks: Tensor) -> Tensor:
        """Return one prototype per episode, (B, C).

        Args:
            support_features: of B·S support slices, (B·S, C, h, w).
            support_masks: (B, S, H, W) of 0 and 1.
        Raises:
            ValueError: the axes are wrong, or features and masks disagree on the number of slices.
        """
        return masked_average(support_features.maps[0], support_masks)

    def segment(self, query_features: Features, prototypes: Tensor) -> Tensor:
        """Return the (B, 2, H, W) soft mask [1 − P, P] of B query slices.

        Args:
            query_features: of B slices, with a threshold.
            prototypes: (B, C), or (1, C) for all slices.
        Raises:
            ValueError: the axes are wrong, or the features carry no threshold.
        """
        return self._on_both_grids(query_features, prototypes)[1]

    def log_probs_and_mask(self, features: Features, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B, 2, H, W) log-probabilities and the (B, h, w) hard mask. A tie is background."""
        foreground, probs = self._on_both_grids(features, prototypes)
        return safe_log(probs), (foreground > 1 - foreground).float()

    def _on_both_grids(self, features: Features, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Return P on the feature grid, (B, h, w), and [1 − P, P] on the image's."""
        foreground = foreground_probability(features.maps[0], prototypes, threshold_of(features))
        return foreground, fuse([foreground], (1.0,), features.image_size)
