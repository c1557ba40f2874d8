"""The threshold T on the anomaly score: the encoder predicts it (Q-Net), or training learns one (ADNet)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qnet.models.base import FewShotModel
from qnet.models.encoder import Features
from qnet.models.prototypes import COSINE_SCALE

if TYPE_CHECKING:
    from qnet.util.base.episode import Episode

INITIAL_THRESHOLD = -10.0


class AnomalyModel(FewShotModel):
    """Features carry a threshold per image. If the encoder predicts none, training learns one scalar `t` for all images.

    Args:
        encoder, background_weight, ignore_label: FewShotModel explains them.
        t_loss_scaler: weight of t/20 in the loss, if t is learned.
    """

    def __init__(self, encoder: nn.Module, background_weight: float, ignore_label: int, t_loss_scaler: float):
        super().__init__(encoder, background_weight, ignore_label)
        self.t_loss_scaler = t_loss_scaler
        self.t = None if encoder.predicts_threshold else nn.Parameter(torch.tensor([INITIAL_THRESHOLD]))
        if self.t is not None:
            self.loss_names = (*self.loss_names, "threshold")

    def encode(self, images: Tensor) -> Features:
        """Encode (B, 3, H, W) z-scored images, support or query. The features carry a (B, 1) threshold.

        Raises:
            ValueError: the axes are wrong.
        """
        features = self.encoder(images)
        return features if self.t is None else replace(features, threshold=self.learned_threshold().expand(len(features), 1))

    def learned_threshold(self) -> Tensor:
        """Return the (1,) threshold that is learned. Only a model without one in its encoder has it."""
        assert self.t is not None
        return self.t

    def episode_losses(self, episode: Episode) -> dict[str, Tensor]:
        """Return the scalar losses of a batch of episodes, to be summed. "threshold" is among them if t is learned.

        Raises:
            ValueError: the axes of the episodes are wrong.
        """
        losses = super().episode_losses(episode)
        if self.t is None:
            return losses
        return {**losses, "threshold": self.t_loss_scaler * self.learned_threshold().sum() / COSINE_SCALE}


def threshold_of(features: Features) -> Tensor:
    """Return the (B, 1) threshold that the features carry.

    Raises:
        ValueError: they carry none.
    """
    if features.threshold is None:
        raise ValueError("features: expected a threshold, got None")
    return features.threshold
