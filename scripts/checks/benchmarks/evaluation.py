"""Evaluation of a fold against the plain procedure: time, memory, and how the time grows."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from qnet.dataloaders.folds import parts
from qnet.dataloaders.volumes import Volume
from qnet.models.encoder import Features
from qnet.models.qnet import QNet
from qnet.scripts.checks.benchmarks.bench import LABELS, Bench, Measured, Result, freed_memory_handed_back
from qnet.util.base.tables import markdown_table
from qnet.util.engine.metrics import dice
from qnet.util.engine.protocol import segment_by_protocol
from qnet.util.engine.slice_encoder import SliceEncoder
from qnet.util.engine.task import Task
from tests.goldens import recipe
from tests.networks import make_qnet
from tests.reference import qnet as reference
from tests.toy import tasks_of, volumes_of

RECIPE_SEED, RECIPE_BIAS, RECIPE_SCALE = 90, -18.2, 0.02      # of the published implementation's scores on CHAOS


def measure(bench: Bench) -> Measured:
    """Return the times of `evaluate`, and below them memory and growth."""
    return Measured(evaluate(bench), [*memory(bench), scaling(bench)])


def evaluate(bench: Bench) -> dict[str, Result]:
    """Evaluate one fold, 4 classes, with one support and with every case as the support, in float32 and bf16."""
    volumes = bench.fold()
    every = [(support, [query for query in volumes if query is not support]) for support in volumes]
    one = every[min(2, len(every) - 1):][:1]
    model = bench.model()
    flops, rate = bench.encoder_flops(volumes[0].image.shape[1:]), bench.rate()
    results, ours = {}, {}
    for name, pairs in (("evaluate_one_support", one), ("evaluate_all_supports", every)):
        timed = ours[name] = _ours(bench, model, pairs)
        plain, agree, note = _plain(bench, model, timed.predictions)
        results[name] = Result(plain, timed.seconds, agree, f"{note}; {timed.encoder_share:.0%} of ours inside the encoder, "
                               f"{timed.n_encoded} slices", timed.n_encoded * flops / rate)
    if not bench.bf16:
        return results
    exact, fast = ours["evaluate_one_support"], _ours(bench, bench.model(bf16=True), one)
    gap = max(abs(_mean_dice(exact.predictions, label) - _mean_dice(fast.predictions, label)) for label in LABELS)
    results["evaluate_bf16"] = Result(exact.seconds, fast.seconds, gap <= 0.005, f"against ours in float32; largest gap of a "
                                      f"class's Dice {gap:.4f}", fast.n_encoded * flops / bench.rate(torch.bfloat16))
    return results


def in_bf16(bench: Bench) -> Measured:
    """Return the Dice of a fold in float32 and in bf16, one support, four classes, in the published procedure.

    The weights are those that the published implementation was scored with: drawn by a recipe, as no trained ones are at hand.
    """
    if not bench.bf16:
        return Measured({}, [f"left out: bf16; {bench.device} is slower in bf16 than in float32"])
    volumes = bench.fold()
    support = volumes[min(2, len(volumes) - 1)]
    pairs = [(support, [query for query in volumes if query is not support])]
    exact, fast = (_ours(bench, _with_recipe(bench.model(bf16)), pairs) for bf16 in (False, True))
    rows, differences = [], []
    for one, other in zip(exact.predictions, fast.predictions, strict=True):
        differences.append(other.dice - one.dice)
        rows.append([one.query.name, str(one.label), f"{one.dice:.4f}", f"{other.dice:.4f}", f"{differences[-1]:+.4f}",
                     f"{dice(one.mask, other.mask):.4f}"])
    sizes = list(map(abs, differences))
    note = (f"bf16 against float32, {len(sizes)} Dice: largest difference {max(sizes):.4f}, mean of the absolute ones "
            f"{statistics.mean(sizes):.4f}, of all {statistics.mean(differences):+.4f}")
    header = ["query", "class", "Dice, float32", "Dice, bf16", "difference", "Dice between the masks"]
    return Measured({"bf16": Result(exact.seconds, fast.seconds, None, note)}, [markdown_table(header, rows)])


def _with_recipe(model: QNet) -> QNet:
    weights = recipe(model.state_dict(), RECIPE_SEED, RECIPE_BIAS)
    weights["encoder.reduce1d.weight"] *= RECIPE_SCALE
    model.load_state_dict(weights)
    return model


@dataclass
class _Timed:
    seconds: float
    encoder_seconds: float
    n_encoded: int
    predictions: list

    @property
    def encoder_share(self) -> float:
        return self.encoder_seconds / self.seconds


def _ours(bench: Bench, model: QNet, pairs: list, labels: Sequence[int] = LABELS) -> _Timed:
    spent = _Timed(0.0, 0.0, 0, [])

    class Timed(QNet):
        def encode(self, images: torch.Tensor) -> Features:
            features, seconds = bench.timed(functools.partial(super().encode, images))
            spent.encoder_seconds += seconds
            spent.n_encoded += len(images)
            return features

    timed = make_qnet(model.encoder, Timed, alpha=model.alpha, n_iters=model.n_iters)
    tasks = tasks_of(pairs, labels)
    encoder = SliceEncoder(timed, bench.device, bench.batch_size, **volumes_of(tasks))
    spent.predictions, spent.seconds = bench.timed(
        lambda: [prediction for task in tasks for prediction in segment_by_protocol(encoder, task, 3)])
    return spent


def _plain(bench: Bench, model: QNet, ours: list) -> tuple[float, bool, str]:
    """Time the plain procedure on a sample of (class, slice) pairs, and compare its masks with ours there."""
    work = [(prediction, part, z) for prediction in ours for part in prediction.parts for z in part.query_slices]
    sample = work[::max(1, len(work) // (6 if bench.quick else 12))]
    times, overlaps = [], []
    with freed_memory_handed_back():
        for prediction, part, z in [sample[0], *sample]:
            support, query = prediction.support, prediction.query
            mask_of_support = support.label_map[part.support_slice] == prediction.label
            slices = support.image[part.support_slice], mask_of_support, query.image[z]
            mask, seconds = bench.timed(functools.partial(reference.segment_slice, model, *slices))
            times.append(seconds)
            overlaps.append(dice(mask, prediction.mask[z]))
    times = times[1:]   # the first was the warm-up
    agree = min(overlaps) > 0.99
    return (statistics.mean(times) * len(work), agree,
            f"plain: {len(times)} of {len(work)} slice segmentations, scaled; lowest Dice between the masks {min(overlaps):.4f}")


def _mean_dice(predictions: list, label: int) -> float:
    return statistics.mean(prediction.dice for prediction in predictions if prediction.label == label)


def one_query(bench: Bench) -> None:
    """Segment one query volume."""
    volumes = bench.fold()[:2]
    task = Task(volumes[1], (volumes[0],), tuple(LABELS))
    segment_by_protocol(SliceEncoder(bench.model(), bench.device, bench.batch_size, **volumes_of([task])), task, 3)


def one_query_plainly(bench: Bench) -> None:
    """Segment a few slices of one query volume by the plain procedure. Each needs the same memory."""
    volumes, model = bench.fold()[:2], bench.model()
    with freed_memory_handed_back():
        for part in parts(volumes[0].labels, volumes[1].labels, LABELS[0], 3):
            support_mask = volumes[0].labels[part.support_slice] == LABELS[0]
            query = volumes[1].image[part.query_slices[0]]
            reference.segment_slice(model, volumes[0].image[part.support_slice], support_mask, query)


def memory(bench: Bench) -> list[str]:
    """Return a line with the peak memory of evaluation by each procedure, measured in its own process."""
    plain, ours = bench.peak_mb("evaluate_plain"), bench.peak_mb("evaluate")
    if plain is None or ours is None:
        return []
    return [f"peak memory of evaluation: plain {plain:.0f} MB, ours {ours:.0f} MB ({ours / plain:.2f} of it)"]


def scaling(bench: Bench) -> str:
    """Return a table of the seconds of ours for more slices, and for more classes and supports on the same slices."""
    volumes, model, rows = bench.fold()[:3], bench.model(), []
    for n_slices in (1, 2, 4):
        cropped = [_middle(volume, n_slices) for volume in volumes]
        every = [(support, [query for query in cropped if query is not support]) for support in cropped]
        for labels, pairs in ((LABELS[:1], every[:1]), (LABELS, every[:1]), (LABELS, every)):
            timed = _ours(bench, model, pairs, labels)
            rows.append([str(n_slices), str(len(labels)), str(len(pairs)), str(timed.n_encoded), f"{timed.seconds:.1f}",
                         f"{timed.seconds / timed.n_encoded:.2f}"])
    header = ["slices a volume", "classes", "supports", "slices encoded", "seconds", "a slice encoded"]
    return "three volumes, each with every class in every slice:\n\n" + markdown_table(header, rows)


def _middle(volume: Volume, n_slices: int) -> Volume:
    """Return slices from the middle of a volume, with every class drawn as a square."""
    start = (len(volume.image) - n_slices) // 2
    label_map = volume.labels[start:start + n_slices].copy()
    for label in LABELS:
        label_map[:, 8 * label:8 * label + 6, 8:14] = label
    return Volume(volume.name, volume.image[start:start + n_slices], label_map, volume.spacing_mm)
