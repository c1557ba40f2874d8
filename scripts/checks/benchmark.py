"""Time the published procedure, written plainly (tests/reference/qnet.py), and ours, in the same run.

    python scripts/checks/benchmark.py                         # every part, ResNet-101, 256×256: about an hour on two cores
    python scripts/checks/benchmark.py head load --json out.json
    python scripts/checks/benchmark.py all --quick             # small encoder: minutes, a test that everything runs
    python scripts/checks/benchmark.py evaluate --data-dir data/CHAOST2

Each part alternates plain and ours after a warm-up, takes medians, checks that both give the same numbers, and prints the ratio.
The plain evaluation and training step run with the C library's default memory management, ours with the settings of
`util/base/device.py`.
Evaluation uses fold 0 of CHAOST2 in --data-dir, or phantom volumes of the same size. The plain evaluation is timed on slices
spread evenly over the fold and scaled to all of them. Each costs the same, and all would take hours.

bf16 is left out, with a line, where it is slower than float32 (`bf16_is_fast` of util/base/device.py).
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import functools
import itertools
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from data.phantom import VERSION, generate_phantom
from data.supervoxels.felzenszwalb import segment_volume
from dataloaders.datasets import Case, DatasetSpec, find_cases
from dataloaders.episodes import EpisodeDataset, TrainingVolume
from dataloaders.folds import fold_positions, parts
from dataloaders.volumes import Volume, read_image, read_supervoxels, read_volume
from models.encoder import DUAL_PATH_CHANNELS, Features, build_encoder
from models.qnet import QNet
from tests.reference import qnet as reference
from tests.reference import supervoxels as reference_supervoxels
from tests.toy import tasks_of
from util.base.device import (
    M_MMAP_MAX,
    M_MMAP_THRESHOLD,
    M_TOP_PAD,
    M_TRIM_THRESHOLD,
    bf16_is_fast,
    keep_freed_memory,
    mallopt,
    resolve_device,
)
from util.base.episode import Episode
from util.base.files import write_text
from util.base.guard import OVERWRITE_HELP, claim
from util.base.tables import format_table
from util.options.config import load_config
from util.options.sections import dataset_spec
from util.run.experiment import one_line_errors
from util.segment.metrics import dice
from util.segment.protocol import segment_by_protocol
from util.segment.slice_encoder import SliceEncoder
from util.segment.task import Task

T = TypeVar("T")
LABELS = [1, 2, 3, 4]
ALPHA = (0.9, 0.1)


@dataclass
class Result:
    """Median seconds of the same work, and whether both gave the same numbers. `note` says what was compared."""

    plain_seconds: float
    ours_seconds: float
    agree: bool
    note: str
    limit_seconds: float | None = None    # of the encoder's arithmetic at the machine's rate

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.plain_seconds / self.ours_seconds


class Bench:
    """What the parts share: data, weights, device, and the machine's rate."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.quick, self.device = options.quick, resolve_device(options.device)
        self.encoder = "small" if options.quick else options.encoder
        self.spec, self.cases = self._cases(options.data_dir, folder)
        self.repeats, self.batch_size = 2, 8 if self.device.type == "cuda" else 2
        self.bf16 = bf16_is_fast(self.device)     # without instructions for it a large product takes minutes

    @property
    def train_steps(self) -> dict[str, bool]:
        """The name of each training step that is timed, and whether it is in bf16."""
        return {"train_step": False} | ({"train_step_bf16": True} if self.bf16 else {})

    def _cases(self, data_dir: Path | None, folder: Path) -> tuple[DatasetSpec, list[Case]]:
        name, n_sv = ("CHAOST2", 5000) if data_dir else ("PHANTOM", 1000)
        if data_dir is None:
            size = {"cases": 6, "size": 96, "slices": 12} if self.quick else {"cases": 20, "size": 256, "slices": 36}
            generate_phantom(folder / "phantom", {"version": VERSION, "seed": 0, "min_size": n_sv, **size})
            data_dir = folder / "phantom"
        self.data_dir = data_dir
        spec = dataset_spec(name, load_config()["datasets"][name])
        return spec, find_cases(spec, data_dir, n_sv)

    def model(self, bf16: bool = False) -> QNet:
        """Return a model with the same random weights each time. Its threshold leaves part of the image as foreground."""
        torch.manual_seed(0)
        model = QNet(build_encoder(self.encoder, bf16), ALPHA).to(self.device).eval()
        assert model.encoder.reduce1d is not None
        with torch.no_grad():
            model.encoder.reduce1d.weight.mul_(0.02)
            model.encoder.reduce1d.bias.fill_(-18)
        return model

    def fold(self) -> list[Volume]:
        """Return the volumes of fold 0."""
        return [read_volume(self.cases[k], self.spec) for k in fold_positions(len(self.cases), self.spec.n_folds, 0)]

    def encoder_flops(self, shape: tuple[int, ...]) -> int:
        """Return the floating-point operations of encoding one slice of shape (H, W)."""
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            self.model().encode(torch.zeros(1, 3, *shape, device=self.device))
        return counter.get_total_flops()

    def rate(self, dtype: torch.dtype = torch.float32) -> float:
        """Return the floating-point operations per second of a large matrix product or a convolution, whichever has more."""
        side, n_images, repeats = (512, 1, 3) if self.quick else (2048, 4, 15)
        matrix = torch.randn(side, side, device=self.device).to(dtype)
        images, weights = (torch.randn(size, device=self.device).to(dtype, memory_format=torch.channels_last)
                           for size in ((n_images, 256, 64, 64), (256, 256, 3, 3)))
        with torch.inference_mode():
            product, convolution = self.alternate(lambda: matrix @ matrix, lambda: F.conv2d(images, weights, padding=1),
                                                  repeats=repeats)
        return max(2 * side**3 / product, 2 * images.numel() * 256 * 9 / convolution)

    def describe_rates(self) -> str:
        """Say how fast the machine is in float32 and in bf16, or that it has no bf16."""
        rates = f"a large matrix product or convolution runs at {self.rate() / 1e9:.0f} Gflop/s in float32"
        if self.bf16:
            return f"{rates}, {self.rate(torch.bfloat16) / 1e9:.0f} in bf16"
        return f"{rates}\nleft out: evaluate_bf16, train_step_bf16; {self.device} is slower in bf16 than in float32"

    def alternate(self, *functions: Callable[[], object], repeats: int = 5) -> list[float]:
        """Return the median seconds of each function. They are called in turn after a warm-up."""
        times: list[list[float]] = [[] for _ in functions]
        for function in functions:
            function()
        for _ in range(repeats):
            for function, taken in zip(functions, times, strict=True):
                taken.append(self.timed(function)[1])
        return [statistics.median(taken) for taken in times]

    def timed(self, function: Callable[[], T]) -> tuple[T, float]:
        """Return the function's result and the seconds that it took."""
        self._wait()
        start = time.perf_counter()
        result = function()
        self._wait()
        return result, time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@contextmanager
def freed_memory_handed_back() -> Iterator[None]:
    """Restore the C library's defaults for the plain procedure. The values are those that glibc reaches with large arrays."""
    if mallopt({M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 64 * 2**20, M_TOP_PAD: 0}):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        yield
    finally:
        keep_freed_memory()


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
        plain, agree, note = _plain(bench, model, pairs, timed.predictions)
        results[name] = Result(plain, timed.seconds, agree, f"{note}; {timed.encoder_share:.0%} of ours inside the encoder, "
                               f"{timed.n_encoded} slices", timed.n_encoded * flops / rate)
    if not bench.bf16:
        return results
    exact, fast = ours["evaluate_one_support"], _ours(bench, bench.model(bf16=True), one)
    gap = max(abs(_mean_dice(exact.predictions, label) - _mean_dice(fast.predictions, label)) for label in LABELS)
    results["evaluate_bf16"] = Result(exact.seconds, fast.seconds, gap <= 0.005, f"against ours in float32; largest gap of a "
                                      f"class's Dice {gap:.4f}", fast.n_encoded * flops / bench.rate(torch.bfloat16))
    return results


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

    timed = Timed(model.encoder, model.alpha, model.n_iters)
    tasks = tasks_of(pairs, labels)
    encoder = SliceEncoder(timed, bench.device, bench.batch_size, tasks=tasks)
    spent.predictions, spent.seconds = bench.timed(
        lambda: [prediction for task in tasks for prediction in segment_by_protocol(encoder, task, 3)])
    return spent


def _plain(bench: Bench, model: QNet, pairs: list, ours: list) -> tuple[float, bool, str]:
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


def peak_megabytes(bench: Bench, procedure: str) -> float:
    """Return the peak memory in MB of segmenting one query volume by one procedure (the plain one: a few of its slices)."""
    volumes = bench.fold()[:2]
    if procedure == "ours":
        task = Task(volumes[1], (volumes[0],), tuple(LABELS))
        segment_by_protocol(SliceEncoder(bench.model(), bench.device, bench.batch_size, tasks=[task]), task, 3)
    else:
        model = bench.model()
        with freed_memory_handed_back():
            for part in parts(volumes[0].labels, volumes[1].labels, LABELS[0], 3):
                support_mask = volumes[0].labels[part.support_slice] == LABELS[0]
                query = volumes[1].image[part.query_slices[0]]
                reference.segment_slice(model, volumes[0].image[part.support_slice], support_mask, query)
    if bench.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    # getrusage would give the peak of the parent process if that is larger
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024


def memory(bench: Bench) -> str:
    """Return a line with the peak memory of evaluation by each procedure, measured in its own process."""
    def child(procedure: str) -> float:
        arguments = ["--encoder", bench.encoder, "--device", str(bench.device), "--data-dir", str(bench.data_dir),
                     "--peak-of", procedure]
        done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, encoding="utf-8", check=True)
        return float(done.stdout.split()[-1])

    plain, ours = child("plain"), child("ours")
    return f"peak memory of evaluation: plain {plain:.0f} MB, ours {ours:.0f} MB ({ours / plain:.2f} of it)"


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
    return "three volumes, each with every class in every slice:\n" + format_table(header, rows)


def _middle(volume: Volume, n_slices: int) -> Volume:
    """Return slices from the middle of a volume, with every class drawn as a square."""
    start = (len(volume.image) - n_slices) // 2
    label_map = volume.labels[start:start + n_slices].copy()
    for label in LABELS:
        label_map[:, 8 * label:8 * label + 6, 8:14] = label
    return Volume(volume.name, volume.image[start:start + n_slices], label_map, volume.spacing_mm)


def head(bench: Bench) -> dict[str, Result]:
    """Refine and segment 8 slices from their features."""
    size = 96 if bench.quick else 256
    channels = DUAL_PATH_CHANNELS[bench.encoder]
    torch.manual_seed(0)
    maps = tuple(torch.randn(8, channels, size // stride, size // stride, device=bench.device) for stride in (4, 8))
    query = Features(maps, torch.full((8, 1), -1.0, device=bench.device), (size, size))
    prototypes = tuple(path[:1, :, size // 16, size // 16] * 0.5 + path[:1].mean((-2, -1)) for path in maps)
    model = QNet(build_encoder("small"), ALPHA).to(bench.device).eval()
    with torch.no_grad():
        functions = lambda: reference.head(query, prototypes, ALPHA, 7), lambda: model.segment(query, prototypes)
        gap = (functions[0]() - functions[1]()).abs().max().item()
        plain, ours = bench.alternate(*functions, repeats=bench.repeats)
    return {"head": Result(plain, ours, gap < 1e-3, f"8 slices, 7 refinements; largest difference of a probability {gap:.1e}")}


def train(bench: Bench) -> dict[str, Result]:
    """Make one optimiser step on an episode, and compare the loss curves of many."""
    volumes = training_volumes(bench)
    results, curves = train_steps(bench, volumes), loss_curves(bench, volumes)
    noise = max(curve_gap(curves["plain"], curve) for name, curve in curves.items() if name.startswith("plain from"))
    for name in results:
        gap = curve_gap(curves["plain"], curves[name])
        results[name].agree &= gap < 2 * noise
        results[name].note += f"; loss curves over {len(curves[name])} steps {gap:.1%} apart, plain ones {noise:.1%}"
    return results


def train_steps(bench: Bench, volumes: list[TrainingVolume]) -> dict[str, Result]:
    """Make one optimiser step on an episode, in each of `Bench.train_steps`."""
    size = 96 if bench.quick else 256
    episode = next(iter(torch.utils.data.DataLoader(EpisodeDataset(volumes, 1, seed=0), 1)))
    episode = episode.to(bench.device)
    results = {}
    for name, bf16 in bench.train_steps.items():
        plain_model, model = bench.model().train(), bench.model(bf16).train()
        model.to(memory_format=torch.channels_last)   # as util/training/loop.py does
        plain_step, our_step = _trainer(plain_model, _plain_loss), _trainer(model, _our_loss)
        gap, tolerance = abs(our_step(episode) / plain_step(episode) - 1), 0.02 if bf16 else 1e-4
        plain, ours = _alternate_steps(bench, functools.partial(plain_step, episode), functools.partial(our_step, episode))
        flops = 3 * 2 * bench.encoder_flops((size, size))   # forward and twice as much backward, two slices
        limit = flops / bench.rate(torch.bfloat16 if bf16 else torch.float32)
        note = f"the first step's losses are {gap:.1e} apart (allowed {tolerance:g})"
        results[name] = Result(plain, ours, gap < tolerance, note, limit)
    return results


def _alternate_steps(bench: Bench, plain: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float]:
    """Return the median seconds of a training step, plain and ours, each after a step that is not timed."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(3):
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
    loader = torch.utils.data.DataLoader(EpisodeDataset(volumes, n_steps, seed=1), 1)
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


def load(bench: Bench) -> dict[str, Result]:
    """Load a training episode in one process, as the mean of a row: the plain procedure draws by trial, so costs vary.

    Both use the same code for augmentation, so that makes no difference.
    """
    volumes = training_volumes(bench)
    dataset, in_a_row = EpisodeDataset(volumes, 10**6, seed=0), 5 if bench.quick else 40
    raw = [np.stack(list(volume.image)) for volume in volumes], [np.stack(list(volume.classes)) for volume in volumes]
    rng, n = np.random.default_rng(0), itertools.count()
    plain, ours = bench.alternate(lambda: [reference.load_episode(*raw, rng) for _ in range(in_a_row)],
                                  lambda: [dataset[next(n)] for _ in range(in_a_row)],
                                  repeats=3 if bench.quick else 7)
    plain, ours = plain / in_a_row, ours / in_a_row
    draws = 400
    wanted = _areas(lambda k: reference.load_episode(*raw, np.random.default_rng(k)), 60)
    got = _areas(lambda k: dataset[k], draws)
    gap = abs(np.mean(wanted) - np.mean(got)) / np.sqrt(np.var(wanted) / len(wanted) + np.var(got) / len(got))
    note = f"mean area of a query mask {np.mean(wanted):.0f} and {np.mean(got):.0f} pixels, {gap:.1f} standard errors apart"
    return {"load": Result(plain, ours, bool(gap < 4), note)}


def _areas(draw: Callable[[int], Episode], n: int) -> list[float]:
    return [draw(k).query_masks.sum().item() for k in range(n)]


def supervoxels(bench: Bench) -> dict[str, Result]:
    """Segment one volume: with all edges in arrays and one sort, and with ours."""
    image = read_image(bench.cases[0].image)
    options = ((7.7, 1.25, 1.25), 5000)
    agree = np.array_equal(reference_supervoxels.segment_volume(image, *options), segment_volume(image, *options))
    plain, ours = bench.alternate(lambda: reference_supervoxels.segment_volume(image, *options),
                                  lambda: segment_volume(image, *options), repeats=bench.repeats)
    return {"supervoxels": Result(plain, ours, agree, f"{'×'.join(map(str, image.shape))} voxels; segments equal")}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    functions = {"evaluate": evaluate, "train": train, "head": head, "load": load, "supervoxels": supervoxels}
    parser.add_argument("parts", nargs="*", metavar="part", default=["all"], help=f"{', '.join(functions)} or all (default)")
    parser.add_argument("--data-dir", type=Path, help="a CHAOST2 folder; default: phantom volumes of that size")
    parser.add_argument("--encoder", default="resnet101", choices=["resnet101", "resnet50", "small"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true", help="small encoder and volumes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write {part: {plain_seconds, ours_seconds, ratio, agree, …}}")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    parser.add_argument("--peak-of", choices=["plain", "ours"], help=argparse.SUPPRESS)   # for `memory`
    options = parser.parse_args()
    with one_line_errors():
        claim([options.json] if options.json else [], overwrite=options.overwrite)
    if unknown := set(options.parts) - {*functions, "all"}:
        parser.error(f"part: got {', '.join(sorted(unknown))}, allowed: {', '.join(functions)}, all")
    chosen = list(functions) if "all" in options.parts else list(dict.fromkeys(options.parts))
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        if options.peak_of:
            print(peak_megabytes(bench, options.peak_of))
            return
        print(f"{bench.encoder} on {bench.device}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}; "
              f"{bench.describe_rates()}")
        for part in chosen:
            results |= functions[part](bench)
            print(f"{part}: done", file=sys.stderr)
        more = [memory(bench), scaling(bench)] if "evaluate" in chosen else []
    print(format_table(["part", "plain s", "ours s", "ratio", "limit s", "of limit", "agree"], [
        [name, f"{r.plain_seconds:.4g}", f"{r.ours_seconds:.4g}", f"{r.ratio:.2f}", *(
            ["", ""] if r.limit_seconds is None else [f"{r.limit_seconds:.4g}", f"{r.limit_seconds / r.ours_seconds:.0%}"]),
         "yes" if r.agree else "NO"] for name, r in results.items()]))
    for name, result in results.items():
        print(f"{name}: {result.note}")
    print(*more, sep="\n")
    if options.json:
        write_text(json.dumps({name: {**asdict(r), "ratio": r.ratio} for name, r in results.items()}, indent=1), options.json)
    if not all(result.agree for result in results.values()):
        raise SystemExit("error: plain and ours do not agree")


if __name__ == "__main__":
    main()
