"""What the methods share that segment whole volumes and need no training: registration, guided."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from models.registration import Fixed, Registration

    Way = Sequence[Registration]


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
    """A method that segments a query volume from one support volume. It has no weights that are trained.

    It registers scans, and then segments the query from one or several ways to the support. A way is a chain of registrations.
    The first is the direct one, from the query to the support. Others go over stepping stones, which are unlabelled scans:
    from the query to the stone, and from there to the support (Wolz et al. 2010).
    """

    @abstractmethod
    def fixed(self, query: Tensor, spacing_mm: Sequence[float]) -> Fixed:
        """Return a query to which supports can be registered. Axes of both run the same anatomical way; sizes are free.

        Args:
            query: (D, H, W), of any intensity range.
            spacing_mm: (z, y, x).
        Raises:
            ValueError: the axes are wrong, the volume is empty or not finite, or a spacing is not positive.
        """

    @abstractmethod
    def segment_volume(self, query: Tensor, support: Tensor, support_masks: Tensor, query_spacing_mm: Sequence[float],
                       ways: Sequence[Way]) -> VolumeSegmentation:
        """Segment a query from a support.

        Args:
            query, support: (D, H, W), as they were registered.
            support_masks: (K, D, H, W) of 0 and 1, on the support's grid.
            query_spacing_mm: (z, y, x).
            ways: from the query to the support; the direct one comes first.
        Raises:
            ValueError: the axes are wrong, or there is no way.
        """
