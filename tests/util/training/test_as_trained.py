"""A snapshot is scored as it was trained, by test.py, predict and scripts/val.py, unless the command line says otherwise."""

import json
import sys

import pytest
import torch

from qnet.models.adnet import ADNet
from qnet.models.alpnet import ALPNet
from qnet.models.encoder import SmallBackbone
from qnet.models.qnet import SupportThresholdQNet
from qnet.models.settings import GMRDSettings, RPTSettings
from qnet.scripts import val
from qnet.util.options.config import base_config
from qnet.util.options.sections import Role, with_role
from qnet.util.run.experiment import run_commandline
from qnet.util.training.building import BUILDERS
from qnet.util.training.snapshots import read_snapshot
from tests.programs import TINY, entry_point, run

# an option that changes what a network computes: a value that is not the default, what it needs besides, how the model shows it
CHANGED = {
    "model": ("adnet", {}, lambda model: isinstance(model, ADNet)),
    "encoder": ("small", {}, lambda model: isinstance(model.encoder.backbone, SmallBackbone)),
    "coordinates": (True, {}, lambda model: model.encoder.coordinates),
    "encoder_paths": ("coarse", {}, lambda model: model.encoder.reduce1 is None and model.alpha == (1.0,)),
    "alpha": ([0.6, 0.4], {}, lambda model: model.alpha == (0.6, 0.4)),
    "threshold": ("support", {}, lambda model: isinstance(model, SupportThresholdQNet)),
    "prototype_windows": ([2, 1], {"model": "alpnet"}, lambda model: isinstance(model, ALPNet) and model.windows == (2, 1)),
    "n_prototypes": (3, {"model": "tpm"}, lambda model: model.n_prototypes == 3),
    "rpt": ({"form": "2023", "n_regions": 4, "corner": True}, {"model": "rpt"},
            lambda model: model.settings == RPTSettings("2023", 4, True)),
    "gmrd": ({"n_background": 4, "n_foreground": 3, "mix_px": 16, "relu": False, "edge": "meant", "extra_weight": 0.0},
             {"model": "gmrd"}, lambda model: model.settings == GMRDSettings(4, 3, 16, False, "meant", 0.0)),
}
DEFAULT = {key: value for key, value in TINY.items() if key not in CHANGED}     # says nothing of the network


@pytest.fixture
def built(monkeypatch):
    """The models that are built."""
    models = []
    for name, build in BUILDERS.items():
        monkeypatch.setitem(BUILDERS, name, lambda options, build=build: models.append(build(options)) or models[-1])
    return models


def score(command, snapshot, data, folder, *named, **options):
    """Score or predict on the toy data and return sacred's run; nothing but `options` is said of the network."""
    images = data / "chaos_MR_T2_normalized"
    files = {"support_image": f"{images}/image_1.nii.gz", "support_label": f"{images}/label_1.nii.gz",
             "query": f"{images}/image_2.nii.gz", "output": str(folder / "out")}
    updates = {**DEFAULT, "supp_idx": 0, "n_iters": 1, "test_label": [1], "whole_volume": False,
               "reload_model_path": str(snapshot), "path": {"log_dir": str(folder), "CHAOST2": {"data_dir": str(data)}},
               **(files if command == "predict" else {}), **options}
    return entry_point("test").experiment.run(command, named_configs=named, config_updates=updates)


def test_every_option_that_changes_what_a_network_computes_is_tried():
    assert set(CHANGED) == set(with_role(Role.SHAPES))


@pytest.mark.whole
@pytest.mark.parametrize("key", CHANGED)
def test_scored_as_trained(key, built, toy_data, tmp_path):
    value, besides, shows = CHANGED[key]
    assert value != base_config()[key]
    trained = run("train", tmp_path, toy_data, **{key: value}, **besides, n_steps=1)
    built.clear()
    for command in ("main", "predict"):
        scored = score(command, trained / "snapshots/1.pth", toy_data, tmp_path / command, "chaost2_setting1")
        assert scored.config[key] == value and shows(built.pop()) and not built
    config, = (tmp_path / "main").rglob("config.json")
    assert json.loads(config.read_text(encoding="utf-8"))[key] == value      # the run folder says what was used


@pytest.fixture(scope="module")
def with_alpha(toy_data, tmp_path_factory):
    """A snapshot that was trained with another alpha than setting 1 has."""
    return run("train", tmp_path_factory.mktemp("alpha"), toy_data, alpha=[0.6, 0.4], n_steps=1) / "snapshots/1.pth"


DEPARTURE = "alpha: 0.9, 0.1 from the command line; the snapshot was trained with 0.6, 0.4\n"


@pytest.mark.whole
@pytest.mark.parametrize("command", ["main", "predict"])
def test_the_command_line_wins_and_the_difference_is_printed(command, with_alpha, built, toy_data, tmp_path, capsys):
    score(command, with_alpha, toy_data, tmp_path, alpha=[0.9, 0.1])
    assert built.pop().alpha == (0.9, 0.1) and DEPARTURE in capsys.readouterr().out


@pytest.mark.whole
def test_a_config_file_named_by_its_path_is_the_command_line_too(with_alpha, built, toy_data, tmp_path, capsys):
    (tmp_path / "mine.json").write_text('{"alpha": [0.9, 0.1]}', encoding="utf-8")
    score("main", with_alpha, toy_data, tmp_path, "chaost2_setting1", str(tmp_path / "mine.json"))
    assert built.pop().alpha == (0.9, 0.1) and DEPARTURE in capsys.readouterr().out


def test_what_the_command_line_repeats_is_no_difference(with_alpha, built, toy_data, tmp_path, capsys):
    score("main", with_alpha, toy_data, tmp_path, alpha=[0.6, 0.4])
    assert built.pop().alpha == (0.6, 0.4) and "command line" not in capsys.readouterr().out


@pytest.mark.whole
def test_words_of_the_real_command_line(with_alpha, built, toy_data, tmp_path, monkeypatch, capsys, handlers_stay):
    options = {**DEFAULT, "supp_idx": 0, "n_iters": 1, "whole_volume": "false", "path.log_dir": tmp_path,
               "path.CHAOST2.data_dir": toy_data, "reload_model_path": with_alpha}
    for words, alpha in (([], (0.6, 0.4)), (["alpha=[0.9,0.1]"], (0.9, 0.1))):
        words_of_options = [f"{key}={value}" for key, value in options.items()]
        monkeypatch.setattr(sys, "argv", ["test.py", "with", "chaost2_setting1", *words, *words_of_options])
        run_commandline(entry_point("test").experiment)
        assert built.pop().alpha == alpha and (DEPARTURE in capsys.readouterr().out) == bool(words)


@pytest.mark.parametrize("given", [[], ["alpha=[0.9,0.1]"]])
def test_val_scores_as_trained(given, with_alpha, tmp_path):
    """scripts/val.py gives test.py no more of the network than its user does; what test.py makes of it is tested above."""
    calls = []
    folder = tmp_path / "QNet_test_CHAOST2_cv0/1"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text('{"classes": {"liver": {"dice_mean": 0.5}}}', encoding="utf-8")
    given = [*given, f"path.log_dir={tmp_path}"]
    assert val.evaluate("chaost2_setting1", 0, with_alpha, given, call=lambda *words: calls.append(words)) == {"liver": 0.5}
    assert calls == [("test.py", "with", "chaost2_setting1", "eval_fold=0", *given, f"reload_model_path={with_alpha}")]


def test_weights_alone_are_scored_by_the_config(with_alpha, built, toy_data, tmp_path):
    torch.save(dict(read_snapshot(with_alpha).model), tmp_path / "published.pth")
    score("main", tmp_path / "published.pth", toy_data, tmp_path, "chaost2_setting1", encoder="small")
    assert built.pop().alpha == (0.9, 0.1)


def test_an_option_of_the_snapshot_that_is_not_allowed_names_the_file(with_alpha, toy_data, tmp_path):
    content = torch.load(with_alpha, weights_only=True)
    bad = tmp_path / "bad.pth"
    for key, value in (("alpha", [0, 0]), ("model", "vnet")):
        torch.save({**content, "config": json.dumps({**json.loads(content["config"]), key: value})}, bad)
        with pytest.raises(SystemExit, match=f"^error: {bad}: {key}: got "):
            score("main", bad, toy_data, tmp_path)
