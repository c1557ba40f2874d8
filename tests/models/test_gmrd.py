"""GMRD against plain formulas on random features, with its options."""

from dataclasses import replace

import pytest
import torch

from qnet.models.gmrd import GMRD, background_edge, fill_indices
from tests.models.given import SIZE, GivenFeatures, given_case
from tests.networks import LOSSES
from tests.reference import newer_methods as plain
from tests.settings import GMRD_PUBLISHED

EPS = torch.finfo(torch.float32).eps


def model_and_episode(n_episodes=1, n_shots=1, **options):
    features, episode = given_case(n_episodes, n_shots)
    torch.manual_seed(1)
    model = GMRD(GivenFeatures(features), replace(GMRD_PUBLISHED, n_background=5, n_foreground=4, mix_px=SIZE[0], **options),
                 **LOSSES)
    for module in model.modules():      # so that losses in training mode can be compared
        if isinstance(module, (torch.nn.Dropout, torch.nn.Dropout2d)):
            module.p = 0.0
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.5)
    return model, episode, features


def support_and_query(model, episode):
    features = model.encode(torch.cat([episode.support_images.flatten(0, 1), episode.query_images]))
    n = episode.support_masks.shape[:2].numel()
    return features[:n], features[n:]


@pytest.mark.parametrize("edge", ["published", "meant"])
@pytest.mark.parametrize("relu", [True, False])
def test_segments_as_the_plain_formulas(edge, relu):
    model, episode, features = model_and_episode(edge=edge, relu=relu)
    support, query = support_and_query(model, episode)
    got = model.prototypes(support, episode.support_masks)
    want = plain.descriptors(model, features[0], episode.support_masks[0, 0])
    for ours, theirs in zip(got, want, strict=True):
        assert torch.allclose(ours[0], theirs, rtol=1e-4, atol=1e-5)
    assert [len(part[0]) for part in got] == [7, 6]
    probability = plain.gmrd_probability(model, features[1], want, SIZE)
    assert torch.allclose(model.segment(query, got)[0, 1], probability, atol=1e-5) and probability.std() > 1e-3


def test_losses_are_the_plain_formulas():
    model, episode, features = model_and_episode()
    mask, truth = episode.support_masks[0, 0], episode.query_masks[0]
    of_support = plain.descriptors(model, features[0], mask)
    foreground = plain.gmrd_probability(model, features[1], of_support, SIZE)
    predicted = (foreground > 0.5).float()
    assert 0 < predicted.sum() < predicted.numel()
    of_query = plain.descriptors(model, features[1], predicted)
    swapped = plain.gmrd_probability(model, features[0], of_query, SIZE)
    weights = torch.where(truth == 1, 1.0, 0.1)
    chosen, align = (torch.where(m == 1, p, 1 - p).clamp(EPS, 1 - EPS).log() for m, p in ((truth, foreground), (mask, swapped)))
    intra, inter = plain.extra_losses(of_support, of_query)
    want = {"query": (-(chosen * weights).sum() / weights.sum()).item(), "align": -align.mean().item(),
            "intra": 0.5 * intra.item(), "inter": 0.5 * inter.item()}
    got = {name: loss.item() for name, loss in model.episode_losses(episode).items()}
    assert got == pytest.approx(want, rel=1e-4) and tuple(got) == model.loss_names


def test_todays_form_has_no_extra_losses():
    model, episode, _ = model_and_episode(extra_weight=0.0)
    assert tuple(model.episode_losses(episode)) == model.loss_names == ("query", "align")


def test_the_edges_by_hand():
    mask = torch.zeros(1, 1, 11, 11)
    mask[..., 3:8, 3:8] = 1                          # 5×5: one pixel of it is farther than two from the rim
    published, meant = (background_edge(mask, edge)[0, 0] for edge in ("published", "meant"))
    assert published[5, 5] == -1 and (published == -1).sum() == 1 and published[3, 3] == 0 and published[0, 0] == 1
    assert (published == 1).sum() == 121 - 25
    assert meant[5, 5] == 0 and meant[1, 1] == 1 and meant[0, 0] == 0 and meant.sum() == 81 - 25


@pytest.mark.parametrize("n_inside", [0, 1, 5, 12, 20])
def test_fill_takes_each_pixel_as_often_as_the_others(n_inside):
    mask = torch.zeros(20)
    mask[torch.randperm(20, generator=torch.Generator().manual_seed(0))[:n_inside]] = 1
    indices = fill_indices(mask)
    assert indices.equal(fill_indices(mask))
    if n_inside == 0:
        assert indices.tolist() == list(range(20))
        return
    assert (mask[indices] == 1).all() and indices[mask == 1].equal(torch.nonzero(mask)[:, 0])
    counts = torch.bincount(indices[mask == 0], minlength=20)[mask == 1]
    assert counts.max() - counts.min() <= 1 and counts.sum() == 20 - n_inside


@pytest.mark.parametrize("n_shots", [1, 2])
def test_a_batch_of_episodes_is_its_episodes(n_shots):
    model, episode, _ = model_and_episode(2, n_shots)
    model.eval()
    support, query = support_and_query(model, episode)
    together = model.segment(query, model.prototypes(support, episode.support_masks))
    parts = [model.prototypes(support[b * n_shots:(b + 1) * n_shots], episode.support_masks[b:b + 1]) for b in range(2)]
    assert torch.allclose(together, torch.cat([model.segment(query[b:b + 1], parts[b]) for b in range(2)]), atol=1e-5)
    each = torch.cat([model.segment(query[:1], one) for one in parts])
    assert torch.allclose(model.segment_each(query[:1], parts), each, atol=1e-5)
    sum(model.train().episode_losses(episode).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_an_image_of_another_size_is_mixed_on_the_same_grid_and_an_empty_mask_is_no_error():
    model, episode, _ = model_and_episode()
    support, query = support_and_query(model, episode)
    larger = torch.nn.functional.interpolate(episode.support_masks, scale_factor=2)
    for ours, same in zip(model.prototypes(support, larger), model.prototypes(support, episode.support_masks), strict=True):
        assert torch.allclose(ours, same, atol=1e-6)
    empty = model.prototypes(support, torch.zeros_like(episode.support_masks))
    assert model.segment(query, empty).isfinite().all()
