"""Organs of any size and shape in scans of any size: what issue after issue found to go wrong, each in a small scene."""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F

from qnet.models.carrying import GuidedModel
from qnet.models.guided import label_map
from qnet.models.registration import Registration
from qnet.models.settings import Search, Searches
from qnet.models.volume import Guide, Route, VolumeSegmentation
from tests.settings import GUIDED, REGISTRATION

FINE = replace(REGISTRATION, n_steps=30, searches=Searches(Search(20_000, cell=4, reach=5), Search(60_000, cell=6, reach=5),
                                                           Search(40_000, cell=4, reach=3)))
FAST = replace(REGISTRATION, n_steps=20, searches=Searches(Search(10_000, cell=4, reach=5), Search(30_000, cell=6, reach=5),
                                                           Search(20_000, cell=4, reach=3)))


@dataclass(frozen=True)
class Scene:
    """A scan and its classes: image (D, H, W), masks (K, D, H, W) bool, spacing in mm."""

    image: torch.Tensor
    masks: torch.Tensor
    spacing_mm: tuple[float, float, float]

    def resized(self, factor):
        """The same, so many times as large."""
        return replace(self, spacing_mm=tuple(factor * mm for mm in self.spacing_mm))

    def cut(self, *spans):
        """The voxels of some slices."""
        return replace(self, image=self.image[spans], masks=self.masks[(slice(None), *spans)])


def texture(shape, seed, cell=6):
    """(D, H, W) smooth noise of 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 1, *(max(2, n // cell) for n in shape), generator=generator)
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0, 0]


def scene(shape, spacing, organs, shift=(0.0, 0.0, 0.0), scale=1.0, noise=0.02, seed=0):
    """A body that fills most of the scan, with organs in it, and another noise for each seed.

    Args:
        organs: (centre, radii, inner radii or None, level) each, along (D, H, W) in shares of half the scan; later ones on top.
        shift, scale: of the body with all its organs, in shares of half the scan.
    """
    axes = [(2 * torch.arange(n) + 1) / n - 1 for n in shape]
    points = (torch.stack(torch.meshgrid(*axes, indexing="ij")) - torch.tensor(shift).view(3, 1, 1, 1)) / scale

    def ball(centre, radii):
        distance = (points - torch.tensor(centre).view(3, 1, 1, 1)) / torch.tensor(radii).view(3, 1, 1, 1)
        return distance.square().sum(dim=0) < 1

    body = ball((0.0, 0.0, 0.0), (9.0, 0.8, 0.85))
    places = points.flip(0).permute(1, 2, 3, 0)[None]
    anatomy = F.grid_sample(texture((24, 24, 24), 99, 4)[None, None], places, padding_mode="border", align_corners=False)[0, 0]
    image, masks = body * (0.35 + 0.3 * anatomy), []
    for centre, radii, inner, level in organs:
        organ = ball(centre, radii) & (ball(centre, inner).logical_not() if inner else True)
        masks = [mask & ~organ for mask in masks] + [organ]
        image = torch.where(organ, level, image)
    image = F.avg_pool3d(image[None, None], (1, 3, 3), stride=1, padding=(0, 1, 1))[0, 0]
    image = image + body * noise * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return Scene((1000 * image).clamp_min(0), torch.stack(masks), spacing)


def segmented(query, support, settings=FAST, way_back=False) -> VolumeSegmentation:
    """Outline a scene from another. Without the registration back, which takes as long, no confidence is to be had."""
    model = GuidedModel(settings, GUIDED)
    scan, known = model.prepared(query.image, query.spacing_mm), model.prepared(support.image, support.spacing_mm)
    outlined = model.support(known, support.masks)
    wide = scan.register(known)
    box = model.box(scan, [Route(outlined.outlines, wide)])
    assert box is not None
    nowhere = Registration(torch.eye(3, 4), (), (1.0,) * 3, (1.0,), tuple(known.image.shape), known.spacing_mm, scan.spacing_mm)
    back = model.back(scan, outlined) if way_back else nowhere
    return model.segment(scan, [Guide(outlined, [Route(outlined.outlines, scan.zoom(known, wide, box))], back)], box)


def dice(first, second):
    a, b = (mask if mask.dtype == torch.bool else mask > 0.5 for mask in (first, second))
    return (2 * (a & b).sum() / (a.sum() + b.sum()).clamp_min(1)).item()


def both(found, truth):
    """Dice of each class: of the carried maps, and of what is drawn."""
    return [[dice(*pair) for pair in zip(maps, truth.masks, strict=True)] for maps in (found.registered, found.probs)]


def expect_no_loss(found, truth, at_least):
    """Guided is not worse than what it starts from, and both are good."""
    carried, drawn = both(found, truth)
    assert all(after >= before - 0.01 for before, after in zip(carried, drawn, strict=True)), (carried, drawn, found.borders)
    assert min(drawn) >= at_least, (carried, drawn, found.borders)


LIVER, KIDNEY, CYST = (((0.0, -0.15, -0.35), (0.6, 0.35, 0.3), None, 0.85), ((0.1, 0.35, 0.35), (0.5, 0.2, 0.18), None, 0.15),
                       ((-0.1, -0.4, 0.35), (0.4, 0.15, 0.2), None, 1.0))
TRUNK = (LIVER, KIDNEY, CYST)


@pytest.mark.whole
def test_the_same_at_any_size():
    """A trunk, the same at a third, and as small as a mouse; all spacings scaled."""
    support = scene((20, 56, 64), (6.0, 4.0, 4.0), TRUNK)
    query = scene((20, 56, 64), (6.0, 4.0, 4.0), TRUNK, (0.1, 0.08, -0.1), 1.08, seed=1)
    whole, *smaller = (segmented(query.resized(factor), support.resized(factor)) for factor in (1, 1 / 3, 1 / 20))
    expect_no_loss(whole, query, 0.85)
    for found in smaller:
        assert found.borders == whole.borders
        for one, other in ((found.registered, whole.registered), (found.probs, whole.probs)):
            overlaps = [dice(*pair) for pair in zip(one, other, strict=True)]
            assert min(overlaps) >= 0.97, overlaps


@pytest.mark.whole
def test_a_small_scan_from_a_large_one():
    """A child from an adult: the query is 0.7 times as large, and its spacing follows."""
    support = scene((20, 56, 64), (6.0, 4.0, 4.0), TRUNK)
    query = scene((20, 56, 64), (6.0, 4.0, 4.0), TRUNK, (0.0, 0.06, 0.06), seed=1).resized(0.7)
    expect_no_loss(segmented(query, support), query, 0.75)


RING = ((0.0, 0.0, 0.1), (9.0, 0.36, 0.34), (9.0, 0.24, 0.22), 0.3)       # of muscle, 3 pixels thick in scans of 48 × 48
POOL = ((0.0, 0.0, 0.1), (9.0, 0.24, 0.22), None, 0.95)
BESIDE = ((0.0, -0.05, -0.4), (9.0, 0.3, 0.14), None, 0.9)


@pytest.mark.whole
@pytest.mark.parametrize("level", [0.3, 0.45], ids=["clear", "as what lies around it"])
def test_a_ring_of_three_voxels(level):
    heart = ((*RING[:3], level), POOL, BESIDE)
    support = scene((10, 48, 48), (8.0, 2.0, 2.0), heart)
    query = scene((10, 48, 48), (8.0, 2.0, 2.0), heart, (0.0, 0.1, -0.08), 1.05, seed=1)
    width = (support.masks[0, 5, 24].sum() / 2).item()
    assert 2 <= width <= 3.5, width
    expect_no_loss(segmented(query, support), query, 0.7)


@pytest.mark.whole
def test_an_organ_of_ten_voxels_in_a_large_scan():
    """Ten voxels across, a three-thousandth of the scan, among larger organs that have no outline."""
    small = ((0.1, 0.3, -0.3), (10 / 96, 10 / 120, 10 / 120), None, 0.95)
    around = [((0.0, -0.35, 0.3), (0.6, 0.3, 0.3), None, 0.2), ((-0.3, 0.3, 0.35), (0.5, 0.25, 0.25), None, 0.75)]
    shape, spacing = (96, 120, 120), (2.0, 1.5, 1.5)
    support, query = (scene(shape, spacing, [*around, small], shift, seed=seed) for shift, seed in (
        ((0.0, 0.0, 0.0), 0), ((0.06, -0.08, 0.05), 1)))
    support, query = (replace(one, masks=one.masks[-1:]) for one in (support, query))
    assert 300 < support.masks.sum() < 1000
    expect_no_loss(segmented(query, support, replace(FINE, mind_radius=2, mind_dilation=3)), query, 0.7)


@pytest.mark.whole
@pytest.mark.parametrize("levels", [(0.85, 0.3), (0.8, 0.7)], ids=["unlike", "alike"])
def test_two_organs_that_touch(levels):
    touching = [((0.0, 0.0, -0.25), (0.6, 0.35, 0.27), None, levels[0]), ((0.0, 0.0, 0.25), (0.6, 0.3, 0.24), None, levels[1])]
    support = scene((16, 56, 56), (5.0, 3.0, 3.0), touching)
    query = scene((16, 56, 56), (5.0, 3.0, 3.0), touching, (0.1, -0.1, 0.1), 0.95, seed=1)
    found = segmented(query, support)
    expect_no_loss(found, query, 0.8)
    assert not ((found.probs > 0.5).sum(dim=0) > 1).logical_and(label_map(found.probs) == 0).any()


@pytest.mark.whole
@pytest.mark.parametrize("dark_in", ["query", "support"])
def test_equal_fields_of_view_with_dark_sides(dark_in):
    """An ultrasound fan that is dark at the sides in one of both scans: the box of the contents is half as wide."""
    organ = [((0.0, 0.1, 0.05), (0.6, 0.3, 0.22), None, 0.9)]
    support, query = (scene((16, 56, 64), (4.0, 2.0, 2.0), organ, shift, seed=seed) for shift, seed in (
        ((0.0, 0.0, 0.0), 0), ((0.0, 0.06, 0.04), 1)))
    sides = torch.ones(64)
    sides[:17], sides[-17:] = 0, 0
    dark = replace(query if dark_in == "query" else support, image=(query if dark_in == "query" else support).image * sides)
    found = segmented(dark, support) if dark_in == "query" else segmented(query, dark)
    volume = (found.registered[0] > 0.5).sum() / query.masks[0].sum()
    assert 0.75 < volume < 1.33, volume
    expect_no_loss(found, query, 0.8)


@pytest.mark.whole
@pytest.mark.parametrize("filling", [-3024.0, -2000.0])
def test_padding_and_an_odd_voxel_change_little(filling):
    """CT: air is −1000 and what lies outside the circle is filled in, or one voxel is broken, in the query alone."""
    support, query = (scene((16, 56, 56), (5.0, 3.0, 3.0), TRUNK, shift, seed=seed) for shift, seed in (
        ((0.0, 0.0, 0.0), 0), ((0.0, 0.08, -0.06), 1)))
    support, query = (replace(one, image=1.4 * one.image - 1000) for one in (support, query))
    y, x = torch.meshgrid(torch.arange(56.0), torch.arange(56.0), indexing="ij")
    spoiled = torch.where((y - 27.5).square() + (x - 27.5).square() > 27 ** 2, filling, query.image)
    spoiled[3, 30, 30] = -32768
    plain, found = (segmented(one, support) for one in (query, replace(query, image=spoiled)))
    overlaps = [dice(*pair) for pair in zip(found.probs, plain.probs, strict=True)]
    assert min(overlaps) > 0.95, overlaps


@pytest.mark.whole
@pytest.mark.parametrize("kind", ["stripped", "all organ"])
def test_a_stripped_brain_and_a_crop_that_is_all_organ(kind):
    """Zeros outside, or no outside at all."""
    deep = [((0.0, -0.1, -0.25), (0.5, 0.3, 0.2), None, 0.9), ((0.0, -0.1, 0.25), (0.5, 0.3, 0.2), None, 0.1)]
    support, query = (scene((20, 64, 64), (1.5, 1.0, 1.0), deep, shift, seed=seed) for shift, seed in (
        ((0.0, 0.0, 0.0), 0), ((0.08, 0.06, -0.05), 1)))
    if kind == "all organ":
        inside = slice(0, 20), slice(17, 47), slice(16, 48)
        support, query = support.cut(*inside), query.cut(*inside)
        assert (query.image > 0).all()
    expect_no_loss(segmented(query, support), query, 0.8)


@pytest.mark.whole
@pytest.mark.parametrize("n_slices", [2, 3, 5])
def test_few_slices(n_slices):
    support, query = (scene((n_slices, 56, 64), (8.0, 3.0, 3.0), TRUNK[:2], shift, seed=seed) for shift, seed in (
        ((0.0, 0.0, 0.0), 0), ((0.0, 0.08, -0.06), 1)))
    expect_no_loss(segmented(query, support, FINE), query, 0.75)


@pytest.mark.whole
def test_an_organ_that_the_query_lacks_is_less_sure_than_those_that_it_has():
    support = scene((16, 56, 64), (6.0, 4.0, 4.0), TRUNK)
    query = scene((16, 56, 64), (6.0, 4.0, 4.0), (LIVER, KIDNEY), (0.0, 0.06, -0.06), seed=1)
    sure = segmented(query, support, way_back=True).confidence
    assert sure[:2].min() > 0.6 > sure[2] + 0.1, sure


@pytest.mark.whole
def test_an_organ_outside_the_field_of_view_vanishes_and_the_confidence_is_not_above_the_dice():
    """The query ends above one of both organs of the support, which is a third longer."""
    above, below = ((0.55, 0.0, -0.2), (0.3, 0.35, 0.3), None, 0.85), ((-0.65, 0.1, 0.2), (0.25, 0.3, 0.3), None, 0.15)
    support, query = (scene((24, 56, 64), (5.0, 4.0, 4.0), (above, below), seed=seed) for seed in (0, 1))
    upper = query.cut(slice(8, 24), slice(None), slice(None))
    assert not upper.masks[1].any()
    found = segmented(upper, support, FINE, way_back=True)
    assert found.confidence[0] < dice(found.probs[0], upper.masks[0]) + 0.1, found.confidence
    assert (found.probs[1] > 0.5).sum() < 0.05 * support.masks[1].sum() and found.confidence[1] == 0.0, found.confidence
