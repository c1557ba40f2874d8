"""precision: auto takes what is fast on the device, and a run stays with it on another machine."""

import json
import os
import subprocess
import sys

import pytest
import torch

from qnet.util.base.device import bf16_is_fast, resolve_precision
from qnet.util.base.root import ROOT
from qnet.util.engine.segmenters import SliceSegmenter
from qnet.util.options.config import base_config, load_config, named_configs
from qnet.util.predict.predictor import Predictor
from qnet.util.training.snapshots import read_snapshot
from tests.goldens import recipe
from tests.networks import make_qnet
from tests.programs import predict, run

CPU = torch.device("cpu")
NAMES = {True: "bf16", False: "float32"}
SLOW = "no instructions for it: convolutions take about 10 times as long as in float32, and large matrix products up to 165 times"


@pytest.fixture
def machine(monkeypatch):
    """Make this machine one where bf16 is fast, or one where it is not."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    return lambda fast: monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: fast)


def used(folder):
    """The precision of a run, by every file that says it."""
    starts = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    said = {json.loads((folder / "config.json").read_bytes())["precision"], *(start["precision"] for start in starts),
            *(read_snapshot(path).config["precision"] for path in folder.glob("snapshots/*.pth"))}
    assert len(said) == 1
    return said.pop()


# ---- which devices are fast ----

@pytest.mark.parametrize(("bf16", "amx", "capability", "isa", "fast"), [
    (True, False, "AVX512", None, True), (False, True, "AVX512", None, True), (True, True, "AVX512", "ALL", True),
    (True, False, "AVX512", "AVX512_CORE_AMX", True), (False, False, "AVX512", None, False), (False, False, "AVX2", None, False),
    (True, False, "AVX2", None, False), (True, False, "AVX512", "AVX2", False), (True, True, "AVX512", "avx512_core", False),
])
def test_processors(bf16, amx, capability, isa, fast, monkeypatch):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: bf16)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if isa:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert bf16_is_fast(CPU) is fast


@pytest.mark.parametrize(("supported", "capability", "fast"), [(True, (8, 0), True), (True, (9, 0), True), (True, (7, 5), False),
                                                               (False, (8, 6), False)])
def test_gpus(supported, capability, fast, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: supported)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    assert bf16_is_fast(torch.device("cuda", 1)) is fast


@pytest.mark.whole
def test_a_processor_that_is_imitated_counts_as_that_one():
    code = "import torch; from qnet.util.base.device import bf16_is_fast; print(bf16_is_fast(torch.device('cpu')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True,
                          env={**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"})
    assert done.stdout == "False\n"


# ---- what a run does with it ----

@pytest.mark.whole
def test_auto_is_the_default_and_only_the_demo_names_another():
    assert {name for name in named_configs() if load_config(name)["precision"] != "auto"} == {"demo"}


@pytest.mark.whole
@pytest.mark.parametrize("fast", [True, False])
def test_auto_trains_in_what_is_fast_and_scores_in_float32_and_the_run_folder_says_so(fast, machine, toy_data, tmp_path, capsys):
    machine(fast)
    trained = run("train", tmp_path, toy_data, n_steps=1, precision="auto")
    scored = run("test", tmp_path, toy_data, precision="auto", supp_idx=0, test_label=[1], whole_volume=False,
                 reload_model_path=str(trained / "snapshots/1.pth"))
    images = toy_data / "chaos_MR_T2_normalized"
    predict(precision="auto", reload_model_path=trained / "snapshots/1.pth", support_image=images / "image_1.nii.gz",
            support_label=images / "label_1.nii.gz", query=images / "image_2.nii.gz", output=tmp_path / "out")
    segmenter = Predictor.load(trained / "snapshots/1.pth", device="cpu").segmenter
    assert isinstance(segmenter, SliceSegmenter) and segmenter.encoder.model.encoder.bf16 is False
    assert used(trained) == NAMES[fast] and used(scored) == "float32"
    out = capsys.readouterr().out
    assert out.count("on cpu in float32") == (2 if fast else 3) and "warning: precision" not in out


@pytest.mark.whole
def test_a_score_does_not_depend_on_the_machine(machine, toy_data, tmp_path):
    """By the defaults, the numbers of a processor that is faster in bf16 are those of one that is not, and not those of bf16."""
    weights = recipe(make_qnet().state_dict(), 90, -18.2)      # masks are neither empty nor full
    weights["encoder.reduce1d.weight"] *= 0.02
    torch.save(weights, tmp_path / "recipe.pth")
    scores = {}
    for name, fast, precision in (("fast", True, "auto"), ("slow", False, "auto"), ("float32", True, "float32"),
                                  ("bf16", True, "bf16")):
        machine(fast)
        folder = run("test", tmp_path / name, toy_data, supp_idx=0, test_label=[1], whole_volume=False, precision=precision,
                     reload_model_path=str(tmp_path / "recipe.pth"))
        scores[name] = (folder / "scores.csv").read_bytes()
    assert base_config()["precision"] == "auto"
    assert scores["fast"] == scores["slow"] == scores["float32"] != scores["bf16"]


@pytest.mark.whole
@pytest.mark.parametrize("fast", [True, False])
def test_a_run_goes_on_as_it_began_on_another_kind_of_machine(fast, machine, toy_data, tmp_path, capsys):
    machine(fast)
    first = run("train", tmp_path, toy_data, n_steps=1, precision="auto")
    machine(not fast)
    assert run("train", tmp_path, toy_data, n_steps=2, precision="auto") == first
    assert used(first) == NAMES[fast]
    goes_on = f"warning: precision: the run goes on as it began, in {NAMES[fast]}, "
    out = capsys.readouterr().out
    assert out.count(goes_on) == 1 and (SLOW if fast else "where bf16 is about twice as fast") in out
    named = run("train", tmp_path / "named", toy_data, n_steps=2, precision="auto", resume=str(first / "snapshots/1.pth"))
    assert used(named) == NAMES[fast] and goes_on in capsys.readouterr().out
    histories = [read_snapshot(folder / "snapshots/2.pth").history for folder in (first, named)]
    assert torch.equal(*histories)


@pytest.mark.whole
def test_another_precision_by_name_is_another_run(machine, toy_data, tmp_path, capsys):
    machine(True)
    first = run("train", tmp_path, toy_data, n_steps=1, precision="auto")
    assert run("train", tmp_path, toy_data, n_steps=1, precision="float32").name == "2"
    assert "the newest, 1, differs in precision" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="was trained with precision='bf16', now it is 'float32'"):
        run("train", tmp_path, toy_data, n_steps=2, precision="float32", resume=str(first / "snapshots/1.pth"))


@pytest.mark.whole
def test_bf16_by_name_on_a_processor_without_it_warns_once(machine, toy_data, tmp_path, capsys):
    machine(False)
    trained = run("train", tmp_path, toy_data, n_steps=1, precision="bf16")
    warning = f"warning: precision: got bf16, but this processor has {SLOW}"
    out = capsys.readouterr().out
    assert used(trained) == "bf16" and out.count("warning: precision") == out.count(warning) == 1
    images = toy_data / "chaos_MR_T2_normalized"
    predict(precision="bf16", reload_model_path=trained / "snapshots/1.pth", support_image=images / "image_1.nii.gz",
            support_label=images / "label_1.nii.gz", query=images / "image_2.nii.gz", output=tmp_path / "out")
    assert capsys.readouterr().out.count(warning) == 1
    Predictor.load(trained / "snapshots/1.pth", device="cpu", precision="bf16")
    assert capsys.readouterr().out.count(warning) == 1


@pytest.mark.parametrize("fast", [True, False])
def test_float32_by_name_says_nothing(fast, machine, capsys):
    machine(fast)
    assert resolve_precision("float32", CPU) == "float32" and resolve_precision("float32", CPU, "float32") == "float32"
    assert capsys.readouterr().out == ""
