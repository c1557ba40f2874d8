"""The episode: the unit of training. Data loaders make it, models learn from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Episode(NamedTuple):
    """One episode. The data loader puts an axis B in front.

    Images are z-scored over their volume, with three equal channels. Masks are 0 or 1. The query's position is its
    place in its volume, from 0 (the first slice) to 1 (the last). In 3D, (H, W) is (D, H, W) everywhere: stacks of D slices.
    """

    support_images: Tensor   # (S, 3, H, W)
    support_masks: Tensor    # (S, H, W)
    query_images: Tensor     # (3, H, W)
    query_masks: Tensor      # (H, W)
    query_positions: Tensor | None = None        # (), None where nobody said

    def to(self, device: torch.device) -> Episode:
        """Return the episode on another device. The copy need not be complete when this returns."""
        known = {name: tensor for name, tensor in self._asdict().items() if tensor is not None}
        return self._replace(**{name: tensor.to(device, non_blocking=True) for name, tensor in known.items()})
