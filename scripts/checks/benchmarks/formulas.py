"""The head and supervoxels against their plain formulas."""

from __future__ import annotations

import numpy as np
import torch

from qnet.data.supervoxels.felzenszwalb import segment_volume
from qnet.dataloaders.volumes import read_image
from qnet.models.encoder import DUAL_PATH_CHANNELS, Features
from qnet.scripts.checks.benchmarks.bench import ALPHA, Bench, Measured, Result
from tests.networks import make_qnet
from tests.reference import qnet as reference
from tests.reference import supervoxels as reference_supervoxels


def head(bench: Bench) -> Measured:
    """Refine and segment 8 slices from their features."""
    size = bench.size_px
    channels = DUAL_PATH_CHANNELS[bench.encoder]
    torch.manual_seed(0)
    maps = tuple(torch.randn(8, channels, size // stride, size // stride, device=bench.device) for stride in (4, 8))
    query = Features(maps, torch.full((8, 1), -1.0, device=bench.device), (size, size))
    prototypes = tuple(path[:1, :, size // 16, size // 16] * 0.5 + path[:1].mean((-2, -1)) for path in maps)
    model = make_qnet().to(bench.device).eval()
    with torch.no_grad():
        functions = lambda: reference.head(query, prototypes, ALPHA, 7), lambda: model.segment(query, prototypes)
        gap = (functions[0]() - functions[1]()).abs().max().item()
        plain, ours = bench.alternate(*functions, repeats=bench.repeats)
    note = f"8 slices, 7 refinements; largest difference of a probability {gap:.1e}"
    return Measured({"head": Result(plain, ours, gap < 1e-3, note)})


def supervoxels(bench: Bench) -> Measured:
    """Segment one volume: with all edges in arrays and one sort, and with ours."""
    image = read_image(bench.cases[0].image)
    options = ((7.7, 1.25, 1.25), 5000)
    agree = np.array_equal(reference_supervoxels.segment_volume(image, *options), segment_volume(image, *options))
    plain, ours = bench.alternate(lambda: reference_supervoxels.segment_volume(image, *options),
                                  lambda: segment_volume(image, *options), repeats=bench.repeats)
    note = f"{'×'.join(map(str, image.shape))} voxels; segments equal"
    return Measured({"supervoxels": Result(plain, ours, agree, note)})
