"""The benchmark runs, and finds what does not agree."""

import importlib.util
import json
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qnet.models.qnet import QNet
from qnet.models.registration import register
from qnet.scripts.checks import benchmark
from qnet.scripts.checks.benchmarks import evaluation, fast_tests, page, registration, training
from qnet.scripts.checks.benchmarks.bench import Bench, Result, freed_memory_handed_back
from qnet.util.base import device, memory
from qnet.util.base.tables import markdown_table
from qnet.util.label.session import Session
from tests.labelling import FAST, served, write_scans
from tests.toy import thin_volume


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
    allowed = "evaluate, bf16, train, head, load, supervoxels, registration, guided, page, tests, all"
    assert f"got heads, allowed: {allowed}" in capsys.readouterr().err


def test_curves_are_compared_by_their_means():
    curve = np.repeat([4.0, 3.0, 2.0, 1.0], 50).tolist()
    other = np.repeat([9.0, 3.3, 2.0, 1.0], 50).tolist()    # the first stretch is left out
    assert training.curve_gap(curve, other) == pytest.approx(0.1)


def test_memory_is_kept_again_after_the_plain_procedure(monkeypatch):
    at_most_mapped = []      # of the allocator: 0 keeps freed memory

    def mallopt(option, value):
        at_most_mapped.extend([value] if option == memory.M_MMAP_MAX else [])
        return 1

    monkeypatch.setattr("ctypes.CDLL", lambda name: SimpleNamespace(mallopt=mallopt, malloc_trim=lambda n: 1))
    with pytest.raises(KeyError), freed_memory_handed_back():
        raise KeyError
    assert len(at_most_mapped) == 2 and at_most_mapped[0] > at_most_mapped[1] == 0


class Watched(Bench):
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
    steps = set(training.train_steps(bench, training.training_volumes(bench)))
    evaluated = set() if fast else set(evaluation.evaluate(bench))     # seconds, and the same question
    cost = evaluation.in_bf16(bench)
    assert set(cost.results) == ({"bf16"} if fast else set()) and ("left out: bf16" in cost.more[0]) != fast
    assert ("left out: evaluate_bf16, train_step_bf16" in bench.describe_rates()) != fast
    assert steps == ({"train_step", "train_step_bf16"} if fast else {"train_step"})
    assert "evaluate_bf16" not in evaluated and bench.in_bf16 == ({"rate", "model"} if fast else set())


def test_tables_are_markdown():
    results = {"both": Result(3.0, 1.5, True, ""), "ours": Result(None, 40.0, None, "", allowed_seconds=30.0, peak_mb=1234.5),
               "limited": Result(1.0, 2.0, False, "", limit_seconds=1.0, allowed_seconds=2.0)}
    lines = benchmark.table(results).splitlines()
    assert [set(cell.strip()) for cell in lines[1].split("|")[2:-1]] == [{"-", ":"}] * 8
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]] == [
        ["both", "3", "1.5", "2.00", "", "", "", "", "yes"], ["ours", "", "40", "", "", "", "30 **missed**", "1234", ""],
        ["limited", "1", "2", "0.50", "1", "50%", "2", "", "NO"]]
    assert markdown_table(["a", "b"], [["1", "222"]]) == "| a  |   b |\n| -- | --: |\n| 1  | 222 |"


@pytest.mark.whole
def test_the_package_registers_as_we_do():
    query, support = thin_volume(1), thin_volume(3)
    volumes = [torch.from_numpy(volume.image).float() for volume in (query, support)]
    ours = register(volumes[0], volumes[1], query.spacing_mm, support.spacing_mm, registration.AS_PACKAGE)
    package = registration.by_package(query, support, ours, torch.device("cpu"))
    assert not torch.equal(package.displacements[0].voxels, ours.displacements[0].voxels)
    maps = [registration.carried(found, support) for found in (ours, package)]
    assert min(registration.mean_dice(of_one, query.labels) for of_one in maps) > 0.8 > \
        registration.mean_dice(support.labels, query.labels)
    assert registration.mean_dice(*maps) > 0.9


def test_memory_is_left_out_where_nothing_tells_it(tmp_path, monkeypatch):
    bench = Bench(Namespace(quick=True, device="cpu", data_dir=tmp_path), tmp_path)
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert not bench.tells_memory and bench.peak_mb("guided") is None and evaluation.memory(bench) == []


def test_what_the_quick_tests_say(monkeypatch):
    assert fast_tests.summary("....\n== 2 failed, 7 passed in 3.05s ==\nbye\n") == "2 failed, 7 passed in 3.05s"
    assert fast_tests.summary("no tests\nerror: unknown option") == "error: unknown option"
    assert fast_tests.summary("") == "no output"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    measured = fast_tests.measure(SimpleNamespace(quick=True))
    assert measured.results == {} and measured.more == ["left out: tests; pytest, xdist not installed (requirements-dev.txt)"]


def test_percentiles_of_answers():
    rows = page.percentiles({"idle": {"state": [k / 1000 for k in range(101)], "save": []}}).splitlines()[2:]
    assert [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows] == [["state, idle", "101", "50.0", "90.0", "99.0"]]


@pytest.mark.whole
def test_requests_of_a_person(tmp_path):
    folder = write_scans(tmp_path / "scans", [1, 2])
    with served(Session(folder), FAST) as client:
        client.tell("PUT", "/api/v1/classes", {"classes": page.CLASSES})
        person = page.Person(client, "a_2", folder / "truth/a_2.nii.gz")
        assert {request: len(of_one) for request, of_one in person.work(3, during_run=False).items()} == {
            "save": 3, "state": 3, "image": 3, "outlines": 3}
        assert person.is_kept() and client.scan("a_2")["drawn"] == 3
        assert not any(person.work(3, during_run=True).values())       # none of them was during a run
        person.stroke()
        assert not person.is_kept()                                     # it was not sent
        with pytest.raises(RuntimeError, match="the run did not begin"):
            page.wait_for_first_scan(client)
        person.name = "a_9"
        with pytest.raises(RuntimeError, match=r"PUT /api/v1/scans/a_9/outlines.*: 404"):
            person.work(1, during_run=False)


@pytest.mark.slow
def test_everything_runs(tmp_path, monkeypatch):
    run(monkeypatch, "--json", str(tmp_path / "out.json"))
    in_bf16 = {"evaluate_bf16", "train_step_bf16", "bf16"} if device.bf16_is_fast(torch.device("cpu")) else set()
    assert set(json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))) == in_bf16 | {
        "evaluate_one_support", "evaluate_all_supports", "head", "train_step", "load", "supervoxels", "registration",
        "registration_as_package", "guided", "guided_stones", "page_idle", "page_during_run", "tests"}
