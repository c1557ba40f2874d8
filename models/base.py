"""What all methods share: four calls, and the losses of an episode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qnet.models.encoder import Features
from qnet.util.base.shapes import expect_shape

if TYPE_CHECKING:
    from qnet.util.base.episode import Episode

PROBABILITY_EPS = torch.finfo(torch.float32).eps


class FewShotModel(nn.Module, ABC):
    """A method has the calls `encode`, `prototypes`, `segment` and `episode_losses`. A new one writes `prototypes` and `segment`.

    Args:
        encoder: turns (B, 3, H, W) images into Features.
        background_weight: class weight of background in the query loss. Foreground has 1.
        ignore_label: pixels with this value in the query mask count in no loss.
    """

    loss_names: tuple[str, ...] = ("query", "align")
    reads_truth = False        # an oracle does: it is `told` the size of what it looks for
    reads_stacks = False       # in 3D: where other methods have a slice (H, W), it has a stack of them (D, H, W)
    class_weights: Tensor      # (2,) of background and foreground

    def __init__(self, encoder: nn.Module, background_weight: float, ignore_label: int):
        super().__init__()
        self.encoder = encoder
        self.ignore_label = ignore_label
        self.register_buffer("class_weights", torch.tensor([background_weight, 1.0]), persistent=False)

    def encode(self, images: Tensor) -> Features:
        """Encode (B, 3, H, W) z-scored images, support or query.

        Raises:
            ValueError: the axes are wrong.
        """
        return self.encoder(images)

    @abstractmethod
    def prototypes(self, support_features: Features, support_masks: Tensor) -> Any:
        """Return what the method keeps of B episodes with S support slices each.

        Args:
            support_features: of B·S slices. The S shots of an episode are next to each other.
            support_masks: (B, S, H, W) of 0 and 1, on the image grid, or (in the alignment loss) on the feature grid.
        Raises:
            ValueError: the axes are wrong.
        """

    @abstractmethod
    def segment(self, query_features: Features, prototypes: Any) -> Tensor:
        """Return the (B, 2, H, W) soft mask [1 − P, P] of B query slices.

        Args:
            query_features: of B slices.
            prototypes: of B episodes, or of one episode for all slices.
        Raises:
            ValueError: the axes are wrong.
        """

    def segment_each(self, query_features: Features, prototypes: Sequence[Any]) -> Tensor:
        """Return the (K, 2, H, W) soft masks of one query slice from K prototypes, one for each class and support.

        This works through them one by one. A method overrides it if it can share work among them.
        """
        return torch.cat([self.segment(query_features, of_one) for of_one in prototypes])

    def told(self, prototypes: Any, n_pixels: int) -> Any:
        """Return prototypes with the true area of one query slice. Only called where `reads_truth`, by the protocol."""
        raise NotImplementedError

    def log_probs_and_mask(self, features: Features, prototypes: Any) -> tuple[Tensor, Tensor]:
        """Return the (B, 2, H, W) log-probabilities for the losses, and the hard mask for the alignment loss.

        The mask is (B, H, W). Some methods return it on the feature grid, (B, h, w).
        """
        probs = self.segment(features, prototypes)
        return safe_log(probs), hard_mask(probs)

    def forward(self, episode: Episode) -> dict[str, Tensor]:
        """Return `episode_losses`. DistributedDataParallel calls `forward` only, so training calls it too."""
        return self.episode_losses(episode)

    def episode_losses(self, episode: Episode) -> dict[str, Tensor]:
        """Return the scalar losses of a batch of episodes, to be summed. Their names are in `loss_names`.

        The query loss is the weighted cross-entropy. The alignment loss is that of PANet (Wang et al. 2019).

        Args:
            episode: with an axis B in front of each tensor.
        Raises:
            ValueError: the axes of the episodes are wrong.
        """
        axes = "D H W" if self.reads_stacks else "H W"
        n = expect_shape("support_masks", episode.support_masks, f"B S {axes}")
        B, S, image_size = n["B"], n["S"], {axis: n[axis] for axis in axes.split()}
        expect_shape("support_images", episode.support_images, f"B S C {axes}", B=B, S=S, **image_size)
        expect_shape("query_images", episode.query_images, f"B C {axes}", B=B, **image_size)
        expect_shape("query_masks", episode.query_masks, f"B {axes}", B=B, **image_size)
        features = self.encode(torch.cat([episode.support_images.flatten(0, 1), episode.query_images]))
        positions = None if episode.query_positions is None else episode.query_positions[:, None]
        return self.losses(features[:B * S], replace(features[B * S:], positions=positions), episode)

    def losses(self, support: Features, query: Features, episode: Episode) -> dict[str, Tensor]:
        """Return the losses from the features of B·S support slices and of B query slices. A method with more overrides it."""
        log_probs, predicted = self.log_probs_and_mask(query, self.prototypes(support, episode.support_masks))
        of_query = self.prototypes_of_query(query, predicted, episode.support_masks)
        return {"query": self.query_loss(log_probs, episode.query_masks.long()),
                "align": self.alignment_loss(support, query, predicted, of_query, episode.support_masks)}

    def query_loss(self, log_probs: Tensor, masks: Tensor) -> Tensor:
        """Return the weighted mean over the pixels that count. On CUDA the order of summation in `F.nll_loss` itself varies.

        Args:
            log_probs: (B, 2, H, W).
            masks: (B, H, W) of 0, 1 and the ignored label.
        """
        losses = F.nll_loss(log_probs, masks, self.class_weights, ignore_index=self.ignore_label, reduction="none")
        weights = self.class_weights[masks.clamp(max=1)] * (masks != self.ignore_label)
        return losses.sum() / weights.sum()

    def prototypes_of_query(self, query: Features, predicted: Tensor, support_masks: Tensor) -> Any:
        """Return the prototypes of the query's predicted (B, H, W) mask, once for each of the B·S support slices."""
        episodes = _of_shots(support_masks)
        return self.prototypes(query[episodes], predicted[episodes].unsqueeze(1))

    def alignment_loss(self, support: Features, query: Features, predicted: Tensor, of_query: Any,
                       support_masks: Tensor) -> Tensor:
        """Swap the roles: the prototypes of the query's predicted mask segment the support with the query's threshold.

        An episode without predicted foreground adds 0.

        Args:
            predicted: (B, H, W), or on the feature grid.
            of_query: result of `prototypes_of_query`.
            support_masks: (B, S, H, W).
        """
        threshold = None if query.threshold is None else query.threshold[_of_shots(support_masks)]
        log_probs, _ = self.log_probs_and_mask(replace(support, threshold=threshold), of_query)      # (B·S, 2, H, W)
        return mean_where_predicted(F.nll_loss(log_probs, support_masks.flatten(0, 1).long(), reduction="none"), predicted)


def _of_shots(support_masks: Tensor) -> Tensor:
    """Return (B·S,) the episode of each support slice."""
    B, S = support_masks.shape[:2]
    return torch.arange(B, device=support_masks.device).repeat_interleave(S)


def mean_where_predicted(losses: Tensor, predicted: Tensor) -> Tensor:
    """Return the mean of losses over B episodes, where an episode without predicted foreground counts as 0.

    Args:
        losses: of any shape whose values lie episode by episode.
        predicted: (B, …) of 0 and 1.
    """
    per_episode = losses.reshape(len(predicted), -1).mean(dim=1)
    return torch.where(predicted.flatten(1).any(dim=1), per_episode, 0.0).mean()


def hard_mask(probs: Tensor) -> Tensor:
    """Return the argmax of a (B, 2, H, W) soft mask as bool (B, H, W). A tie is background. `argmax` itself is slow on a CPU.

    Raises:
        ValueError: the axes are wrong.
    """
    expect_shape("probs", probs, "B K H W", K=2)
    return probs[:, 1] > probs[:, 0]


def safe_log(probs: Tensor) -> Tensor:
    """Return the logarithm of probabilities of any shape, which are kept an epsilon of float32 away from 0 and 1."""
    return probs.clamp(PROBABILITY_EPS, 1 - PROBABILITY_EPS).log()
