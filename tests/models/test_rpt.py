"""RPT against plain formulas on random features, in both forms."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from qnet.models.regions import farthest_points, nearest_centre
from qnet.models.rpt import RPT, boundary_loss, dice_loss, region_weights
from tests.models.given import SIZE, GivenFeatures, given_case
from tests.networks import LOSSES
from tests.reference import newer_methods as plain
from tests.settings import RPT_2024

EPS = torch.finfo(torch.float32).eps


def model_and_episode(n_episodes=1, n_shots=1, n_regions=7, form="2024", corner=False):
    features, episode = given_case(n_episodes, n_shots)
    thresholds = torch.linspace(-9, -6, len(features))[:, None]
    torch.manual_seed(0)
    settings = replace(RPT_2024, n_regions=n_regions, form=form, corner=corner)
    model = RPT(GivenFeatures(features, thresholds), 6, settings, **LOSSES)
    model.block.dropout.p = 0.0      # so that losses in training mode can be compared
    return model, episode, features, thresholds


def support_and_query(model, episode):
    features = model.encode(torch.cat([episode.support_images.flatten(0, 1), episode.query_images]))
    n = episode.support_masks.shape[:2].numel()
    return features[:n], features[n:]


@pytest.mark.parametrize("form", ["2023", "2024"])
def test_segments_as_the_plain_formulas(form):
    model, episode, features, thresholds = model_and_episode(form=form)
    support, query = support_and_query(model, episode)
    average, regions = model.prototypes(support, episode.support_masks)
    mask = episode.support_masks[0, 0]
    assert torch.allclose(average[0], plain.mean_inside(features[0], mask), atol=1e-5)
    small = torch.nn.functional.interpolate(mask[None, None], size=(8, 8), mode="bilinear", align_corners=False)[0, 0] > 0
    places = small.nonzero().tolist()
    first = farthest_points(small.nonzero().numpy(), 1)[0].tolist()
    want = plain.regions(features[0], mask, places.index(first), 7)
    assert torch.allclose(regions[0], want, atol=1e-5)
    probability = plain.rpt_probability(model, features[1], thresholds[1], average[0], want, SIZE)
    assert torch.allclose(model.segment(query, (average, regions))[0, 1], probability, atol=1e-5)
    assert probability.std() > 0.05


def test_losses_of_2024_are_the_plain_formulas():
    model, episode, features, thresholds = model_and_episode()
    mask, truth = episode.support_masks[0, 0], episode.query_masks[0]
    support, _query = support_and_query(model, episode)
    average, regions = model.prototypes(support, episode.support_masks)
    foreground = plain.rpt_probability(model, features[1], thresholds[1], average[0], regions[0], SIZE)
    predicted = (foreground > 0.5).float()
    assert 0 < predicted.sum() < predicted.numel()

    def nll(p, truth, weight=1.0):
        p = p.clamp(EPS, 1 - EPS)
        chosen = torch.where(truth == 1, p, 1 - p).log()
        weights = torch.where(truth == 1, 1.0, weight)
        return (-(chosen * weights).sum() / weights.sum()).item()

    def upsampled(feature_map, prototype, threshold):
        return plain.wide(plain.probability(feature_map, prototype, threshold), SIZE)

    of_query = plain.mean_inside(features[1], predicted)
    wider = plain.morphology(mask, "max")
    rim = upsampled(features[0], plain.mean_inside(features[0], wider), thresholds[0]) \
        - upsampled(features[0], average[0], thresholds[0])
    want = {"query": nll(foreground, truth, 0.1), "align": nll(upsampled(features[0], of_query, thresholds[1]), mask),
            "self": nll(upsampled(features[1], plain.mean_inside(features[1], truth), thresholds[1]), truth),
            "periphery": 0.1 * nll(rim, wider - mask), "mse": 0.1 * (of_query - average[0]).square().mean().item()}
    got = {name: loss.item() for name, loss in model.episode_losses(episode).items()}
    assert got == pytest.approx(want, rel=1e-4) and tuple(got) == model.loss_names


def test_losses_of_2023_by_hand_and_their_weights():
    truth = torch.zeros(1, 8, 8, dtype=torch.bool)
    truth[0, 2:6, 2:6] = True
    probs = torch.stack([~truth, truth], dim=1).float()
    overlap, found = 16 * torch.tensor(1.0).sigmoid(), 16 * torch.tensor(1.0).sigmoid() + 48 * 0.5
    assert dice_loss(probs, truth).item() == pytest.approx((1 - (2 * overlap + 1) / (found + 16 + 1)).item())
    empty = torch.stack([torch.ones(1, 8, 8), torch.zeros(1, 8, 8)], dim=1)
    assert boundary_loss(probs, truth) < boundary_loss(empty, truth)
    model, episode, *_ = model_and_episode(form="2023")
    early = model.episode_losses(episode)
    assert tuple(early) == model.loss_names == ("query", "boundary", "dice") and early["boundary"] == 0
    model.steps.fill_(10_000)
    late = model.episode_losses(episode)
    assert late["dice"].item() == pytest.approx(0.98 * early["dice"].item()) and late["boundary"] > 0
    assert model.steps.item() == 10_001


def test_boundary_loss_is_the_written_formula():
    torch.manual_seed(0)
    probs, truth = torch.rand(1, 6, 6), torch.rand(1, 6, 6) > 0.5
    probs = torch.stack([1 - probs, probs], dim=1)

    def widest(mask, reach):      # (6, 6) → the largest value at most `reach` pixels away
        return torch.stack([torch.stack([mask[max(y - reach, 0):y + reach + 1, max(x - reach, 0):x + reach + 1].max()
                                         for x in range(6)]) for y in range(6)])
    losses = []
    for found, true in zip(probs.softmax(1)[0], (~truth[0], truth[0]), strict=True):
        b, t = (widest(1 - mask, 1) - (1 - mask) for mask in (found, true.float()))
        precision, recall = (b * widest(t, 2)).sum() / b.sum(), (widest(b, 2) * t).sum() / t.sum()
        losses.append(1 - 2 * precision * recall / (precision + recall))
    assert boundary_loss(probs, truth).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_farthest_points_by_hand():
    places = np.array([[0, 0], [0, 1], [0, 9], [5, 0]])
    chosen = farthest_points(places, 3)
    assert len(np.unique(chosen, axis=0)) == 3 and {(0, 9)} <= set(map(tuple, chosen.tolist()))
    assert farthest_points(places, 3).tolist() == chosen.tolist()      # whatever was drawn before
    assert len(farthest_points(places, 10)) == 4
    region, n = nearest_centre(places, np.array([[0, 0], [0, 9]]))
    assert region.tolist() == [0, 0, 1, 0] and n == 2


def test_regions_far_below_the_mean_are_shut_out():
    weights = region_weights(torch.tensor([[-10.0, 1.0, 2.0], [5.0, 5.0, 5.0]]))
    assert weights[0, 0] == 0 and weights[0].sum().item() == pytest.approx(1)
    assert weights[1].tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("corner", [False, True])
def test_few_cells_are_repeated_or_filled_from_the_corner(corner):
    model, episode, features, _ = model_and_episode(n_regions=9, corner=corner)
    support, query = support_and_query(model, episode)
    mask = torch.zeros(1, 1, *SIZE)
    mask[..., 28:32, 28:32] = 1                       # one cell, and what the resizing touches
    _, regions = model.prototypes(support, mask)
    cell, at_corner = features[0, :, 7, 7], features[0, :, 0, 0]
    assert any(torch.allclose(region, cell, atol=1e-6) for region in regions[0])
    assert any(torch.allclose(region, at_corner, atol=1e-6) for region in regions[0]) == corner
    nothing = model.prototypes(support, torch.zeros_like(mask))
    assert (nothing[1] != 0).any() == corner and model.segment(query, nothing).isfinite().all()


@pytest.mark.parametrize("n_shots", [1, 2])
def test_a_batch_of_episodes_is_its_episodes(n_shots):
    model, episode, _features, _thresholds = model_and_episode(2, n_shots)
    model.eval()
    support, query = support_and_query(model, episode)
    together = model.segment(query, model.prototypes(support, episode.support_masks))
    parts = [model.prototypes(support[b * n_shots:(b + 1) * n_shots], episode.support_masks[b:b + 1]) for b in range(2)]
    alone = torch.cat([model.segment(query[b:b + 1], parts[b]) for b in range(2)])
    assert torch.allclose(together, alone, atol=1e-5)
    each = model.segment_each(query[:1], parts)
    assert torch.allclose(each, torch.cat([model.segment(query[:1], one) for one in parts]), atol=1e-5)
    losses = model.train().episode_losses(episode)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.block.parameters())


def test_an_episode_without_a_prediction_has_no_align_and_mse_loss():
    model, episode, _features, thresholds = model_and_episode()
    thresholds[:] = -100
    losses = model.episode_losses(episode)
    assert losses["align"] == 0 and losses["mse"] == 0 and losses["query"] > 0
