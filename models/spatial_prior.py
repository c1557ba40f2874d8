"""A spatial prior for methods that segment slices: the registered label map, blurred, beside what the network finds.

Place comes from the registration, the border from the network. Both are taken as independent, so their logits add up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qnet.models.guided import PRIOR_EPS, blur, blur_mm, thickness_mm
from qnet.models.settings import GuidedSettings
from qnet.util.base.shapes import expect_shape


def prior_logits(registered: Tensor, spacing_mm: Sequence[float], wide_mm: float, settings: GuidedSettings) -> Tensor:
    """Return the (K, D, H, W) logits that a registered label map adds: `prior_weight` · logit(blurred map) + `bias`.

    Args:
        registered: (K, D, H, W) probabilities of the classes, carried over from the support.
        spacing_mm: (D, H, W).
        wide_mm: spacing of the grid on which the whole query was registered.
    Raises:
        ValueError: the axes are wrong.
    """
    expect_shape("registered", registered, "K D H W")
    widths = [blur_mm(thickness_mm(of_class > 0.5, spacing_mm), wide_mm, settings) for of_class in registered]
    prior = torch.cat([blur(of_class[None], (width,) * 3, spacing_mm)
                       for of_class, width in zip(registered, widths, strict=True)])
    return settings.prior_weight * prior.logit(PRIOR_EPS) + settings.bias


def with_prior(probs: Tensor, logits: Tensor) -> Tensor:
    """Return foreground probabilities of any shape with the logits of a prior added; probabilities are clipped first."""
    return (probs.logit(PRIOR_EPS) + logits).sigmoid()
