from dataclasses import replace

import pytest
import torch

from qnet.models.contents import scaled
from qnet.models.guided import (
    AMPLITUDES,
    Trial,
    appearance,
    blur,
    blur_mm,
    discriminant,
    displaced,
    gain,
    guided_filter,
    label_map,
    outline,
    slope,
    smooth_field,
    thickness_mm,
    tried,
)
from tests.settings import GUIDED

SPACING = (6.0, 2.0, 2.0)


def outlined(volume, registered, spacing=SPACING, features=None):
    """Outline each of some (K, D, H, W) maps, with the blur that its thickness asks for."""
    sigmas = [blur_mm(thickness_mm(mask > 0.5, spacing), 4.0, GUIDED) for mask in registered]
    return torch.stack([outline(scaled(volume)[None], mask, spacing, sigma, GUIDED, features)
                        for mask, sigma in zip(registered, sigmas, strict=True)])


def scene(shape=(12, 60, 60), spacing=SPACING, noise=0.03):
    """Two organs in a body, brighter and darker than it: volume (D, H, W) and their masks (2, D, H, W)."""
    torch.manual_seed(0)
    z, y, x = torch.meshgrid(*(torch.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij")
    cz, cy, cx = (n * s / 2 for n, s in zip(shape, spacing, strict=True))

    def ball(dy, dx, radius):
        return ((z - cz).square() + (y - cy - dy).square() + (x - cx - dx).square() < radius ** 2).float()

    masks = torch.stack([ball(-5, -22, 20), ball(8, 24, 18)])
    body = ((y - cy).square() + (x - cx).square() < 56 ** 2).float()
    volume = body * (0.5 + 0.3 * masks[0] - 0.2 * masks[1]) + noise * torch.randn(shape) * body
    return volume.clamp_min(0) * 1000, masks


def dice(first, second):
    a, b = first > 0.5, second > 0.5
    return (2 * (a & b).sum() / (a.sum() + b.sum())).item()


@pytest.mark.parametrize("pixels", [(0, 2, -2), (0, -2, 1), (1, 0, 2)])
def test_the_border_moves_from_a_displaced_map_to_the_image(pixels):
    volume, masks = scene()
    registered = masks.roll(pixels, dims=(1, 2, 3))
    result = outlined(volume, registered)
    for k in range(2):
        assert dice(result[k], masks[k]) > dice(registered[k], masks[k]) + 0.03
        assert dice(label_map(result) == k + 1, masks[k]) > (0.8 if pixels[0] else 0.93)   # a slice is three pixels thick


def test_a_right_map_stays():
    volume, masks = scene()
    result = outlined(volume, masks)
    assert min(dice(result[k], masks[k]) for k in range(2)) > 0.96


def test_the_spacing_is_in_mm():
    coarse, fine = scene(), scene((18, 90, 90), (4.0, 4 / 3, 4 / 3))
    for (volume, masks), spacing, shift in ((coarse, SPACING, 2), (fine, (4.0, 4 / 3, 4 / 3), 3)):
        result = outlined(volume, masks.roll(shift, dims=2), spacing)
        assert min(dice(result[k], masks[k]) for k in range(2)) > 0.93


def test_intensities_may_have_any_range_and_sign():
    volume, masks = scene()
    registered = masks.roll(2, dims=2)
    first, second = (label_map(outlined(v, registered)) for v in (volume, 70 - 3 * volume))
    assert min(dice(first == k, second == k) for k in (1, 2)) > 0.9


def test_extra_features_draw_a_border_that_intensities_lack():
    volume, masks = scene()
    flat = torch.where(volume > 0, 500.0, 0.0) + 10 * torch.randn(volume.shape)
    registered = masks[:1].roll(3, dims=3)
    without = outlined(flat, registered)
    helped = outlined(flat, registered, features=masks[:1] + 0.1 * torch.randn(1, *volume.shape))
    assert dice(helped[0], masks[0]) > dice(without[0], masks[0]) + 0.03


@pytest.mark.parametrize("volume", [torch.zeros(12, 60, 60), torch.full((12, 60, 60), 3.0)])
def test_a_constant_image_keeps_to_the_map(volume):
    _, masks = scene()
    result = outlined(volume, masks)
    assert result.isfinite().all()
    assert min(dice(result[k], masks[k]) for k in range(2)) > 0.8


def test_an_empty_map_gives_nothing():
    volume, masks = scene()
    result = outlined(volume, masks * 0)
    assert not label_map(result).any()


def test_one_slice():
    volume, masks = scene()
    result = outlined(volume[6:7], masks[:, 6:7].roll(2, dims=2))
    assert min(dice(result[k], masks[k, 6:7]) for k in range(2)) > 0.9


def test_axes_are_checked():
    volume, masks = scene()
    with pytest.raises(ValueError, match="registered: expected H=60"):
        outline(volume[None], masks[0, :, 1:], SPACING, 4.0, GUIDED)
    with pytest.raises(ValueError, match="features: expected axes"):
        outline(volume[None], masks[0], SPACING, 4.0, GUIDED, volume)


def test_discriminant_by_hand():
    torch.manual_seed(0)
    noise = torch.randn(2, 20000) * torch.tensor([[1.0], [2.0]])
    weights, offset = discriminant(noise, noise + torch.tensor([[2.0], [4.0]]), shrinkage=0.0)
    assert torch.allclose(weights, torch.tensor([2.0, 1.0]), atol=0.05)     # difference / variance
    assert offset.item() == pytest.approx(-4.0, abs=0.15)                   # −|difference|²/variance/2


def test_blur_is_in_mm_and_keeps_constants():
    line = torch.zeros(1, 1, 1, 81)
    line[..., 40] = 1
    spread = [blur(line, (0, 0, 6.0), (1.0, 1.0, spacing))[0, 0, 0] for spacing in (1.0, 2.0)]
    positions = torch.arange(81) - 40.0
    for found, spacing in zip(spread, (1.0, 2.0), strict=True):
        assert ((found * (positions * spacing).square()).sum().sqrt()).item() == pytest.approx(6.0, rel=0.05)
    assert torch.allclose(blur(torch.full((1, 3, 4, 5), 2.5), (9.0, 9.0, 9.0), SPACING), torch.tensor(2.5))


def test_slope_of_a_ramp():
    ramp = (3.0 * torch.arange(6).view(6, 1) + 4.0 * torch.arange(7)).expand(1, 2, 6, 7)
    assert torch.allclose(slope(ramp, (1, 1, 1))[..., 1:-1, 1:-1], torch.tensor(5.0))
    assert torch.allclose(slope(ramp, (1, 0.5, 0.5))[..., 1:-1, 1:-1], torch.tensor(10.0))


def test_guided_filter_follows_the_edge_of_the_image():
    image = torch.where(torch.arange(40) < 20, -1.0, 1.0).expand(1, 40, 40).contiguous()
    maps = torch.sigmoid((torch.arange(40) - 20.0) / 4).expand(1, 1, 40, 40).contiguous()
    filtered = guided_filter(maps, image, 4.0, 0.05, (1.0, 1.0, 1.0))
    assert (filtered[..., 20] - filtered[..., 19]).min() > 5 * (maps[..., 20] - maps[..., 19]).min()


def test_appearance_of_a_constant_is_flat():
    features = appearance(torch.full((3, 8, 9), 0.5), SPACING, 4.0)
    assert features.shape == (6, 3, 8, 9)
    assert torch.allclose(features[:4], torch.tensor(0.5), atol=1e-5)
    assert features[4:].abs().max() < 1e-3


def test_label_map_by_hand():
    probs = torch.tensor([[[[0.6, 0.7, 0.2, 0.5]]], [[[0.7, 0.1, 0.3, 0.4]]]])
    assert label_map(probs).tolist() == [[[2, 1, 0, 0]]]


@pytest.mark.parametrize(("n_voxels", "expected"), [(1, 2.0), (3, 4.0), (4, 4.0), (5, 6.0)])
def test_thickness_of_a_sheet(n_voxels, expected):
    """Twice the distance of its middle to the nearest voxel outside it."""
    mask = torch.zeros(7, 30, 30)
    mask[1:1 + n_voxels] = 1
    for spacing in (1.0, 0.05):
        assert thickness_mm(mask, (spacing, 5 * spacing, 5 * spacing)) == pytest.approx(expected * spacing)
    assert thickness_mm(mask * 0, SPACING) == 0.0


def test_the_blur_follows_the_thickness_and_no_blur_is_wider_than_a_registration_errs():
    settings = replace(GUIDED, blur=0.2)
    assert blur_mm(10.0, 4.0, settings) == pytest.approx(2.0) and blur_mm(1000.0, 4.0, settings) == blur_mm(900.0, 4.0, settings)
    assert blur_mm(0.5, 0.2, settings) == pytest.approx(blur_mm(10.0, 4.0, settings) / 20)


def test_milder_settings():
    mild = replace(GUIDED, blur=0.2, filter=0.8, prior_weight=1.5).milder
    assert (mild.blur * mild.filter, mild.blur, mild.prior_weight) == pytest.approx((0.2 * 0.8, 0.1, 3.0))


def test_a_displaced_mask_is_taken_from_elsewhere():
    mask = torch.zeros(2, 5, 9)
    mask[:, :, 5] = 1
    field = torch.zeros(3, 2, 5, 9)
    field[2] = 4.0                                         # mm, two voxels
    assert torch.equal(displaced(mask, SPACING, field), mask.roll(-2, dims=2))


def test_random_displacements_are_smooth_and_of_length_1():
    field = smooth_field((8, 40, 40), (1.0, 1.0, 1.0), 4.0, seed=0)
    assert field.square().sum(dim=0).mean().sqrt().item() == pytest.approx(1.0)
    assert field.diff(dim=3).square().sum(dim=0).mean().sqrt() < 0.3
    assert torch.equal(field, smooth_field((8, 40, 40), (1.0, 1.0, 1.0), 4.0, seed=0))


def test_what_is_gained_lies_between_the_trials():
    trials = [Trial(0.9, {"a": 0.02}), Trial(0.7, {"a": 0.06}), Trial(0.5, {"a": -0.1})]
    found = [gain(trials, "a", expected) for expected in (1.0, 0.9, 0.8, 0.7, 0.6, 0.2)]
    assert found == pytest.approx([0.02, 0.02, 0.04, 0.06, -0.02, -0.1])


def test_drawing_is_tried_on_displaced_truths():
    """It pays where the class has a contrast, and hardly where there is none."""
    volume, masks = scene()
    clear, none = (tried(image[None], masks[0], SPACING, 2.0, {"a": GUIDED}) for image in (scaled(volume), 0.5 + 0 * volume))
    for trials in (clear, none):
        before = [trial.before for trial in trials]
        assert len(before) == len(AMPLITUDES) and before == sorted(before, reverse=True) and 0.9 < before[0] < 1
    assert all(trial.gains["a"] > 0.01 for trial in clear[1:]), clear
    assert max(trial.gains["a"] for trial in none) < 0.02, none
