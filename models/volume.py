"""What the methods share that segment whole volumes and need no training: registration, guided."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class VolumeSegmentation:
    """What is found of K classes in a query volume.

    Attributes:
        probs: (K, D, H, W) probability of each class.
        registered: (K, D, H, W) probabilities carried over from the support.
        confidence: (K,) in 0…1; a low one means that the outline of the class is not to be trusted.
        warped: (D, H, W) image of the support, carried over to the query, 0…1.
    """

    probs: Tensor
    registered: Tensor
    confidence: Tensor
    warped: Tensor


class VolumeModel(nn.Module, ABC):
    """A method that segments a query volume from one support volume. It has no weights that are trained."""

    @abstractmethod
    def segment_volume(self, query: Tensor, support: Tensor, support_masks: Tensor, query_spacing_mm: Sequence[float],
                       support_spacing_mm: Sequence[float]) -> VolumeSegmentation:
        """Segment a query from a support. Axes of both run the same anatomical way; sizes and spacings are free.

        Args:
            query, support: (D, H, W), of any intensity range.
            support_masks: (K, D, H, W) of 0 and 1, on the support's grid.
            query_spacing_mm, support_spacing_mm: (z, y, x).
        Raises:
            ValueError: the axes are wrong, a volume is empty or not finite, or a spacing is not positive.
        """
