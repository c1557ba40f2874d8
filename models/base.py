"""What every method shares: the four calls, and the training objective of an episode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoder import Features

if TYPE_CHECKING:
    from util.base.episode import Episode

PROBABILITY_EPS = torch.finfo(torch.float32).eps


class FewShotModel(nn.Module, ABC):
    """A method: `encode`, `prototypes`, `segment`, `episode_losses`; a new one writes `prototypes` and `segment`.

    Args:
        encoder: turns (B, 3, H, W) images into Features.
        background_weight: class weight of background in the query loss; foreground has 1.
        ignore_label: pixels of the query mask with this value count in no loss.
    """

    loss_names: tuple[str, ...] = ("query", "align")

    def __init__(self, encoder: nn.Module, background_weight: float, ignore_label: int = 255):
        super().__init__()
        self.encoder = encoder
        self.ignore_label = ignore_label
        self.register_buffer("class_weights", torch.tensor([background_weight, 1.0]), persistent=False)

    def encode(self, images: Tensor) -> Features:
        """Encode (B, 3, H, W) z-scored images, whatever their role will be."""
        return self.encoder(images)

    @abstractmethod
    def prototypes(self, support_features: Features, support_masks: Tensor) -> Any:
        """Return what the method keeps of B episodes with S support slices each.

        Args:
            support_features: of B·S slices, the S shots of an episode next to each other.
            support_masks: (B, S, H, W) of 0 and 1, on the image's or (in the alignment loss) on the feature grid.
        """

    @abstractmethod
    def segment(self, query_features: Features, prototypes: Any) -> Tensor:
        """Return the (B, 2, H, W) soft mask [1 − P, P] of B query slices, from the prototypes of B episodes or of one for all."""

    def segment_each(self, query_features: Features, prototypes: Sequence[Any]) -> Tensor:
        """Return the (K, 2, H, W) soft masks of one query slice from K classes and supports.

        Here one after the other; a method overrides it where it can share work among them.
        """
        return torch.cat([self.segment(query_features, of_one) for of_one in prototypes])

    def log_probs_and_mask(self, features: Features, prototypes: Any) -> tuple[Tensor, Tensor]:
        """Return the (B, 2, H, W) log-probabilities for the losses, and the hard mask that the alignment loss pools.

        The mask is (B, H, W); methods that take it on the feature grid return (B, h, w).
        """
        probs = self.segment(features, prototypes)
        return safe_log(probs), hard_mask(probs)

    def forward(self, episode: Episode) -> dict[str, Tensor]:
        """Return `episode_losses`; training calls it by way of here, as DistributedDataParallel does."""
        return self.episode_losses(episode)

    def episode_losses(self, episode: Episode) -> dict[str, Tensor]:
        """Return the losses of a batch of episodes, scalars to be summed, under the names in `loss_names`."""
        B, S = episode.support_masks.shape[:2]
        features = self.encode(torch.cat([episode.support_images.flatten(0, 1), episode.query_images]))
        support, query = features[:B * S], features[B * S:]
        log_probs, predicted = self.log_probs_and_mask(query, self.prototypes(support, episode.support_masks))
        return {"query": self._query_loss(log_probs, episode.query_masks.long()),
                "align": self._alignment_loss(support, query, predicted, episode.support_masks)}

    def _query_loss(self, log_probs: Tensor, masks: Tensor) -> Tensor:
        """Weighted mean over the pixels that count; `F.nll_loss` by itself sums in an order that varies on CUDA."""
        losses = F.nll_loss(log_probs, masks, self.class_weights, ignore_index=self.ignore_label, reduction="none")
        weights = self.class_weights[masks.clamp(max=1)] * (masks != self.ignore_label)
        return losses.sum() / weights.sum()

    def _alignment_loss(self, support: Features, query: Features, predicted: Tensor, support_masks: Tensor) -> Tensor:
        """Roles swapped: the query's predicted mask gives the prototypes, the support is segmented with the query's threshold.

        An episode in which nothing was predicted as foreground adds 0.
        """
        B, S = support_masks.shape[:2]
        episodes = torch.arange(B, device=predicted.device).repeat_interleave(S)
        of_shots = query[episodes]
        prototypes = self.prototypes(of_shots, predicted[episodes].unsqueeze(1))
        log_probs, _ = self.log_probs_and_mask(replace(support, threshold=of_shots.threshold), prototypes)   # (B·S, 2, H, W)
        loss = F.nll_loss(log_probs, support_masks.flatten(0, 1).long(), reduction="none")
        per_episode = loss.view(B, -1).mean(dim=1)
        return torch.where(predicted.flatten(1).any(dim=1), per_episode, 0.0).mean()


def hard_mask(probs: Tensor) -> Tensor:
    """Turn a (B, 2, H, W) soft mask into its argmax, bool (B, H, W); a tie is background. argmax itself is slow on a CPU."""
    return probs[:, 1] > probs[:, 0]


def safe_log(probs: Tensor) -> Tensor:
    return probs.clamp(PROBABILITY_EPS, 1 - PROBABILITY_EPS).log()
