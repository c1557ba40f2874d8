import pytest
import torch

from models.guided import appearance, blur, discriminant, guided_filter, label_map, outline, slope

SPACING = (6.0, 2.0, 2.0)


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
    result = outline(volume, registered, SPACING)
    for k in range(2):
        assert dice(result[k], masks[k]) > dice(registered[k], masks[k]) + 0.03
        assert dice(label_map(result) == k + 1, masks[k]) > (0.85 if pixels[0] else 0.93)   # a slice is three pixels thick


def test_a_right_map_stays():
    volume, masks = scene()
    result = outline(volume, masks, SPACING)
    assert min(dice(result[k], masks[k]) for k in range(2)) > 0.96


def test_the_spacing_is_in_mm():
    coarse, fine = scene(), scene((18, 90, 90), (4.0, 4 / 3, 4 / 3))
    for (volume, masks), spacing, shift in ((coarse, SPACING, 2), (fine, (4.0, 4 / 3, 4 / 3), 3)):
        result = outline(volume, masks.roll(shift, dims=2), spacing)
        assert min(dice(result[k], masks[k]) for k in range(2)) > 0.93


def test_intensities_may_have_any_range_and_sign():
    volume, masks = scene()
    registered = masks.roll(2, dims=2)
    first, second = (label_map(outline(v, registered, SPACING)) for v in (volume, 70 - 3 * volume))
    assert min(dice(first == k, second == k) for k in (1, 2)) > 0.9


def test_extra_features_draw_a_border_that_intensities_lack():
    volume, masks = scene()
    flat = torch.where(volume > 0, 500.0, 0.0) + 10 * torch.randn(volume.shape)
    registered = masks[:1].roll(3, dims=3)
    without = outline(flat, registered, SPACING)
    helped = outline(flat, registered, SPACING, features=masks[:1] + 0.1 * torch.randn(1, *volume.shape))
    assert dice(helped[0], masks[0]) > dice(without[0], masks[0]) + 0.03


@pytest.mark.parametrize("volume", [torch.zeros(12, 60, 60), torch.full((12, 60, 60), 3.0)])
def test_a_constant_image_keeps_to_the_map(volume):
    _, masks = scene()
    result = outline(volume, masks, SPACING)
    assert result.isfinite().all()
    assert min(dice(result[k], masks[k]) for k in range(2)) > 0.8


def test_an_empty_map_gives_nothing():
    volume, masks = scene()
    result = outline(volume, masks * 0, SPACING)
    assert not label_map(result).any()


def test_one_slice():
    volume, masks = scene()
    result = outline(volume[6:7], masks[:, 6:7].roll(2, dims=2), SPACING)
    assert min(dice(result[k], masks[k, 6:7]) for k in range(2)) > 0.9


def test_axes_are_checked():
    volume, masks = scene()
    with pytest.raises(ValueError, match="registered: expected H=60"):
        outline(volume, masks[:, :, 1:], SPACING)
    with pytest.raises(ValueError, match="features: expected axes"):
        outline(volume, masks, SPACING, features=volume)


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
    assert torch.allclose(slope(ramp)[..., 1:-1, 1:-1], torch.tensor(5.0))


def test_guided_filter_follows_the_edge_of_the_image():
    image = torch.where(torch.arange(40) < 20, -1.0, 1.0).expand(1, 40, 40).contiguous()
    maps = torch.sigmoid((torch.arange(40) - 20.0) / 4).expand(1, 1, 40, 40).contiguous()
    filtered = guided_filter(maps, image, 4.0, 0.05, (1.0, 1.0, 1.0))
    assert (filtered[..., 20] - filtered[..., 19]).min() > 5 * (maps[..., 20] - maps[..., 19]).min()


def test_appearance_of_a_constant_is_flat():
    features = appearance(torch.full((3, 8, 9), 0.5), SPACING)
    assert features.shape == (7, 3, 8, 9)
    assert torch.allclose(features[[0, 1, 2, 3, 5]], torch.tensor(0.5), atol=1e-5)
    assert features[[4, 6]].abs().max() < 1e-3


def test_label_map_by_hand():
    probs = torch.tensor([[[[0.6, 0.7, 0.2, 0.5]]], [[[0.7, 0.1, 0.3, 0.4]]]])
    assert label_map(probs).tolist() == [[[2, 1, 0, 0]]]
