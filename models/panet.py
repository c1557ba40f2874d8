"""PANet (Wang et al. 2019, arXiv 1908.06391), with the encoder of ADNet and SSL-ALPNet in place of its VGG-16."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qnet.models.base import FewShotModel
from qnet.models.encoder import Features
from qnet.models.prototypes import class_score, masked_average, on_grid

ClassPrototypes = tuple[Tensor, Tensor]   # background (n, C) and foreground (m, C)


class PANet(FewShotModel):
    """A background and a foreground prototype. A cell belongs to the class to which it is more similar.

    Prototypes are a list with one ClassPrototypes per episode, or a single one for all slices. In SSL-ALPNet a class has
    several. The encoder is a SinglePathEncoder. FewShotModel explains the other arguments.
    """

    def prototypes(self, support_features: Features, support_masks: Tensor) -> list[ClassPrototypes]:
        """Return the averages of background and foreground, a pair (1, C) and (1, C) for each of B episodes.

        Args:
            support_features: of B·S support slices, (B·S, C, h, w).
            support_masks: (B, S, H, W) of 0 and 1.
        Raises:
            ValueError: the axes are wrong, or features and masks disagree on the number of slices.
        """
        features = support_features.maps[0]
        masks = on_grid(support_masks, features.shape[-2:])
        return list(zip(masked_average(features, 1 - masks).split(1), masked_average(features, masks).split(1), strict=True))

    def segment(self, query_features: Features, prototypes: list[ClassPrototypes]) -> Tensor:
        """Return the (B, 2, H, W) soft mask [1 − P, P] of B query slices.

        Raises:
            ValueError: the axes are wrong, or there are neither B episodes nor one.
        """
        return self._upsampled(query_features, self.scores(query_features, prototypes)).softmax(dim=1)

    def log_probs_and_mask(self, features: Features, prototypes: list[ClassPrototypes]) -> tuple[Tensor, Tensor]:
        """Return the (B, 2, H, W) log-probabilities and the (B, h, w) hard mask."""
        scores = self.scores(features, prototypes)
        return self._upsampled(features, scores).log_softmax(dim=1), scores.argmax(dim=1).float()

    def scores(self, features: Features, prototypes: list[ClassPrototypes]) -> Tensor:
        """Return the (B, 2, h, w) class scores on the feature grid, background first."""
        feature_map = features.maps[0]
        parts = feature_map.split(1) if len(prototypes) > 1 else [feature_map]
        return torch.cat([torch.stack([class_score(part, of_class) for of_class in of_episode], dim=1)
                          for part, of_episode in zip(parts, prototypes, strict=True)])

    def _upsampled(self, features: Features, scores: Tensor) -> Tensor:
        return F.interpolate(scores, size=features.image_size, mode="bilinear", align_corners=False)
