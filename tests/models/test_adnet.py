"""ADNet against plain formulas, and Q-Net stripped of its parts against ADNet."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qnet.models.encoder import Features
from qnet.util.base.episode import Episode
from tests.networks import dual_path, make_adnet, make_qnet, single_path

EPS = torch.finfo(torch.float32).eps


class GivenFeatures(nn.Module):
    """Stands for an encoder: image k of a batch has the k-th features."""

    predicts_threshold = False

    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def forward(self, images):
        return Features((self.maps,), None, tuple(images.shape[-2:]))


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 6, 8, 8, generator=generator)
    masks = torch.zeros(2, 32, 32)
    masks[0, 4:15, 6:20], masks[1, 8:22, 3:12] = 1, 1
    for image in range(2):                              # so that foreground is found, and not only there
        features[image, 0] += 3 * F.interpolate(masks[image][None, None], size=(8, 8), mode="area")[0, 0]
    return SimpleNamespace(features=features, masks=masks)


def plain_probability(features, prototype, t):
    """Foreground probability on the feature grid, one cell after the other."""
    rows = []
    for y in range(features.shape[1]):
        cosine = torch.stack([features[:, y, x] @ prototype / (features[:, y, x].norm() * prototype.norm())
                              for x in range(features.shape[2])])
        rows.append(1 - torch.sigmoid(0.5 * (-20 * cosine - t)))
    return torch.stack(rows)


def upsampled(probability):
    foreground = F.interpolate(probability[None, None], size=(32, 32), mode="bilinear", align_corners=True)[0, 0]
    return torch.stack([1 - foreground, foreground])


def test_head_and_losses_are_the_plain_formulas(case):
    model = make_adnet(GivenFeatures(case.features), background_weight=0.1, t_loss_scaler=2.0)
    with torch.no_grad():
        model.t.fill_(-7)
    (support, query), (support_mask, query_mask) = case.features, case.masks
    wide = F.interpolate(support[None], size=(32, 32), mode="bilinear", align_corners=False)[0]
    prototype = (wide * support_mask).sum((1, 2)) / (support_mask.sum() + 1e-5)
    probability = plain_probability(query, prototype, -7.0)
    encoded = model.encode(torch.zeros(2, 3, 32, 32))
    got = model.prototypes(encoded[:1], support_mask[None, None])
    assert torch.allclose(got[0], prototype, atol=1e-6)
    assert torch.allclose(model.segment(encoded[1:], got)[0], upsampled(probability), atol=1e-5)

    log_probs = upsampled(probability).clamp(EPS, 1 - EPS).log()
    weights = torch.where(query_mask == 1, 1.0, 0.1)
    chosen = torch.where(query_mask == 1, log_probs[1], log_probs[0])
    predicted = (probability > 0.5).float()
    assert 0 < predicted.sum() < 64
    query_prototype = (query * predicted).sum((1, 2)) / (predicted.sum() + 1e-5)
    swapped = upsampled(plain_probability(support, query_prototype, -7.0)).clamp(EPS, 1 - EPS).log()
    losses = model.episode_losses(Episode(
        support_images=torch.zeros(1, 1, 3, 32, 32), support_masks=support_mask[None, None],
        query_images=torch.zeros(1, 3, 32, 32), query_masks=query_mask[None]))
    assert losses["query"].item() == pytest.approx(-(weights * chosen).sum().item() / weights.sum().item(), rel=1e-5)
    assert losses["align"].item() == pytest.approx(
        -torch.where(support_mask == 1, swapped[1], swapped[0]).mean().item(), rel=1e-5)
    assert losses["threshold"].item() == pytest.approx(2 * -7 / 20)
    assert tuple(losses) == model.loss_names


def test_qnet_with_one_path_a_learned_threshold_and_no_refinement_is_adnets_head(case):
    encoder = GivenFeatures(case.features)
    qnet, adnet = make_qnet(encoder, alpha=[1.0], n_iters=0).eval(), make_adnet(encoder).eval()
    masks, outputs = case.masks[0][None, None], []
    for model in (qnet, adnet):
        features = model.encode(torch.zeros(2, 3, 32, 32))
        outputs.append(model.segment(features[1:], model.prototypes(features[:1], masks)))
    assert outputs[0].argmax(dim=1).any() and torch.equal(*outputs)
    refined = make_qnet(encoder, alpha=[1.0], n_iters=7).eval()
    features = refined.encode(torch.zeros(2, 3, 32, 32))
    assert not torch.equal(refined.segment(features[1:], refined.prototypes(features[:1], masks)), outputs[1])


def test_threshold_starts_at_minus_ten_and_learns():
    model = make_adnet(single_path())
    assert model.t.item() == -10
    images, mask = torch.randn(2, 3, 64, 64), torch.zeros(1, 64, 64)
    mask[0, 16:48, 16:48] = 1
    losses = model.episode_losses(Episode(
        support_images=images[None, :1], support_masks=mask[None], query_images=images[1:], query_masks=mask))
    sum(losses.values()).backward()
    assert model.t.grad.abs().item() > 0


@pytest.mark.parametrize(("paths", "n_maps"), [("both", 2), ("fine", 1), ("coarse", 1)])
@pytest.mark.parametrize("predicts", [True, False])
def test_paths_and_threshold_shape_the_encoder(paths, n_maps, predicts):
    encoder = dual_path(paths=paths, predicts_threshold=predicts).eval()
    features = encoder(torch.randn(2, 3, 64, 64))
    assert [tuple(m.shape) for m in features.maps] == {
        "both": [(2, 128, 16, 16), (2, 128, 8, 8)], "fine": [(2, 128, 16, 16)], "coarse": [(2, 128, 8, 8)]}[paths]
    assert (features.threshold is not None) == predicts and len(features) == 2
    unused = {name.split(".")[0] for name, _ in encoder.named_parameters()}
    assert ("reduce1d" in unused) == predicts and len(unused & {"reduce1", "reduce2"}) == n_maps


def test_single_path_encoder_has_published_names_and_grid():
    encoder = single_path("resnet50").eval()
    names = set(encoder.state_dict())
    assert {"localconv.weight", "backbone.conv1.weight", "backbone.layer4.2.bn3.running_var"} <= names
    assert not any(name.startswith("backbone.fc") for name in names)
    with torch.no_grad():
        features = encoder(torch.randn(1, 3, 64, 64))
    assert features.maps[0].shape == (1, 256, 8, 8) and features.threshold is None
    joined = Features.cat([features, features])
    assert len(joined) == 2 and joined[1:].threshold is None
