"""The benchmark runs, and finds what does not agree."""

import json
import sys
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.qnet import QNet
from scripts.checks import benchmark
from util.base import device


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--quick", "--device", "cpu", *arguments])
    benchmark.main()


@pytest.mark.whole
def test_parts_agree_and_are_written(tmp_path, monkeypatch, capsys):
    run(monkeypatch, "head", "load", "supervoxels", "--json", str(tmp_path / "out.json"))
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert set(written) == {"head", "load", "supervoxels"}
    printed = capsys.readouterr().out
    for name, result in written.items():
        assert result["agree"] is True and name in printed
        assert result["ratio"] == result["plain_seconds"] / result["ours_seconds"] > 0


@pytest.mark.whole
def test_what_does_not_agree_is_the_exit_status(monkeypatch, capsys):
    monkeypatch.setattr(QNet, "segment", lambda self, query, prototypes: torch.full((len(query), 2, *query.image_size), 0.5))
    with pytest.raises(SystemExit, match="do not agree"):
        run(monkeypatch, "head")
    assert "NO" in capsys.readouterr().out


def test_unknown_part(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "heads")
    assert "got heads, allowed: evaluate, train, head, load, supervoxels, all" in capsys.readouterr().err


def test_curves_are_compared_by_their_means():
    curve = np.repeat([4.0, 3.0, 2.0, 1.0], 50).tolist()
    other = np.repeat([9.0, 3.3, 2.0, 1.0], 50).tolist()    # the first stretch is left out
    assert benchmark.curve_gap(curve, other) == pytest.approx(0.1)


def test_memory_is_kept_again_after_the_plain_procedure(monkeypatch):
    at_most_mapped = []      # of the allocator: 0 keeps freed memory

    def mallopt(option, value):
        at_most_mapped.extend([value] if option == device.M_MMAP_MAX else [])
        return 1

    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace(mallopt=mallopt, malloc_trim=lambda n: 1))
    with pytest.raises(KeyError), benchmark.freed_memory_handed_back():
        raise KeyError
    assert len(at_most_mapped) == 2 and at_most_mapped[0] > at_most_mapped[1] == 0


class Watched(benchmark.Bench):
    """Notes what is asked for in bf16, and does it in float32: in bf16 a large product takes minutes where that is slow."""

    def __init__(self, folder):
        self.in_bf16 = set()
        super().__init__(Namespace(quick=True, device="cpu", data_dir=None), folder)

    def rate(self, dtype=torch.float32):
        self.in_bf16 |= {"rate"} if dtype == torch.bfloat16 else set()
        return super().rate()

    def model(self, bf16=False):
        self.in_bf16 |= {"model"} if bf16 else set()
        return super().model()


@pytest.mark.whole
@pytest.mark.parametrize("fast", [False, True])
def test_bf16_is_measured_where_it_is_fast_and_never_elsewhere(fast, tmp_path, monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: fast)
    bench = Watched(tmp_path)
    steps = set(benchmark.train_steps(bench, benchmark.training_volumes(bench)))
    evaluated = set() if fast else set(benchmark.evaluate(bench))     # seconds, and the same question
    assert ("left out: evaluate_bf16, train_step_bf16" in bench.describe_rates()) != fast
    assert steps == ({"train_step", "train_step_bf16"} if fast else {"train_step"})
    assert "evaluate_bf16" not in evaluated and bench.in_bf16 == ({"rate", "model"} if fast else set())


@pytest.mark.slow
def test_everything_runs(tmp_path, monkeypatch):
    run(monkeypatch, "--json", str(tmp_path / "out.json"))
    in_bf16 = {"evaluate_bf16", "train_step_bf16"} if device.bf16_is_fast(torch.device("cpu")) else set()
    assert set(json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))) == in_bf16 | {
        "evaluate_one_support", "evaluate_all_supports", "head", "train_step", "load", "supervoxels"}
