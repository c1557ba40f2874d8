import pytest
import torch

from qnet.models.prototypes import foreground_probability, fuse, masked_average, pull_back
from tests.reference import qnet as reference


@pytest.mark.parametrize(("grid", "size"), [((8, 8), (32, 32)), ((7, 5), (33, 41)), ((4, 6), (16, 24)), ((3, 3), (2, 2))])
def test_pulling_the_mask_back_gives_the_sums_of_upsampled_features(grid, size):
    torch.manual_seed(0)
    features = torch.randn(6, 5, *grid)
    masks = (torch.rand(3, 2, *size) > 0.6).float()
    assert torch.allclose(masked_average(features, masks), reference.masked_average(features, masks), atol=1e-5)


def test_prototype_of_two_pixels_by_hand():
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[10.0, 20.0], [30.0, 40.0]]]])     # 1×2×2×2, the masks' own grid
    masks = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    assert torch.allclose(masked_average(features, masks), torch.tensor([[2.5, 25.0]]), rtol=1e-4)


def test_mask_touching_the_border_and_empty_mask():
    features = torch.randn(2, 3, 4, 4)
    masks = torch.zeros(2, 1, 16, 16)
    masks[0, 0, 0, :] = 1
    got = masked_average(features, masks)
    assert torch.allclose(got, reference.masked_average(features, masks), atol=1e-5)
    assert torch.equal(got[1], torch.zeros(3))


def test_pull_back_keeps_the_total_weight():
    masks = torch.rand(2, 30, 50)
    assert torch.allclose(pull_back(masks, (7, 9)).sum((-2, -1)), masks.sum((-2, -1)), rtol=1e-5)


def test_foreground_probability_by_hand():
    features = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    same, opposite, right_angle = (foreground_probability(features, torch.tensor([p]), torch.tensor([[-10.0]]))
                                   for p in ([2.0, 0.0], [-1.0, 0.0], [0.0, 3.0]))
    # s = −20, 20, 0; P = 1 − sigmoid(0.5·(s + 10))
    assert same.item() == pytest.approx(1 - torch.sigmoid(torch.tensor(-5.0)).item())
    assert opposite.item() == pytest.approx(0, abs=1e-6)
    assert right_angle.item() == pytest.approx(1 - torch.sigmoid(torch.tensor(5.0)).item(), rel=1e-4)


def test_zero_prototype_is_no_nan():
    probs = foreground_probability(torch.randn(2, 4, 3, 3), torch.zeros(1, 4), torch.zeros(2, 1))
    assert torch.equal(probs, torch.full((2, 3, 3), 0.5))


def test_fusion_weights_the_paths():
    fine, coarse = torch.full((1, 4, 4), 0.8), torch.full((1, 2, 2), 0.2)
    probs = fuse([fine, coarse], (3.0, 1.0), (8, 8))
    assert probs.shape == (1, 2, 8, 8)
    assert torch.allclose(probs[:, 1], torch.tensor(0.65)) and torch.allclose(probs.sum(1), torch.tensor(1.0))


@pytest.mark.parametrize(("features", "masks", "message"), [
    ((4, 3, 8, 8), (4, 32, 32), r"masks: expected axes \(B S H W\)"),
    ((4, 3, 8, 8), (3, 1, 32, 32), "features: expected N=3"),
    ((4, 3, 8), (4, 1, 32, 32), r"features: expected axes \(N C h w\)"),
])
def test_wrong_shapes(features, masks, message):
    with pytest.raises(ValueError, match=message):
        masked_average(torch.zeros(features), torch.zeros(masks))
