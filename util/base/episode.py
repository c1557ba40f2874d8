"""The episode: the unit of training. Data loaders make it, models learn from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Episode(NamedTuple):
    """One episode. The data loader puts an axis B in front.

    Images are z-scored over their volume, with three equal channels. Masks are 0 or 1.
    """

    support_images: Tensor   # (S, 3, H, W)
    support_masks: Tensor    # (S, H, W)
    query_images: Tensor     # (3, H, W)
    query_masks: Tensor      # (H, W)

    def to(self, device: torch.device) -> Episode:
        """Return the episode on another device. The copy need not be complete when this returns."""
        return Episode(*(tensor.to(device, non_blocking=True) for tensor in self))
