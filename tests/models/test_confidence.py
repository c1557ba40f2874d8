"""The numbers that the confidence is made of, by hand."""

from types import SimpleNamespace

import pytest
import torch

from qnet.models.confidence import EVIDENCE, contrast, expected_dice, local_correlations, returned
from qnet.models.sampling import grid_mm

MM = (2.0, 1.0, 1.0)


def test_the_way_back_is_compared_with_the_truth():
    truth = torch.zeros(2, 4, 8, 8, dtype=torch.bool)
    truth[0, :, 2:6, 2:6], truth[1, 1, 1, 1] = True, True
    box = slice(0, 4), slice(0, 8), slice(0, 8)
    points = grid_mm((4, 8, 8), MM)
    support = SimpleNamespace(masks=truth, outlines=SimpleNamespace(box=box))
    assert returned(support, truth, box, MM, points).tolist() == [1.0, 1.0]
    shifted = points + torch.tensor([0.0, 0.0, 2.0]).view(3, 1, 1, 1)            # half of the square comes back
    assert returned(support, truth, box, MM, shifted).tolist() == [0.5, 0.0]
    inner = slice(1, 3), slice(2, 6), slice(2, 6)                               # the truth outside the box counts as missed
    support.outlines.box = inner
    found = returned(support, truth, box, MM, points[(slice(None), *inner)])
    assert found[0].item() == pytest.approx(2 * 32 / (32 + 64))
    found = returned(support, truth[(slice(None), *inner)], inner, MM, points[(slice(None), *inner)])    # found in a box alone
    assert found[0].item() == pytest.approx(2 * 32 / (32 + 64))


def test_correlation_does_not_depend_on_brightness_and_contrast():
    torch.manual_seed(0)
    image = torch.rand(4, 20, 20)
    others = torch.stack([image, 0.2 + 0.3 * image, 1 - image, torch.full_like(image, 0.5), torch.rand(4, 20, 20)])
    found = torch.stack(list(local_correlations(image[None], others[:, None], MM, 2.0))).flatten(1).mean(dim=1)
    assert found[:4].tolist() == pytest.approx([1, 1, -1, 0], abs=1e-2) and abs(found[4]) < 0.3
    assert not any(of_one.any() for of_one in local_correlations(0 * image[None], others[:, None], MM, 2.0))


def test_correlation_is_local():
    torch.manual_seed(0)
    image = torch.rand(4, 20, 40)
    half = image.clone()
    half[..., 20:] = torch.rand(4, 20, 20)
    found, = local_correlations(image[None], half[None, None], MM, 2.0)
    assert found[..., :14].mean() > 0.95 and found[..., 26:].mean() < 0.5


def test_contrast_in_deviations():
    image = torch.tensor([1.0, 3.0, 7.0, 9.0]).view(1, 1, 4)            # 8 ± 1 in 2 ± 1
    inside = torch.tensor([False, False, True, True]).view(1, 1, 4)
    assert contrast(image, inside, ~inside) == pytest.approx(6.0) == -contrast(-image, inside, ~inside)
    assert contrast(image, inside, inside & False) == contrast(image, inside & False, inside) == 0.0


def test_a_class_that_has_vanished_is_expected_to_have_no_dice():
    good = [0.95, 0.95, 0.95, 0.9, 1.0, 0.0, 0.9]
    bad = [0.3, 0.95, 0.1, 0.2, -1.0, 1.0, 0.9]
    expected = expected_dice(torch.tensor([good, bad, [float("nan")] * len(EVIDENCE)]))
    assert expected[0] > 0.75 > 0.4 > expected[1] >= expected[2] == 0.0 and expected.max() <= 1
