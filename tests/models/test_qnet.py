"""Q-Net's interface on small inputs: shapes, batches, losses by hand."""

import copy

import pytest
import torch

from qnet.models.encoder import Features, with_coordinates
from qnet.models.prototypes import anomaly_score
from qnet.models.qnet import QNet, SupportThresholdQNet
from qnet.util.base.episode import Episode
from tests.networks import QNET, dual_path, make_qnet, single_path
from tests.reference import qnet as reference


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return make_qnet()


def episode(B=1, S=1, size=32, seed=0):
    torch.manual_seed(seed)
    masks = torch.zeros(B, S, size, size)
    masks[..., 8:20, 8:20] = 1
    return Episode(support_images=torch.randn(B, S, 3, size, size), support_masks=masks,
                           query_images=torch.randn(B, 3, size, size), query_masks=masks[:, 0])


@pytest.mark.parametrize("size", [(32, 32), (40, 56), (33, 47)])
def test_shapes(model, size):
    features = model.eval().encode(torch.randn(3, 3, *size))
    fine, coarse = features.maps
    assert fine.shape == (3, 128, -(-size[0] // 4), -(-size[1] // 4))
    assert coarse.shape == (3, 128, -(-size[0] // 8), -(-size[1] // 8))
    assert features.threshold.shape == (3, 1)
    probs = model.segment(features, model.prototypes(features[:1], torch.ones(1, 1, *size)))
    assert probs.shape == (3, 2, *size)
    assert torch.allclose(probs.sum(1), torch.ones(3, *size), atol=1e-6)


@pytest.mark.whole
def test_resnet101_has_the_published_names():
    names = make_qnet(dual_path("resnet101")).state_dict().keys()
    assert len(names) == 630
    assert {"encoder.backbone.conv1.weight", "encoder.backbone.layer4.2.bn3.running_var", "encoder.backbone.fc.bias",
            "encoder.reduce1.weight", "encoder.reduce2.weight", "encoder.reduce1d.weight", "encoder.reduce1d.bias"} <= names


@pytest.mark.parametrize("encoder", ["resnet50", "small"])
def test_strides(encoder):
    fine, coarse = dual_path(encoder).eval()(torch.zeros(1, 3, 64, 64)).maps
    assert fine.shape[-2:] == (16, 16) and coarse.shape[-2:] == (8, 8)


def test_a_batch_of_slices_equals_its_slices(model):
    model.eval()
    with torch.no_grad():
        features = model.encode(torch.randn(4, 3, 32, 32))
        prototypes = model.prototypes(features[:1], episode().support_masks)
        together = model.segment(features, prototypes)
        alone = torch.cat([model.segment(features[k:k + 1], prototypes) for k in range(4)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_shots_are_averaged(model):
    model.eval()
    with torch.no_grad():
        features = model.encode(torch.randn(3, 3, 32, 32))
        masks = torch.rand(1, 3, 32, 32).round()
        joint = model.prototypes(features, masks)
        single = [model.prototypes(features[k:k + 1], masks[:, k:k + 1]) for k in range(3)]
    for path in (0, 1):
        assert torch.allclose(joint[path], torch.stack([p[path] for p in single]).mean(0), atol=1e-6)


def losses_of(probabilities, query_mask, support_probs=None, background_weight=0.1, ignore_label=255):
    """Episode losses of a model whose soft masks are given: the query's first, the support's second."""
    class Given(QNet):
        def __init__(self):
            given = {"n_iters": 0, "background_weight": background_weight, "ignore_label": ignore_label}
            super().__init__(dual_path(), **{**QNET, **given})
            self.answers = [probabilities, support_probs if support_probs is not None else probabilities]

        def encode(self, images):
            B = len(images)
            return Features((torch.zeros(B, 1, 1, 1),) * 2, torch.zeros(B, 1), tuple(images.shape[-2:]))

        def segment(self, query_features, prototypes):
            p = self.answers.pop(0)
            return torch.stack([1 - p, p], dim=1)

    size = query_mask.shape[-2:]
    support_masks = torch.zeros(1, 1, *size)
    support_masks[..., 0, 0] = 1
    return Given().train().episode_losses(Episode(
        support_images=torch.zeros(1, 1, 3, *size), support_masks=support_masks, query_images=torch.zeros(1, 3, *size),
        query_masks=query_mask))


def test_query_loss_is_weighted_by_class_and_ignores_the_label():
    probs = torch.tensor([[[0.8, 0.3], [0.4, 0.9]]])
    mask = torch.tensor([[[1, 0], [0, 255]]])
    want = -(1.0 * torch.log(torch.tensor(0.8)) + 0.1 * torch.log(torch.tensor(0.7)) + 0.1 * torch.log(torch.tensor(0.6))) / 1.2
    assert losses_of(probs, mask)["query"].item() == pytest.approx(want.item(), rel=1e-5)


def test_alignment_loss_by_hand():
    query = torch.tensor([[[0.8, 0.3], [0.4, 0.2]]])
    support = torch.tensor([[[0.6, 0.1], [0.2, 0.3]]])
    want = -torch.log(torch.tensor([0.6, 0.9, 0.8, 0.7])).mean()
    assert losses_of(query, torch.zeros(1, 2, 2), support)["align"].item() == pytest.approx(want.item(), rel=1e-5)


def test_alignment_loss_is_zero_where_nothing_was_predicted():
    query = torch.full((1, 2, 2), 0.4)
    assert losses_of(query, torch.zeros(1, 2, 2), torch.full((1, 2, 2), 0.9))["align"].item() == 0


def test_certain_predictions_give_finite_losses():
    losses = losses_of(torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]), torch.tensor([[[0, 1], [0, 1]]]))
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize(("B", "S"), [(1, 1), (2, 1), (1, 3), (2, 2)])
def test_every_parameter_learns_from_the_loss(B, S):
    torch.manual_seed(1)
    model = make_qnet().train()
    sum(model.episode_losses(episode(B, S)).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


def test_the_loss_falls_on_one_repeated_episode():
    torch.manual_seed(0)
    model = make_qnet().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    history = []
    for _ in range(15):
        loss = model.episode_losses(episode(size=64))["query"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]


def test_bf16_features_are_close_to_float32():
    torch.manual_seed(0)
    exact, fast = dual_path().eval(), dual_path(bf16=True).eval()
    fast.load_state_dict(exact.state_dict())
    with torch.no_grad():
        want, got = (encoder(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))) for encoder in (exact, fast))
    for a, b in zip(want.maps, got.maps, strict=True):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        assert torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0) > 0.999


def test_images_without_three_channels():
    with pytest.raises(ValueError, match="images: expected C=3"):
        dual_path()(torch.zeros(1, 1, 32, 32))


def test_threshold_of_the_support_separates_what_can_be_separated():
    """Foreground cells point along (1, 0), the others at right angles to it: any T between their scores gives the mask back."""
    feature_map = torch.zeros(1, 2, 8, 8)
    feature_map[:, 1] = 1
    feature_map[..., 2:6, 2:6] = torch.tensor([1.0, 0.0])[:, None, None]
    features = Features((feature_map,), torch.full((1, 1), -100.0), (8, 8))    # a predicted threshold that marks nothing
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    model = make_qnet(method=SupportThresholdQNet, alpha=(1.0,), n_iters=0).eval()
    prototype, threshold = model.prototypes(features, mask)
    inside, outside = anomaly_score(feature_map, prototype).unique().tolist()
    assert threshold.shape == (1, 1)
    assert inside < threshold.item() <= outside
    assert torch.equal(model.segment(features, (prototype, threshold)).argmax(1), mask[:, 0].long())


@pytest.mark.parametrize(("B", "S"), [(1, 1), (2, 1), (2, 3)])
def test_threshold_of_the_support_for_several_episodes_equals_that_of_each(B, S):
    torch.manual_seed(0)
    model = make_qnet(method=SupportThresholdQNet, n_iters=0).eval()
    some = episode(B, S)
    with torch.no_grad():
        features = model.encode(some.support_images.flatten(0, 1))
        together = model.prototypes(features, some.support_masks)[-1]
        alone = [model.prototypes(features[b * S:(b + 1) * S], some.support_masks[b:b + 1])[-1] for b in range(B)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_coordinates_take_the_place_of_the_copied_channels():
    images = torch.rand(2, 1, 3, 5).expand(-1, 3, -1, -1)
    grey, rows, columns = with_coordinates(images).unbind(1)
    assert torch.equal(grey, images[:, 0])
    assert torch.equal(rows, torch.tensor([-1.5, 0, 1.5])[:, None].expand(2, 3, 5))
    assert torch.equal(columns, torch.tensor([-1.5, -0.75, 0, 0.75, 1.5]).expand(2, 3, 5))


@pytest.mark.parametrize("build", [dual_path, single_path])
def test_only_an_encoder_with_coordinates_looks_at_one_channel_alone(build):
    torch.manual_seed(0)
    images = torch.randn(1, 3, 32, 32)
    other = torch.cat([images[:, :1], torch.randn(1, 2, 32, 32)], dim=1)
    for coordinates in (True, False):
        encoder = build("small", coordinates=coordinates).eval()
        assert torch.equal(encoder(images).maps[0], encoder(other).maps[0]) == coordinates


WHERE = {"inside": (slice(8, 20), slice(9, 30)), "at the border": (slice(0, 7), slice(30, None)), "one pixel": (-1, 0),
         "everywhere": (slice(None),) * 2, "nowhere": (slice(0, 0),) * 2}


@pytest.mark.parametrize("size", [(32, 40), (51, 37)])
@pytest.mark.parametrize(("support", "query"), [
    ("inside", "at the border"), ("at the border", "inside"), ("everywhere", "inside"), ("nowhere", "inside"),
    ("inside", "nowhere"), ("one pixel", "one pixel")])
@pytest.mark.parametrize("threshold", [-18.0, -30.0], ids=["some foreground", "no foreground"])
def test_losses_and_gradients_equal_the_plain_formulation(size, support, query, threshold):
    torch.manual_seed(0)
    plain = make_qnet().train()
    with torch.no_grad():
        plain.encoder.reduce1d.weight.mul_(0.02)
        plain.encoder.reduce1d.bias.fill_(threshold)
    ours = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    masks = torch.zeros(2, *size)
    masks[0][WHERE[support]], masks[1][WHERE[query]] = 1, 1
    given = Episode(torch.randn(1, 1, 3, *size), masks[None, :1], torch.randn(1, 3, *size), masks[1:])
    losses = [reference.episode_loss(plain, given), sum(ours.episode_losses(given).values())]
    assert torch.allclose(*losses, rtol=1e-5)
    for loss in losses:
        loss.backward()
    for (name, wanted), got in zip(plain.named_parameters(), ours.parameters(), strict=True):
        if wanted.grad is None:
            assert got.grad is None or not got.grad.any(), name
        else:
            assert (got.grad - wanted.grad).norm() <= 1e-3 * wanted.grad.norm() + 1e-6, name


def test_many_classes_and_supports_of_one_slice_equal_one_at_a_time(model):
    model.eval()
    with torch.no_grad():
        query, support = (model.encode(torch.randn(n, 3, 40, 56)) for n in (1, 5))
        masks = (torch.rand(5, 1, 40, 56) > 0.5).float()
        prototypes = [model.prototypes(support[k:k + 1], masks[k:k + 1]) for k in range(5)]
        alone = torch.cat([model.segment(query, of_one) for of_one in prototypes])
        assert torch.allclose(model.segment_each(query, prototypes), alone, atol=1e-5)
        with_threshold = make_qnet(model.encoder, SupportThresholdQNet).eval()
        prototypes = [(*of_one, torch.tensor([[-19.0 + k]])) for k, of_one in enumerate(prototypes)]
        alone = torch.cat([with_threshold.segment(query, of_one) for of_one in prototypes])
        assert torch.allclose(with_threshold.segment_each(query, prototypes), alone, atol=1e-5)
