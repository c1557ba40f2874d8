"""SSL-ALPNet (Ouyang et al. 2020, arXiv 2007.09886)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qnet.models.encoder import Features
from qnet.models.panet import ClassPrototypes, PANet
from qnet.models.prototypes import masked_average, on_grid

KEPT_ABOVE = 0.95     # a window with a larger share of a class becomes one of its prototypes
MODE_WINDOW = 4       # a foreground that fills no window of this size has only its global prototype


class ALPNet(PANet):
    """Local prototypes of background and foreground from the cells of a coarse grid, and a global foreground prototype.

    Args:
        encoder: a SinglePathEncoder.
        windows: sides of the pooling window in cells of the feature grid: in training mode, in evaluation mode.
        background_weight, ignore_label: FewShotModel explains them.
    """

    def __init__(self, encoder: nn.Module, windows: tuple[int, int], background_weight: float, ignore_label: int):
        super().__init__(encoder, background_weight, ignore_label)
        self.windows = tuple(windows)

    def prototypes(self, support_features: Features, support_masks: Tensor) -> list[ClassPrototypes]:
        """Return the adaptive local prototypes of background and foreground, a pair (n, C) and (m, C) for each of B episodes.

        A background that fills no window has its global prototype. The published code does not handle this case.

        Args:
            support_features: of B·S support slices, (B·S, C, h, w).
            support_masks: (B, S, H, W) of 0 and 1.
        Raises:
            ValueError: the axes are wrong, or features and masks disagree on the number of slices.
        """
        features = support_features.maps[0]
        masks = on_grid(support_masks, features.shape[-2:])
        whole = zip(masked_average(features, 1 - masks).split(1), masked_average(features, masks).split(1), strict=True)
        shots = features.unflatten(0, masks.shape[:2])                                # (B, S, C, h, w)
        return [(self._background(*episode), self._foreground(*episode))
                for episode in zip(shots, masks, whole, strict=True)]

    def _background(self, features: Tensor, masks: Tensor, whole: ClassPrototypes) -> Tensor:
        local = self._local(features, 1 - masks)
        return local if len(local) else whole[0]

    def _foreground(self, features: Tensor, masks: Tensor, whole: ClassPrototypes) -> Tensor:
        if F.avg_pool2d(masks, MODE_WINDOW).max() < KEPT_ABOVE:
            return whole[1]
        return torch.cat([self._local(features, masks), whole[1]])

    def _local(self, features: Tensor, masks: Tensor) -> Tensor:
        """Pool (S, C, h, w) features and (S, h, w) masks. Return the (n, C) cells that the mask fills."""
        window = self.windows[0 if self.training else 1]
        cells = F.avg_pool2d(features, window).movedim(1, -1)                         # (S, rows, columns, C)
        return cells[F.avg_pool2d(masks, window) > KEPT_ABOVE]
