"""Every method that is trained learns something on the phantom."""

import json
from pathlib import Path

import pytest

from qnet.data import phantom
from qnet.util.options.config import load_config, named_configs
from tests.programs import entry_point

METHODS = ["qnet", "adnet", "alpnet", "panet", "tpm", "tpm_mixture", "qnet_tpm", "rpt", "rpt_2023", "gmrd_small"]
OPTIONS = {"n_steps": 200, "optim": {"lr": 0.005}, "pseudo_labels": "supervoxels", "n_sv": 250, "min_size": 15, "num_workers": 0,
           "whole_volume": False, "supp_idx": 0, "print_interval": 50}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A phantom of 64×64 pixels."""
    folder = tmp_path_factory.mktemp("phantom") / "PHANTOM"
    assert phantom.main(["--output", str(folder), "--size", "64"]) == 0
    return folder


def run_demo(program, named, **options):
    """Run an entry point by the demo's config and return its run folder."""
    run = entry_point(program).experiment.run(named_configs=["demo", *named], config_updates=options)
    return Path(run.observers[0].dir)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_beats_its_untrained_self(name, data, tmp_path):
    named = [name] if name in named_configs() else []
    options = {**OPTIONS, "model": load_config(*named)["model"],
               "path": {"log_dir": str(tmp_path), "PHANTOM": {"data_dir": str(data)}}}
    snapshot = run_demo("train", named, **options) / "snapshots/200.pth"
    dice = []
    for weights in ("untrained", str(snapshot)):
        folder = run_demo("test", named, **options, reload_model_path=weights)
        dice.append(json.loads((folder / "results.json").read_text(encoding="utf-8"))["mean"]["dice_mean"])
    assert dice[1] > dice[0] + 0.03
