"""Training steps, loss curves and the loading of episodes against the plain procedure."""

from __future__ import annotations

import copy
import functools
import itertools
import statistics
from collections.abc import Callable

import numpy as np
import torch

from qnet.dataloaders.episodes import EpisodeDataset, TrainingVolume
from qnet.dataloaders.folds import fold_positions
from qnet.dataloaders.volumes import read_image, read_supervoxels
from qnet.models.qnet import QNet
from qnet.scripts.checks.benchmarks.bench import Bench, Measured, Result, freed_memory_handed_back
from qnet.util.base.episode import Episode
from tests.reference import qnet as reference
from tests.settings import EPISODES


def train(bench: Bench) -> Measured:
    """Make one optimiser step on an episode, and compare the loss curves of many."""
    volumes = training_volumes(bench)
    results, curves = train_steps(bench, volumes), loss_curves(bench, volumes)
    noise = max(curve_gap(curves["plain"], curve) for name, curve in curves.items() if name.startswith("plain from"))
    for name in results:
        gap = curve_gap(curves["plain"], curves[name])
        results[name].agree = bool(results[name].agree) and gap < 2 * noise
        results[name].note += f"; loss curves over {len(curves[name])} steps {gap:.1%} apart, plain ones {noise:.1%}"
    return Measured(results)


def train_steps(bench: Bench, volumes: list[TrainingVolume]) -> dict[str, Result]:
    """Make one optimiser step on an episode, in each of `Bench.train_steps`."""
    episode = next(iter(torch.utils.data.DataLoader(EpisodeDataset(volumes, 1, seed=0, **EPISODES), 1)))
    episode = episode.to(bench.device)
    results = {}
    for name, bf16 in bench.train_steps.items():
        plain_model, model = bench.model().train(), bench.model(bf16).train()
        model.to(memory_format=torch.channels_last)   # as util/training/loop.py does
        plain_step, our_step = _trainer(plain_model, _plain_loss), _trainer(model, _our_loss)
        gap, tolerance = abs(our_step(episode) / plain_step(episode) - 1), 0.02 if bf16 else 1e-4
        plain, ours = _alternate_steps(bench, functools.partial(plain_step, episode), functools.partial(our_step, episode))
        flops = 3 * 2 * bench.encoder_flops((bench.size_px, bench.size_px))   # forward and twice as much backward, two slices
        limit = flops / bench.rate(torch.bfloat16 if bf16 else torch.float32)
        note = f"the first step's losses are {gap:.1e} apart (allowed {tolerance:g})"
        results[name] = Result(plain, ours, gap < tolerance, note, limit)
    return results


def _alternate_steps(bench: Bench, plain: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float]:
    """Return the median seconds of a training step, plain and ours, each after a step that is not timed."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(1 if bench.quick else 3):
        with freed_memory_handed_back():
            plain()
            times[0].append(bench.timed(plain)[1])
        ours()
        times[1].append(bench.timed(ours)[1])
    return statistics.median(times[0]), statistics.median(times[1])


def loss_curves(bench: Bench, volumes: list[TrainingVolume], n_steps: int = 200) -> dict[str, list[float]]:
    """Return the losses of the small encoder on the same episodes, at every second pixel.

    "plain from …" starts from weights that differ by a few parts in a million. It shows the effect of rounding alone.
    """
    bench = copy.copy(bench)
    bench.encoder = "small"
    loader = torch.utils.data.DataLoader(EpisodeDataset(volumes, n_steps, seed=1, **EPISODES), 1)
    episodes = [Episode(*(tensor[..., ::2, ::2] for tensor in episode[:4])).to(bench.device) for episode in loader]

    curves = {}
    others = [(f"plain from {change:g}", False, 1 + change, _plain_loss) for change in (1e-6, -1e-6, 3e-6, -3e-6)]
    ours = [(name, bf16, 1, _our_loss) for name, bf16 in bench.train_steps.items()]
    for name, bf16, scale, loss_of in (("plain", False, 1, _plain_loss), *others, *ours):
        model = bench.model(bf16).train()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        curves[name] = [*map(_trainer(model, loss_of), episodes)]
    return curves


def curve_gap(a: list[float], b: list[float], n_steps: int = 50) -> float:
    """Return the largest relative difference of the means over stretches of `n_steps` steps, without the first stretch."""
    means = np.reshape(a, (-1, n_steps)).mean(axis=1), np.reshape(b, (-1, n_steps)).mean(axis=1)
    return float(np.abs(means[1] / means[0] - 1)[1:].max())


def _plain_loss(model: QNet, episode: Episode) -> torch.Tensor:
    return reference.episode_loss(model, episode)


def _our_loss(model: QNet, episode: Episode) -> torch.Tensor:
    return functools.reduce(torch.add, model.episode_losses(episode).values())


def _trainer(model: QNet, loss_of: Callable[[QNet, Episode], torch.Tensor]) -> Callable[[Episode], float]:
    """Return a function that makes an optimiser step on an episode and returns its loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)

    def step(episode: Episode) -> float:
        loss = loss_of(model, episode)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def training_volumes(bench: Bench) -> list[TrainingVolume]:
    """Return the volumes outside fold 0."""
    held_out = fold_positions(len(bench.cases), bench.spec.n_folds, 0)
    volumes = []
    for position, case in enumerate(bench.cases):
        if position not in held_out:
            image = read_image(case.image)
            volumes.append(TrainingVolume.of(case.name, (image - image.mean()) / image.std(), read_supervoxels(case.supervoxels)))
    return volumes


def load(bench: Bench) -> Measured:
    """Load a training episode in one process, as the mean of a row: the plain procedure draws by trial, so costs vary.

    Both use the same code for augmentation, so that makes no difference.
    """
    volumes = training_volumes(bench)
    dataset, in_a_row = EpisodeDataset(volumes, 10**6, seed=0, **EPISODES), 5 if bench.quick else 40
    raw = [np.stack(list(volume.image)) for volume in volumes], [np.stack(list(volume.classes)) for volume in volumes]
    rng, n = np.random.default_rng(0), itertools.count()
    plain, ours = bench.alternate(lambda: [reference.load_episode(*raw, rng) for _ in range(in_a_row)],
                                  lambda: [dataset[next(n)] for _ in range(in_a_row)],
                                  repeats=1 if bench.quick else 7)
    plain, ours = plain / in_a_row, ours / in_a_row
    draws = 400
    wanted = _areas(lambda k: reference.load_episode(*raw, np.random.default_rng(k)), 60)
    got = _areas(lambda k: dataset[k], draws)
    gap = abs(np.mean(wanted) - np.mean(got)) / np.sqrt(np.var(wanted) / len(wanted) + np.var(got) / len(got))
    note = f"mean area of a query mask {np.mean(wanted):.0f} and {np.mean(got):.0f} pixels, {gap:.1f} standard errors apart"
    return Measured({"load": Result(plain, ours, bool(gap < 4), note)})


def _areas(draw: Callable[[int], Episode], n: int) -> list[float]:
    return [draw(k).query_masks.sum().item() for k in range(n)]
