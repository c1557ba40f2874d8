import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from models.registration import (
    Fixed,
    Registration,
    RegistrationModel,
    RegistrationSettings,
    _Adam,
    body_box_mm,
    carry,
    fit_affine,
    fuse,
    grid_mm,
    misfit,
    register,
    scaled,
)
from util.base.root import ROOT

FAST = RegistrationSettings(max_voxels=120_000)
SPACING = (6.0, 3.0, 3.0)


def phantom(shape=(20, 64, 64), spacing=SPACING, shift=(0.0, 0.0, 0.0), scale=1.0, seed=0):
    """A body with three organs and smooth texture, laid out in mm about the middle: volume (D, H, W) and organs (3, D, H, W)."""
    extent = torch.tensor([(n - 1) * s for n, s in zip(shape, spacing, strict=True)])
    points = grid_mm(shape, spacing) - (extent / 2 + torch.tensor(shift)).view(3, 1, 1, 1)
    points = points / scale

    def ball(centre, radii):
        distance = (points - torch.tensor(centre).view(3, 1, 1, 1)) / torch.tensor(radii).view(3, 1, 1, 1)
        return (distance.square().sum(0) < 1).float()

    organs = torch.stack([ball((0.0, -10.0, -35.0), (40.0, 30.0, 25.0)), ball((0.0, 25.0, 30.0), (25.0, 16.0, 14.0)),
                          ball((-10.0, -30.0, 30.0), (20.0, 12.0, 20.0))])
    volume = 0.4 * ball((0.0, 0.0, 0.0), (300.0, 65.0, 80.0)) + 0.3 * organs[0] + 0.5 * organs[1] - 0.25 * organs[2]
    return volume.clamp_min(0) * 900, organs


def dice(first, second):
    a, b = first > 0.5, second > 0.5
    return (2 * (a & b).sum() / (a.sum() + b.sum())).item()


def warped_dice(query, support, query_spacing=SPACING, support_spacing=SPACING):
    found = register(query[0], support[0], query_spacing, support_spacing, FAST)
    return [dice(*pair) for pair in zip(found.warp(support[1]), query[1], strict=True)], found


def misfit_of(query, support, support_organs):
    """The misfit of each class after registration, as RegistrationModel has it."""
    found = register(query, support, SPACING, SPACING, FAST)
    return misfit(query, found.warp(scaled(support)[None])[0], found.warp(support_organs), SPACING)


def test_a_scan_registered_to_itself_stays_where_it_is():
    overlaps, found = warped_dice(phantom(), phantom())
    assert min(overlaps) > 0.95
    assert (misfit_of(phantom()[0], *phantom()) < 0.05).all()


@pytest.mark.whole
@pytest.mark.parametrize(("shift", "scale"), [((12.0, 9.0, -12.0), 1.0), ((0.0, 0.0, 0.0), 1.15), ((-6.0, 0.0, 6.0), 0.9)])
def test_shifted_and_scaled_organs_are_recovered(shift, scale):
    query, support = phantom(shift=shift, scale=scale), phantom()
    before = [dice(*pair) for pair in zip(support[1], query[1], strict=True)]
    overlaps, _ = warped_dice(query, support)
    assert min(overlaps) > 0.85
    assert sum(overlaps) > sum(before) + 0.2


@pytest.mark.whole
def test_other_spacing_field_of_view_and_number_of_slices():
    query, support = phantom((15, 50, 90), (8.0, 4.0, 2.0)), phantom((30, 80, 72), (4.0, 2.5, 3.0))
    overlaps, found = warped_dice(query, support, (8.0, 4.0, 2.0), (4.0, 2.5, 3.0))
    assert found.warp(support[1]).shape == query[1].shape
    assert min(overlaps) > 0.85


@pytest.mark.whole
def test_the_result_depends_on_neither_scale_nor_offset_of_intensities():
    query, support = phantom(shift=(0.0, 6.0, 0.0)), phantom()
    first = register(query[0], support[0], SPACING, SPACING, FAST).warp(support[1])
    second = register(query[0] * 3 - 700, support[0] * 0.01 + 5, SPACING, SPACING, FAST).warp(support[1])
    assert all(dice(*pair) > 0.97 for pair in zip(first, second, strict=True))


@pytest.mark.whole
def test_a_flip_of_both_scans_flips_the_result():
    query, support = phantom(shift=(0.0, 6.0, 9.0)), phantom()
    straight = register(query[0], support[0], SPACING, SPACING, FAST).warp(support[1])
    flipped = register(query[0].flip(2), support[0].flip(2), SPACING, SPACING, FAST).warp(support[1].flip(3)).flip(3)
    assert all(dice(*pair) > 0.95 for pair in zip(straight, flipped, strict=True))


def test_larger_scans_get_a_coarser_grid():
    query, support = phantom()[0], phantom()[0]
    found = register(query, support, SPACING, SPACING, RegistrationSettings(n_steps=1, max_voxels=20_000))
    assert found.support_mm[0].numel() <= 20_000
    assert all(wide > fine for wide, fine in zip(found.spacing_mm, (4.0, 2.5, 2.5), strict=True))


@pytest.mark.whole
def test_another_image_has_a_larger_misfit_than_a_shifted_one():
    torch.manual_seed(0)
    noise = F.interpolate(torch.rand(1, 1, 10, 16, 16), size=(20, 64, 64), mode="trilinear")[0, 0]
    shifted = misfit_of(phantom(shift=(0.0, 9.0, 0.0))[0], *phantom())
    other = misfit_of(phantom()[0], noise, phantom()[1])
    assert (shifted < 0.6 * other).all()


@pytest.mark.parametrize("query", [torch.zeros(20, 64, 64), torch.full((20, 64, 64), 7.0)])
def test_a_constant_query_gives_finite_places_and_no_small_misfit(query):
    found = register(query, phantom()[0], SPACING, SPACING, FAST)
    assert found.support_mm.isfinite().all()
    assert (misfit_of(query, *phantom()) > 0.3).all()


def test_one_slice_of_each():
    volume, organs = phantom((1, 64, 64))
    found = register(volume, volume, SPACING, SPACING, FAST)
    assert found.warp(organs).shape == organs.shape
    assert dice(found.warp(organs)[0], organs[0]) > 0.9


@pytest.mark.whole
def test_one_slice_to_a_whole_scan_does_not_crash():
    volume, organs = phantom()
    found = register(volume, volume[10:11], SPACING, SPACING, FAST)
    assert found.warp(organs[:, 10:11]).shape == organs.shape


@pytest.mark.parametrize(("volume", "spacing", "message"), [
    (torch.ones(4, 5), SPACING, "query: expected axes"), (torch.ones(0, 5, 5), SPACING, "query: the volume is empty"),
    (torch.ones(4, 5, 5), (1.0, 0.0, 1.0), "query: spacing"), (torch.full((4, 5, 5), torch.nan), SPACING, "query: some values")])
def test_bad_input_is_named(volume, spacing, message):
    with pytest.raises(ValueError, match=message):
        register(volume, torch.ones(4, 5, 5), spacing, SPACING)


def test_misfit_is_local_and_low_only_where_the_warped_support_looks_like_the_query():
    volume, organs = phantom()
    spoiled = volume.clone()
    spoiled[:, 32:] = volume[:, 32:].roll(7, dims=2)         # organ 1 lies there, organs 0 and 2 do not
    good, bad = misfit(volume, volume, organs, SPACING), misfit(volume, spoiled, organs, SPACING)
    assert torch.equal(good, torch.zeros(3))
    assert bad[1] > 3 * bad[2]
    assert (misfit(torch.zeros_like(volume), volume, organs, SPACING) > 0.3).all()
    assert misfit(volume, volume, organs * 0, SPACING).isinf().all()


def test_body_box_and_its_fallback():
    volume = torch.zeros(3, 20, 30)
    volume[:, 5:15, 10:20] = 1
    low, high = body_box_mm(volume, (5.0, 2.0, 1.0))
    assert torch.equal(low, torch.tensor([-2.5, 9.0, 9.5]))
    assert torch.equal(high, torch.tensor([12.5, 29.0, 19.5]))
    assert torch.equal(body_box_mm(volume * 0, (5.0, 2.0, 1.0))[1], torch.tensor([12.5, 39.0, 29.5]))


def test_affine_fit_is_exact_and_shrugs_off_outliers():
    torch.manual_seed(0)
    points = torch.rand(3, 500) * 200
    affine = torch.tensor([[1.1, 0.1, 0.0, 5.0], [0.0, 0.9, 0.0, -8.0], [0.05, 0.0, 1.0, 0.0]])
    targets = affine[:, :3] @ points + affine[:, 3:]
    assert torch.allclose(fit_affine(points, targets), affine, atol=1e-3)
    targets[:, :50] += 80
    assert torch.allclose(fit_affine(points, targets, n_rounds=20) @ F.pad(points, (0, 0, 0, 1), value=1.0)[:, 100:],
                          targets[:, 100:], atol=4)


def test_scaled():
    assert torch.equal(scaled(torch.full((2, 3, 4), 5)), torch.zeros(2, 3, 4))
    assert scaled(torch.arange(1000.0).view(10, 10, 10))[5, 0, 0].item() == pytest.approx(500 / 994)


def test_the_package_does_not_silence_warnings():
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)
    assert ("ignore", None, Warning, None, 0) not in warnings.filters


def moved_by(voxels, shape=(4, 8, 8)):
    """A registration by hand: the place in the support is that in the query, moved along W."""
    affine = torch.cat([torch.eye(3), torch.tensor([[0.0], [0.0], [voxels]])], dim=1)
    return Registration(affine, torch.zeros(1, 3, 2, 4, 4), shape, (0.0,) * 3, (1.0,) * 3, shape, (1.0,) * 3, (1.0,) * 3)


def column(x):
    masks = torch.zeros(1, 4, 8, 8)
    masks[..., x] = 1
    return masks


def test_a_chain_of_registrations_begins_at_the_query():
    torch.testing.assert_close(carry(column(5), [moved_by(2.0)]), column(3))
    torch.testing.assert_close(carry(column(5), [moved_by(2.0), moved_by(-1.0)]), column(4))
    doubled = moved_by(0.0)
    doubled = replace(doubled, affine=doubled.affine * torch.tensor([[1.0], [1.0], [2.0]]))
    torch.testing.assert_close(carry(column(6), [doubled, moved_by(2.0)]), column(2))      # 2 → 4 → 6
    assert carry(column(6), [moved_by(2.0), doubled])[..., 1].max() == 1                   # 1 → 3 → 6


def test_the_mean_of_all_ways_is_taken_and_the_direct_one_shown():
    image = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))
    ways = [[moved_by(0.0)], [moved_by(1.0), moved_by(0.0)]]
    found = RegistrationModel().segment_volume(image, image, column(5), (1.0,) * 3, ways)
    torch.testing.assert_close(found.probs, (column(5) + column(4)) / 2)
    torch.testing.assert_close(found.warped, scaled(image))
    with pytest.raises(ValueError, match="ways: got none"):
        RegistrationModel().segment_volume(image, image, column(5), (1.0,) * 3, [])


def test_ways_that_agree_count_more():
    """Two maps agree, the third lies elsewhere; of the second class there is nothing."""
    here, there = torch.zeros(2, 2, 8, 8), torch.zeros(2, 2, 8, 8)
    here[0, :, :4, :4], there[0, :, 4:, 4:] = 1, 1
    torch.testing.assert_close(fuse([here, here, there], 0.0), (2 * here + there) / 3)
    fused = fuse([here.half(), here.half(), there.half()], 10.0)
    assert fused.dtype == torch.float32 and fused[0, :, :4, :4].min() > 0.999 and fused[0, :, 4:, 4:].max() < 0.001
    assert not fused[1].any() and torch.equal(fuse([there], 10.0), there)
    torch.testing.assert_close(fuse([here, here], 10.0), here)


@pytest.mark.whole
def test_several_supports_of_one_query_are_registered_as_each_alone():
    """At the same time, in threads of their own."""
    fixed = Fixed(phantom()[0], SPACING, FAST)
    supports = [phantom(shift=shift)[0] for shift in ((12.0, 9.0, -12.0), (-6.0, 0.0, 6.0), (3.0, 3.0, 0.0))]
    with ThreadPoolExecutor(len(supports), initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)) as pool:
        together = list(pool.map(lambda support: fixed.register(support, SPACING), supports))
    for support, found in zip(supports, together, strict=True):
        alone = register(phantom()[0], support, SPACING, SPACING, FAST)
        assert torch.equal(found.support_mm, alone.support_mm) and not found.voxels.requires_grad


def test_adam_is_that_of_torch():
    values = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    theirs, adam = torch.nn.Parameter(values.clone()), _Adam(values)
    optimiser = torch.optim.Adam([theirs], lr=1.0)
    for k in range(7):
        theirs.grad = (theirs.detach() - k).sin()
        adam.step(values, (values - k).sin(), 0.3 / (k + 1))
        optimiser.param_groups[0]["lr"] = 0.3 / (k + 1)
        optimiser.step()
        assert torch.equal(values, theirs.detach())


@pytest.mark.whole
def test_segmenting_scans_imports_nothing_that_is_slow_and_large():
    """PyTorch's compiler, Numba and Matplotlib take seconds and 250 MB. Nor is there a word of warning."""
    program = ("import sys, torch; from scripts import segment; from models.registration import register\n"
               "from util.base.device import resolve_device\n"
               "resolve_device('cpu'); register(torch.rand(8, 40, 40), torch.rand(8, 40, 40), (4., 4., 4.), (4., 4., 4.))\n"
               "sys.exit(', '.join({'torch._inductor', 'torch._dynamo', 'numba', 'matplotlib'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.stderr.strip() == ""
