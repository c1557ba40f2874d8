"""What the parts of the benchmark share: results, data, weights, clock, peak memory."""

from __future__ import annotations

import argparse
import ctypes
import functools
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from qnet.data.phantom import VERSION, generate_phantom
from qnet.dataloaders.datasets import Case, DatasetSpec, find_cases
from qnet.dataloaders.folds import fold_positions
from qnet.dataloaders.volumes import Volume, read_volume
from qnet.models.qnet import QNet
from qnet.util.base.device import bf16_is_fast, resolve_device, set_up_process
from qnet.util.base.memory import M_MMAP_MAX, M_MMAP_THRESHOLD, M_TOP_PAD, M_TRIM_THRESHOLD, keep_freed_memory, mallopt
from qnet.util.base.root import ROOT
from qnet.util.options.config import load_config
from qnet.util.options.sections import dataset_spec
from tests.networks import dual_path, make_qnet

T = TypeVar("T")
LABELS = [1, 2, 3, 4]
ALPHA = (0.9, 0.1)
PHANTOM_N_SV, CHAOS_N_SV = 1000, 5000
COMMAND = ROOT / "scripts/checks/benchmark.py"
MEMORY_FILE = Path("/proc/self/status")


@dataclass
class Result:
    """Median seconds of the same work, and whether both gave the same numbers. `note` says what was compared.

    `plain_seconds` and `agree` are None where there is nothing to compare with.
    """

    plain_seconds: float | None
    ours_seconds: float
    agree: bool | None
    note: str
    limit_seconds: float | None = None      # of the encoder's arithmetic at the machine's rate
    allowed_seconds: float | None = None    # ours should not take more
    peak_mb: float | None = None            # of a process that does this alone

    @property
    def ratio(self) -> float | None:
        """How many times faster ours is."""
        return None if self.plain_seconds is None else self.plain_seconds / self.ours_seconds


@dataclass
class Measured:
    """What a part found: a line of the table by name, and text below it (other tables, what was left out and why)."""

    results: dict[str, Result]
    more: list[str] = field(default_factory=list)


class Bench:
    """What the parts share: data, weights, device, and the machine's rate.

    Args:
        options: of the command line.
        folder: an empty one, for phantom volumes and what the parts write.
    """

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.quick, self.device = options.quick, resolve_device(options.device)
        set_up_process(self.device)
        self.encoder = "small" if options.quick else options.encoder
        self.folder, self._given = folder, options.data_dir
        self.size_px, self.n_slices = (64, 12) if self.quick else (256, 36)        # of phantom volumes
        self.repeats, self.batch_size = 1 if self.quick else 2, 8 if self.device.type == "cuda" else 2
        self.bf16 = bf16_is_fast(self.device)     # without instructions for it a large product takes minutes

    @property
    def train_steps(self) -> dict[str, bool]:
        """The name of each training step that is timed, and whether it is in bf16."""
        return {"train_step": False} | ({"train_step_bf16": True} if self.bf16 else {})

    @property
    def capability(self) -> str:
        """What PyTorch uses of the processor, "AVX2" or "AVX512", after what ATEN_CPU_CAPABILITY allows."""
        return torch.backends.cpu.get_cpu_capability()

    @property
    def tells_memory(self) -> bool:
        """Whether the peak memory of a process can be known."""
        return self.device.type == "cuda" or MEMORY_FILE.exists()

    @functools.cached_property
    def data_dir(self) -> Path:
        """The folder of the data. Phantom volumes are made at the first use."""
        if self._given is not None:
            return self._given
        size = {"cases": 6 if self.quick else 20, "size": self.size_px, "slices": self.n_slices}
        generate_phantom(self.folder / "phantom", {"version": VERSION, "seed": 0, "min_size": PHANTOM_N_SV, **size})
        return self.folder / "phantom"

    @functools.cached_property
    def spec(self) -> DatasetSpec:
        """The data set."""
        name = "PHANTOM" if self._given is None else "CHAOST2"
        return dataset_spec(name, load_config()["datasets"][name])

    @functools.cached_property
    def cases(self) -> list[Case]:
        """All cases of the data set."""
        return find_cases(self.spec, self.data_dir, PHANTOM_N_SV if self._given is None else CHAOS_N_SV)

    def model(self, bf16: bool = False) -> QNet:
        """Return a model with the same random weights each time. Its threshold leaves part of the image as foreground."""
        torch.manual_seed(0)
        model = make_qnet(dual_path(self.encoder, bf16=bf16)).to(self.device).eval()
        assert model.encoder.reduce1d is not None
        with torch.no_grad():
            model.encoder.reduce1d.weight.mul_(0.02)
            model.encoder.reduce1d.bias.fill_(-18)
        return model

    def fold_cases(self) -> list[Case]:
        """Return the cases of fold 0."""
        return [self.cases[k] for k in fold_positions(len(self.cases), self.spec.n_folds, 0)]

    def fold(self) -> list[Volume]:
        """Return the volumes of fold 0."""
        return [read_volume(case, self.spec) for case in self.fold_cases()]

    def encoder_flops(self, shape: tuple[int, ...]) -> int:
        """Return the floating-point operations of encoding one slice of shape (H, W)."""
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            self.model().encode(torch.zeros(1, 3, *shape, device=self.device))
        return counter.get_total_flops()

    def rate(self, dtype: torch.dtype = torch.float32) -> float:
        """Return the floating-point operations per second of a large matrix product or a convolution, whichever has more."""
        side, n_images, repeats = (256, 1, 1) if self.quick else (2048, 4, 15)
        matrix = torch.randn(side, side, device=self.device).to(dtype)
        images, weights = (torch.randn(size, device=self.device).to(dtype, memory_format=torch.channels_last)
                           for size in ((n_images, 256, 64, 64), (256, 256, 3, 3)))
        with torch.inference_mode():
            product, convolution = self.alternate(lambda: matrix @ matrix, lambda: F.conv2d(images, weights, padding=1),
                                                  repeats=repeats)
        return max(2 * side**3 / product, 2 * images.numel() * 256 * 9 / convolution)

    def describe(self) -> str:
        """Say what the machine is."""
        return f"{self.device}, {self.capability}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"

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

    def peak_mb(self, name: str) -> float | None:
        """Return the peak memory in MB of a process that does one thing of `PEAKS` (benchmark.py). None if nothing tells it."""
        if not self.tells_memory:
            return None
        options = ["--encoder", self.encoder, "--device", str(self.device), "--data-dir", str(self.data_dir), "--peak-of", name,
                   *(["--quick"] if self.quick else [])]
        done = subprocess.run([sys.executable, str(COMMAND), *options], capture_output=True, encoding="utf-8", check=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT)})
        return float(done.stdout.split()[-1])

    def own_peak_mb(self) -> float:
        """Return the peak memory in MB of this process so far; on CUDA, of the tensors on the device."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**20
        # getrusage would give the peak of the parent process if that is larger
        return int(re.findall(r"VmHWM:\s+(\d+) kB", MEMORY_FILE.read_text(encoding="utf-8"))[0]) / 1024

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
