"""TPM: its head against ADNet and plain formulas, its priors against what they promise."""

from dataclasses import replace

import pytest
import torch

from qnet.models.mixture import fit_mixture, mixture_logits
from qnet.models.tpm import Informed, PriorStatistics, QNetTPM, cues_of, ideal_logit
from tests.models.given import GivenFeatures, given_case
from tests.networks import QNET, make_adnet, make_qnet, make_tpm
from tests.reference.newer_methods import mixture_probability


def models(threshold=-7.0, **options):
    """ADNet and TPM of one threshold on the same features, with the episode."""
    features, episode = given_case()
    adnet, tpm = make_adnet(GivenFeatures(features), t_loss_scaler=0), make_tpm(GivenFeatures(features), **options)
    distance = torch.tensor(2 * (1 + threshold / 20)).sqrt()
    with torch.no_grad():
        adnet.t.fill_(threshold)
        tpm.t.copy_(distance.expm1().log())
    return adnet, tpm, features, episode


def encoded(model, episode):
    features = model.encode(torch.cat([episode.support_images.flatten(0, 1), episode.query_images]))
    n = episode.support_masks.shape[:2].numel()
    positions = None if episode.query_positions is None else episode.query_positions[:, None]
    return features[:n], replace(features[n:], positions=positions)


def test_with_one_prototype_and_no_prior_it_is_adnet():
    adnet, tpm, _, episode = models()
    assert make_tpm(GivenFeatures(torch.zeros(1, 6, 8, 8))).learned_threshold().item() == pytest.approx(-10)
    for name, loss in adnet.episode_losses(episode).items():
        assert tpm.episode_losses(episode)[name].item() == pytest.approx(loss.item(), rel=1e-4)
    outputs = []
    for model in (adnet.eval(), tpm.eval()):
        support, query = encoded(model, episode)
        outputs.append(model.segment(query, model.prototypes(support, episode.support_masks)))
    assert torch.allclose(*outputs, atol=1e-5)


@pytest.mark.parametrize("prior", [0.5, 0.1])
def test_a_mixture_is_the_formula_with_two_widths(prior):
    generator = torch.Generator().manual_seed(0)
    features, means = torch.randn(1, 6, 4, 4, generator=generator), torch.randn(1, 3, 6, generator=generator)
    shares = torch.tensor([[0.2, 0.3, 0.5]])
    logits = mixture_logits(features, means, shares, torch.tensor([[-8.0]]))[0] + torch.tensor(prior).logit()
    want = mixture_probability(features[0], means[0], shares[0], -8.0, prior)
    assert torch.allclose(logits.sigmoid().double(), want, atol=1e-5)


def test_the_mixture_finds_clusters_and_their_shares():
    generator = torch.Generator().manual_seed(1)
    centres = torch.nn.functional.normalize(torch.randn(2, 16, generator=generator), dim=1)
    cells = torch.cat([centres[k] + 0.02 * torch.randn(n, 16, generator=generator) for k, n in ((0, 60), (1, 20))])
    ignored = torch.randn(40, 16, generator=generator)
    means, shares = fit_mixture(torch.cat([cells, ignored]).T[None], torch.cat([torch.ones(80), torch.zeros(40)])[None], 2)
    order = shares[0].argsort(descending=True)
    assert shares[0][order].tolist() == pytest.approx([0.75, 0.25], abs=0.02)
    assert torch.nn.functional.cosine_similarity(means[0][order], centres, dim=1).min() > 0.99


def test_several_prototypes_and_an_empty_mask():
    _, tpm, _, episode = models(n_prototypes=5)
    losses = tpm.episode_losses(episode)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and tpm.t.grad.isfinite().all()
    support, query = encoded(tpm, episode)
    means, shares = tpm.of_support(support, episode.support_masks)
    assert means.shape == (1, 5, 6) and shares.sum().item() == pytest.approx(1)
    empty = tpm.prototypes(support, torch.zeros_like(episode.support_masks))
    assert tpm.eval().segment(query, empty).isfinite().all()


@pytest.mark.parametrize("n_prototypes", [1, 5])
@pytest.mark.parametrize("n_pixels", [1, 50, 400])
def test_an_oracle_marks_as_many_cells_as_it_is_told(n_prototypes, n_pixels):
    _, tpm, _features, episode = models(n_prototypes=n_prototypes, class_prior="oracle")
    support, query = encoded(tpm.eval(), episode)
    prototypes = tpm.prototypes(support, episode.support_masks)
    with pytest.raises(ValueError, match="expected n_pixels for class prior 'oracle'"):
        tpm.segment(query, prototypes)
    wide, = (torch.nn.functional.interpolate(logits[None], size=(32, 32), mode="bilinear", align_corners=True)[0]
             for logits in tpm.path_logits(query, prototypes.of_head))
    assert ((wide + ideal_logit(wide, torch.tensor([n_pixels]))) > 0).sum() == n_pixels
    told = tpm.segment(query, tpm.told(prototypes, n_pixels))[0, 1]
    assert abs((told > 0.5).sum().item() - n_pixels) < 80      # P is upsampled, not its logit; π ends at 0.001 and 0.999


def test_average_and_linear_follow_from_the_episodes():
    statistics = PriorStatistics()
    assert statistics.mean_logit() == 0 and statistics.regression(torch.ones(2, 3)).tolist() == [0, 0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        cues = torch.cat([torch.ones(2, 1), torch.rand(2, 2, generator=generator)], dim=1)
        statistics.update(cues, cues @ torch.tensor([-3.0, 2.0, 10.0]), torch.ones(2))
    statistics.update(torch.zeros(0, 3), torch.zeros(0), torch.zeros(0))
    assert statistics.regression(torch.tensor([[1, 0.2, 0.3]])).item() == pytest.approx(-3 + 0.4 + 3, abs=1e-4)
    assert statistics.mean_threshold().item() == pytest.approx(-10)
    statistics = PriorStatistics()
    for logit in (-2.0, -1.0):
        statistics.update(torch.ones(1, 3), torch.tensor([logit]), torch.ones(1))
    assert statistics.mean_logit().item() == pytest.approx(-1.5, abs=1e-3)      # later episodes count a little more


def test_training_watches_the_ideal_prior_and_leaves_the_losses_alone():
    _, tpm, _, episode = models(class_prior="average")
    before = tpm.episode_losses(episode)
    for _ in range(3):
        after = tpm.episode_losses(episode)
    assert {name: loss.item() for name, loss in before.items()} == {name: loss.item() for name, loss in after.items()}
    support, query = encoded(tpm.eval(), episode)
    prototypes = tpm.prototypes(support, episode.support_masks)
    truth = int(episode.query_masks.sum())
    ideal = ideal_logit(torch.nn.functional.interpolate(tpm.path_logits(query, prototypes.of_head)[0][None], size=(32, 32),
                                                        mode="bilinear", align_corners=True)[0], torch.tensor([truth]))
    assert tpm.statistics.mean_logit().item() == pytest.approx(ideal.item(), abs=1e-4)
    by_average = tpm.segment(query, prototypes)
    tpm.class_prior = "oracle"
    assert torch.allclose(by_average, tpm.segment(query, tpm.told(prototypes, truth)), atol=1e-4)      # one episode, ever again
    assert cues_of(query, prototypes.areas)[0].tolist() == pytest.approx(
        [1, (episode.query_positions.item() - 0.5) ** 2, episode.support_masks.mean().item()])


def test_a_slice_without_a_place_has_no_linear_prior():
    _, tpm, _, episode = models(class_prior="linear")
    tpm.episode_losses(episode._replace(query_positions=None))
    assert tpm.statistics.moments.abs().sum() == 0                     # such an episode is not counted
    support, query = encoded(tpm.eval(), episode._replace(query_positions=None))
    with pytest.raises(ValueError, match="expected the positions of the slices"):
        tpm.segment(query, tpm.prototypes(support, episode.support_masks))


def test_qnet_without_a_prior_is_qnet_and_its_prior_moves_the_threshold():
    features, episode = given_case()
    encoder = GivenFeatures(features, torch.full((2, 1), -7.0))
    qnet = make_qnet(encoder, alpha=[1.0], n_iters=3)
    prior = QNetTPM(encoder, **{**QNET, "alpha": [1.0], "n_iters": 3}, class_prior="none")
    for name, loss in qnet.episode_losses(episode).items():
        assert prior.episode_losses(episode)[name].item() == pytest.approx(loss.item(), rel=1e-5)
    support, query = encoded(qnet.eval(), episode)
    prototypes = prior.eval().prototypes(support, episode.support_masks)
    assert torch.allclose(qnet.segment(query, prototypes.of_head), prior.segment(query, prototypes), atol=1e-6)
    prior.n_iters = qnet.n_iters = 0
    prior.class_prior = "average"
    shift = prior.statistics.mean_logit().item()
    moved = replace(query, threshold=query.threshold + 2 * shift)
    assert shift != 0 and torch.allclose(qnet.segment(moved, prototypes.of_head), prior.segment(query, prototypes), atol=1e-5)


def test_many_prototypes_of_one_slice_are_those_one_by_one():
    for model in (models(class_prior="average")[1], models(n_prototypes=3, class_prior="linear")[1]):
        _, _, _, episode = models()
        model.episode_losses(episode)
        support, query = encoded(model.eval(), episode)
        several = [model.prototypes(support, mask) for mask in (episode.support_masks, 1 - episode.support_masks)]
        assert isinstance(several[0], Informed)
        together = model.segment_each(query, several)
        assert torch.allclose(together, torch.cat([model.segment(query, one) for one in several]), atol=1e-6)
