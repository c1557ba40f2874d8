import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from qnet.models.registration import (
    Displacement,
    PreparedScan,
    Registration,
    _Adam,
    distinct,
    fit_affine,
    register,
    starts_of,
    weight_of_intensity,
)
from qnet.models.sampling import WorkingGrid, grid_mm
from qnet.models.settings import Search, Searches
from qnet.util.base.root import ROOT
from tests.settings import REGISTRATION

FAST = replace(REGISTRATION, searches=Searches(Search(20_000, cell=4, reach=5), Search(60_000, cell=6, reach=5),
                                               Search(40_000, cell=4, reach=3)))
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


def test_intensities_count_by_how_well_they_go_together():
    torch.manual_seed(0)
    one, noise = 0.3 + 0.4 * torch.rand(12, 12, 12), torch.rand(12, 12, 12)

    def weight(rho):
        """Of a scan and another one with so much correlation."""
        part = (one - one.mean()) / one.std()
        other = (noise - noise.mean()) / noise.std()
        other = (other - (other * part).mean() * part) / (1 - (other * part).mean() ** 2) ** 0.5
        return weight_of_intensity(one, 0.5 + 0.05 * (rho * part + (1 - rho * rho) ** 0.5 * other), 2.0)

    assert weight(0.5) == pytest.approx(2.0, rel=0.01)                                 # the usual one
    assert weight(0.8) == pytest.approx(2.0 * 3**0.5 * 0.8 / 0.6, rel=0.01) and weight(0.2) == pytest.approx(0.707, rel=0.02)
    assert weight_of_intensity(one, one, 2.0) == 8.0 and weight_of_intensity(one, 1 - one, 2.0) == 0.0
    assert weight_of_intensity(one, torch.full_like(one, 0.5), 2.0) == 0.0             # constant
    assert weight_of_intensity(one, torch.zeros_like(one), 2.0) == 2.0                 # black: nothing to compare


def test_the_intensities_of_a_scan_of_another_contrast_count_less():
    query, support = phantom(shift=(0.0, 8.0, -6.0)), phantom()
    inverted = torch.where(support[0] > 0, 1000 - support[0], 0.0)
    found = register(query[0], inverted, SPACING, SPACING, FAST)
    assert found.intensity_weights[0] < register(query[0], support[0], SPACING, SPACING, FAST).intensity_weights[0] / 4
    assert min(dice(*pair) for pair in zip(found.warp(support[1]), query[1], strict=True)) > 0.7


def test_a_scan_registered_to_itself_stays_where_it_is():
    overlaps, found = warped_dice(phantom(), phantom())
    assert min(overlaps) > 0.95
    assert found.spacing_mm == found.displacements[0].spacing_mm and found.wide.displacements == found.displacements


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


@pytest.mark.whole
def test_zooming_looks_again_in_a_box_and_leaves_the_rest():
    (query, truth), (support, organs) = phantom(shift=(6.0, 9.0, -9.0)), phantom()
    fixed, moving = PreparedScan(query, SPACING, FAST), PreparedScan(support, SPACING, FAST)
    wide = fixed.register(moving)
    box = torch.tensor([24.0, 96.0, 96.0]), torch.tensor([102.0, 168.0, 162.0])       # around organ 1, in mm
    zoomed = fixed.zoom(moving, wide, box)
    assert zoomed.wide.displacements == wide.displacements and len(zoomed.displacements) == 2
    assert max(zoomed.displacements[0].spacing_mm) < min(wide.spacing_mm)
    assert dice(zoomed.warp(organs)[1], truth[1]) > max(0.85, dice(wide.warp(organs)[1], truth[1]) - 0.02)
    far = torch.tensor([60.0, 40.0, 40.0]).view(3, 1, 1, 1)
    torch.testing.assert_close(zoomed.places(far), wide.places(far))
    without = PreparedScan(query, SPACING, replace(REGISTRATION, zoom=False))
    assert without.zoom(moving, wide, box) is wide


@pytest.mark.parametrize("query", [torch.zeros(20, 64, 64), torch.full((20, 64, 64), 7.0)])
def test_a_constant_query_gives_finite_places(query):
    found = register(query, phantom()[0], SPACING, SPACING, FAST)
    assert found.places(grid_mm(query.shape, SPACING)).isfinite().all()


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
        register(volume, torch.ones(4, 5, 5), spacing, SPACING, FAST)


def test_affine_fit_is_exact_and_shrugs_off_outliers():
    torch.manual_seed(0)
    points = torch.rand(3, 500) * 200
    affine = torch.tensor([[1.1, 0.1, 0.0, 5.0], [0.0, 0.9, 0.0, -8.0], [0.05, 0.0, 1.0, 0.0]])
    targets = affine[:, :3] @ points + affine[:, 3:]
    assert torch.allclose(fit_affine(points, targets, 10.0), affine, atol=1e-3)
    targets[:, :50] += 80
    assert torch.allclose(fit_affine(points, targets, 10.0, n_rounds=20) @ F.pad(points, (0, 0, 0, 1), value=1.0)[:, 100:],
                          targets[:, 100:], atol=4)


def test_the_package_does_not_silence_warnings():
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)
    assert ("ignore", None, Warning, None, 0) not in warnings.filters


def along_w(mm, scale=1.0):
    """An affine map by hand: w → scale · w + mm."""
    affine = torch.eye(3, 4)
    affine[2, 2], affine[2, 3] = scale, mm
    return affine


def test_a_displacement_moves_points_and_those_beyond_it_with_its_edge_or_not():
    grid = WorkingGrid(torch.zeros(3), torch.full((3,), 24.0), (1.0, 1.0, 1.0), 24 ** 3, 0.4, 4, torch.device("cpu"))
    voxels = torch.zeros(1, 3, 6, 6, 6)
    voxels[:, 2] = 5.0                                            # voxels of the grid along W, everywhere
    inside, outside = (torch.full((3, 1, 1, 1), place) for place in (12.0, 60.0))
    for beyond, moved in ((True, 5.0 * grid.spacing[2].item()), (False, 0.0)):
        displacement = Displacement.on(grid, voxels, beyond)
        assert (displacement(inside) - inside).flatten().tolist() == pytest.approx([0, 0, 5 * grid.spacing[2].item()])
        assert (displacement(outside) - outside).flatten().tolist() == pytest.approx([0, 0, moved])


def test_displacements_come_one_after_the_other_and_before_the_affine_map():
    grid = WorkingGrid(torch.zeros(3), torch.full((3,), 24.0), (1.0, 1.0, 1.0), 24 ** 3, 0.4, 4, torch.device("cpu"))
    left, right = (Displacement.on(grid, torch.full((1, 3, 6, 6, 6), 1.0) * voxels, True) for voxels in (2.0, -1.0))
    found = Registration(along_w(10.0, 2.0), (left, right), (1.0,) * 3, (1.0,), (4, 8, 8), (1.0,) * 3, (1.0,) * 3)
    point = torch.full((3, 1, 1, 1), 12.0)
    moved = 12.0 + grid.spacing[2].item()
    torch.testing.assert_close(found.places(point).flatten(), torch.tensor([moved, moved, 2 * moved + 10]))


def test_starts_lay_boxes_fields_of_view_and_centres_of_mass_on_each_other():
    """A block in one corner, and one in the middle that is twice as wide; voxels of 2 mm."""
    query, support = torch.zeros(8, 40, 40), torch.zeros(8, 40, 60)
    query[:, 4:24, 4:14], support[:, 4:24, 10:30] = 1, 1
    boxes, fields, masses = starts_of(*(PreparedScan(volume, (2.0,) * 3, FAST) for volume in (query, support)))
    torch.testing.assert_close(boxes, torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 19 - 2 * 7]]))     # 7, 19: edges
    torch.testing.assert_close(fields, torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 20]]))
    torch.testing.assert_close(masses, torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 39 - 17]]))
    box = torch.zeros(3), torch.full((3,), 80.0)
    assert distinct([fields, along_w(20.5), masses], 1.0, box) == [fields, masses]


@pytest.mark.whole
def test_several_supports_of_one_query_are_registered_as_each_alone():
    """At the same time, in threads of their own."""
    few = replace(FAST, n_steps=5, searches=Searches(Search(6_000, cell=4, reach=5), Search(20_000, cell=4, reach=3)))
    fixed = PreparedScan(phantom()[0], SPACING, few)
    supports = [phantom(shift=shift)[0] for shift in ((12.0, 9.0, -12.0), (-6.0, 0.0, 6.0), (3.0, 3.0, 0.0))]
    with ThreadPoolExecutor(len(supports), initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)) as pool:
        together = list(pool.map(lambda support: fixed.register(PreparedScan(support, SPACING, few)), supports))
    for support, found in zip(supports, together, strict=True):
        alone = register(phantom()[0], support, SPACING, SPACING, few)
        assert torch.equal(found.affine, alone.affine)
        assert torch.equal(found.displacements[0].voxels, alone.displacements[0].voxels)
        assert not found.displacements[0].voxels.requires_grad
    fixed.release()
    again = fixed.register(PreparedScan(supports[0], SPACING, few))
    assert torch.equal(again.displacements[0].voxels, together[0].displacements[0].voxels)


@pytest.mark.parametrize("wrong", [{"points": 0}, {"cell": 3}, {"cell": 0}, {"reach": 0}])
def test_a_search_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="Search: points, cell and reach"):
        Search(**{"points": 1000, "cell": 4, "reach": 3, **wrong})


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
    program = ("import sys, torch; from qnet.scripts import segment\n"
               "from dataclasses import replace\nfrom qnet.models.registration import register\n"
               "from tests.settings import REGISTRATION\n"
               "from qnet.util.base.device import set_up_process\n"
               "set_up_process(torch.device('cpu')); scan, spacing = torch.rand(8, 40, 40), (4., 4., 4.)\n"
               "register(scan, scan, spacing, spacing, replace(REGISTRATION, finest=2.0))\n"
               "sys.exit(', '.join({'torch._inductor', 'torch._dynamo', 'numba', 'matplotlib'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.stderr.strip() == ""


def test_a_prepared_scan_goes_to_another_process():
    scan = PreparedScan(phantom()[0], SPACING, FAST)
    scan.register(PreparedScan(phantom()[0], SPACING, FAST))
    there = pickle.loads(pickle.dumps(scan))
    assert torch.equal(there.image, scan.image) and len(pickle.dumps(scan)) < 1.5 * 4 * scan.image.numel()
    found = there.register(PreparedScan(phantom(shift=(0.0, 6.0, 0.0))[0], SPACING, FAST))
    assert torch.equal(found.affine, scan.register(PreparedScan(phantom(shift=(0.0, 6.0, 0.0))[0], SPACING, FAST)).affine)
