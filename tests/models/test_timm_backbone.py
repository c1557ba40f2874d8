"""Backbones of timm, by name."""

import sys

import pytest
import torch

from qnet.models.timm_backbone import TimmBackbone, create, rename_by_order
from qnet.util.base.errors import InputError
from qnet.util.training.weights import load_pretrained
from tests.networks import dual_path, make_adnet, make_qnet, single_path
from tests.programs import run

NAME = "timm/mobilenetv3_small_050"      # the smallest


@pytest.mark.whole
@pytest.mark.parametrize("name", [NAME, "timm/tf_efficientnet_lite0", "timm/resnet18", "timm/convnext_atto"])
def test_the_maps_have_a_quarter_and_an_eighth_of_the_resolution(name):
    fine, coarse = dual_path(name).eval()(torch.zeros(1, 3, 64, 96)).maps
    assert fine.shape == (1, 128, 16, 24) and coarse.shape == (1, 128, 8, 12)


@pytest.mark.whole
@pytest.mark.parametrize(("paths", "predicts_threshold"), [("both", True), ("fine", True), ("fine", False), ("coarse", False)])
def test_every_parameter_is_used(paths, predicts_threshold):
    encoder = dual_path(NAME, paths=paths, predicts_threshold=predicts_threshold)
    features = encoder(torch.randn(2, 3, 64, 64))
    total = sum(maps.square().sum() for maps in features.maps)
    (total if features.threshold is None else total + features.threshold.sum()).backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.requires_grad and parameter.grad is None] == []


@pytest.mark.parametrize(("name", "message"), [
    ("timm/mobilenetv3_smal_050", "encoder: got 'timm/mobilenetv3_smal_050', allowed: .*mobilenetv3_small_050"),
    ("timm/vit_tiny_patch16_224", "encoder: got 'timm/vit_tiny_patch16_224', which has stages at 1/16 .* some at 1/8 and 1/16")])
def test_models_that_do_not_fit(name, message):
    with pytest.raises(InputError, match=message):
        TimmBackbone(name)


@pytest.fixture(scope="module")
def weights():
    """Of timm's whole model, other numbers than a new one has."""
    torch.manual_seed(5)
    return {key: value + 0.25 if value.is_floating_point() else value for key, value in create(NAME).state_dict().items()}


@pytest.mark.parametrize("of_other_names", [False, True])
def test_weights_of_a_package(of_other_names, weights, tmp_path, monkeypatch):
    stored = {f"_{key}": value for key, value in weights.items()} if of_other_names else weights
    (tmp_path / "carries_weights").mkdir()
    (tmp_path / "carries_weights/__init__.py").write_text("1 / 0      # it is not run", encoding="utf-8")
    torch.save(stored, tmp_path / "carries_weights/lite.pth")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    backbone = TimmBackbone(NAME)
    n = len(backbone.net.state_dict())
    said = load_pretrained(backbone, NAME, "package:carries_weights", tmp_path)
    assert said == f"encoder: {n} of {n} backbone tensors loaded from {tmp_path}/carries_weights/lite.pth"
    assert all(torch.equal(value, weights[key]) for key, value in backbone.net.state_dict().items())


def test_weights_that_cannot_be_had(tmp_path, monkeypatch):
    backbone = TimmBackbone(NAME)
    for package in ("no_such_package", "json"):      # json has no .pth file
        with pytest.raises(InputError, match=f"pretrained: got 'package:{package}', allowed: an installed package that carries"):
            load_pretrained(backbone, NAME, f"package:{package}", tmp_path)
    with pytest.raises(InputError, match=r"pretrained: got 'coco', allowed for encoder 'timm/.*: 'imagenet', 'none' or"):
        load_pretrained(backbone, NAME, "coco", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=f"pretrained: timm's weights of {NAME} cannot be had"):
        load_pretrained(backbone, NAME, "imagenet", tmp_path)


def test_other_weights_keep_their_names(weights):
    fewer = dict(list(weights.items())[1:])
    turned = dict(reversed(weights.items()))
    assert rename_by_order(fewer, NAME) is fewer and rename_by_order(turned, NAME) is turned


@pytest.mark.whole
@pytest.mark.parametrize("model", ["qnet", "adnet"])
def test_trains_and_scores_by_the_same_commands(model, toy_data, tmp_path):
    trained = run("train", tmp_path, toy_data, encoder=NAME, model=model)
    scored = run("test", tmp_path, toy_data, encoder=NAME, model=model, n_iters=1, supp_idx=0,
                 reload_model_path=str(trained / "snapshots/3.pth"))
    assert (scored / "scores.csv").is_file()


def test_the_threshold_and_the_prototypes_come_of_it():
    assert make_qnet(dual_path(NAME)).encode(torch.zeros(2, 3, 32, 32)).threshold.shape == (2, 1)
    assert make_adnet(single_path(NAME)).encode(torch.zeros(2, 3, 32, 32)).maps[0].shape == (2, 128, 4, 4)
