import re
from pathlib import Path

import pytest

from qnet.util.base.errors import InputError
from qnet.util.base.root import ROOT
from qnet.util.options.config import check_config, check_options, explanation, load_config, named_configs, read_json5
from qnet.util.options.sections import OPTIONS, Role, with_role


@pytest.mark.parametrize("name", sorted(named_configs()))
def test_every_named_config_is_allowed(name):
    check_config(load_config(name))


def test_base_config_is_allowed_and_has_exactly_the_known_keys():
    config = load_config()
    check_config(config)
    assert set(config) == set(OPTIONS)


def test_every_option_is_read_somewhere():
    """A key that no code asks for would only mislead."""
    files = [path for folder in ("util", "dataloaders", "models") for path in (ROOT / folder).rglob("*.py")]
    sources = "".join(path.read_text(encoding="utf-8") for path in (*files, ROOT / "qnet/train.py", ROOT / "qnet/test.py")
                      if path.name not in ("names.py", "config.py"))
    unread = [key for key in OPTIONS if not re.search(rf"""["']{key}["']|\.{key}\b""", sources)]
    assert unread == []


def test_every_option_is_explained():
    assert [key for key in OPTIONS if len(explanation(key)) < 3] == []
    assert explanation("n_sv") == "minimum supervoxel size in voxels; names the folder supervoxels_<n_sv>"
    assert explanation("exclude_rule") == (
        'a training slice is removed when it holds "any" of exclude_label, or only when it holds "all" of them (as the code '
        "published with Q-Net does)")
    assert explanation("prototype_windows").endswith("in training and in testing; 1 or more")     # not the heading that follows
    with pytest.raises(KeyError):
        explanation("lerning_rate")


def test_a_dataset_of_ones_own_is_one_more_entry():
    config = load_config()
    config["datasets"]["MINE"] = {**config["datasets"]["CMR"], "labels": {"1": "lesion"}, "file_values": {}}
    config["path"]["MINE"] = {"data_dir": "somewhere"}
    config |= {"dataset": "MINE", "test_label": [1]}
    check_config(config)


def test_unknown_named_config():
    with pytest.raises(InputError, match=r"config 'chaos': no such file in configs/; allowed: .*chaost2_setting1"):
        load_config("chaos")


@pytest.mark.parametrize("text", ["{a: }", "{a: 1, a: 2}", ""])
def test_broken_json5_names_the_file(tmp_path, text):
    (tmp_path / "broken.json5").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"broken.json5: not valid JSON5"):
        read_json5(tmp_path / "broken.json5")


@pytest.mark.parametrize(("changes", "message"), [
    ({"guided": {**load_config()["guided"], "sure": 7}}, "1.pth: guided.sure: got 7, allowed: a number"),
    ({"guided": 7}, "1.pth: guided: got 7, allowed: a section"),
    ({"alpha": 7}, "1.pth: alpha: got 7, allowed: two numbers")])
def test_the_options_of_a_snapshot_are_checked_in_sections_too(changes, message):
    keys = (*with_role(Role.SHAPES), "guided")
    check_options(load_config(), keys, Path("1.pth"))
    with pytest.raises(InputError, match=f"^{message}"):
        check_options(load_config() | changes, keys, Path("1.pth"))
    with pytest.raises(InputError, match=r"^1.pth: guided: got nothing, allowed: a section with the keys"):
        check_options({key: value for key, value in load_config().items() if key != "guided"}, keys, Path("1.pth"))
