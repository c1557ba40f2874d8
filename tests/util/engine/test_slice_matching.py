import numpy as np
import pytest
import torch

from qnet.models.encoder import Features
from qnet.util.engine.slice_matching import align_slices, choose_support_slices, describe_slices


def scan(n_slices: int, start: float = 0.0, step: float = 1.0) -> Features:
    """Features that turn with the position along the body, as an encoder's would change from organ to organ."""
    height = start + step * torch.arange(n_slices)
    frequencies = torch.linspace(0.05, 0.6, 12)
    wave = torch.sin(height[:, None] * frequencies + torch.arange(12))
    coarse = wave[:, :, None, None].expand(-1, -1, 16, 16).contiguous()
    return Features((coarse, coarse), torch.zeros(n_slices, 1), (64, 64))


def test_descriptors_ignore_what_all_slices_share():
    plain = scan(9)
    brighter = Features(tuple(m + torch.arange(12.0)[None, :, None, None] for m in plain.maps), plain.threshold, (64, 64))
    assert describe_slices(plain).shape == (9, 12 * 16)
    torch.testing.assert_close(describe_slices(brighter), describe_slices(plain), atol=1e-5, rtol=0)
    assert describe_slices(scan(1)).abs().max() == 0


@pytest.mark.parametrize(("n_query", "start", "want"), [
    (20, 0, range(20)), (10, 5, range(5, 15)), (20, -3, [0, 0, 0, *range(17)]), (20, 4, [*range(4, 20), 19, 19, 19, 19]),
])
def test_a_part_of_the_same_body_is_found_in_it(n_query, start, want):
    support = scan(40)
    query = scan(n_query, start=10 + start)
    matches = align_slices(describe_slices(query), describe_slices(Features(
        tuple(m[10:30] for m in support.maps), support.threshold[10:30], (64, 64))))
    inside = [k for k, z in enumerate(want) if 0 < z < 19]
    assert np.abs(matches - np.array(want))[inside].max() <= 1      # to a slice, as the two have means of their own
    assert (np.diff(matches) >= 0).all()


def test_matches_never_descend_whatever_the_features():
    rng = torch.Generator().manual_seed(1)
    matches = align_slices(torch.randn(15, 6, generator=rng), torch.randn(11, 6, generator=rng))
    assert matches.shape == (15,) and (np.diff(matches) >= 0).all() and matches.min() >= 0 and matches.max() < 11


def test_a_support_of_one_slice_serves_all():
    assert align_slices(torch.ones(4, 3), torch.ones(1, 3)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("margin", "want"), [(0, [-1, -1, 3, 4, -1]), (1, [-1, 3, 3, 4, 4]), (2, [3, 3, 3, 4, 4])])
def test_slices_away_from_the_class_are_suppressed(margin, want):
    holds_class = np.array([0, 0, 0, 1, 1, 0, 0], bool)
    assert choose_support_slices(np.array([1, 2, 3, 4, 5]), holds_class, margin).tolist() == want


def test_a_class_that_the_support_lacks_is_suppressed_everywhere():
    assert choose_support_slices(np.array([0, 1]), np.zeros(3, bool), 5).tolist() == [-1, -1]
