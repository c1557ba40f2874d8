"""The confidence of found outlines: the Dice that is to be expected, from numbers that need no truth of the query.

The first number is reverse classification accuracy (Valindria et al. 2017): the outlines that were found are carried back to the
outlined scan, whose truth is known. The second is whether a class differs from its surroundings as in the outlined scan: a lesion
that the query lacks comes back as well, but there is no contrast where it should be. The agreement of the routes adds nothing to
both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from qnet.models.guided import blur
from qnet.models.sampling import column, sample
from qnet.models.volume import Support

# agreement: mean soft Dice of the maps of all routes with their mean; of a single route, of its zoomed map with its wide one.
# kept: Dice of what is found with what was carried over. returned: Dice of what is found, carried back to the outlined scan.
# fit: local correlation of the carried image with the query's, around what is found. contrast: that of what is found to its
# surroundings, as a share of the outlined organ's. size: how far its volume is from the expected one, as absolute logarithm.
# thinness: Dice of the outlined organ with itself, displaced by twice the spacing of the wide grid (root mean square).
EVIDENCE = ("agreement", "kept", "returned", "fit", "contrast", "size", "thinness")
TERMS = ("one", "returned, logit", "contrast, 0 to 1")
WEIGHTS = (-2.43, 1.55, 1.54)     # of the terms
CLIPPED = 0.02         # Dice nearer to 0 or 1 count as this in the logistic model
LEAST_CONTRAST = 0.3   # in the outlined scan; less says nothing
VANISHED = 0.05        # of the volume that is expected: a class of which less is found has vanished


def returned(support: Support, found: Tensor, voxels: tuple[slice, slice, slice], spacing_mm: Sequence[float],
             places: Tensor) -> Tensor:
    """Dice (K,) of found outlines, carried back to the outlined scan, with the truth there.

    Args:
        found: (K, d, h, w) of 0 and 1, in a box of the query.
        voxels: of the box.
        spacing_mm: of the query, (D, H, W).
        places: (3, …) places in the query, in mm, of the voxels in the box of the support's outlines.
    """
    first = column([of_axis.start for of_axis in voxels], places)
    back = sample(found.float(), places / column(spacing_mm, places) - first) > 0.5
    truth = support.masks[(slice(None), *support.outlines.box)].bool()
    shared, total = (back & truth).flatten(1).sum(1), back.flatten(1).sum(1) + support.masks.flatten(1).sum(1)
    return 2 * shared / total.clamp_min(1)


def local_correlations(images: Tensor, others: Iterable[Tensor], spacing_mm: Sequence[float],
                       sigma_mm: float) -> Iterator[Tensor]:
    """Yield the correlation (D, H, W), −1 to 1, of a scan (C, D, H, W) with each of others, in Gaussian windows around voxels.

    It is the mean over the channels, and does not depend on their brightness and contrast. Where a channel of one of both is
    constant, it counts as 0.
    """
    def mean(maps: Tensor) -> Tensor:
        return blur(maps, (sigma_mm,) * 3, spacing_mm)

    of_image, square = mean(images), mean(images.square())
    variance = square - of_image.square()
    for other in (of_one.float() for of_one in others):
        of_other, of_square, of_both = (mean(maps) for maps in (other, other.square(), other * images))
        product = (variance * (of_square - of_other.square())).clamp_min(0)
        found = torch.where(product > 1e-10, (of_both - of_image * of_other) / product.clamp_min(1e-10).sqrt(), 0.0)
        yield found.clamp(-1, 1).mean(dim=0)


def contrast(image: Tensor, inside: Tensor, around: Tensor) -> float:
    """How much brighter a class is than what lies around it, in deviations of both; negative if it is darker."""
    if not inside.any() or not around.any():
        return 0.0
    one, other = image[inside], image[around]
    deviation = ((one.var(correction=0) + other.var(correction=0)) / 2).sqrt()
    return float((one.mean() - other.mean()) / deviation.clamp_min(1e-3))


def same_contrast(images: Tensor, of_images: tuple[Tensor, Tensor], others: Tensor, of_others: tuple[Tensor, Tensor]) -> float:
    """Return the contrast of a class in a scan as a share of that in the outlined one, −1 to 1; 1 if there is hardly one there.

    It is that of the channel in which the class stands out most in the outlined scan.

    Args:
        images, others: (C, …) channels of the scan, and of the outlined one.
        of_images, of_others: (…) masks of the class and of its surroundings in them.
    """
    there = [contrast(image, *of_others) for image in others]
    most = max(range(len(there)), key=lambda k: abs(there[k]))
    here = contrast(images[most], *of_images)
    return max(-1.0, min(1.0, here / there[most])) if abs(there[most]) > LEAST_CONTRAST else 1.0


def expected_dice(evidence: Tensor) -> Tensor:
    """Return the Dice (K,) that is to be expected by (K, …) numbers of `EVIDENCE`; 0 for a class that has vanished.

    A logistic model, whose weights `scripts/tables/confidence.py` finds. It is never above the root of the Dice of what comes
    back to the outlined scan: two registrations that err by the same amount give such a Dice there.
    """
    inputs = terms(evidence)
    expected = (inputs @ torch.tensor(WEIGHTS, dtype=inputs.dtype, device=inputs.device)).sigmoid()
    return torch.minimum(expected, evidence[:, EVIDENCE.index("returned")].clamp_min(0).sqrt()).nan_to_num(0.0)


def terms(evidence: Tensor) -> Tensor:
    """(K, 3) inputs of the logistic model, TERMS, of (K, …) numbers of `EVIDENCE`."""
    back, contrasts = (evidence[:, EVIDENCE.index(name)] for name in ("returned", "contrast"))
    return torch.stack([torch.ones_like(back), back.logit(CLIPPED), contrasts.clamp(0, 1)], dim=1)
