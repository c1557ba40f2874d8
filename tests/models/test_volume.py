"""Outlines, routes and boxes, by hand."""

from dataclasses import replace

import pytest
import torch

from qnet.models.registration import PreparedScan, Registration
from qnet.models.settings import Search, Searches
from qnet.models.volume import Outlines, Route, box_of, fuse, join_boxes, outlines_of, region, soft_dice
from tests.settings import REGISTRATION

SHAPE, MM = (4, 8, 8), (1.0,) * 3
SMALL = replace(REGISTRATION, affine=False, zoom=False, searches=Searches(wide=Search(512, cell=4, reach=1)))


def scan(volume=None, spacing=MM):
    return PreparedScan(torch.zeros(SHAPE) if volume is None else volume, spacing, SMALL)


def moved_by(mm, scale=1.0):
    """A registration by hand: w in the query is scale · w + mm in the support."""
    affine = torch.eye(3, 4)
    affine[2, 2], affine[2, 3] = scale, mm
    return Registration(affine, (), MM, (1.0,), SHAPE, MM, MM)


def column_at(x):
    masks = torch.zeros(1, *SHAPE)
    masks[..., x] = 1
    return masks


def carried(route):
    """The maps of a route, on the whole query."""
    places, _ = route.places(region(scan(), (torch.zeros(3), torch.tensor([3.0, 7.0, 7.0])))[1])
    return route.outlines.at(places)


def test_outlines_are_kept_in_a_box_and_read_anywhere():
    outlines = outlines_of(scan(), column_at(5).bool())
    assert outlines.maps.shape == (1, 4, 8, 3) and outlines.box == (slice(0, 4), slice(0, 8), slice(4, 7))
    torch.testing.assert_close(carried(Route(outlines, moved_by(0.0))), column_at(5))
    places = torch.tensor([[1.0, 3.0, 4.5], [1.0, 3.0, 60.0]]).T.reshape(3, 1, 1, 2)
    assert outlines.at(places).flatten().tolist() == [0.5, 0.0]
    with pytest.raises(ValueError, match="no empty one"):
        outlines_of(scan(), torch.cat([column_at(5), column_at(5) * 0]).bool())
    with pytest.raises(ValueError, match="masks: expected W=8"):
        outlines_of(scan(), column_at(5)[..., 1:].bool())


def test_a_way_over_a_stone_begins_at_the_query():
    outlined = outlines_of(scan(), column_at(5).bool())
    torch.testing.assert_close(carried(Route(outlined, moved_by(2.0))), column_at(3))
    on_stone = Outlines(scan(), (255 * column_at(6)).byte(), tuple(slice(0, n) for n in SHAPE), (moved_by(-1.0),))
    route = Route(on_stone, moved_by(2.0))
    torch.testing.assert_close(carried(route), column_at(4))          # what was found on the stone, not the support's
    place, of_support = route.places(torch.full((3, 1, 1, 1), 1.0))
    assert place[2].item() == 3.0 and of_support[2].item() == 2.0
    doubled = Route(on_stone, moved_by(0.0, 2.0)).places(torch.full((3, 1, 1, 1), 2.0))
    assert [places[2].item() for places in doubled] == [4.0, 3.0]   # 2 → 4 → 3


def test_a_region_has_the_voxels_of_a_box():
    voxels, points = region(scan(spacing=(5.0, 2.0, 1.0)), (torch.tensor([-9.0, 3.8, 2.2]), torch.tensor([4.0, 8.1, 90.0])))
    assert voxels == (slice(0, 2), slice(2, 5), slice(2, 8)) and points.shape == (3, 2, 3, 6)
    assert points[:, 1, 0, 0].tolist() == [5, 4, 2]
    outside, _ = region(scan(), (torch.full((3,), 90.0), torch.full((3,), 99.0)))
    assert outside == (slice(3, 4), slice(7, 8), slice(7, 8))


def test_the_box_of_what_is_carried_has_a_margin_within_the_scan():
    large = PreparedScan(torch.zeros(40, 40, 40), MM, SMALL)
    masks = torch.zeros(1, 40, 40, 40, dtype=torch.bool)
    masks[:, 18:22, 18:22, 34:38] = True
    affine = torch.eye(3, 4)
    route = Route(outlines_of(large, masks), Registration(affine, (), MM, (1.0,), (40, 40, 40), MM, MM))
    low, high = box_of(large, [route], 10.0)
    assert (low < torch.tensor([17.0, 17.0, 33.0])).all() and (high[:2] > 22).all() and high[2] == 39.5
    assert (low > torch.tensor([8.0, 8.0, 24.0])).all() and (high[:2] < 31).all()
    away = affine.clone()
    away[2, 3] = 500.0
    assert box_of(large, [Route(route.outlines, Registration(away, (), MM, (1.0,), (40, 40, 40), MM, MM))], 10.0) is None
    joined = join_boxes([(low, high), (low - 1, high - 1)])
    assert torch.equal(joined[0], low - 1) and torch.equal(joined[1], high)


def test_ways_that_agree_count_more():
    """Two maps agree, the third lies elsewhere; of the second class there is nothing."""
    here, there = torch.zeros(2, 2, 8, 8), torch.zeros(2, 2, 8, 8)
    here[0, :, :4, :4], there[0, :, 4:, 4:] = 1, 1
    torch.testing.assert_close(fuse([here, here, there], 0.0), (2 * here + there) / 3)
    fused = fuse([here.half(), here.half(), there.half()], 10.0)
    assert fused.dtype == torch.float32 and fused[0, :, :4, :4].min() > 0.999 and fused[0, :, 4:, 4:].max() < 0.001
    assert not fused[1].any() and torch.equal(fuse([there], 10.0), there)
    torch.testing.assert_close(fuse([here, here], 10.0), here)


def test_voxels_where_a_way_fits_better_count_more():
    first, second = torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    local = torch.ones(2, 1, 4, 4)
    local[0, ..., 2:] = 3
    fused = fuse([first, second], 0.0, local=local)[0, 0]
    torch.testing.assert_close(fused[0], torch.tensor([0.5, 0.5, 0.75, 0.75]))


def test_soft_dice():
    one, other = torch.zeros(3, 2, 4, 4), torch.zeros(3, 2, 4, 4)
    one[0], other[0, 0] = 1, 1                        # 16 of 32 voxels
    one[1, 0], other[1, 1] = 1, 1                     # none of them; the third is empty in both
    assert soft_dice(one, other).tolist() == pytest.approx([(2 * 16 + 1) / (32 + 16 + 1), 1 / 33, 1.0])
