"""The door for networks from elsewhere, and UniverSeg behind it."""

import copy

import pytest
import torch
from torch import nn

from qnet.models.outside import OutsideModel, UniverSeg, scaled
from qnet.util.base.errors import InputError


def model_of(network):
    """Model, and features of three slices."""
    model = OutsideModel(network)
    images = torch.randn(3, 1, 8, 10, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    return model, model.encode(images), images[:, 0]


def test_the_network_sees_the_slices_and_masks_as_they_are():
    seen = []

    def network(images, masks, query):
        seen.append((images, masks, query))
        return masks.mean(0)
    model, features, images = model_of(network)
    masks = (torch.rand(1, 2, 8, 10, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    probs = model.segment(features[2:], model.prototypes(features[:2], masks))
    (got_images, got_masks, got_query), = seen
    assert got_images.equal(images[:2]) and got_masks.equal(masks[0]) and got_query.equal(images[2])
    assert probs.shape == (1, 2, 8, 10) and probs[0, 1].equal(masks[0].mean(0)) and probs.sum(1).allclose(torch.ones(1, 8, 10))


def test_one_support_serves_all_slices_and_each_slice_its_own():
    model, features, images = model_of(lambda images, masks, query: masks[0] * (query > 0))
    supports = model.prototypes(features[:2], torch.ones(2, 1, 8, 10))
    assert model.segment(features, supports[:1])[:, 1].equal((images > 0).float())
    assert model.segment(features[:2], supports)[:, 1].equal((images[:2] > 0).float())
    assert model.segment_each(features[:1], [supports[:1], supports[1:]]).shape == (2, 2, 8, 10)
    with pytest.raises(ValueError, match="zip"):
        model.segment(features, supports)


@pytest.mark.parametrize(("returned", "message"), [
    (torch.zeros(8, 8), r"outside.network: it returned shape \(8, 8\), allowed: \(8, 10\)"),
    (torch.full((8, 10), 3.0), "outside.network: it returned values from 3 to 3, allowed: probabilities, or a mask"),
    (torch.full((8, 10), torch.nan), "outside.network: it returned values from nan to nan")])
def test_what_is_no_mask_is_refused(returned, message):
    model, features, _ = model_of(lambda *_: returned)
    with pytest.raises(InputError, match=message):
        model.segment(features[:1], model.prototypes(features[:1], torch.ones(1, 1, 8, 10)))


def test_masks_of_other_kinds_are_taken():
    for returned in (torch.ones(8, 10, dtype=torch.bool), torch.ones(8, 10, dtype=torch.int64).numpy()):
        model, features, _ = model_of(lambda *_, returned=returned: returned)
        assert model.segment(features[:1], model.prototypes(features[:1], torch.ones(1, 1, 8, 10)))[:, 1].eq(1).all()


def test_a_module_is_a_part_of_the_model_and_anything_else_is_shared_with_its_copies():
    class Net(nn.Module):
        def forward(self, images, masks, query):
            return masks[0]

    def plain(images, masks, query):
        return masks[0]
    plain.__dict__["lock"] = (part for part in ())      # a generator cannot be copied
    module = OutsideModel(Net())
    assert not module.eval().network.training
    assert copy.deepcopy(OutsideModel(plain)).network.network is plain


class StandIn(nn.Module):
    """UniverSeg's interface: (B, 1, h, w), (B, S, 1, h, w), (B, S, 1, h, w) → (B, 1, h, w) logits, sure where the support is."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, target_image, support_images, support_labels):
        B, S = support_images.shape[:2]
        assert target_image.shape == (B, 1, 128, 128) and support_images.shape == support_labels.shape == (B, S, 1, 128, 128)
        assert support_images.min() == 0 and support_images.max() == 1 and target_image.min() >= 0 and target_image.max() <= 1
        assert set(support_labels.unique().tolist()) <= {0.0, 1.0}
        return self.scale * (2 * support_labels.mean(1) - 1)


@pytest.mark.parametrize("n_shots", [1, 3])
@pytest.mark.parametrize("size", [(256, 256), (100, 140)])
def test_universeg_gets_what_it_was_trained_with(n_shots, size):
    model = OutsideModel(UniverSeg(StandIn()))
    images, masks = torch.randn(n_shots + 1, 3, *size), torch.zeros(1, n_shots, *size)
    masks[..., 30:60, 40:80] = 1
    features = model.encode(images)
    with torch.no_grad():
        foreground = model.segment(features[n_shots:], model.prototypes(features[:n_shots], masks))[0, 1]
    assert foreground.shape == size and ((foreground > 0.5) == (masks[0, 0] > 0)).float().mean() > 0.99


def test_scaled_by_hand():
    assert scaled(torch.tensor([[[1.0, 3.0]], [[5.0, 5.0]]])).tolist() == [[[0, 1]], [[0, 0]]]
