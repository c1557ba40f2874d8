"""Shapes between outlined slices: growing, moving, forking, meeting, ending; along any axis."""

import numpy as np
import pytest
from scipy.ndimage import label

from qnet.dataloaders.gaps import fill_between

ONE_MM = (1.0, 1.0, 1.0)
ROWS, COLUMNS = np.mgrid[:40, :60]


def disc(row, column, radius):
    return (ROWS - row) ** 2 + (COLUMNS - column) ** 2 <= radius ** 2


def volume(slices, n_slices):
    """A mask with the given slices, {number: (H, W)}."""
    mask = np.zeros((n_slices, 40, 60), bool)
    for number, shape in slices.items():
        mask[number] = shape
    return mask


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def n_parts(mask):
    return label(mask)[1]


def test_a_shape_that_grows_has_the_mean_radius_between():
    filled, numbers = fill_between(volume({1: disc(20, 30, 6), 5: disc(20, 30, 14)}, 7), [1, 5], 0, ONE_MM)
    assert numbers == [2, 3, 4] and not filled[[0, 6]].any()
    for number, radius in ((2, 8), (3, 10), (4, 12)):
        assert dice(filled[number], disc(20, 30, radius)) > 0.97


@pytest.mark.parametrize("step", [4, 12, 16])
def test_a_shape_that_moves_keeps_its_size(step):
    """Also where the two outlined ones overlap little, or not at all."""
    filled, _ = fill_between(volume({0: disc(20, 20, 6), 2: disc(20, 20 + step, 6)}, 3), [0, 2], 0, ONE_MM)
    assert dice(filled[1], disc(20, 20 + step // 2, 6)) > 0.97


def test_a_shape_forks_and_both_arms_reach_their_ends():
    trunk, arms = disc(20, 30, 12), disc(20, 21, 5) | disc(20, 39, 5)
    filled, _ = fill_between(volume({0: trunk, 6: arms}, 7), [0, 6], 0, ONE_MM)
    n_voxels = filled.sum(axis=(1, 2))
    assert n_parts(filled[5]) == 2 and n_parts(filled[1]) == 1 and (np.diff(n_voxels[:6]) < 0).all()
    assert n_parts(filled) == 1         # nothing is torn off
    mirrored, _ = fill_between(volume({0: arms, 6: trunk}, 7), [0, 6], 0, ONE_MM)
    assert dice(mirrored[::-1], filled) > 0.99


def test_two_shapes_side_by_side_do_not_pull_at_each_other():
    left, right = disc(20, 12, 5), disc(20, 46, 5)
    filled, _ = fill_between(volume({0: left | right, 4: left | disc(24, 46, 5)}, 5), [0, 4], 0, ONE_MM)
    assert dice(filled[2], left | disc(22, 46, 5)) > 0.97


def test_a_part_that_has_no_other_ends_half_way():
    filled, _ = fill_between(volume({0: disc(20, 12, 6) | disc(20, 46, 6), 4: disc(20, 12, 6)}, 5), [0, 4], 0, ONE_MM)
    assert [n_parts(one) for one in filled[1:4]] == [2, 1, 1]
    assert 0 < filled[1][:, 30:].sum() < disc(20, 46, 6).sum()


def test_a_slice_that_was_looked_at_and_is_empty_is_an_end():
    filled, numbers = fill_between(volume({0: disc(20, 30, 8)}, 9), [0, 4, 8], 0, ONE_MM)
    assert numbers == [1, 2, 3]         # between two empty slices there is nothing to fill
    assert 0 < filled[1].sum() < filled[0].sum() and not filled[2:].any()


def test_drawn_slices_stay_and_earlier_filling_goes():
    mask = volume({0: disc(20, 30, 8), 1: disc(5, 5, 4), 2: disc(20, 30, 8), 3: disc(8, 8, 3)}, 5)
    filled, numbers = fill_between(mask, [0, 2], 0, ONE_MM)
    assert numbers == [1] and np.array_equal(filled[1], mask[0])
    assert np.array_equal(filled[[0, 2, 3, 4]], mask[[0, 2, 3, 4]])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_across_any_axis_with_pixels_of_any_size(axis):
    mask = volume({0: disc(20, 30, 6), 3: disc(14, 20, 9)}, 4)
    spacing = np.array([3.0, 0.5, 2.0])
    expected, _ = fill_between(mask, [0, 3], 0, spacing)
    turned, _ = fill_between(np.moveaxis(mask, 0, axis), [0, 3], axis, np.insert(spacing[1:], axis, spacing[0]))
    assert np.array_equal(np.moveaxis(turned, axis, 0), expected) and expected[1:3].any()


@pytest.mark.parametrize("drawn", [[], [2], [0, 1, 2]])
def test_without_a_gap_nothing_changes(drawn):
    mask = volume({number: disc(20, 30, 5) for number in drawn}, 4)
    filled, numbers = fill_between(mask, drawn, 0, ONE_MM)
    assert numbers == [] and np.array_equal(filled, mask)
