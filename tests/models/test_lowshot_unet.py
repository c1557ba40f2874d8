"""The U-Net that is trained on one outlined scan."""

import pytest
import torch

from qnet.models.lowshot_unet import LowShotUNet, augmented, padded
from qnet.models.settings import UNetSettings

CPU = torch.device("cpu")


def scan(seed, gain=1.0):
    """A bright disc and a dark square on noise, (6, 40, 48), the last slice without either, and the classes."""
    random = torch.Generator().manual_seed(seed)
    image, classes = 0.1 * torch.randn(6, 40, 48, generator=random), torch.zeros(6, 40, 48, dtype=torch.int64)
    y, x = torch.meshgrid(torch.arange(40), torch.arange(48), indexing="ij")
    top, left = torch.randint(-2, 3, (2,), generator=random).tolist()
    classes[:5, (y - 14 - top) ** 2 + (x - 14 - left) ** 2 < 49] = 1
    classes[:5, 22 + top:32 + top, 28 + left:40 + left] = 2
    return image + gain * (classes == 1) - gain * (classes == 2), classes


def dice(found, truth):
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@pytest.mark.whole
def test_it_learns_from_one_scan_what_it_finds_in_another_and_gives_the_same_network_again():
    image, classes = scan(0)
    model = LowShotUNet(UNetSettings(40, 6, 0.01), 0, CPU)
    steps = []
    before = torch.get_rng_state()
    network = model.trained(image, classes, 2, lambda: steps.append(1))
    assert len(steps) == 40 and torch.equal(torch.get_rng_state(), before)       # nobody else's random numbers are touched
    other, truth = scan(1, gain=0.8)
    probs = model.probabilities(network, other)
    assert probs.shape == (2, *other.shape) and probs.min() >= 0 and probs.sum(dim=0).max() <= 1 + 1e-5
    assert min(dice(probs[k] > 0.5, truth == k + 1) for k in range(2)) > 0.8
    few = LowShotUNet(UNetSettings(2, 6, 0.01), 0, CPU)
    first, again = (few.trained(image, classes, 2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_a_scan_without_a_class_is_refused():
    with pytest.raises(ValueError, match="at least one slice with a class"):
        LowShotUNet(UNetSettings(1, 2, 0.01), 0, CPU).trained(torch.zeros(3, 40, 40), torch.zeros(3, 40, 40).long(), 1)


def test_slices_and_classes_are_deformed_alike_and_no_class_is_mixed():
    _, classes = scan(0)
    slices, target = augmented(classes.float()[:, None], classes, torch.Generator().manual_seed(0))
    assert set(target.unique().tolist()) == {0, 1, 2} and not torch.equal(target, classes)
    assert dice(slices[:, 0] > 1.5, target == 2) > 0.85        # the brightest of each slice is still its class 2
    flat, _ = augmented(torch.ones(2, 1, 40, 40), torch.zeros(2, 40, 40).long(), torch.Generator().manual_seed(0))
    assert flat.isfinite().all()


def test_small_slices_are_padded():
    assert padded(torch.ones(2, 10, 40)).shape == (2, 32, 40) and padded(torch.ones(2, 10, 40)).sum() == 800
