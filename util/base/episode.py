"""The unit of training, which loaders make and models learn from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Episode(NamedTuple):
    """One episode; the loader puts an axis B in front.

    Images are z-scored over their volume and carry three equal channels; masks are 0 or 1.
    """

    support_images: Tensor   # (S, 3, H, W)
    support_masks: Tensor    # (S, H, W)
    query_images: Tensor     # (3, H, W)
    query_masks: Tensor      # (H, W)

    def to(self, device: torch.device) -> Episode:
        return Episode(*(tensor.to(device, non_blocking=True) for tensor in self))
