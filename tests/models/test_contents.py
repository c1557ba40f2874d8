"""What a scan holds: black and white by a robust rule, and the box of its contents."""

import pytest
import torch

from qnet.models.contents import content_box_mm, scaled

SPACING = (2.0, 1.0, 1.0)


def ct(white=60.0):
    """A trunk in air, on a table, in Hounsfield units, with noise."""
    torch.manual_seed(0)
    _z, y, x = torch.meshgrid(torch.arange(10.0), torch.arange(60.0), torch.arange(60.0), indexing="ij")
    body = ((y - 30) / 18).square() + ((x - 30) / 24).square() < 1
    bone = ((y - 40).square() + (x - 30).square() < 40) & body
    return torch.where(bone, white, torch.where(body, 40.0, -1000.0)) + 8 * torch.randn(10, 60, 60)


def outside_the_circle():
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(60.0), indexing="ij")
    return ((y - 29.5).square() + (x - 29.5).square() > 29.5 ** 2).expand(10, -1, -1)


def test_scaled():
    assert torch.equal(scaled(torch.full((2, 3, 4), 5)), torch.zeros(2, 3, 4))
    assert scaled(torch.arange(1000.0).view(10, 10, 10))[5, 0, 0].item() == pytest.approx(500 / 994)
    assert scaled(torch.arange(1000.0).view(10, 10, 10) * 7 - 300)[5, 0, 0].item() == pytest.approx(500 / 994)


def test_two_values_are_black_and_white():
    volume = torch.zeros(3, 20, 30)
    volume[:, 5:15, 10:20] = 7
    assert torch.equal(scaled(volume), volume / 7)


@pytest.mark.parametrize("white", [60.0, 300.0, 1200.0], ids=["soft", "contrast agent", "bone"])
@pytest.mark.parametrize("filling", [-3024.0, -2000.0])
def test_what_was_filled_in_is_as_black_as_air(filling, white):
    plain = ct(white)
    padded = torch.where(outside_the_circle(), filling, plain)
    inside = ~outside_the_circle()
    assert (scaled(padded) - scaled(plain))[inside].abs().max() < 0.02
    assert scaled(padded)[~inside].max() == 0
    for one, other in zip(content_box_mm(scaled(padded), SPACING), content_box_mm(scaled(plain), SPACING), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("filling", [None, -3024.0])
def test_one_odd_voxel_is_no_black(filling):
    plain = ct() if filling is None else torch.where(outside_the_circle(), filling, ct())
    odd = plain.clone()
    odd[3, 20, 20] = -32768
    assert (scaled(odd) - scaled(plain)).abs().flatten().kthvalue(odd.numel() - 1).values < 0.02
    for one, other in zip(content_box_mm(scaled(odd), SPACING), content_box_mm(scaled(plain), SPACING), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("darkest", [100.0, 600.0])
def test_a_stripped_brain_fills_its_box(darkest):
    """Zeros around it, and its own darkest tissue far above them or not."""
    torch.manual_seed(0)
    brain = torch.zeros(10, 40, 40)
    brain[2:8, 10:30, 5:35] = darkest + (1000 - darkest) * torch.rand(6, 20, 30)
    low, high = content_box_mm(scaled(brain), SPACING)
    torch.testing.assert_close(low, torch.tensor([3.0, 9.5, 4.5]))
    torch.testing.assert_close(high, torch.tensor([15.0, 29.5, 34.5]))


def test_a_crop_that_is_all_organ_is_all_content():
    torch.manual_seed(0)
    crop = 500 + 20 * torch.randn(8, 30, 40)
    low, high = content_box_mm(scaled(crop), SPACING)
    torch.testing.assert_close(low, torch.tensor([-1.0, -0.5, -0.5]))
    torch.testing.assert_close(high, torch.tensor([15.0, 29.5, 39.5]))


def test_the_box_of_the_contents_and_its_fallback():
    volume = torch.zeros(3, 20, 30)
    volume[:, 5:15, 10:20] = 1
    low, high = content_box_mm(volume, (5.0, 2.0, 1.0))
    assert torch.equal(low, torch.tensor([-2.5, 9.0, 9.5]))
    assert torch.equal(high, torch.tensor([12.5, 29.0, 19.5]))
    assert torch.equal(content_box_mm(volume * 0, (5.0, 2.0, 1.0))[1], torch.tensor([12.5, 39.0, 29.5]))
