"""The threshold T of the methods that score anomaly: predicted by the encoder (Q-Net), or learned (ADNet)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.base import FewShotModel
from models.encoder import Features
from models.prototypes import COSINE_SCALE

if TYPE_CHECKING:
    from util.base.episode import Episode

INITIAL_THRESHOLD = -10.0


class AnomalyModel(FewShotModel):
    """Features carry a threshold per image. Where the encoder predicts none, one scalar `t` is learned for all images.

    Args:
        encoder, background_weight, ignore_label: see FewShotModel.
        t_loss_scaler: weight of t/20 in the loss, where t is learned.
    """

    def __init__(self, encoder: nn.Module, background_weight: float = 0.1, ignore_label: int = 255, t_loss_scaler: float = 1.0):
        super().__init__(encoder, background_weight, ignore_label)
        self.t_loss_scaler = t_loss_scaler
        self.t = None if encoder.predicts_threshold else nn.Parameter(torch.tensor([INITIAL_THRESHOLD]))
        if self.t is not None:
            self.loss_names = (*self.loss_names, "threshold")

    def encode(self, images: Tensor) -> Features:
        """Encode (B, 3, H, W) z-scored images, whatever their role will be."""
        features = self.encoder(images)
        return features if self.t is None else replace(features, threshold=self.t.expand(len(features), 1))

    def episode_losses(self, episode: Episode) -> dict[str, Tensor]:
        """Return the losses of a batch of episodes, scalars to be summed; "threshold" is there where t is learned."""
        losses = super().episode_losses(episode)
        return losses if self.t is None else {**losses, "threshold": self.t_loss_scaler * self.t.sum() / COSINE_SCALE}
