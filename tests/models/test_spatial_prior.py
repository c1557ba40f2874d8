"""The spatial prior, by hand."""

from dataclasses import replace

import pytest
import torch

from qnet.models.spatial_prior import prior_logits, with_prior
from tests.settings import GUIDED

PLAIN = replace(GUIDED, blur=0.0, prior_weight=1.0, bias=0.0)


def test_logits_add_up():
    registered = torch.tensor([0.2, 0.5, 0.9]).view(1, 1, 1, 3)
    found = torch.tensor([0.6, 0.7, 0.5]).view(1, 1, 1, 3)
    odds = (0.2 / 0.8 * 0.6 / 0.4, 0.7 / 0.3, 0.9 / 0.1)
    both = with_prior(found, prior_logits(registered, (1, 1, 1), 1.0, PLAIN))
    assert both.flatten().tolist() == pytest.approx([o / (1 + o) for o in odds], abs=1e-5)


def test_weight_and_bias():
    registered = torch.full((2, 1, 2, 2), 0.8)
    logits = prior_logits(registered, (1, 1, 1), 1.0, replace(GUIDED, blur=0.0, prior_weight=1.5, bias=0.25))
    torch.testing.assert_close(logits, torch.full_like(logits, 1.5 * torch.tensor(4.0).log().item() + 0.25))


def test_neither_is_ever_certain():
    certain = torch.tensor([0.0, 1.0])
    both = with_prior(certain, prior_logits(certain.flip(0).view(1, 1, 1, 2), (1, 1, 1), 1.0, PLAIN).flatten())
    torch.testing.assert_close(both, torch.tensor([0.5, 0.5]))


def test_the_blur_follows_the_thickness_of_each_class():
    """A slab of 4 voxels, and one of 12, in voxels of 1 mm and of 0.05 mm."""
    registered = torch.zeros(2, 1, 1, 61)
    registered[0, ..., 28:32], registered[1, ..., 24:36] = 1, 1
    settings = replace(GUIDED, blur=0.3, prior_weight=1.0, bias=0.0)
    thin, thick = prior_logits(registered, (90, 90, 1), 10.0, settings).sigmoid().view(2, -1)
    assert thin[33] < thick[37] - 0.05 and thin[31] > thick[35] + 0.05                 # one voxel from the border, either side
    small = prior_logits(registered, (4.5, 4.5, 0.05), 0.5, settings).sigmoid().view(2, -1)
    torch.testing.assert_close(small, torch.stack([thin, thick]), atol=1e-4, rtol=0)


def test_wrong_axes():
    with pytest.raises(ValueError, match="registered"):
        prior_logits(torch.zeros(4, 4, 4), (1, 1, 1), 1.0, PLAIN)
