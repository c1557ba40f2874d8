"""The copy for inference gives the same numbers: known BatchNorms are folded, others are left alone."""

import copy

import pytest
import torch
from torch import nn

from qnet.models.encoder import Features
from qnet.models.inference import for_inference
from tests.networks import dual_path, single_path


def with_statistics(model):
    """As after a training: every BatchNorm scales, shifts and has seen something."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.3)
    return model.eval()


def n_norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@torch.inference_mode()
def largest_change(model, size=64):
    """Of the features of two images, as a share of the largest feature."""
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    plain, folded = model(images), for_inference(model)(images)
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(plain.maps, folded.maps, strict=True))


@pytest.mark.parametrize("build", [dual_path, single_path])
@pytest.mark.parametrize("name", ["small", pytest.param("resnet50", marks=pytest.mark.whole)])
def test_all_of_our_encoders_are_folded(build, name):
    encoder = with_statistics(build(name))
    before = copy.deepcopy(encoder.state_dict())
    assert n_norms(encoder) > 10 and n_norms(for_inference(encoder)) == 0
    assert largest_change(encoder) < 1e-4
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())     # only the copy is changed


class ThirdParty(nn.Module):
    """timm's feature maps as Features."""

    def __init__(self, name):
        import timm  # takes seconds

        super().__init__()
        self.backbone = timm.create_model(name, pretrained=False, features_only=True)

    def forward(self, images):
        return Features(tuple(self.backbone(images)), None, tuple(images.shape[-2:]))


# lite0 and mobilenet: BatchNormAct2d, a BatchNorm2d that is an activation too; resnet: BatchNorm2d in blocks of their own
@pytest.mark.whole
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "resnet18"])
def test_an_encoder_of_a_third_party_gives_the_same_numbers(name):
    assert largest_change(with_statistics(ThirdParty(name))) < 1e-4


class Activated(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


def test_a_subclass_in_a_known_place_stays():
    encoder = with_statistics(dual_path())
    encoder.backbone.layer1.bn1.__class__ = Activated
    folded = for_inference(encoder)
    assert n_norms(folded) == 1 and isinstance(folded.backbone.layer1.bn1, Activated)
    assert largest_change(encoder) < 1e-4


class ReadTwice(nn.Module):
    """A convolution whose output is read beside its BatchNorm, and one that follows its BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, images):
        x = self.conv1(images)
        return Features((x + self.bn1(x), self.conv2(self.bn2(x))), None, tuple(images.shape[-2:]))


def test_what_only_looks_like_a_known_block_stays():
    model = with_statistics(ReadTwice())
    assert n_norms(for_inference(model)) == 2
    assert largest_change(model) < 1e-5


def test_a_batchnorm_without_running_statistics_stays():
    encoder = with_statistics(dual_path())
    encoder.backbone.bn1 = nn.BatchNorm2d(32, track_running_stats=False)
    assert n_norms(for_inference(encoder)) == 1
    assert largest_change(encoder) < 1e-4
