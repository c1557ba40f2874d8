"""Every option of configs/base.json5 with values that are not allowed: one line that names it, the value and what is allowed."""

import pytest

from qnet.util.base.errors import InputError
from qnet.util.options.config import DATASET_RULES, base_config, check_config
from qnet.util.options.sections import RULES

WHOLE, NUMBER, SWITCH, TEXT = ([-1, 1.5, "1", True, [1], 2**31], [-1, "1", True, [1.0], float("nan"), float("inf")],
                               [0, 1, "true", []], ["", 3, ["a"], "a\nb"])
WRONG_OPTIONS = {
    "dataset": [*TEXT, "chaos"],
    "eval_fold": WHOLE,
    "test_label": [[], 1, [0], [255], [1, 1], ["1"], [1.0], [True]],
    "exclude_label": [[], 1, [0], [255], [2, 2], ["1"]],
    "exclude_rule": ["both", "Any", ["any"], 1],
    "use_gt": SWITCH,
    "pseudo_labels": ["voxels", 3, ""],
    "n_sv": [0, *WHOLE],
    "n_sp": [0, *WHOLE],
    "min_size": WHOLE,
    "n_shot": [0, *WHOLE],
    "stack.n_slices": [0, *WHOLE],
    "stack.size_px": [0, *WHOLE],
    "batch_size": [0, *WHOLE],
    "num_workers": [1025, *WHOLE],
    "model": ["vnet", "QNet", 1],
    "encoder": ["vgg", 18, ""],
    "pretrained": TEXT,
    "encoder_paths": ["none", ["both"], 1],
    "alpha": [0.9, [0.9], [0.9, 0.1, 0], [0, 0], [0.9, -0.1], ["0.9", 0.1], [float("nan"), 1], [0.9, True]],
    "n_iters": WHOLE,
    "threshold": ["fixed", 0.5],
    "coordinates": SWITCH,
    "t_loss_scaler": NUMBER,
    "prototype_windows": [4, [4], [4, 0], [4, 2.0], [4, 2, 1]],
    "n_prototypes": [0, 1001, *WHOLE],
    "class_prior": ["known", 1, ""],
    "rpt.form": [2024, "2022"],
    "rpt.n_regions": [0, 10001, *WHOLE],
    "rpt.corner": SWITCH,
    **{f"gmrd.{key}": [0, 10001, *WHOLE] for key in ("n_background", "n_foreground")},
    "gmrd.mix_px": [0, 4097, *WHOLE],
    "gmrd.relu": SWITCH,
    "gmrd.edge": ["both", 1],
    "gmrd.extra_weight": NUMBER,
    "outside.network": TEXT,
    "outside.weights": TEXT,
    "device": ["gpu", "cuda:", "cuda:-1", "cuda:128", "cuda:01", "cuda:٣", 0],
    "precision": ["fp16", 32, ""],
    "seed": [-1, 1.5, "1", True, 2**32],
    "n_steps": [0, 10**8 + 1, *WHOLE],
    "registration.affine": SWITCH,
    "registration.zoom": SWITCH,
    "registration.finest": [0, 101, *NUMBER],
    "registration.mind_radius": [0, 11, *WHOLE],
    "registration.mind_dilation": [0, 11, *WHOLE],
    "registration.intensity_weight": NUMBER,
    "registration.smoothness": NUMBER,
    "registration.n_steps": [10001, *WHOLE],
    "registration.stones": [1001, *WHOLE],
    "registration.agreement_power": [1001, *NUMBER],
    "guided.blur": [11, *NUMBER],
    **{f"guided.{key}": [1.5, *NUMBER] for key in ("sure", "clear", "near")},
    "guided.clip": NUMBER,
    "guided.prior_weight": NUMBER,
    "guided.bias": [-101, 101, *NUMBER[1:]],
    "guided.filter": [11, *NUMBER],
    "guided.filter_eps": [0, *NUMBER],
    "guided.intensity": [101, *NUMBER],
    "student.n_steps": [2, *WHOLE],
    "student.batch_size": [0, *WHOLE],
    "student.lr": [0, *NUMBER],
    "student.share": [1.5, *NUMBER],
    "unet.n_steps": WHOLE,
    "unet.batch_size": [1, *WHOLE],
    "unet.lr": [0, *NUMBER],
    "spatial_prior": ["registered", True, 1],
    "optim.lr": [0, *NUMBER],
    "optim.momentum": [1.1, *NUMBER],
    "optim.weight_decay": NUMBER,
    "clip_gradient": [0, *NUMBER],
    "lr_step_gamma": [0, 1.1, *NUMBER],
    "lr_step_every": [0, *WHOLE],
    "bg_wt": [0, *NUMBER],
    "ignore_label": [1, 256, *WHOLE],
    "print_interval": [0, *WHOLE],
    "save_snapshot_every": [0, *WHOLE],
    "keep_snapshots": [0, "some", *WHOLE],
    "max_refused_steps": [-1, *WHOLE],
    "deterministic": SWITCH,
    "sync_batchnorm": SWITCH,
    "resume": TEXT,
    "reload_model_path": TEXT,
    "protocol": ["ep3", 1, ""],
    "supp_idx": [-1, "some", [], [0, 0], [-1], 1.5, True],
    "n_part": [0, 2, "3"],
    "eval_batch_size": [0, *WHOLE],
    "whole_volume": SWITCH,
    "surface_tolerance_mm": [0, *NUMBER],
    "slice_margin": WHOLE,
    "location_mm": NUMBER,
    "smooth_z": [1001, *NUMBER],
    "largest_component": SWITCH,
    "support_image": [*TEXT[:2], [], [3], ["a", "a"]],
    "support_label": [*TEXT[:2], [], [3], ["a", "a"]],
    "task": TEXT,
    "query": TEXT,
    "output": TEXT,
    "overwrite": SWITCH,
    "fill": SWITCH,
    "channels": ["T1", [], [1], ["T1", "T1"], [""], {}],
    "format": [*TEXT, [], ["nifti", "png"], ["stl", "stl"]],
    "save_probs": SWITCH,
    "augment": SWITCH,
    "run": TEXT,
    "path.log_dir": TEXT,
    "path.weights_dir": TEXT,
    "path.CHAOST2.data_dir": TEXT,
    "datasets.CMR.image": [3, "scan.nii.gz", "{case}/scan.nii.gz", "{case}_{case}", "{case}*", "{case}{x}", "{case}[1]"],
    "datasets.CMR.label": [3, "", "{case", "{0}{case}"], "datasets.CMR.supervoxels": [3, "", "{case!r}{case}"],
    "datasets.CMR.labels": [3, {}, {"0": "background"}, {"255": "a"}, {"1": ""}, {"1": "a\nb"}, {"1": "a", "2": "a"},
                            {"1": "a b", "2": "a_b"}, {"1": 3}, {"one": "a"}, {"01": "a"}],
    "datasets.CMR.file_values": [3, {"200": 0}, {"0": 1}, {"x": 1}, {"200": "1"}, {"1.5": 1}, {"200": 255}, {"32768": 1}],
    "datasets.CMR.n_folds": [0, *WHOLE],
    "datasets.CMR.grid": [3, {}, *({**base_config()["datasets"]["CMR"]["grid"], **wrong} for wrong in (
        {"spacing_mm": [1, 1]}, {"spacing_mm": [1, 1, 0]}, {"spacing_mm": [1, 1, 1e9]}, {"size_px": 0}, {"size_px": 10**5},
        {"size_px": 2.5}, {"orientation": "LRS"}, {"orientation": "las"}, {"window": [5, 5]}, {"window": [5]}, {"colour": 1}))],
}
MAY_BE_NULL = {"channels", "exclude_label", "reload_model_path", "support_image", "support_label", "task", "query", "output",
               "run", "clip_gradient", "outside.network", "outside.weights", "datasets.CMR.grid"}
BASE = base_config()


def with_option(key, value):
    """Return the base config with one option changed, and nothing but the sections on the way to it copied."""
    config = section = dict(BASE)
    *way, last = key.split(".")
    for name in way:
        section[name] = dict(section[name])
        section = section[name]
    section[last] = value
    return config


def refusal(config):
    with pytest.raises(InputError) as caught:
        check_config(config)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500
    return str(caught.value)


def test_every_option_is_in_the_table():
    leaves = {f"{key}.{inner}" if isinstance(rule, dict) else key for key, rule in RULES.items()
              for inner in (rule if isinstance(rule, dict) else [""])}
    sections = {f"datasets.CMR.{key}" for key in DATASET_RULES} | {"path.log_dir", "path.weights_dir",
                                                                                "path.CHAOST2.data_dir"}
    assert set(WRONG_OPTIONS) == leaves | sections


@pytest.mark.parametrize("key", WRONG_OPTIONS)
def test_wrong_option(key):
    wrong = [*WRONG_OPTIONS[key], {"a": 1}, *([] if key in MAY_BE_NULL else [None])]
    for value in wrong:
        assert refusal(with_option(key, value)).startswith(f"{key}: got {value!r}, allowed: "), value
    if key in MAY_BE_NULL:
        check_config(with_option(key, None))


@pytest.mark.parametrize("section", ["", "optim.", "registration.", "guided.", "student.", "unet.", "rpt.", "gmrd.", "outside.",
                                     "path.", "path.CHAOST2.", "datasets.CMR."])
def test_unknown_missing_and_replaced_options(section):
    assert refusal(with_option(f"{section}lerning_rate", 1)).startswith(f"unknown option {section}lerning_rate; allowed here: ")
    assert refusal(with_option(f"{section}a\nb", 1)).startswith(f"unknown option {f'{section}a'[:-1]}'")
    if section:
        for value in (3, None, "x", []):
            assert refusal(with_option(section.rstrip("."), value)).startswith(f"{section.rstrip('.')}: got {value!r}, allowed: ")
        key = {"optim.": "lr", "registration.": "n_steps", "guided.": "bias", "student.": "lr", "unet.": "lr", "rpt.": "form",
               "gmrd.": "relu", "outside.": "network", "path.": "log_dir",
               "path.CHAOST2.": "data_dir", "datasets.CMR.": "n_folds"}[section]
        config = with_option(f"{section}{key}", 1)
        inner = config
        for name in section.split(".")[:-1]:
            inner = inner[name]
        del inner[key]
        assert refusal(config).startswith(f"missing option {section}{key}; allowed here: ")


@pytest.mark.parametrize(("changes", "message"), [
    ({"test_label": [5]}, "test_label: got 5, allowed for CHAOST2: {1: 'liver', 2: 'right kidney'"),
    ({"exclude_label": [7]}, "exclude_label: got 7, allowed for CHAOST2"),
    ({"dataset": "CMR", "test_label": [4]}, "test_label: got 4, allowed for CMR"),
    ({"protocol": "ep2"}, "n_part: got 3, allowed with protocol 'ep2': 1"),
    ({"datasets.CMR.file_values": {"200": 9}, "dataset": "CMR", "test_label": [1]}, "datasets.CMR.file_values: got label"),
    ({"datasets.a/b": {}}, "datasets: got the name 'a/b', allowed: a text fit for a file name"),
    ({"path.MRI": {"data_dir": "x"}}, "unknown option path.MRI; did you mean CMR?; allowed here: "),
])
def test_options_that_do_not_go_together(changes, message):
    config = BASE
    for key, value in changes.items():
        *way, last = key.split(".")
        config = {**config, way[0]: with_option(key, value)[way[0]]} if way else {**config, last: value}
    assert refusal(config).startswith(message)


@pytest.mark.parametrize(("given", "meant"), [("querry", "query"), ("support_lable", "support_label"), ("largest_componnet",
                                                                                                         "largest_component")])
def test_the_known_option_that_is_most_like_an_unknown_one_is_named(given, meant):
    assert f"; did you mean {meant}?" in refusal(with_option(given, 1))
