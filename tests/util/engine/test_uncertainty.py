import numpy as np
import pytest

from qnet.util.engine.uncertainty import AUGMENTATIONS, Agreement, Augmentation, mean_margin


def test_agreement_is_the_mean_dice_of_all_pairs():
    agreement = Agreement()
    for row in ([0.9, 0.9, 0.1, 0.1], [0.9, 0.9, 0.1, 0.1], [0.9, 0.1, 0.1, 0.1]):
        agreement.add({1: np.array([[row]]), 2: np.zeros((1, 1, 4))})
    assert agreement.agreement(1) == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert agreement.agreement(2) == 1          # they agree that there is none
    p = np.array([0.9, 1.9 / 3, 0.1, 0.1])
    np.testing.assert_allclose(agreement.disagreement(), [[1 - abs(2 * p - 1)]])


def test_one_member_says_nothing_about_agreement():
    agreement = Agreement()
    agreement.add({1: np.full((1, 2, 2), 0.5)})
    assert agreement.agreement(1) is None
    assert (agreement.disagreement() == 1).all()         # right at the threshold
    assert agreement.numbers(1, None) == {"confidence": None, "agreement": None, "margin": None}


def test_the_confidence_is_the_mean_of_the_members_that_have_one():
    agreement = Agreement()
    for confidence in ({1: 0.2}, {1: 0.6, 2: 0.9}):
        agreement.add({1: np.zeros((1, 2, 2))}, confidence)
    assert agreement.numbers(1, None)["confidence"] == 0.4 and agreement.numbers(2, None)["confidence"] == 0.9
    assert agreement.numbers(3, None)["confidence"] is None


def test_margin_is_the_distance_of_the_score_from_the_threshold():
    distance = np.array([1.0, 3.0])
    probs = np.array([*(1 - 1 / (1 + np.exp(0.5 * distance))), 0.2])     # P for s − T = −1, −3; the last is background
    assert mean_margin(probs) == pytest.approx(2.0)
    assert mean_margin(np.zeros(3)) is None
    assert np.isfinite(mean_margin(np.ones(3)))


def test_augmentations_are_undone():
    _z, y, x = np.indices((2, 65, 65))
    disc = ((y - 20) ** 2 + (x - 40) ** 2 < 100).astype(np.float32)
    assert AUGMENTATIONS[0].apply(disc) is disc
    turned = Augmentation(angle_deg=6).apply(disc)
    assert np.abs(turned - disc).sum() > 50
    back = Augmentation(angle_deg=6).undo(turned) > 0.5
    assert 2 * (back & (disc > 0)).sum() / (back.sum() + disc.sum()) > 0.98


def test_gamma_keeps_the_range_and_the_order():
    image = np.array([[[-1.0, 0.0, 3.0]]], np.float32)
    altered = Augmentation(gamma=0.5).apply(image)
    np.testing.assert_allclose(altered, [[[-1, 1, 3]]], rtol=1e-6)
