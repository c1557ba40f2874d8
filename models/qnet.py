"""Q-Net (Shen et al. 2022, arXiv 2208.11451)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoder import DualPathEncoder, Features
from models.prototypes import foreground_probability, fuse, masked_average
from models.refinement import refine

if TYPE_CHECKING:
    from dataloaders.episodes import Episode

PROBABILITY_EPS = torch.finfo(torch.float32).eps


class QNet(nn.Module):
    """Dual-path prototypes, a threshold predicted from the query, and prototypes refined on the query at test time.

    Args:
        encoder: gives one feature map per path and a threshold per image.
        alpha: weight of each path's soft mask, fine then coarse.
        n_iters: refinements of the prototypes in evaluation mode.
        background_weight: class weight of background in the query loss; foreground has 1.
        ignore_label: pixels of the query mask with this value count in no loss.
    """

    def __init__(self, encoder: DualPathEncoder, alpha: tuple[float, float], n_iters: int = 7,
                 background_weight: float = 0.1, ignore_label: int = 255):
        super().__init__()
        self.encoder = encoder
        self.alpha = tuple(alpha)
        self.n_iters = n_iters
        self.ignore_label = ignore_label
        self.register_buffer("class_weights", torch.tensor([background_weight, 1.0]), persistent=False)

    def encode(self, images: Tensor) -> Features:
        """Encode (B, 3, H, W) z-scored images, whatever their role will be."""
        return self.encoder(images)

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

    def episode_losses(self, episode: Episode) -> dict[str, Tensor]:
        """Return the losses of a batch of episodes (section 2.5), scalars to be summed: "query" and "align"."""
        B, S = episode.support_masks.shape[:2]
        features = self.encode(torch.cat([episode.support_images.flatten(0, 1), episode.query_images]))
        support, query = features[:B * S], features[B * S:]
        probs = self.segment(query, self.prototypes(support, episode.support_masks))
        query_loss = F.nll_loss(_log(probs), episode.query_masks.long(), self.class_weights, ignore_index=self.ignore_label)
        return {"query": query_loss, "align": self._alignment_loss(support, query, probs, episode.support_masks)}

    def _alignment_loss(self, support: Features, query: Features, query_probs: Tensor, support_masks: Tensor) -> Tensor:
        """Roles swapped: the query's predicted mask gives the prototypes, the support is segmented with the query's threshold.

        An episode in which nothing was predicted as foreground adds 0.
        """
        B, S = support_masks.shape[:2]
        predicted = query_probs.argmax(dim=1)                                   # (B, H, W)
        prototypes = tuple(p.repeat_interleave(S, dim=0) for p in self.prototypes(query, predicted.unsqueeze(1)))
        swapped = Features(support.maps, query.threshold.repeat_interleave(S, dim=0), support.image_size)
        probs = self.segment(swapped, prototypes)                               # (B·S, 2, H, W)
        loss = F.nll_loss(_log(probs), support_masks.flatten(0, 1).long(), reduction="none")
        per_episode = loss.view(B, -1).mean(dim=1)
        found = predicted.flatten(1).any(dim=1)
        return torch.where(found, per_episode, 0.0).mean()


def _log(probs: Tensor) -> Tensor:
    return probs.clamp(PROBABILITY_EPS, 1 - PROBABILITY_EPS).log()
