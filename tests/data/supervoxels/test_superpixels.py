import numpy as np
import pytest

from qnet.data.supervoxels.superpixels import generate_superpixels


def two_halves():
    """Slice 0: a body of two halves, a brighter speck beside it, and a dark hole in it. Slice 1: nothing."""
    image = np.zeros((2, 40, 60))
    image[0, 5:35, 5:25] = 100
    image[0, 5:35, 25:45] = 250
    image[0, 15:18, 10:13] = 0
    image[0, 10:13, 55:58] = 999
    return image


def test_by_hand():
    superpixels = generate_superpixels(two_halves(), min_size=150)
    assert superpixels.dtype == np.int32 and superpixels.shape == (2, 40, 60)
    assert not superpixels[1].any()
    np.testing.assert_array_equal(superpixels[0] > 0, np.pad(np.ones((30, 40), bool), ((5, 5), (5, 15))))
    left, right = superpixels[0, 8:32, 8:22], superpixels[0, 8:32, 28:42]      # away from the smoothed borders
    assert (right == right[0, 0]).all() and right[0, 0] not in left


def test_numbers_start_at_one_in_each_slice_without_gaps():
    image = np.random.default_rng(0).uniform(60, 900, (3, 48, 48))
    for superpixels in generate_superpixels(image, min_size=60):
        np.testing.assert_array_equal(np.unique(superpixels), np.arange(1, superpixels.max() + 1))
        assert superpixels.max() > 1


def test_stored_type_does_not_matter_and_the_threshold_does():
    image = two_halves()
    expected = generate_superpixels(image, min_size=150)
    np.testing.assert_array_equal(generate_superpixels(image.astype(np.int16), min_size=150), expected)
    bright = generate_superpixels(image, min_size=150, foreground_threshold=100)
    np.testing.assert_array_equal(bright > 0, image == 250)


@pytest.mark.parametrize(("image", "message"), [
    (np.zeros((4, 4)), "expected axes"), (np.full((1, 4, 4), np.inf), "expected finite")])
def test_bad_images_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        generate_superpixels(image, min_size=1)
