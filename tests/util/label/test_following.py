"""A correction of some slices that the others follow: interpolated between, fading beyond, and never where a person drew."""

import numpy as np
import pytest

from qnet.util.label.following import follow

ONE_MM = (1.0, 1.0, 1.0)
ROWS, COLUMNS = np.mgrid[:60, :60]


def disc(radius, row=30, column=30):
    return (ROWS - row) ** 2 + (COLUMNS - column) ** 2 <= radius ** 2


def volume(*slices):
    return np.stack(slices)


def corrected(found, slices):
    mask = found.copy()
    for number, shape in slices.items():
        mask[number] = shape
    return mask


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_an_outline_that_is_too_small_everywhere_is_mended_by_two_slices():
    """Discs of changing radius, found 3 voxels too small: more than the shape of the two corrected slices can tell."""
    radii = [10, 13, 16, 18, 16, 13, 10]
    truth, found = volume(*map(disc, radii)), volume(*(disc(radius - 3) for radius in radii))
    after, numbers = follow(found, corrected(found, {1: truth[1], 5: truth[5]}), [1, 5], 0, (4.0, 1.0, 1.0))
    assert numbers == [0, 2, 3, 4, 6]
    assert all(dice(after[number], truth[number]) > 0.85 > dice(found[number], truth[number]) for number in (0, 6))
    for number in (2, 3, 4):
        by_shape = disc(13)         # as both corrected slices have it
        assert dice(after[number], truth[number]) > max(dice(by_shape, truth[number]), dice(found[number], truth[number]))
    assert (after[[1, 5]] == truth[[1, 5]]).all()


def test_the_correction_fades_away_beyond_the_corrected_slices():
    found = volume(*[disc(8)] * 41)
    after, numbers = follow(found, corrected(found, {20: disc(12)}), [20], 0, ONE_MM)
    sizes = after.sum(axis=(1, 2))
    assert (np.diff(sizes[:21]) >= 0).all() and (np.diff(sizes[20:]) <= 0).all() and sizes[19] > 1.8 * sizes[0]
    assert numbers and not {0, 40} & {*numbers} and (after[[0, 40]] == found[[0, 40]]).all()      # further than the class is wide


def test_what_was_found_where_nothing_is_goes_also_beside():
    found = volume(*[disc(8) | disc(5, 50, 50)] * 3)
    after, _ = follow(found, corrected(found, {0: disc(8), 2: disc(8)}), [0, 2], 0, ONE_MM)
    assert (after[1] == disc(8)).all()


def test_a_slice_without_the_class_ends_it_and_nothing_appears_beyond():
    found = volume(*[disc(8)] * 4, disc(0) & False)
    after, numbers = follow(found, corrected(found, {0: disc(8), 2: disc(0) & False}), [0, 2], 0, ONE_MM)
    assert after[0].sum() > after[1].sum() and not after[2].any() and not after[4].any() and 4 not in numbers
    assert after[3].sum() < found[3].sum()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_along_any_axis(axis):
    radii = [10, 12, 10]
    found, truth = (np.moveaxis(volume(*(disc(radius - less) for radius in radii)), 0, axis) for less in (2, 0))
    spacing_mm = np.roll([3.0, 1.0, 1.0], axis).tolist()
    after, numbers = follow(found, np.where(np.indices(found.shape)[axis] == 0, truth, found), [0], axis, spacing_mm)
    assert numbers == [1, 2] and dice(after, truth) > dice(found, truth)


def test_nothing_drawn_nothing_follows():
    found = volume(*[disc(8)] * 3)
    after, numbers = follow(found, found, [], 0, ONE_MM)
    assert numbers == [] and (after == found).all()


def test_an_empty_slice_between_the_last_one_and_the_end_follows_too():
    """So it is not left out: nobody need fill it again by shape."""
    nothing = disc(0) & False
    found = volume(disc(8), disc(2), nothing, nothing, nothing)
    after, numbers = follow(found, corrected(found, {0: disc(7), 4: nothing}), [0, 4], 0, (9.0, 1.0, 1.0))
    assert numbers == [1, 2, 3] and not after[[2, 3]].any()
