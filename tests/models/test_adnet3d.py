"""ADNet in 3D against plain loops, its encoder by shapes, and the Kinetics weights as their file has them."""

import nibabel
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from qnet.dataloaders.volumes import Volume
from qnet.models.adnet3d import ADNet3D
from qnet.models.encoder import Features
from qnet.models.resnext3d import StackEncoder
from qnet.util.base.episode import Episode
from qnet.util.base.errors import InputError
from qnet.util.engine.stacks import StackSegmenter
from qnet.util.engine.task import Task
from qnet.util.options.config import load_config
from qnet.util.options.sections import EvaluationOptions, ModelOptions, WholeVolumeOptions
from qnet.util.training.building import build_model, initialise
from tests.models.test_adnet import GivenFeatures
from tests.networks import THRESHOLD
from tests.programs import predict, run
from tests.reference.adnet3d import episode_losses, mean_of_cells, soft_mask
from tests.toy import toy_volume


@pytest.fixture(scope="module")
def case():
    """Features (2, C, D, h, w) and masks (2, D, H, W) of a support and a query, with foreground in some cells of each."""
    generator = torch.Generator().manual_seed(3)
    features, masks = torch.randn(2, 6, 3, 4, 5, generator=generator), torch.zeros(2, 3, 16, 20)
    masks[0, :2, 2:11, 6:15], masks[1, 1:, 4:14, 3:12] = 1, 1
    features[:, 0] += 3 * F.interpolate(masks, size=(4, 5), mode="area")
    return features, masks


def episode(masks):
    images = torch.zeros(2, 1, 3, 3, 16, 20)
    return Episode(images[:1], masks[:1, None], images[1:, 0], masks[1:])


def model_on(features):
    model = ADNet3D(GivenFeatures(features), **{**THRESHOLD, "t_loss_scaler": 2.0})
    with torch.no_grad():
        model.t.fill_(-7)
    return model


def test_head_and_losses_are_the_plain_loops(case):
    features, masks = case
    model = model_on(features)
    encoded = model.encode(torch.zeros(2, 3, 3, 16, 20))
    prototype = model.prototypes(encoded[:1], masks[:1, None])
    torch.testing.assert_close(prototype[0], mean_of_cells(features[0], masks[0]))
    probs = model.segment(encoded[1:], prototype)
    torch.testing.assert_close(probs[0, 1], soft_mask(features[1], prototype[0], -7.0, (16, 20)), rtol=1e-4, atol=1e-5)
    assert 0 < (probs[0, 1] > 0.5).sum() < probs[0, 1].numel() and torch.equal(probs[:, 0], 1 - probs[:, 1])
    losses = model.episode_losses(episode(masks))
    wanted = episode_losses(features[0], masks[0], features[1], masks[1], -7.0, THRESHOLD["background_weight"])
    assert tuple(losses) == ("query", "align", "threshold") and losses["threshold"].item() == pytest.approx(2 * -7 / 20)
    for name, value in wanted.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-4)


def test_a_prototype_by_hand():
    """Of two slices on a grid of 1×2: the mask has the corner of the second cell of one and of the first of the other."""
    features = torch.tensor([[[[[1.0, 2.0]], [[3.0, 4.0]]]]])
    masks = torch.zeros(1, 1, 2, 2, 4)
    masks[0, 0, 0, 0, 2:], masks[0, 0, 1, 0, 0], masks[0, 0, 1, 1, 2] = 1, 1, 1
    got = model_on(features).prototypes(Features((features,), None, (2, 4)), masks)
    assert got.item() == pytest.approx((2 + 3) / 2, abs=1e-4)


def test_shots_are_averaged_and_a_stack_without_foreground_has_no_alignment_loss(case):
    features, masks = case
    model = model_on(features)
    encoded = Features((features,), None, (16, 20))
    both = model.prototypes(encoded, masks[None])
    torch.testing.assert_close(both, torch.stack([model.prototypes(encoded[k:k + 1], masks[k:k + 1, None])[0]
                                                  for k in range(2)]).mean(dim=0, keepdim=True))
    with torch.no_grad():
        model.t.fill_(-30)
    losses = model.episode_losses(episode(masks))
    assert losses["align"].item() == 0 and losses["query"].item() > 0


def test_axes_are_checked(case):
    features, masks = case
    model = model_on(features)
    with pytest.raises(ValueError, match=r"support_masks: expected axes \(B S D H W\)"):
        model.prototypes(Features((features,), None, (16, 20)), masks)
    with pytest.raises(ValueError, match="features: expected N=1, D=2"):
        model.prototypes(Features((features,), None, (16, 20)), masks[:1, None, :2])
    with pytest.raises(ValueError, match=r"support_masks: expected axes \(B S D H W\)"):
        model.episode_losses(Episode(torch.zeros(1, 1, 3, 16, 20), masks[:1, :1], torch.zeros(1, 3, 16, 20), masks[1:, 0]))


def test_the_encoder_keeps_every_slice_and_an_eighth_of_the_plane():
    encoder = StackEncoder("small", bf16=False).eval()
    with torch.no_grad():
        features = encoder(torch.randn(2, 3, 5, 40, 48, generator=torch.Generator().manual_seed(0)))
        half = StackEncoder("small", bf16=True).eval()(torch.randn(1, 3, 2, 16, 16))
    assert features.maps[0].shape == (2, 64, 5, 5, 6) and features.image_size == (40, 48) and features.threshold is None
    assert half.maps[0].dtype == torch.float32
    with pytest.raises(ValueError, match=r"images: expected axes \(B C D H W\)"):
        encoder(torch.randn(2, 3, 40, 48))


def options(**changes):
    return ModelOptions.of({**load_config("adnet3d"), "precision": "float32", **changes})


def test_the_published_network_has_the_names_and_sizes_of_the_kinetics_file():
    with torch.device("meta"):
        state = build_model(options()).encoder.backbone.state_dict()
    assert state["conv1.weight"].shape == (64, 3, 7, 7, 7) and state["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1, 1)
    assert state["layer3.22.conv2.weight"].shape == (512, 16, 3, 3, 3) and state["layer4.2.bn3.running_var"].shape == (2048,)
    assert len({name.rsplit(".", 1)[0] for name in state}) == 208      # ResNeXt-101: 104 convolutions, each with a BatchNorm


def test_kinetics_weights_are_read_as_published(tmp_path):
    """A file as Hara et al. made theirs: by DataParallel, with a state_dict beside other things, and without counts."""
    source = build_model(options(encoder="small", seed=5)).encoder.backbone.state_dict()
    saved = {f"module.{name}": value for name, value in source.items() if not name.endswith("num_batches_tracked")}
    saved["module.fc.weight"] = torch.zeros(400, 2048)
    path = tmp_path / "resnext-101-kinetics.pth"
    torch.save({"arch": "resnext-101", "epoch": 1, "optimizer": {}, "state_dict": saved}, path,
               _use_new_zipfile_serialization=False)
    chosen = options(encoder="small", pretrained=str(path))
    model = build_model(chosen)
    said = initialise(model, chosen)
    assert said == f"encoder: {len(saved) - 1} of {len(source)} backbone tensors loaded from {path}"
    assert all(value.equal(source[name]) for name, value in model.encoder.backbone.state_dict().items())


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "resnext-101-kinetics.pth"
    for content in ({"state_dict": {"module.conv1.weight": torch.zeros(3)}}, {"state_dict": 5}):
        torch.save(content, path)
        chosen = options(encoder="small", pretrained=str(path))
        with pytest.raises(InputError, match="none fits encoder 'small' by name and shape"):
            initialise(build_model(chosen), chosen)


@pytest.mark.parametrize(("changes", "said"), [
    ({"encoder": "resnet101"}, "encoder: got 'resnet101', allowed with model 'adnet3d': 'resnext101_3d', 'small'"),
    ({"model": "adnet"}, "encoder: got 'resnext101_3d', allowed with model 'adnet': an encoder of slices"),
    ({"encoder": "small", "coordinates": True}, "coordinates: got true, allowed with model 'adnet3d': false")])
def test_encoders_of_slices_and_of_stacks_are_not_mixed(changes, said):
    with pytest.raises(InputError, match=said):
        build_model(options(**changes))


def test_whole_volumes_from_whole_volumes(case):
    """The query's probabilities are those of the model on all of its slices, with a prototype of all slices of the support."""
    model = build_model(options(encoder="small")).eval()
    assert isinstance(model, ADNet3D)
    with torch.no_grad():
        model.t.fill_(-16)
    support, query = toy_volume(1), toy_volume(2)
    segmenter = StackSegmenter(model, torch.device("cpu"), WholeVolumeOptions(0, 0, 0, False, 1))
    task = Task(query, (support,), (1, 4))
    (member,) = segmenter.members(task)

    def encoded(volume: Volume):
        return model.encode(torch.from_numpy(volume.image).float()[None, None].expand(1, 3, -1, -1, -1))

    with torch.no_grad():
        for label, probs in member.probs.items():
            masks = torch.from_numpy(support.label_map == label)[None, None]
            wanted = model.segment(encoded(query), model.prototypes(encoded(support), masks))
            np.testing.assert_allclose(probs, wanted[0, 1], atol=1e-6)
    assert set(member.probs) == {1, 4} and segmenter.members(task)[0] is member
    ep2 = EvaluationOptions((1, 4), "ep2", 0, 1, 1, whole_volume=True, surface_tolerance_mm=3.0)
    for prediction in segmenter.by_protocol(task, ep2):
        np.testing.assert_array_equal(prediction.mask, member.probs[prediction.label] > 0.5)
    by_part = segmenter.by_protocol(task, EvaluationOptions((1, 4), "published", 0, 3, 1, True, 3.0))
    for prediction in by_part:
        held = (query.label_map == prediction.label).any(axis=(1, 2))
        found = member.probs[prediction.label] > 0.5
        np.testing.assert_array_equal(prediction.mask, found & held[:, None, None])
        assert found[~held].any() and found[held].any() and not found.all()
    assert [prediction.label for prediction in by_part] == [1, 4]
    segmenter.release(query)
    assert segmenter.members(task)[0] is not member


@pytest.mark.whole
def test_predict_outlines_and_takes_no_spatial_prior(toy_data, tmp_path):
    trained = run("train", tmp_path, toy_data, "adnet3d", encoder="small", pretrained="none", n_steps=1)
    images = toy_data / "chaos_MR_T2_normalized"
    files = {"reload_model_path": trained / "snapshots/1.pth",
             "support_image": [str(images / f"image_{k}.nii.gz") for k in (1, 3)],
             "support_label": [str(images / f"label_{k}.nii.gz") for k in (1, 3)], "query": images / "image_2.nii.gz"}
    predict(**files, output=tmp_path / "out", augment=True)
    label_map = np.asanyarray(nibabel.load(tmp_path / "out/image_2.nii.gz").dataobj)
    assert label_map.shape == (64, 64, 8) and set(np.unique(label_map)) <= {0, 1, 2, 3, 4} and label_map.any()
    with pytest.raises(SystemExit, match="spatial_prior: got 'registration', allowed with model 'adnet3d': 'none'"):
        predict(**files, output=tmp_path / "other", spatial_prior="registration")


@pytest.mark.whole
def test_superpixels_make_no_stacks(toy_data, tmp_path):
    with pytest.raises(SystemExit, match="pseudo_labels: got 'superpixels', which lie in one slice; allowed with a model"):
        run("train", tmp_path, toy_data, "adnet3d", encoder="small", pretrained="none", pseudo_labels="superpixels")
