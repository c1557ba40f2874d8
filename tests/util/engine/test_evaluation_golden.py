"""test.py on real data, with ResNet-101, against the scores of the published implementation."""

import csv
import json
from pathlib import Path

import pytest
import torch

from qnet.util.base.device import bf16_is_fast
from tests.goldens import CHAOST2, GOLDENS, needs_chaost2, needs_goldens, recipe
from tests.networks import dual_path, make_qnet
from tests.programs import entry_point


@pytest.mark.slow
@needs_goldens
@needs_chaost2
def test_published_scores(tmp_path, monkeypatch):
    """By the defaults, also on a processor that is faster in bf16, where that changes a Dice by more than is allowed here."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: True)
    assert bf16_is_fast(torch.device("cpu"))
    golden = json.loads((GOLDENS / "evaluation_chaost2.json").read_text(encoding="utf-8"))
    state = make_qnet(dual_path("resnet101"), alpha=golden["alpha"]).state_dict()
    weights = recipe(state, golden["weight_seed"], golden["threshold_bias"])
    weights["encoder.reduce1d.weight"] *= golden["threshold_weight_scale"]
    torch.save(weights, tmp_path / "recipe.pth")
    run = entry_point("test").experiment.run(named_configs=["chaost2_setting1"], config_updates={
        "eval_fold": golden["eval_fold"], "supp_idx": golden["supp_idx"], "alpha": golden["alpha"], "n_iters": golden["n_iters"],
        "n_part": golden["n_part"], "reload_model_path": str(tmp_path / "recipe.pth"), "device": "cpu",
        "path": {"log_dir": str(tmp_path), "CHAOST2": {"data_dir": str(CHAOST2)}}})
    rows = list(csv.DictReader((Path(run.observers[0].dir) / "scores.csv").read_text(encoding="utf-8").splitlines()))
    got = {(row["label"], row["query_case"]): row for row in rows}
    want = {(label, case): scores for label, cases in golden["scores"].items() for case, scores in cases.items()}
    assert got.keys() == want.keys()
    for key, scores in want.items():
        assert float(got[key]["dice"]) == pytest.approx(scores["dice"], abs=2e-3), key
        assert float(got[key]["iou"]) == pytest.approx(scores["iou"], abs=2e-3), key
