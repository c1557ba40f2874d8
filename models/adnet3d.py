"""ADNet in 3D, the second form of its authors (Hansen et al. 2022): 3D convolutions, and episodes from 3D supervoxels.

Slices are never left out on the way, so masks and probabilities change between grids slice by slice.
"""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from qnet.models.anomaly import AnomalyModel, threshold_of
from qnet.models.base import safe_log
from qnet.models.encoder import Features
from qnet.models.prototypes import AREA_EPS, foreground_probability, fuse
from qnet.util.base.episode import Episode
from qnet.util.base.shapes import expect_shape


class ADNet3D(AnomalyModel):
    """One foreground prototype of a stack of slices, and one learned threshold on the distance to it.

    The encoder is a StackEncoder. AnomalyModel explains the other arguments.
    """

    reads_stacks = True

    def prototypes(self, support_features: Features, support_masks: Tensor) -> Tensor:
        """Return one prototype per episode, (B, C): the mean over the shots, each the mean over the cells of its mask.

        Args:
            support_features: of B·S support stacks, (B·S, C, D, h, w).
            support_masks: (B, S, D, H, W) of 0 and 1. A cell is inside where the pixel of its corner is ("nearest").
        Raises:
            ValueError: the axes are wrong, or features and masks disagree.
        """
        n = expect_shape("support_masks", support_masks, "B S D H W")
        features = support_features.maps[0]
        grid = expect_shape("features", features, "N C D h w", N=n["B"] * n["S"], D=n["D"])
        cells = on_cells(support_masks, (grid["h"], grid["w"])).flatten(0, 1).flatten(1).unsqueeze(2)
        average = (features.flatten(2) @ cells).squeeze(2) / (cells.sum(dim=1) + AREA_EPS)
        return average.unflatten(0, (n["B"], n["S"])).mean(dim=1)

    def segment(self, query_features: Features, prototypes: Tensor) -> Tensor:
        """Return the (B, 2, D, H, W) soft mask [1 − P, P] of B query stacks.

        Args:
            query_features: of B stacks, with a threshold.
            prototypes: (B, C), or (1, C) for all stacks.
        Raises:
            ValueError: the axes are wrong, or the features carry no threshold.
        """
        return self._on_both_grids(query_features, prototypes)[1]

    @override
    def log_probs_and_mask(self, features: Features, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (B, 2, D, H, W) log-probabilities and the (B, D, h, w) hard mask. A tie is background."""
        foreground, probs = self._on_both_grids(features, prototypes)
        return safe_log(probs), (foreground > 1 - foreground).float()

    @override
    def losses(self, support: Features, query: Features, episode: Episode) -> dict[str, Tensor]:
        """Return the losses of a batch of episodes. The alignment loss is taken on the feature grid."""
        log_probs, predicted = self.log_probs_and_mask(query, self.prototypes(support, episode.support_masks))
        h, w = support.maps[0].shape[-2:]
        cells = on_cells(episode.support_masks, (h, w))
        of_query = self.prototypes_of_query(query, predicted, cells)
        return {"query": self.query_loss(log_probs, episode.query_masks.long()),
                "align": self.alignment_loss(replace(support, image_size=(h, w)), query, predicted, of_query, cells)}

    def _on_both_grids(self, features: Features, prototypes: Tensor) -> tuple[Tensor, Tensor]:
        """Return P on the feature grid, (B, D, h, w), and [1 − P, P] on the image's."""
        B, _, D, h, _ = expect_shape("features", features.maps[0], "B C D h w").values()
        rows = foreground_probability(features.maps[0].flatten(2, 3), prototypes, threshold_of(features))
        foreground = rows.unflatten(1, (D, h))
        by_slice = fuse([foreground.flatten(0, 1)], (1.0,), features.image_size)
        return foreground, by_slice.unflatten(0, (B, D)).transpose(1, 2)


def on_cells(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Take (B, S, D, H, W) masks to (B, S, D, h, w), each cell the pixel of its corner, float32."""
    return F.interpolate(masks.flatten(0, 1).float(), size=grid, mode="nearest").unflatten(0, masks.shape[:2])
