"""Outlines that are carried over, and borders that are drawn anew where that pays, by hand."""

from dataclasses import replace

import pytest
import torch

from qnet.models.carrying import (
    CARRIED,
    FIT_WINDOW,
    HELD,
    INTENSITY,
    JOINT_FIT_POWER,
    MILD,
    STRONG,
    GuidedModel,
    RegistrationModel,
    back_scale,
    thinned,
)
from qnet.models.confidence import local_correlations
from qnet.models.guided import Trial
from qnet.models.registration import Displacement, PreparedScan, Registration
from qnet.models.settings import Search, Searches
from qnet.models.volume import Guide, Outlines, Route, Support, fuse, outlines_of, points_of
from tests.settings import GUIDED, REGISTRATION

SHAPE, MM = (4, 16, 16), (1.0,) * 3
WHOLE = torch.full((3,), -0.5), torch.tensor(SHAPE) - 0.5
EVERYWHERE = tuple(slice(0, n) for n in SHAPE)
SMALL = replace(REGISTRATION, affine=False, zoom=False, searches=Searches(wide=Search(1000, cell=4, reach=1)))


def moved_by(mm, shape=SHAPE):
    """A registration by hand: the place in the support is that in the query, moved along W."""
    affine = torch.eye(3, 4)
    affine[2, 3] = mm
    return Registration(affine, (), MM, (1.0,), shape, MM, MM)


def bar(first, last):
    masks = torch.zeros(1, *SHAPE, dtype=torch.bool)
    masks[..., 4:12, first:last] = True
    return masks


def support_of(image, masks, gain=0.0):
    """A support on which drawing a border gained so much, whatever the map was."""
    scan = PreparedScan(image, MM, SMALL)
    trials = [[Trial(0.9, {STRONG: gain, MILD: gain})] * 2] * len(masks)
    return Support(scan, masks, outlines_of(scan, masks), trials, [16.0] * len(masks))


def dice(probs, masks):
    found = probs > 0.5
    return float(2 * (found & masks).sum() / (found.sum() + masks.sum()))


def segment(model, image, support, *routes, back=None):
    return model.segment(PreparedScan(image, MM, SMALL), [Guide(support, routes, back or moved_by(0.0))], WHOLE)


def test_the_mean_of_all_ways_is_taken_and_the_direct_one_shown():
    image = torch.zeros(SHAPE)
    support = support_of(image, bar(5, 9))
    stone = Outlines(support.scan, 255 * bar(6, 10).byte(), EVERYWHERE, (moved_by(0.0),))
    model, direct = RegistrationModel(replace(SMALL, agreement_power=0.0)), Route(support.outlines, moved_by(0.0))
    found = segment(model, image, support, direct, Route(stone, moved_by(0.0)))
    torch.testing.assert_close(found.probs, (bar(5, 9).float() + bar(6, 10).float()) / 2)
    assert torch.equal(found.registered, found.probs) and found.borders == (CARRIED,)
    assert torch.equal(found.warped, support.scan.image)
    with pytest.raises(ValueError, match="routes: got none"):
        segment(RegistrationModel(SMALL), image, support)


def zoomed_by(mm):
    """A wide registration that is right, and a zoom that moves everything along W."""
    field = torch.zeros(1, 3, 2, 4, 4)
    field[:, 2] = mm
    return replace(moved_by(0.0), displacements=(Displacement(field, SHAPE, (0.0,) * 3, MM, True),
                                                 Displacement(torch.zeros_like(field), SHAPE, (0.0,) * 3, MM, True)))


def test_a_zoom_that_went_astray_is_outvoted_by_the_wide_registration():
    torch.manual_seed(0)
    image = torch.rand(SHAPE)
    support = support_of(image, bar(5, 9))
    route = Route(support.outlines, zoomed_by(4.0))
    assert dice(segment(RegistrationModel(SMALL), image, support, route).registered, bar(5, 9)) > 0.95
    alone = replace(route.registration, displacements=route.registration.displacements[:1])
    assert dice(segment(RegistrationModel(SMALL), image, support, Route(support.outlines, alone)).registered, bar(5, 9)) < 0.1
    stone = RegistrationModel(SMALL).carried(support.scan, support, [route], EVERYWHERE, points_of(support.scan, EVERYWHERE))
    assert stone.agreement[0] < 0.1         # both are far from each other, which says how sure the map is


def test_a_class_that_most_ways_lose_is_taken_from_the_direct_way():
    torch.manual_seed(0)
    image = torch.rand(SHAPE)
    support = support_of(image, bar(4, 8))
    direct = Route(support.outlines, moved_by(0.0))
    astray = [Route(Outlines(support.scan, 255 * bar(9, 13).byte(), EVERYWHERE, (moved_by(5.0),)), moved_by(0.0))] * 3
    model = RegistrationModel(SMALL)
    found = segment(model, image, support, direct, *astray)
    assert dice(found.registered, bar(4, 8)) == 1.0 and found.confidence[0] > 0.5
    elsewhere = segment(model, image, support, direct, *astray, back=moved_by(5.0))      # the one back tells that they are right
    assert dice(elsewhere.registered, bar(4, 8)) < 0.1
    worse = segment(model, image.roll(-5, -1), support, direct, *astray)     # the image of the direct route fits worse
    assert dice(worse.registered, bar(4, 8)) < 0.1


def test_the_way_whose_image_fits_counts_more():
    torch.manual_seed(0)
    image = torch.rand(SHAPE)
    support = support_of(image, bar(5, 9))
    shifted = Outlines(support.scan, 255 * bar(9, 13).byte(), EVERYWHERE, (moved_by(5.0),))     # of which the image does not fit
    model, direct = RegistrationModel(replace(SMALL, agreement_power=0.0)), Route(support.outlines, moved_by(0.0))
    found = segment(model, image, support, direct, Route(shifted, moved_by(0.0)))
    assert found.probs[bar(5, 9)].mean() > 0.7 > 0.3 > found.probs[bar(9, 13)].mean()


def test_of_several_supports_the_one_that_looks_like_the_scan_decides_where_it_does():
    """The left half of the scan looks like the first support's, the right half like the second's; each has bars in both."""
    torch.manual_seed(0)
    images = torch.rand(2, *SHAPE)
    image = torch.cat([images[0, ..., :8], images[1, ..., 8:]], dim=-1)
    masks = [bar(1, 4) | bar(13, 15), bar(4, 7) | bar(9, 12)]
    supports = [support_of(one, mask) for one, mask in zip(images, masks, strict=True)]
    model, query = RegistrationModel(SMALL), PreparedScan(image, MM, SMALL)
    guides = [Guide(support, [Route(support.outlines, moved_by(0.0))], moved_by(0.0)) for support in supports]
    found = model.segment(query, guides, WHOLE)
    assert dice(found.probs, torch.cat([masks[0][..., :8], masks[1][..., 8:]], dim=-1)) > 0.9
    singles = [model.segment(query, [guide], WHOLE) for guide in guides]
    assert max(dice(single.probs, torch.cat([masks[0][..., :8], masks[1][..., 8:]], dim=-1)) for single in singles) < 0.7
    same = model.segment(query, guides[:1] * 2, WHOLE)         # one support twice says what it says once
    torch.testing.assert_close(same.probs, singles[0].probs)
    torch.testing.assert_close(same.confidence, singles[0].confidence)


def test_what_is_kept_of_each_way_does_not_hold_its_maps():
    maps = torch.arange(2 * 4 * 4 * 4).view(2, 4, 4, 4).byte()
    assert torch.equal(thinned(maps), maps[:, ::2, ::2, ::2]) and thinned(maps).untyped_storage().nbytes() == 2 * 2 * 2 * 2


def test_several_supports_are_fused_by_the_local_fit_alone():
    torch.manual_seed(0)
    image = torch.rand(SHAPE)
    supports = [support_of((image + noise * torch.rand(SHAPE)) / (1 + noise), bar(first, first + 4))
                for noise, first in ((0.5, 2), (2.0, 4), (4.0, 6))]
    guides = [Guide(one, [Route(one.outlines, moved_by(0.0))], moved_by(0.0)) for one in supports]
    query = PreparedScan(image, MM, SMALL)
    found = RegistrationModel(SMALL).jointly(query, guides, EVERYWHERE, points_of(query, EVERYWHERE))
    fits = list(local_correlations(query.images, [one.scan.images.half() for one in supports], MM, FIT_WINDOW * query.wide_mm))
    weights = [((1 + fit) / 2).clamp_min(0.05) ** JOINT_FIT_POWER for fit in fits]
    torch.testing.assert_close(found.maps, fuse([one.masks.float() for one in supports], 0.0, local=weights))
    assert (fits[0].mean() > fits[1].mean() > fits[2].mean()) and 0 < found.agreement < 1
    torch.testing.assert_close(found.fit, sum(f * w for f, w in zip(fits, weights, strict=True)) / sum(weights))


def test_guides_with_some_of_their_classes():
    support = support_of(torch.rand(SHAPE), torch.cat([bar(2, 6), bar(8, 12)]), gain=0.1)
    guide = Guide(support, [Route(support.outlines, moved_by(1.0))], moved_by(0.0)).of_classes([1])
    assert torch.equal(guide.support.masks, bar(8, 12)) and len(guide.support.trials) == len(guide.support.thickness_mm) == 1
    assert guide.routes[0].outlines.maps.shape[0] == 1 and guide.routes[0].registration.affine[2, 3] == 1.0


def test_a_right_outline_is_sure_and_one_that_comes_back_elsewhere_is_not():
    torch.manual_seed(0)
    image = torch.rand(SHAPE)
    support = support_of(image, bar(5, 9))
    right, astray = (segment(RegistrationModel(SMALL), image, support, Route(support.outlines, moved_by(0.0)), back=moved_by(mm))
                     for mm in (0.0, 4.0))
    assert right.confidence.item() > 0.8 > 0.1 >= astray.confidence.item()


def test_an_outline_that_vanishes_has_confidence_0():
    torch.manual_seed(0)
    image = torch.rand(SHAPE)
    both = torch.cat([bar(2, 6), bar(12, 15)])
    support = support_of(image, both)
    found = segment(RegistrationModel(SMALL), image, support, Route(support.outlines, moved_by(-10.0)))
    assert (found.probs[1] > 0.5).sum() == 0 and found.confidence[1] == 0.0 and found.evidence[1].isnan().all()
    assert found.evidence[0].isfinite().all()


@pytest.mark.parametrize(("gain", "border"), [(0.05, MILD), (0.0, CARRIED), (-0.05, CARRIED)])
def test_a_border_is_drawn_only_where_that_paid(gain, border):
    """The map lies a voxel beside a bright bar."""
    torch.manual_seed(0)
    image = 0.3 + 0.5 * bar(4, 12)[0] + 0.02 * torch.randn(SHAPE)
    support = support_of(image, bar(5, 13), gain)
    found = segment(GuidedModel(SMALL, GUIDED), image, support, Route(support.outlines, moved_by(0.0)))
    assert found.borders == (border,)
    torch.testing.assert_close(found.registered, bar(5, 13).float())
    wrong = [((maps > 0.5) != bar(4, 12)).sum() for maps in (found.registered, found.probs)]
    assert wrong[1] < wrong[0] / 2 if border == MILD else torch.equal(found.probs, found.registered)


def outlined_a_bit_beside(mm, intensity=2.0, back=0.0, model=None):
    """A bright bar, whose outline is carried so much beside it, where it is dark. The map has no doubts: the weight is high."""
    torch.manual_seed(0)
    image = 0.3 + 0.5 * bar(4, 12)[0] + 0.01 * torch.randn(SHAPE)
    support = support_of(image, bar(4, 12))
    model = model or GuidedModel(SMALL, replace(GUIDED, intensity=intensity))
    return segment(model, image, support, Route(support.outlines, moved_by(mm)), back=moved_by(back))


def test_what_has_not_the_intensity_of_the_class_is_taken_away():
    """The direct route lies a voxel off, so the outlined scan's intensities are carried wrongly in a part of the scan, too."""
    found, as_carried = outlined_a_bit_beside(-1.0), outlined_a_bit_beside(-1.0, intensity=0.0)
    assert as_carried.borders == (CARRIED,) and found.borders == (f"{CARRIED}, {INTENSITY}",)
    assert HELD[0] <= as_carried.confidence.item() < HELD[1]
    assert torch.equal(as_carried.probs > 0.5, bar(5, 13)) and torch.equal(found.probs > 0.5, bar(5, 12))
    assert torch.equal(found.registered, as_carried.registered)
    assert found.confidence.item() != as_carried.confidence.item()       # it is that of what was left


@pytest.mark.parametrize(("mm", "back"), [(0.0, 0.0), (-1.0, 6.0)], ids=["certain", "hardly there"])
def test_a_class_that_is_certain_or_hardly_there_is_not_held_to_its_intensities(mm, back):
    found, as_carried = (outlined_a_bit_beside(mm, intensity, back) for intensity in (2.0, 0.0))
    confidence = as_carried.confidence.item()
    assert confidence >= HELD[1] or confidence < HELD[0]
    assert torch.equal(found.probs, as_carried.probs) and found.borders == as_carried.borders


def test_registration_alone_does_not_look_at_intensities():
    found = outlined_a_bit_beside(-1.0, model=RegistrationModel(SMALL))
    assert torch.equal(found.probs > 0.5, bar(5, 13)) and found.borders == (CARRIED,)


def test_the_affine_map_tells_how_much_larger_the_query_is():
    affine = torch.tensor([[0.5, 0, 0, 7], [0, 1, 0, 0], [0, 0, 0.5, 0]])
    assert back_scale(Registration(affine, (), MM, (1.0,), SHAPE, MM, MM)) == pytest.approx(4.0)


def test_the_box_around_the_support_is_that_of_its_way_back():
    """All that was found of the support is looked at: the box holds it with a margin."""
    support = support_of(torch.zeros(SHAPE), bar(5, 9))
    route = Route(support.outlines, moved_by(0.0))
    low, high = RegistrationModel(SMALL).box(support.scan, [route])
    assert (low <= torch.tensor([0.0, 4.0, 5.0])).all() and (high >= torch.tensor([3.0, 11.0, 8.0])).all()
