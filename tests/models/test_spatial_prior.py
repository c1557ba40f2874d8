"""The spatial prior, by hand."""

import pytest
import torch

from models.guided import GuidedSettings
from models.spatial_prior import prior_logits, with_prior

PLAIN = GuidedSettings(blur_mm=(0, 0, 0), prior_weight=1.0, bias=0.0)


def test_logits_add_up():
    registered = torch.tensor([0.2, 0.5, 0.9]).view(1, 1, 1, 3)
    found = torch.tensor([0.6, 0.7, 0.5]).view(1, 1, 1, 3)
    odds = (0.2 / 0.8 * 0.6 / 0.4, 0.7 / 0.3, 0.9 / 0.1)
    both = with_prior(found, prior_logits(registered, (1, 1, 1), PLAIN))
    assert both.flatten().tolist() == pytest.approx([o / (1 + o) for o in odds], abs=1e-5)


def test_weight_and_bias():
    registered = torch.full((2, 1, 2, 2), 0.8)
    logits = prior_logits(registered, (1, 1, 1), GuidedSettings(blur_mm=(0, 0, 0), prior_weight=1.5, bias=0.25))
    torch.testing.assert_close(logits, torch.full_like(logits, 1.5 * torch.tensor(4.0).log().item() + 0.25))


def test_neither_is_ever_certain():
    certain = torch.tensor([0.0, 1.0])
    both = with_prior(certain, prior_logits(certain.flip(0).view(1, 1, 1, 2), (1, 1, 1), PLAIN).flatten())
    torch.testing.assert_close(both, torch.tensor([0.5, 0.5]))


def test_the_blur_is_in_mm():
    registered = torch.zeros(1, 1, 1, 41)
    registered[..., 20] = 1
    wide = GuidedSettings(blur_mm=(0, 0, 4.0), prior_weight=1.0, bias=0.0)
    fine, coarse = (prior_logits(registered, (1, 1, spacing), wide).sigmoid().flatten() for spacing in (1.0, 2.0))
    assert coarse[20] > 1.9 * fine[20] > 0.15 and fine[26] > coarse[26]


def test_wrong_axes():
    with pytest.raises(ValueError, match="registered"):
        prior_logits(torch.zeros(4, 4, 4), (1, 1, 1), PLAIN)
