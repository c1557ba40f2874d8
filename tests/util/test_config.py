import math
import re

import pytest

from tests.conftest import ROOT
from util.config import RULES, check_config, load_config, named_configs, read_json5
from util.errors import InputError


@pytest.mark.parametrize("name", sorted(named_configs()))
def test_every_named_config_is_allowed(name):
    check_config(load_config(name))


def test_base_config_is_allowed_and_has_exactly_the_known_keys():
    config = load_config()
    check_config(config)
    assert set(config) == {*RULES, "path", "datasets"}


def test_every_option_is_read_somewhere():
    """A key that no code asks for would only mislead."""
    files = [path for folder in ("util", "dataloaders", "models") for path in (ROOT / folder).glob("*.py")]
    sources = "".join(path.read_text(encoding="utf-8") for path in (*files, ROOT / "train.py", ROOT / "test.py")
                      if path.name != "config.py")
    refused_but_for_one_value = {"n_way", "n_query"}
    unread = [key for key in RULES if f'"{key}"' not in sources]
    assert set(unread) <= refused_but_for_one_value


def test_every_option_is_explained():
    text = (ROOT / "configs/base.json5").read_text(encoding="utf-8")
    assert [key for key in RULES if not re.search(rf"^  {key}: .*//", text, re.MULTILINE)] == []


def changed(**changes):
    config = load_config()
    for key, value in changes.items():
        section, *rest = key.split("__")
        if rest:
            config[section][rest[0]] = value
        else:
            config[section] = value
    return config


@pytest.mark.parametrize(("changes", "message"), [
    ({"lerning_rate": 1}, "unknown option lerning_rate; allowed here: alpha, augment"),
    ({"optim__lrr": 1}, "unknown option optim.lrr; allowed here: lr, momentum, weight_decay"),
    ({"path__MRI": {"data_dir": "x"}}, "unknown option path.MRI"),
    ({"path__CHAOST2": {"dir": "x"}}, "unknown option path.CHAOST2.dir; allowed here: data_dir"),
    ({"path__log_dir": ""}, "path.log_dir: got '', allowed: a non-empty text"),
    ({"path": "data"}, "path: got 'data', allowed: a section"),
    ({"optim__lr": 0}, "optim.lr: got 0, allowed: a number above 0"),
    ({"optim__lr": math.nan}, "optim.lr: got nan"),
    ({"optim": 0.1}, "optim: got 0.1, allowed: a section with the keys"),
    ({"alpha": [0.9, 0.1, 0.0]}, r"alpha: got \[0.9, 0.1, 0.0\], allowed: two numbers"),
    ({"alpha": [0, 0]}, r"alpha: got \[0, 0\]"),
    ({"alpha": 0.9}, "alpha: got 0.9"),
    ({"seed": -1}, "seed: got -1, allowed: a whole number from 0 to 4294967295"),
    ({"seed": True}, "seed: got True"),
    ({"n_steps": 10.0}, "n_steps: got 10.0, allowed: a whole number"),
    ({"n_query": 2}, "n_query: got 2, allowed: one of 1"),
    ({"n_part": 2}, "n_part: got 2, allowed: one of 1, 3"),
    ({"supp_idx": -1}, "supp_idx: got -1, allowed: one of 'all', or a whole number"),
    ({"supp_idx": [0, 0]}, "supp_idx: got"),
    ({"test_label": []}, r"test_label: got \[\], allowed: a non-empty list"),
    ({"test_label": [5]}, "test_label: got 5, allowed for CHAOST2: {1: 'liver', 2: 'right kidney'"),
    ({"exclude_rule": "both"}, "exclude_rule: got 'both', allowed: one of 'any', 'all'"),
    ({"device": "gpu"}, "device: got 'gpu'"),
    ({"ignore_label": 1}, "ignore_label: got 1"),
    ({"dataset": "chaos"}, "dataset: got 'chaos', allowed: one of"),
    ({"datasets__CHAOST2": {}}, "missing option datasets.CHAOST2.file_values"),
])
def test_refused(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        check_config(changed(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "value", "message"), [
    ("labels", {"0": "background"}, "label value 1…254"),
    ("labels", {"1": "a", "2": "a"}, "names distinct"),
    ("labels", {"1": "a/b"}, "fit for a file name"),
    ("image", "images/scan.nii.gz", "with {case} in its file name"),
    ("file_values", {"200": 0}, "file_values: got"),
    ("grid", {"spacing_mm": [1, 1, 0], "size_px": 256, "orientation": None, "window": None}, "null or {spacing_mm"),
    ("grid", {"spacing_mm": [1, 1, 8], "size_px": 256, "orientation": "LRS", "window": None}, "orientation: null or as \"LAS\""),
    ("grid", {"spacing_mm": [1, 1, 8], "size_px": 256, "orientation": None, "window": [5, 5]}, "window: null or"),
    ("n_folds", 0, "n_folds: got 0, allowed: a whole number of at least 1"),
])
def test_bad_dataset_entry(key, value, message):
    config = load_config()
    config["datasets"]["CMR"][key] = value
    with pytest.raises(InputError, match=f"datasets.CMR.{key}: got .*{message}|{message}"):
        check_config(config)


def test_a_dataset_of_ones_own_is_one_more_entry():
    config = load_config()
    config["datasets"]["MINE"] = {**config["datasets"]["CMR"], "labels": {"1": "lesion"}, "file_values": {}}
    config["path"]["MINE"] = {"data_dir": "somewhere"}
    config |= {"dataset": "MINE", "test_label": [1]}
    check_config(config)


def test_unknown_named_config():
    with pytest.raises(InputError, match="config 'chaos': no file configs/chaos.json5; known: .*chaost2_setting1"):
        load_config("chaos")


@pytest.mark.parametrize("text", ["{a: }", "{a: 1, a: 2}", ""])
def test_broken_json5_names_the_file(tmp_path, text):
    (tmp_path / "broken.json5").write_text(text)
    with pytest.raises(InputError, match="broken.json5: not valid JSON5"):
        read_json5(tmp_path / "broken.json5")
