"""The public functions of models/ refuse tensors of wrong axes, and name the argument."""

import pytest
import torch

from qnet.models.anomaly import threshold_of
from qnet.models.base import hard_mask
from qnet.models.encoder import Features, with_coordinates
from qnet.models.prototypes import (
    anomaly_score,
    class_score,
    foreground_probability,
    fuse,
    inner_products,
    masked_average,
    on_grid,
)
from qnet.models.refinement import refine
from qnet.util.base.episode import Episode
from tests.networks import make_alpnet, make_qnet, single_path

F, P, T = torch.zeros(2, 4, 8, 8), torch.zeros(2, 4), torch.zeros(2, 1)      # features, prototypes, threshold


@pytest.mark.parametrize(("call", "message"), [
    (lambda: masked_average(F, torch.zeros(2, 32, 32)), r"masks: expected axes \(B S H W\)"),
    (lambda: masked_average(F, torch.zeros(3, 1, 32, 32)), "features: expected N=3"),
    (lambda: on_grid(torch.zeros(2, 32, 32), (8, 8)), r"masks: expected axes \(B S H W\)"),
    (lambda: class_score(F[0], P), r"features: expected axes \(B C h w\)"),
    (lambda: class_score(F, P[:, :3]), "prototypes: expected C=4"),
    (lambda: inner_products(F, P), r"features: expected axes \(B C N\)"),
    (lambda: inner_products(F.flatten(2), P[:, :3]), "prototypes: expected C=4"),
    (lambda: anomaly_score(F.flatten(2), P), r"features: expected axes \(B C h w\)"),
    (lambda: anomaly_score(F, P[0]), r"prototypes: expected axes \(B C\)"),
    (lambda: foreground_probability(F, P, T[:, 0]), r"threshold: expected axes \(B T\)"),
    (lambda: foreground_probability(F, P, P), "threshold: expected T=1"),
    (lambda: fuse([F[:, 0], F], (0.5, 0.5), (32, 32)), r"path_probs: expected axes \(B h w\)"),
    (lambda: refine(F, P, T[:, 0], 1), r"threshold: expected axes \(B T\)"),
    (lambda: hard_mask(torch.zeros(2, 3, 8, 8)), "probs: expected K=2"),
    (lambda: with_coordinates(torch.zeros(2, 1, 8, 8)), "images: expected C=3"),
    (lambda: threshold_of(Features((F,), None, (32, 32))), "features: expected a threshold, got None"),
])
def test_wrong_axes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("make", [make_qnet, lambda: make_alpnet(single_path())], ids=["qnet", "alpnet"])
@pytest.mark.parametrize(("part", "change", "message"), [
    ("support_images", lambda x: x[:, 0], r"support_images: expected axes \(B S C H W\)"),
    ("support_masks", lambda x: x[:, 0], r"support_masks: expected axes \(B S H W\)"),
    ("query_images", lambda x: x[:1], "query_images: expected B=2"),
    ("query_masks", lambda x: x[..., ::2], "query_masks: expected W=32"),
])
def test_an_episode_of_wrong_axes_is_refused_before_it_is_encoded(make, part, change, message):
    episode = Episode(torch.zeros(2, 1, 3, 32, 32), torch.zeros(2, 1, 32, 32), torch.zeros(2, 3, 32, 32), torch.zeros(2, 32, 32))
    with pytest.raises(ValueError, match=message):
        make().episode_losses(episode._replace(**{part: change(getattr(episode, part))}))
