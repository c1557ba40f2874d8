"""Refinement by formula against the published procedure by autograd, one slice at a time."""

import pytest
import torch

from qnet.models.refinement import refine
from tests.reference import qnet as reference


def compare(features, prototypes, threshold, n_iters=7):
    want = torch.cat([reference.refine(features[b:b + 1], prototypes[b:b + 1], threshold[b:b + 1], n_iters)
                      for b in range(len(features))])
    got = refine(features, prototypes, threshold, n_iters)
    assert torch.allclose(got, want, atol=2e-4), (got - want).abs().max()
    return got


@pytest.mark.parametrize("shape", [(4, 16, 9, 7), (1, 8, 5, 5), (3, 32, 1, 6)])
@pytest.mark.parametrize("seed", range(3))
def test_a_batch_equals_its_slices_one_at_a_time(shape, seed):
    torch.manual_seed(seed)
    features = torch.randn(shape)
    prototypes = features.mean((-2, -1)) + 0.3 * torch.randn(shape[:2])
    threshold = torch.linspace(-2, 2, shape[0]).unsqueeze(1)
    got = compare(features, prototypes, threshold)
    assert not torch.allclose(got, prototypes)


@pytest.mark.parametrize("scale", [3.0, 10.0])
def test_prototype_beyond_the_features_range(scale):
    """The gradient then passes through the minimum and the maximum too."""
    torch.manual_seed(1)
    features = torch.randn(3, 12, 6, 6)
    compare(features, scale * torch.randn(3, 12), torch.full((3, 1), -1.0))


def test_everything_foreground():
    torch.manual_seed(2)
    features = torch.randn(2, 6, 4, 4)
    compare(features, torch.randn(2, 6), torch.full((2, 1), 30.0))


def test_nothing_foreground_keeps_the_prototype():
    features, prototypes = torch.randn(2, 6, 4, 4), torch.randn(2, 6)
    assert torch.equal(refine(features, prototypes, torch.full((2, 1), -30.0), 7), prototypes)


def test_one_prototype_serves_all_slices():
    torch.manual_seed(3)
    features, prototype, threshold = torch.randn(3, 8, 5, 5), torch.randn(1, 8), torch.full((3, 1), -2.0)
    assert torch.equal(refine(features, prototype, threshold, 3), refine(features, prototype.expand(3, -1), threshold, 3))


@pytest.mark.parametrize("scale", [0.3, 10.0])
def test_one_slice_serves_all_prototypes(scale):
    torch.manual_seed(4)
    features, prototypes, threshold = torch.randn(1, 8, 5, 7), scale * torch.randn(6, 8), torch.full((1, 1), -2.0)
    alone = torch.cat([refine(features, p, threshold, 5) for p in prototypes.split(1)])
    assert torch.allclose(refine(features, prototypes, threshold, 5), alone, atol=1e-5)
    compare(features, prototypes[:1], threshold, 5)


def test_constant_features_stay_finite():
    assert torch.isfinite(refine(torch.ones(1, 4, 3, 3), torch.ones(1, 4), torch.full((1, 1), -1.0), 7)).all()


def test_no_iterations_change_nothing():
    prototypes = torch.randn(2, 4)
    assert torch.equal(refine(torch.randn(2, 4, 3, 3), prototypes, torch.zeros(2, 1), 0), prototypes)


def test_wrong_channels():
    with pytest.raises(ValueError, match="prototypes: expected C=4"):
        refine(torch.zeros(1, 4, 3, 3), torch.zeros(1, 5), torch.zeros(1, 1), 1)
