import numpy as np
import pytest

from qnet.util.engine.location import body_box, location_weight


def patient(shape, rows, columns):
    image = np.full(shape, -1.0)
    image[:, rows[0]:rows[1] + 1, columns[0]:columns[1] + 1] = 1.0
    return image


def test_the_body_is_found_and_specks_are_not():
    image = patient((5, 40, 50), (8, 30), (5, 44))
    image[:, 35:37, 1:3] = 2.0              # the table
    image[0, :, :] = 2.0                    # one bright slice
    assert body_box(image) == (8, 30, 5, 44)


@pytest.mark.parametrize("image", [np.zeros((2, 10, 12)), np.where(np.arange(12) == 3, 1.0, -1.0) * np.ones((2, 10, 1))])
def test_without_a_body_the_whole_image_counts(image):
    assert body_box(image) == (0, 9, 0, 11)


def test_the_outline_follows_the_body():
    """An organ in the left upper quarter of a body is looked for in that quarter of another, larger one."""
    masks = np.zeros((3, 40, 40), bool)
    masks[1, 12:16, 12:16] = True
    weight = location_weight(masks, 1, (10, 30, 10, 30), (0, 60, 20, 80), (64, 100), sigma_mm=4, pixel_mm=(2.0, 2.0))
    assert weight.shape == (64, 100)
    inside = weight > 0.999
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    assert (rows[0], rows[-1]) == (6, 15) and (columns[0], columns[-1]) == (26, 35)      # 3 times 2…5, from the box's corner
    assert weight[50, 90] < 1e-3


def test_the_weight_falls_with_the_distance():
    masks = np.zeros((1, 1, 30), bool)
    masks[0, 0, :5] = True
    box = (0, 1, 0, 29)
    weight = location_weight(masks, 0, box, box, (1, 30), sigma_mm=6, pixel_mm=(1.0, 1.5))
    np.testing.assert_allclose(weight[0], np.exp(-np.maximum(0, np.arange(30) - 4) ** 2 / 32), rtol=1e-5)


def test_neighbouring_slices_count():
    masks = np.zeros((4, 8, 8), bool)
    masks[1, 2, 2], masks[2, 6, 6] = True, True
    box = (0, 7, 0, 7)
    weight = location_weight(masks, 1, box, box, (8, 8), 1.0, (1.0, 1.0))
    assert weight[2, 2] == weight[6, 6] == 1


@pytest.mark.parametrize("pixel_mm", [(1.0, 1.0), (2.0, 1.0), (1.0, 0.5)])
def test_distances_are_in_mm_whatever_the_pixels_of_support_and_query(pixel_mm):
    """An organ of 8 mm in a body of 40 mm, drawn on pixels of any size: the weights are the same where the body is the same."""
    y_mm, x_mm = pixel_mm
    masks = np.zeros((1, int(40 / y_mm), int(40 / x_mm)), bool)
    masks[0, int(16 / y_mm):int(24 / y_mm), int(16 / x_mm):int(24 / x_mm)] = True
    corner_to_corner = (0, masks.shape[1] - 1, 0, masks.shape[2] - 1)
    weight = location_weight(masks, 0, corner_to_corner, (0, 79, 0, 79), (80, 80), sigma_mm=5, pixel_mm=pixel_mm)    # 0.5 mm
    away_mm = np.array([4, 8, 12])
    for line in (weight[40, 48 + 2 * away_mm], weight[48 + 2 * away_mm, 40]):      # to the right of the organ, and below it
        np.testing.assert_allclose(line, np.exp(-(away_mm / 5) ** 2 / 2), atol=0.12)
