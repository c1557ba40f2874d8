"""The benchmark runs, and finds what does not agree."""

import contextlib
import json
import sys

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
    calls = []
    monkeypatch.setattr(benchmark, "mallopt", lambda options: calls.append(options) or False)
    monkeypatch.setattr(benchmark, "keep_freed_memory", lambda: calls.append("kept"))
    with pytest.raises(KeyError), benchmark.freed_memory_handed_back():
        raise KeyError
    assert calls[0][device.M_MMAP_MAX] > 0 and calls[1] == "kept"


@pytest.mark.whole
@pytest.mark.parametrize(("fast", "parts"), [(False, ["evaluate", "train"]), (True, ["train"])])
def test_bf16_is_measured_where_it_is_fast_and_never_elsewhere(fast, parts, monkeypatch, capsys):
    """A product of 2048³ in bf16 takes minutes on a processor that lacks the instructions."""
    in_bf16 = []
    rate, model = benchmark.Bench.rate, benchmark.Bench.model

    def watched_rate(self, dtype=torch.float32):
        in_bf16.extend(["rate"] if dtype == torch.bfloat16 else [])
        return rate(self)

    def watched_model(self, bf16=False):
        in_bf16.extend(["model"] if bf16 else [])
        return model(self)

    monkeypatch.setattr(benchmark.Bench, "rate", watched_rate)
    monkeypatch.setattr(benchmark.Bench, "model", watched_model)
    monkeypatch.setattr(benchmark, "bf16_is_fast", lambda device: fast)
    monkeypatch.setattr(benchmark, "loss_curves", lambda bench, volumes: {
        name: np.full(100, level) for level, name in enumerate(("plain", "plain from 1e-6", *bench.train_steps), start=100)})
    for part in ("memory", "scaling"):
        monkeypatch.setattr(benchmark, part, lambda bench: "")
    with contextlib.suppress(SystemExit):       # the curves above do not agree
        run(monkeypatch, *parts)
    printed = capsys.readouterr().out
    assert "\ntrain_step " in printed
    assert set(in_bf16) == ({"rate", "model"} if fast else set()) and ("\ntrain_step_bf16 " in printed) == fast
    assert ("left out: evaluate_bf16, train_step_bf16" in printed) != fast


@pytest.mark.slow
def test_everything_runs(tmp_path, monkeypatch):
    run(monkeypatch, "--json", str(tmp_path / "out.json"))
    in_bf16 = {"evaluate_bf16", "train_step_bf16"} if device.bf16_is_fast(torch.device("cpu")) else set()
    assert set(json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))) == in_bf16 | {
        "evaluate_one_support", "evaluate_all_supports", "head", "train_step", "load", "supervoxels"}
