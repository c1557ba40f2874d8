"""Every option is declared once, and who builds a model reads only what a snapshot is scored with."""

import json
import sys
from dataclasses import is_dataclass
from typing import get_type_hints

import pytest
import torch

from qnet.util.base.errors import InputError
from qnet.util.base.rules import declared
from qnet.util.options import sections
from qnet.util.options.config import base_config, check_config, load_config
from qnet.util.options.names import FITTED_MODELS, GONE, MODELS, OLD_NAMES, OUTSIDE_MODELS, current_names, gone_options
from qnet.util.options.record import Record
from qnet.util.options.sections import (
    OPTIONS,
    ModelOptions,
    OptimizerOptions,
    OutsideOptions,
    PredictorOptions,
    Role,
    RunOptions,
    StackOptions,
    with_role,
)
from qnet.util.run.experiment import run_commandline
from qnet.util.run.resume import run_to_continue
from qnet.util.training.as_trained import as_trained
from qnet.util.training.building import build_model
from qnet.util.training.snapshots import read_snapshot
from tests.programs import entry_point, run

SECTIONS = [cls for cls in vars(sections).values() if is_dataclass(cls) and cls.__module__ == sections.__name__]
NESTED = (OptimizerOptions, OutsideOptions, StackOptions)     # their options stand in a section of the config


def test_an_option_is_declared_once_and_base_json5_has_them_all():
    declarations = [name for cls in SECTIONS for name in declared(cls) if cls not in NESTED]
    assert sorted([*declarations, "path", "datasets"]) == sorted(OPTIONS) and set(base_config()) == set(OPTIONS)
    for key, option in OPTIONS.items():
        if isinstance(option.rule, dict):
            assert set(base_config()[key]) == set(option.rule), key


def test_a_section_that_takes_an_option_of_another_one_has_its_type():
    types = {name: get_type_hints(cls)[name] for cls in SECTIONS for name in declared(cls)
             if cls not in NESTED}
    taken = [(cls, name, of_type) for cls in SECTIONS for name, of_type in get_type_hints(cls).items()
             if name in types and name not in declared(cls) and cls is not PredictorOptions]     # its `model` is a section
    assert (sections.ShownOptions, "encoder", str) in taken
    assert [(cls, name) for cls, name, of_type in taken if of_type != types[name]] == []


def test_what_shapes_a_network_is_taken_by_predict_and_is_never_free_on_resuming():
    shapes = set(with_role(Role.SHAPES))
    assert shapes < set(with_role(Role.TRAINED_WITH))
    assert not shapes & {*with_role(Role.RESUME), *with_role(Role.RESUME_NAMED)}


class Recorded:
    """Options that know which of them were asked for."""

    def __init__(self, options):
        self.options, self.read = options, set()

    def __getattr__(self, name):
        self.read.add(name)
        return getattr(self.options, name)


@pytest.mark.whole
def test_a_builder_reads_only_what_a_snapshot_is_scored_with():
    """Besides: weights of losses, which scoring does not compute, and what says how scoring is done (configs/base.json5)."""
    losses = {"bg_wt", "ignore_label", "t_loss_scaler"}
    of_scoring = {"seed", "precision", "n_iters", "class_prior", "registration", "guided", "spatial_prior"}
    read = set()
    for model in set(MODELS) - set(OUTSIDE_MODELS) - set(FITTED_MODELS):
        for threshold in ("query", "learned", "support"):
            config = {**base_config(), "model": model, "encoder": "small", "threshold": threshold}
            options = Recorded(ModelOptions.of(config))
            build_model(options)
            read |= options.read
    assert read - losses - of_scoring == set(with_role(Role.SHAPES))


def test_options_under_their_old_names_are_the_same_options(toy_data, tmp_path):
    """On the command line, in a snapshot, in the config of a run folder, and in a config file."""
    by_old_name = run("train", tmp_path / "old", toy_data, paths="coarse", max_iters_per_load=2)
    config = json.loads((by_old_name / "config.json").read_text(encoding="utf-8"))
    assert config["encoder_paths"] == "coarse" and config["lr_step_every"] == 2 and not set(OLD_NAMES) & set(config)
    snapshot, earlier = by_old_name / "snapshots/3.pth", tmp_path / "earlier.pth"
    content = torch.load(snapshot, weights_only=True)
    as_before = {**{key: value for key, value in config.items() if key not in OLD_NAMES.values()},
                 **{old: config[new] for old, new in OLD_NAMES.items()}}
    torch.save({**content, "config": json.dumps(as_before)}, earlier)
    assert read_snapshot(earlier).config == read_snapshot(snapshot).config
    (by_old_name / "config.json").write_text(json.dumps(as_before), encoding="utf-8")
    again = run_to_continue(Record({**config, "n_steps": 4}), RunOptions.of({**config, "n_steps": 4}), "train")
    assert again == by_old_name
    assert current_names({"paths": "fine", "seed": 1}) == {"encoder_paths": "fine", "seed": 1}


OLD = {"registration": {"affine": True, "affine_mm": [8.0, 5.0, 5.0], "search_mm": [4.0, 2.5, 2.5], "mind_radius": 2,
                        "mind_dilation": 3, "intensity_weight": 2.0, "smoothness": 0.5, "n_steps": 40, "stones": 0,
                        "agreement_power": 10.0},
       "guided": {"blur_mm": [4.0, 5.0, 5.0], "sure": 0.6, "clear": 0.2, "near": 0.02, "clip": 4.0, "prior_weight": 1.5,
                  "bias": 0.5, "filter_mm": 4.0, "filter_eps": 0.05}}      # as earlier versions stored them
SAID = ("registration.affine_mm, registration.search_mm, guided.blur_mm, guided.filter_mm: left out; there is no such option any "
        "more, as lengths follow the scan now\n")


def test_options_that_are_gone_are_left_out_and_those_that_came_later_have_their_defaults():
    """In a section, under a dotted name, and in a config of which the sections are none."""
    current = current_names(OLD)
    assert current["registration"] == {key: value for key, value in OLD["registration"].items() if not key.endswith("_mm")}
    assert gone_options(OLD) == [f"{section}.{key}" for section, keys in GONE.items() for key in keys]
    assert gone_options(current) == []
    assert current_names({"guided.blur_mm": [4, 5, 5], "guided.clip": 3, "guided": 7}) == {"guided.clip": 3, "guided": 7}
    used = as_trained(base_config(), current, tuple(OLD))
    check_config(used)
    later = {section: set(used[section]) - set(OLD[section]) for section in OLD}
    assert later == {"registration": {"zoom", "finest"}, "guided": {"blur", "filter", "intensity"}}
    assert all(used[section][key] == base_config()[section][key] for section, keys in later.items() for key in keys)
    assert used["registration"]["smoothness"] == 0.5


def test_options_that_could_only_be_1_are_left_out():
    assert current_names({"n_way": 1, "n_query": 1, "n_shot": 2}) == {"n_shot": 2}
    with pytest.raises(InputError, match=r"^unknown option n_way; "):
        check_config({**base_config(), **current_names({"n_way": 2, "n_query": 1})})


def test_an_old_config_file_and_an_old_snapshot_are_read(trained, tmp_path, capsys):
    config = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "old.json5").write_text(json.dumps({**config, **OLD, "n_way": 1, "n_query": 1}), encoding="utf-8")
    check_config(load_config(str(tmp_path / "old.json5")))
    assert capsys.readouterr().out == SAID
    snapshot, earlier = trained / "snapshots/3.pth", tmp_path / "earlier.pth"
    stored = json.dumps({**config, **OLD, "n_way": 1, "n_query": 1})
    torch.save({**torch.load(snapshot, weights_only=True), "config": stored}, earlier)
    stored = read_snapshot(earlier).config
    assert gone_options(stored) == []
    check_config(as_trained(base_config(), stored, tuple(OLD)))
    assert capsys.readouterr().out == ""        # a snapshot's registration is never used


@pytest.mark.parametrize("words", [["guided"], []], ids=["named config", "file"])
def test_gone_options_on_the_command_line_get_one_line(words, tmp_path, monkeypatch, capsys, handlers_stay):
    (tmp_path / "old.json").write_text(json.dumps(OLD), encoding="utf-8")
    given = [f"{section}.{key}={OLD[section][key]}".replace(" ", "") for section, keys in GONE.items() for key in keys]
    words = words + given if words else ["guided", str(tmp_path / "old.json")]
    monkeypatch.setattr(sys, "argv", ["test.py", "predict", "with", *words, "device=cpu"])
    with pytest.raises(SystemExit, match=r"^error: support_image, support_label: got 0 images"):
        run_commandline(entry_point("test").experiment)
    assert capsys.readouterr().out.count(SAID) == 1
