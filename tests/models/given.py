"""Random features in the place of an encoder, and an episode to go with them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qnet.models.encoder import Features
from qnet.util.base.episode import Episode

SIZE = (32, 32)


class GivenFeatures(nn.Module):
    """Stands for an encoder: image k of a batch has the k-th features, and the k-th threshold if there are some."""

    def __init__(self, maps: Tensor, thresholds: Tensor | None = None):
        super().__init__()
        self.maps, self.thresholds = maps, thresholds
        self.predicts_threshold = thresholds is not None

    def forward(self, images: Tensor) -> Features:
        return Features((self.maps[:len(images)],), self.thresholds, tuple(images.shape[-2:]))


def given_case(n_episodes: int = 1, n_shots: int = 1, seed: int = 3) -> tuple[Tensor, Episode]:
    """(B·S + B, 6, 8, 8) features in which foreground can be found, and their episode: supports first, then queries."""
    generator = torch.Generator().manual_seed(seed)
    n = n_episodes * n_shots + n_episodes
    features = torch.randn(n, 6, 8, 8, generator=generator)
    masks = torch.zeros(n, *SIZE)
    for k in range(n):
        top, left = torch.randint(3, 12, (2,), generator=generator).tolist()
        masks[k, top:top + 13, left:left + 12] = 1
        features[k, 0] += 3 * F.interpolate(masks[k][None, None], size=(8, 8), mode="area")[0, 0]
    support, query = masks[:n_episodes * n_shots].unflatten(0, (n_episodes, n_shots)), masks[n_episodes * n_shots:]
    positions = torch.rand(n_episodes, generator=generator)
    images = torch.zeros(n_episodes, n_shots, 3, *SIZE)
    return features, Episode(images, support, images[:, 0], query, positions)
