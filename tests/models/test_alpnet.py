"""SSL-ALPNet against the numbers of the published classifier, and PANet as its special case."""


import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qnet.models.encoder import Features
from qnet.models.prototypes import class_score
from qnet.util.base.episode import Episode
from tests.goldens import GOLDENS, needs_goldens
from tests.networks import make_alpnet, make_panet, single_path


def features_of(maps, size=(256, 256)):
    return Features((maps,), None, size)


@needs_goldens
@pytest.mark.parametrize("mask", ["big", "small"])
@pytest.mark.parametrize(("mode", "training"), [("train4x4", True), ("test2x2", False)])
def test_golden_head(mask, mode, training):
    golden = np.load(GOLDENS / "alpnet_head.npz")
    support, query, masks = (torch.from_numpy(golden[name])[None].float()
                             for name in ("support_features", "query_features", f"mask_{mask}"))
    model = make_alpnet(nn.Identity()).train(training)
    prototypes = model.prototypes(features_of(support), masks[None])
    scores = model.scores(features_of(query), prototypes)
    probability = model.segment(features_of(query), prototypes)[0, 1, ::2, ::2]
    assert np.abs(scores[0].numpy() - golden[f"{mask}_{mode}_scores"]).max() <= 1e-4
    assert np.abs(probability.numpy() - golden[f"{mask}_{mode}_probability"]).max() <= 1e-4
    local = len(prototypes[0][1]) > 1
    assert ("local+global" if local else "global") == str(golden[f"{mask}_{mode}_foreground_mode"])


def random_case(seed=0, n=3):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(n, 1, 64, 64)
    masks[0, 0, :32, :32], masks[1, 0, 20:24, 30:33] = 1, 1    # large, small; the third is empty
    return features_of(torch.randn(n, 5, 16, 16, generator=generator), (64, 64)), masks


def test_prototypes_by_hand():
    features, masks = random_case()
    (background, foreground), (_, small), (_, empty) = make_alpnet(nn.Identity()).train().prototypes(features, masks)
    cells = F.avg_pool2d(features.maps[0][0], 4).flatten(1).T.view(4, 4, 5)
    assert torch.allclose(foreground[:-1], cells[:2, :2].reshape(-1, 5), atol=1e-6)   # of 4×4 cells, 2×2 are inside
    outside = torch.ones(4, 4, dtype=torch.bool)
    outside[:2, :2] = False
    assert torch.allclose(background, cells[outside], atol=1e-6)
    assert torch.allclose(foreground[-1], features.maps[0][0, :, :8, :8].mean((1, 2)), atol=0.2)
    assert len(small) == 1 and torch.equal(empty, torch.zeros(1, 5))


def test_background_without_a_filled_window_has_its_average():
    maps = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    masks = torch.ones(1, 1, 32, 32)
    masks[..., :4, :4] = 0
    model = make_alpnet(nn.Identity()).train()
    (background, _), = model.prototypes(features_of(maps, (32, 32)), masks)
    assert background.shape == (1, 5) and background.norm() > 0
    masks[:] = 1
    output = model.segment(features_of(maps, (32, 32)), model.prototypes(features_of(maps, (32, 32)), masks))
    assert output.isfinite().all()


@pytest.mark.parametrize("method", [make_alpnet, make_panet])
@pytest.mark.parametrize("training", [True, False])
def test_batch_equals_its_items(method, training):
    model = method(nn.Identity()).train(training)
    support, masks = random_case(0)
    query, _ = random_case(1)
    prototypes = model.prototypes(support, masks)
    together = model.segment(query, prototypes)
    for k in range(3):
        alone = model.segment(query[k:k + 1], model.prototypes(support[k:k + 1], masks[k:k + 1]))
        assert torch.allclose(together[k:k + 1], alone, atol=1e-6)
    shared = model.segment(query, prototypes[:1])
    assert torch.allclose(shared[2], model.segment(query[2:], prototypes[:1])[0], atol=1e-6)


def test_class_score_of_one_prototype_is_its_similarity_and_of_two_lies_between():
    features = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert class_score(features, a).item() == pytest.approx(20 * 0.6)
    assert class_score(features, b).item() == pytest.approx(20 * 0.8)
    weights = torch.softmax(torch.tensor([12.0, 16.0]), 0)
    assert class_score(features, torch.cat([a, b])).item() == pytest.approx((weights @ torch.tensor([12.0, 16.0])).item())
    assert class_score(features, torch.zeros(1, 2)).item() == 0


def test_panet_is_plain_formulas():
    model = make_panet(nn.Identity())
    support, masks = random_case(0)
    query, _ = random_case(1)
    grid = F.interpolate(masks, size=(16, 16), mode="bilinear", align_corners=False)[0, 0]
    averages = [(support.maps[0][0] * weight).sum((1, 2)) / (weight.sum() + 1e-5) for weight in (1 - grid, grid)]
    scores = torch.stack([20 * F.cosine_similarity(query.maps[0][0], average[:, None, None], dim=0) for average in averages])
    wanted = F.interpolate(scores[None], size=(64, 64), mode="bilinear", align_corners=False).softmax(dim=1)
    assert torch.allclose(model.segment(query[:1], model.prototypes(support[:1], masks[:1])), wanted, atol=1e-5)


def test_alpnet_is_panet_where_nothing_is_local():
    support, _ = random_case(0)
    query, _ = random_case(1)
    masks = (torch.arange(64) % 2).expand(3, 1, 64, 64).float()          # no window of any size is filled
    models = make_panet(nn.Identity()), make_alpnet(nn.Identity())
    outputs = [model.segment(query, model.prototypes(support, masks)) for model in models]
    assert torch.allclose(*outputs, atol=1e-6)


@pytest.mark.parametrize("weight", [0.05, 1.0])
def test_losses_are_cross_entropies(weight):
    torch.manual_seed(0)
    model = make_panet(single_path(), weight).eval()
    images, masks = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64)
    masks[:, 8:40, 8:40], masks[1, 60:] = 1, 255
    losses = model.episode_losses(Episode(support_images=images[None, :1], support_masks=masks[None, :1],
                                                  query_images=images[1:], query_masks=masks[1:]))
    support, query = model.encode(images[:1]), model.encode(images[1:])
    scores = model.scores(query, model.prototypes(support, masks[None, :1]))
    logits = F.interpolate(scores, size=(64, 64), mode="bilinear")
    wanted = F.cross_entropy(logits, masks[1:].long(), torch.tensor([weight, 1.0]), ignore_index=255)
    assert losses["query"].item() == pytest.approx(wanted.item(), rel=1e-4)
    predicted = scores.argmax(dim=1)[:, None].float()                       # on the feature grid, as published
    back = F.interpolate(model.scores(support, model.prototypes(query, predicted)), size=(64, 64), mode="bilinear")
    assert losses["align"].item() == pytest.approx(F.cross_entropy(back, masks[:1].long()).item(), rel=1e-4)
