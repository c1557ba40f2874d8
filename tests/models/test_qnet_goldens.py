"""Q-Net against the numbers of the published implementation, on real slices."""

import copy

import numpy as np
import pytest
import torch

from qnet.dataloaders.nifti import read_array
from qnet.dataloaders.volumes import normalise, read_image
from qnet.models.prototypes import foreground_probability, fuse
from qnet.models.refinement import refine
from qnet.util.base.device import set_up_process
from qnet.util.base.episode import Episode
from tests.goldens import CHAOST2, GOLDENS, needs_chaost2, needs_goldens, recipe
from tests.networks import dual_path, make_qnet

pytestmark = [needs_goldens, needs_chaost2, pytest.mark.whole]


@pytest.fixture(scope="module", params=["liver", pytest.param("kidney", marks=pytest.mark.slow)])
def golden(request):
    return dict(np.load(GOLDENS / f"qnet_chaos_{request.param}.npz"))


@pytest.fixture(scope="module")
def model(golden):
    model = make_qnet(dual_path("resnet101"), alpha=(0.9, 0.1))
    model.load_state_dict(recipe(model.state_dict(), int(golden["weight_seed"]), float(golden["threshold_bias"])))
    set_up_process(torch.device("cpu"))
    return model.eval()


def slice_of(case: int, z: int) -> tuple[torch.Tensor, torch.Tensor]:
    folder = CHAOST2 / "chaos_MR_T2_normalized"
    image = normalise(read_image(folder / f"image_{case}.nii.gz"))[z]
    return torch.from_numpy(image).expand(3, -1, -1), torch.from_numpy(read_array(folder / f"label_{case}.nii.gz")[z])


@pytest.fixture(scope="module")
def episode(golden):
    (support, support_labels), (query, query_labels) = (slice_of(*golden[role]) for role in ("support", "query"))
    support_mask, query_mask = ((labels == int(golden["label"])).float() for labels in (support_labels, query_labels))
    assert support_mask.sum() == golden["support_pixels"] and query_mask.sum() == golden["query_pixels"]
    return Episode(support_images=support[None, None], support_masks=support_mask[None, None],
                           query_images=query[None], query_masks=query_mask[None])


def assert_relative(got: torch.Tensor, want: np.ndarray, tolerance: float) -> None:
    got = got.detach().numpy()
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


@pytest.fixture(scope="module")
def features(model, episode):
    with torch.no_grad():
        return model.encode(torch.cat([episode.support_images[0], episode.query_images]))


def test_encoder(golden, features):
    assert_relative(features.threshold, golden["threshold"], 1e-4)
    assert_relative(features.maps[0][0, ::16, ::8, ::8], golden["feat64_support_sub"], 1e-4)
    assert_relative(features.maps[1][1, ::16, ::4, ::4], golden["feat32_query_sub"], 1e-4)


def test_prototypes_refinement_and_fusion(golden, model, features, episode):
    prototypes = model.prototypes(features[:1], episode.support_masks)
    query = features[1:]
    assert_relative(prototypes[0], golden["prototype64"], 1e-4)
    assert_relative(prototypes[1], golden["prototype32"], 1e-4)
    for n_iters in (0, 1, 7):
        refined = [refine(maps, p, query.threshold, n_iters) for maps, p in zip(query.maps, prototypes, strict=True)]
        if n_iters == 7:
            assert_relative(refined[0], golden["refined_prototype64"], 1e-4)
            assert_relative(refined[1], golden["refined_prototype32"], 1e-4)
        probs = [foreground_probability(maps, p, query.threshold) for maps, p in zip(query.maps, refined, strict=True)]
        for tenths, alpha in ((9, (0.9, 0.1)), (6, (0.6, 0.4))):
            got = fuse(probs, alpha, query.image_size)[0, 1].numpy()
            assert np.abs(got - golden[f"prob_alpha{tenths}_iters{n_iters}"]).max() <= 1e-3


@pytest.mark.parametrize(("golden", "n_steps"), [
    ("liver", 1), *(pytest.param(golden, 3, marks=pytest.mark.slow) for golden in ("liver", "kidney"))],
                         indirect=["golden"], scope="module")
def test_training_steps_and_their_probabilities(golden, n_steps, model, episode):
    model, encoded = copy.deepcopy(model).train(), []
    model.encoder.register_forward_hook(lambda *given: encoded.append(given[-1]))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    for step in range(n_steps):
        losses = model.episode_losses(episode)
        tolerance = 1e-3 if step == 0 else 1e-2
        assert losses["query"].item() == pytest.approx(golden["query_losses"][step], rel=tolerance)
        assert losses["align"].item() == pytest.approx(golden["align_losses"][step], rel=tolerance)
        if step == 0:
            with torch.no_grad():
                probs = model.segment(encoded[0][1:], model.prototypes(encoded[0][:1], episode.support_masks))
            assert np.abs(probs[0, 1].numpy() - golden["train_prob"]).max() <= 1e-3
        optimizer.zero_grad()
        sum(losses.values()).backward()
        if step == 0:
            parameters = dict(model.named_parameters())
            for name, norm in zip(golden["grad_names"], golden["grad_norms"], strict=True):
                assert parameters[name].grad.norm().item() == pytest.approx(norm, rel=1e-3), name
        optimizer.step()
    if n_steps == 3:
        assert_relative(model.encoder.backbone.bn1.running_mean, golden["bn1_running_mean_after"], 1e-2)
