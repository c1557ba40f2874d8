import math

import numpy as np
import pytest

from qnet.util.engine.metrics import METRICS, all_metrics, dice, iou, surface_metrics


@pytest.mark.parametrize(("prediction", "truth", "want_dice", "want_iou"), [
    ([[1, 1], [0, 0]], [[1, 0], [1, 0]], 0.5, 1 / 3),
    ([[1, 1], [1, 1]], [[1, 1], [1, 1]], 1.0, 1.0),
    ([[1, 0], [0, 0]], [[0, 0], [0, 1]], 0.0, 0.0),
    ([[0, 0], [0, 0]], [[0, 0], [0, 1]], 0.0, 0.0),
    ([[0, 0], [0, 0]], [[0, 0], [0, 0]], 1.0, 1.0),
])
def test_by_hand(prediction, truth, want_dice, want_iou):
    prediction, truth = np.array(prediction, bool), np.array(truth, bool)
    assert dice(prediction, truth) == pytest.approx(want_dice)
    assert iou(prediction, truth) == pytest.approx(want_iou)


def box(start=0, shape=(16, 16, 24)):
    mask = np.zeros(shape, bool)
    mask[3:13, 3:13, 3 + start:13 + start] = True
    return mask


def test_surfaces_of_a_box_moved_by_two_voxels_of_3_mm():
    spacing_mm = (1.0, 1.0, 3.0)
    got = all_metrics(box(2), box(), spacing_mm, tolerance_mm=5.9)
    assert got["hd95_mm"] == pytest.approx(6)      # a seventh of the surface is the two faces that moved
    assert 0 < got["assd_mm"] < 2
    assert got["surface_dice"] < 0.95 < all_metrics(box(2), box(), spacing_mm, 6.0)["surface_dice"]
    assert got["dice"] == got["precision"] == got["recall"] == pytest.approx(0.8)
    assert got["volume_difference_ml"] == 0


def test_area_counts_and_not_the_number_of_voxels():
    """The same two boxes in space, on slices of 1 mm and of 4 mm, have the same distances, but for the rounded edges."""
    fine, moved = np.zeros((48, 40, 40), bool), np.zeros((48, 40, 40), bool)
    fine[8:40, 10:30, 10:30], moved[12:44, 10:30, 10:30] = True, True
    thin = surface_metrics(fine, moved, (1, 1, 1), 2)
    thick = surface_metrics(fine[::4], moved[::4], (4, 1, 1), 2)
    assert thin["hd95_mm"] == thick["hd95_mm"] == pytest.approx(4)
    assert thin["assd_mm"] == pytest.approx(thick["assd_mm"], rel=0.1)


def test_equal_masks_even_at_the_border():
    mask = np.ones((3, 4, 5), bool)
    assert all_metrics(mask, mask, (2, 1, 1), 1) == {
        "dice": 1, "iou": 1, "precision": 1, "recall": 1, "hd95_mm": 0, "assd_mm": 0, "surface_dice": 1,
        "volume_difference_ml": 0}


@pytest.mark.parametrize(("prediction", "truth", "overlap", "precision", "recall", "distance", "volume_ml"), [
    (0, 0, 1, 1, 1, 0, 0), (1, 0, 0, 0, 0, math.nan, 1.0), (0, 1, 0, 0, 0, math.nan, -1.0)])
def test_empty_masks(prediction, truth, overlap, precision, recall, distance, volume_ml):
    got = all_metrics(box() & bool(prediction), box() & bool(truth), (1, 1, 1), 1)
    assert [got[name] for name in METRICS] == pytest.approx(
        [overlap, overlap, precision, recall, distance, distance, overlap, volume_ml], nan_ok=True)
