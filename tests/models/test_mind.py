"""MIND-SSC is that of the package convexAdam."""

from __future__ import annotations

import warnings

import pytest
import torch

from qnet.models.mind import mind_ssc

with warnings.catch_warnings():
    from convexAdam.convex_adam_utils import MINDSSC


@pytest.mark.parametrize(("radius", "dilation"), [(1, 2), (2, 3), (1, 1)])
def test_as_the_package_computes_it(radius, dilation):
    volume = torch.rand(9, 14, 11, generator=torch.Generator().manual_seed(3))
    expected = MINDSSC(volume[None, None], radius, dilation, device="cpu")[0]
    torch.testing.assert_close(mind_ssc(volume, radius, dilation), expected, rtol=1e-4, atol=1e-5)


def test_contrast_and_brightness_change_nothing():
    volume = torch.rand(8, 10, 12, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(mind_ssc(3 - 2 * volume, 1, 2), mind_ssc(volume, 1, 2), rtol=1e-3, atol=1e-4)


def test_a_constant_volume_has_no_features():
    assert not mind_ssc(torch.full((5, 6, 7), 0.3), 2, 3).any()


def test_axes_are_checked():
    with pytest.raises(ValueError, match="volume: expected axes"):
        mind_ssc(torch.zeros(1, 5, 6, 7), 1, 2)
