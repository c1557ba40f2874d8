import numpy as np
import pytest

from util.metrics import dice, iou


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
