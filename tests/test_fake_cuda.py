"""No tensor is left on the CPU: whatever a method does runs on a CUDA device that is made believe (tests/fake_cuda.py)."""

import copy
from unittest import mock

import numpy as np
import pytest
import torch

from qnet.dataloaders.volumes import Volume
from qnet.models.base import FewShotModel
from qnet.models.carrying import heard
from qnet.models.encoder import Features
from qnet.models.guided import Trial
from qnet.models.lowshot_unet import LowShotUNet, augmented
from qnet.models.qnet import QNet, SupportThresholdQNet
from qnet.models.settings import UNetSettings
from qnet.models.student import Slicing, Training, lessons_of, loss_of, tried
from qnet.models.student import probabilities as student_probabilities
from qnet.models.volume import STUDENT, Voice
from qnet.util.base.device import resolve_device
from qnet.util.base.episode import Episode
from qnet.util.engine.protocol import segment_by_protocol
from qnet.util.engine.segmenters import VolumeSegmenter
from qnet.util.engine.slice_encoder import SliceEncoder
from qnet.util.engine.stacks import StackSegmenter
from qnet.util.engine.student import StudentSegmenter
from qnet.util.engine.task import Task
from qnet.util.engine.whole_volume import probabilities
from qnet.util.options.config import load_config
from qnet.util.options.record import Record
from qnet.util.options.sections import ModelOptions, TrainOptions, WholeVolumeOptions
from qnet.util.training.building import build_model
from qnet.util.training.loop import Trainer
from tests.fake_cuda import FakeCuda, fake_cuda
from tests.networks import LOSSES
from tests.programs import TINY
from tests.toy import thin_volume, toy_case

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there; tests/test_cuda.py uses it")

VARIANTS = {"qnet": {}, "learned threshold": {"threshold": "learned"}, "threshold of the support": {"threshold": "support"},
            "fine path": {"encoder_paths": "fine"}, "coordinates": {"coordinates": True}, "adnet": {"model": "adnet"},
            "alpnet": {"model": "alpnet"}, "panet": {"model": "panet"}}
IN_3D = {"adnet3d": {"model": "adnet3d"}}
FORMS = {**VARIANTS, **IN_3D}


def config_of(variant):
    return {**load_config(), **TINY, "n_iters": 2, **FORMS[variant]}


def model_of(variant):
    """With a threshold that leaves part of the image as foreground."""
    model = build_model(ModelOptions.of(config_of(variant)))
    if isinstance(model, SupportThresholdQNet):
        model.N_CANDIDATES = 3
    with torch.no_grad():
        if getattr(model.encoder, "reduce1d", None) is not None:
            model.encoder.reduce1d.bias.fill_(-18)
    return model


def episode(variant):
    depth = (2,) if variant in IN_3D else ()
    generator = torch.Generator().manual_seed(1)
    images, masks = torch.randn(4, 1, 3, *depth, 32, 32, generator=generator), torch.zeros(4, 1, *depth, 32, 32)
    masks[..., 8:24, 8:24] = 1
    return Episode(images[:2], masks[:2], images[2:, 0], masks[2:, 0])


def volume(number):
    """Four slices, for the operations on what is made believe take their time."""
    image, label_map, _ = (array[2:6] for array in toy_case(number))
    return Volume(str(number), (image - image.mean()) / image.std(), label_map, (7.7, 2.0, 2.0))


def assert_close(cpu, cuda):
    assert isinstance(cuda, FakeCuda) and cuda.device.type == "cuda"
    torch.testing.assert_close(cuda.cpu(), cpu, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", FORMS)
def test_losses(variant):
    model = model_of(variant).train()
    wanted = copy.deepcopy(model)(episode(variant))
    with fake_cuda() as device:
        got = model.to(device)(episode(variant).to(device))
        for name in model.loss_names:
            assert_close(wanted[name].detach(), got[name].detach())


@pytest.mark.whole
@pytest.mark.parametrize("variant", FORMS)
def test_a_training_step_but_for_its_backward_pass(variant):
    with fake_cuda() as device:
        trainer = Trainer(model_of(variant), TrainOptions.of(config_of(variant)), device, Record(config_of(variant)))
        parameters = list(trainer.model.parameters())
        before = parameters[0].detach().cpu().clone()

        def backward(loss):
            assert loss.device == device
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)

        with mock.patch.object(torch.Tensor, "backward", backward):
            assert trainer.advance(episode(variant)) is None
        assert trainer.history[0].cpu().isfinite().all() and not torch.equal(parameters[0].detach().cpu(), before)
        assert trainer.add_log_entry()["step"] == 1


def task(*labels):
    return Task(volume(2), (volume(1),), labels)


@pytest.mark.whole
@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluation_by_the_protocol(variant):
    def masks(device):
        encoder = SliceEncoder(model_of(variant), device, 3)
        return [prediction.mask for prediction in segment_by_protocol(encoder, task(1, 4), n_part=3)]

    wanted = masks(torch.device("cpu"))
    with fake_cuda() as device:
        got = masks(device)
    assert len(got) == 2 and np.mean(np.stack(wanted) != np.stack(got)) < 1e-3


@pytest.mark.whole
@pytest.mark.parametrize("variant", VARIANTS)
def test_whole_volumes(variant):
    options = WholeVolumeOptions(slice_margin=1, location_mm=20, smooth_z=0.5, largest_component=True, eval_batch_size=3)

    def of_classes(device):
        encoder = SliceEncoder(model_of(variant), device, 3, whole=True)
        ((_, probs),) = probabilities(encoder, task(1, 4), options)
        return list(probs.values())

    wanted = of_classes(torch.device("cpu"))
    with fake_cuda() as device:
        got = of_classes(device)
    assert len(got) == 2
    np.testing.assert_allclose(np.stack(got), np.stack(wanted), atol=1e-3)


@pytest.mark.whole
@pytest.mark.parametrize("variant", IN_3D)
def test_whole_volumes_in_3d(variant):
    def of_classes(device):
        segmenter = StackSegmenter(model_of(variant), device, WholeVolumeOptions(0, 0, 0, False, 1))
        (member,) = segmenter.members(task(1, 4))
        return list(member.probs.values())

    wanted = of_classes(torch.device("cpu"))
    with fake_cuda() as device:
        got = of_classes(device)
    assert len(got) == 2
    np.testing.assert_allclose(np.stack(got), np.stack(wanted), atol=1e-4)


@pytest.mark.whole
@pytest.mark.parametrize("name", [pytest.param("registration", marks=pytest.mark.slow), "guided"])     # guided registers, too
def test_whole_volumes_without_training(name):
    def of_classes(device):
        options = {**load_config(), "model": name}
        options["registration"] = {**options["registration"], "finest": 3.0, "n_steps": 0}     # no backward pass
        segmenter = VolumeSegmenter(build_model(ModelOptions.of(options)), device, WholeVolumeOptions(0, 0, 0, False, 1))
        pair = Task(thin_volume(2), (thin_volume(1),), (1, 4))
        (member,) = segmenter.members(pair)
        return list(member.probs.values()), list(member.confidence.values())

    wanted, confidence = of_classes(torch.device("cpu"))
    with fake_cuda() as device:
        got, on_device = of_classes(device)
    np.testing.assert_allclose(np.stack(got), np.stack(wanted), atol=2e-2)
    np.testing.assert_allclose(on_device, confidence, atol=1e-2)


def test_the_device_is_chosen():
    with fake_cuda() as device:
        assert resolve_device("auto").type == "cuda" and resolve_device("cuda:0") == device



class Planted(FewShotModel):
    """A tensor that is made in `segment` stays on the CPU."""

    def prototypes(self, support_features, support_masks):
        return support_features.maps[0].mean((2, 3))

    def segment(self, query_features, prototypes):
        return query_features.maps[0][:, :2] * torch.linspace(0, 1, 2)[:, None, None]


def test_planted_mistakes_are_caught():
    features = Features((torch.ones(1, 4, 8, 8),), None, (8, 8))
    model = Planted(torch.nn.Identity(), **LOSSES).eval()
    assert model.segment(features, None).shape == (1, 2, 8, 8)
    with fake_cuda() as device:
        on_device = Features((features.maps[0].to(device),), None, (8, 8))
        with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
            model.segment(on_device, None)
        with pytest.raises(TypeError, match="numpy"):
            on_device.maps[0].numpy()
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(on_device.maps[0])
        with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
            torch.stack([on_device.maps[0], features.maps[0]])
        with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
            torch.zeros(4, 8, 8).mul_(on_device.maps[0][0])
        with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
            torch.zeros(8, device=device)[:3] + torch.zeros(3)


@pytest.mark.whole
def test_a_mistake_planted_into_q_net_is_caught():
    class Mistaken(QNet):
        def prototypes(self, support_features, support_masks):
            return tuple(p + torch.zeros(p.shape[-1]) for p in super().prototypes(support_features, support_masks))

    model = model_of("qnet")
    model.__class__ = Mistaken
    with fake_cuda() as device:
        encoder = SliceEncoder(model, device, 3)
        with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
            segment_by_protocol(encoder, task(1), n_part=1)


@pytest.mark.whole
def test_a_unet_that_is_trained_on_the_outlined_scan():
    support, settings = thin_volume(1), UNetSettings(0, 2, 0.1)
    image, classes = torch.from_numpy(support.image[2:6]).float(), torch.from_numpy(support.label_map[2:6]).long()
    on_cpu = LowShotUNet(settings, 0, torch.device("cpu"))
    wanted = on_cpu.probabilities(on_cpu.trained(image, classes, 4), image)
    expected = augmented(image[:, None], classes, torch.Generator().manual_seed(0))
    with fake_cuda() as device:
        model = LowShotUNet(settings, 0, device)
        torch.testing.assert_close(model.probabilities(model.trained(image, classes, 4), image), wanted, rtol=1e-4, atol=1e-4)
        slices, target = augmented(image.to(device)[:, None], classes.to(device), torch.Generator().manual_seed(0))
        assert_close(expected[0], slices)
        assert torch.equal(target.cpu(), expected[1])


@pytest.mark.whole
def test_a_student_of_guided():
    """All but the backward pass: what it learns from, what it finds, and how it is tried."""
    options = {**load_config("student"), "student": {"n_steps": 3, "batch_size": 2, "lr": 0.1, "share": 0.5}}
    options["registration"] = {**options["registration"], "finest": 3.0, "n_steps": 0}
    settings = ModelOptions.of(options)

    def of_device(device):
        whole = WholeVolumeOptions(0, 0, 0, False, 1)
        segmenter = StudentSegmenter(build_model(settings), settings.student, 0, device, whole, None)
        outlined, stone = thin_volume(1), thin_volume(2)
        support, found = segmenter._support(outlined), segmenter._on_stone(stone, outlined)
        assert support is not None and found is not None
        slicing = Slicing.of(support)
        training = Training(lessons_of(support, [found], slicing), settings.student, 0)
        slices, target, weights = training._batch()
        loss = loss_of(training.network(slices), target, weights)
        probs = student_probabilities(training.network, slicing, support.scan, support.around, 4)
        trials = tried(segmenter.model, support, probs, 0.5)
        voice = Voice((255 * probs).byte(), [[Trial(1.0, {STUDENT: 1.0})]] * len(probs), 0.5)
        mixed, _ = heard([voice], torch.zeros_like(probs), ("",) * len(probs), torch.ones(len(probs)))
        before = torch.tensor([trial.before for trial in trials[0]])
        return [lesson.slices for lesson in training.lessons], loss.detach(), probs, before, mixed

    slices, loss, *wanted = of_device(torch.device("cpu"))
    with fake_cuda() as device:
        on_device, of_fake, *got = of_device(device)
        for one, other in zip(slices, on_device, strict=True):
            assert (one - other.cpu()).abs().mean() < 0.05      # registrations that end a little elsewhere
        assert abs(float(loss) - float(of_fake)) < 0.1
        for one, other in zip(wanted, got, strict=True):
            torch.testing.assert_close(other.cpu(), one, rtol=0.05, atol=0.05)
