"""What a class's intensity should be in another scan, and what is taken away that has another one, by hand."""

import pytest
import torch

from qnet.models.intensities import LEAST_DEVIATION, MOST, USUAL, Usual, cost, in_query, most_frequent, without_unlike

ORGAN = Usual(0.5, 0.05, 0.1)


def test_the_usual_intensities_of_a_class_are_median_and_deviations():
    image = torch.linspace(0, 1, 1001).view(1, 1, -1)
    usual = Usual.of(image, (image > 0.2) & (image < 0.6))
    assert usual == pytest.approx((0.4, 0.136, 0.136), abs=0.002)


def test_a_class_of_one_intensity_still_varies_as_noise_does():
    image = torch.full((2, 3, 4), 0.7)
    assert Usual.of(image, image > 0) == pytest.approx((0.7, LEAST_DEVIATION, LEAST_DEVIATION))


@pytest.mark.parametrize("contrast", [lambda v: v, lambda v: 1 - v, lambda v: v**2, lambda v: 0.2 + 0.3 * v])
def test_an_intensity_is_known_in_another_contrast(contrast):
    carried = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    assert in_query(0.6, contrast(carried), carried) == pytest.approx(contrast(0.6), abs=0.01)


def test_voxels_that_are_carried_elsewhere_do_not_shift_what_is_expected():
    """A fifth of the scan was registered wrongly."""
    carried = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    image = 1 - carried
    image[::5] = 0.9
    assert in_query(0.6, image, carried) == pytest.approx(0.4, abs=0.02)


def test_one_voxel_tells_as_well():
    assert in_query(0.5, torch.tensor([0.3]), torch.tensor([0.9])) == pytest.approx(0.3)


def test_the_expected_one_of_two_frequent_intensities_is_taken():
    """Two thirds of what was found is a darker neighbour."""
    found = torch.cat([torch.full((200,), 0.305), torch.full((100,), 0.605)])
    assert most_frequent(found, expected=0.6, deviation=0.05) == pytest.approx(0.605)
    assert most_frequent(found, expected=0.3, deviation=0.05) == pytest.approx(0.305)


def test_what_is_frequent_wins_over_what_is_expected_nearby():
    found = torch.cat([torch.full((1000,), 0.455), torch.full((10,), 0.505)])
    assert most_frequent(found, expected=0.5, deviation=0.05) == pytest.approx(0.455, abs=0.011)


def test_the_cost_begins_at_two_deviations_on_either_side():
    image = torch.tensor([0.505, 0.505 - 0.09, 0.505 + 0.19, 0.505 - 0.15, 0.505 + 0.3, 0.0, 1.0]).view(1, 1, -1)
    found = image == image[0, 0, 0]
    of_three = (3**2 - USUAL**2) / 2
    expected = torch.tensor([0, 0, 0, of_three, of_three, MOST, MOST])
    assert torch.allclose(cost(image, found, ORGAN, 0.5).flatten(), expected, atol=0.01)


def test_a_costly_voxel_falls_below_half_and_others_keep_their_probability():
    probs = torch.tensor([0.9, 0.8, 0.7, 0.9, 0.2]).view(1, 1, -1)
    held = without_unlike(probs, torch.tensor([0, 0, 0, 4.0, 1.0]).view(1, 1, -1)).flatten()
    assert torch.equal(held[:3], probs.flatten()[:3])
    assert held[3] == pytest.approx(float((torch.tensor(0.9).logit() - 4).sigmoid())) and held[4] < 0.2


def test_a_sure_voxel_never_gains():
    probs = torch.ones(1, 1, 4)
    assert torch.equal(without_unlike(probs, torch.zeros(1, 1, 4)), probs)


def test_a_class_of_which_too_little_would_stay_is_left_alone():
    probs = torch.full((1, 1, 10), 0.9)
    costs = torch.zeros(1, 1, 10)
    costs[..., :3] = 8
    assert (without_unlike(probs, costs) > 0.5).sum() == 7      # 7 of 10 may stay, fewer not
    costs[..., 3] = 8
    assert torch.equal(without_unlike(probs, costs), probs)
