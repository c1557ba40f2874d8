"""Every method by the same commands: training, resuming, both evaluation protocols, parts swapped by the config."""

import csv
import json

import nibabel
import numpy as np
import pytest

from qnet.models.settings import GMRDSettings, RPTSettings
from qnet.util.options.config import check_config, load_config, named_configs
from qnet.util.options.names import CLASS_PRIORS, MODELS
from qnet.util.options.sections import ModelOptions
from qnet.util.training.building import build_model
from qnet.util.training.snapshots import read_snapshot
from tests.programs import run
from tests.toy import toy_case

NARROW = {"gmrd": {"n_background": 6, "n_foreground": 4, "mix_px": 32}}
IN_3D = {"stack": {"n_slices": 3, "size_px": 24}}
METHODS = {"qnet": {}, "adnet": {}, "adnet3d": IN_3D, "alpnet": {}, "panet": {}, "tpm": {}, "tpm_mixture": {}, "qnet_tpm": {},
           "rpt": {}, "rpt_2023": {}, "gmrd": NARROW, "gmrd_2025": NARROW, "gmrd_small": NARROW}      # with options


def method_of(name):
    """Named configs and options of a method."""
    named = [name] if name in named_configs() else []
    return named, {"model": load_config(*named)["model"], **METHODS[name]}


# other forms of the methods, and networks of full size, take minutes all together
FORMS = {"tpm_mixture", "qnet_tpm", "rpt_2023", "gmrd", "gmrd_2025"}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name in FORMS else ()) for name in METHODS])
def method(request, toy_data, tmp_path_factory):
    """Name of a method and run folder of a training of three steps."""
    named, options = method_of(request.param)
    return request.param, run("train", tmp_path_factory.mktemp(request.param), toy_data, *named, **options)


@pytest.mark.whole
def test_trains_into_a_folder_of_its_own_and_resumes(method, toy_data, tmp_path):
    name, trained = method
    named, options = method_of(name)
    assert trained.parent.name == f"{MODELS[options['model']]}_train_CHAOST2_cv0"
    run("train", tmp_path, toy_data, *named, **options, n_steps=2)
    resumed = run("train", tmp_path, toy_data, *named, **options, resume="auto")
    whole, again = (read_snapshot(folder / "snapshots/3.pth") for folder in (trained, resumed))
    assert whole.history.isfinite().all() and whole.history[:, 0].min() > 0
    assert whole.history.equal(again.history)
    assert all(value.equal(again.model[key]) for key, value in whole.model.items())


@pytest.mark.whole
def test_scores_by_the_published_protocol(method, toy_data, tmp_path):
    """With the features of a slice kept for all classes and supports, and again without: the same scores."""
    name, trained = method
    named, options = method_of(name)
    scores = []
    for whole_volume in (True, False):
        folder = run("test", tmp_path, toy_data, *named, **options, reload_model_path=str(trained / "snapshots/3.pth"),
                     supp_idx="all", test_label=[1, 2], whole_volume=whole_volume, eval_batch_size=3)
        scores.append(list(csv.DictReader((folder / "scores.csv").open(encoding="utf-8"))))
    assert folder.parent.name == f"{MODELS[options['model']]}_test_CHAOST2_cv0" and len(scores[0]) == 4
    found = any(0 < float(row["dice"]) < 1 for row in scores[0])
    assert found or options["model"] == "gmrd"      # whose decoders may find nothing after three steps
    for kept, anew in zip(*scores, strict=True):
        assert float(kept["dice"]) == pytest.approx(float(anew["dice"]), abs=0.01)


@pytest.mark.whole
def test_ep2_scores_whole_volumes_from_the_middle_support_slice(method, toy_data, tmp_path):
    name, trained = method
    named, options = method_of(name)
    folder = run("test", tmp_path, toy_data, *named, "ep2", **options, supp_idx=0, test_label=[1, 2],
                 reload_model_path=str(trained / "snapshots/3.pth"))
    rows = list(csv.DictReader((folder / "scores.csv").open(encoding="utf-8")))
    assert len(rows) == 2
    outside = 0
    for row in rows:
        file = f"{row['query_case']}_{row['label_name'].replace(' ', '_')}_supp{row['support_case']}.nii.gz"
        mask = np.asanyarray(nibabel.load(folder / "predictions" / file).dataobj).transpose(2, 1, 0) > 0
        truth = toy_case(int(row["query_case"]))[1] == int(row["label"])
        outside += mask[~truth.any(axis=(1, 2))].sum()
        assert float(row["dice"]) == pytest.approx(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    assert outside > 0


# Q-Net's ablations and pseudo-labels, as config lines
@pytest.mark.whole
@pytest.mark.parametrize("options", [
    {"threshold": "learned", "encoder_paths": "fine"}, {"encoder_paths": "coarse", "n_iters": 0},
    {"model": "adnet", "pseudo_labels": "superpixels"}, {"model": "alpnet", "n_shot": 2},
    {"model": "panet", "n_shot": 2, "batch_size": 2, "pseudo_labels": "superpixels"},
])
def test_parts_can_be_swapped(options, toy_data, tmp_path):
    trained = run("train", tmp_path, toy_data, **options, n_steps=1)
    folder = run("test", tmp_path, toy_data, **options, supp_idx=0, test_label=[1],
                 reload_model_path=str(trained / "snapshots/1.pth"))
    assert (folder / "scores.csv").is_file()


def test_options_of_the_parts_reach_the_model():
    def built(*named, **options):
        return build_model(ModelOptions.of({**load_config(*named), "encoder": "small", **options}))

    assert built(encoder_paths="fine", alpha=[0.0, 1.0]).alpha == (1.0,) and built(alpha=[0.6, 0.4]).alpha == (0.6, 0.4)
    assert built(threshold="learned", t_loss_scaler=0.5).t_loss_scaler == 0.5 and built().t is None
    adnet, alpnet, panet = built("adnet"), built("alpnet"), built("panet")
    assert adnet.t.item() == -10 and adnet.t_loss_scaler == 1 and adnet.class_weights.tolist() == pytest.approx([0.1, 1])
    assert alpnet.windows == (4, 2) and alpnet.class_weights.tolist() == pytest.approx([0.05, 1])
    assert panet.class_weights.tolist() == [1, 1]
    tpm, rpt, rpt_2023 = built("tpm_mixture", class_prior="average"), built("rpt"), built("rpt_2023")
    assert tpm.n_prototypes == 5 and tpm.class_prior == "average" and tpm.t_loss_scaler == 0
    assert tpm.learned_threshold().item() == pytest.approx(-10)
    assert (rpt.settings, rpt_2023.settings) == (RPTSettings("2024", 100, False), RPTSettings("2023", 10, False))
    small = built("gmrd_small")
    assert small.settings == GMRDSettings(96, 32, 64, True, "meant", 0.5) and small.loss_names[2:] == ("intra", "inter")
    prior = built("qnet_tpm", threshold="learned")
    assert prior.class_prior == "linear" and prior.t.item() == -10 and prior.alpha == (0.9, 0.1)


@pytest.mark.parametrize("name", [*(name for name in METHODS if name in named_configs()), "ep2"])
def test_method_configs_combine_with_experiments(name):
    for experiment in ("chaost2_setting1", "cmr_setting1"):
        config, reverse = load_config(experiment, name), load_config(name, experiment)
        check_config(config)
        assert config == reverse and config["dataset"] == load_config(experiment)["dataset"]


@pytest.mark.whole
def test_the_class_prior_is_chosen_when_scores_are_made(toy_data, tmp_path):
    """One training serves all; the oracle, told the true area, finds nearly that."""
    trained = run("train", tmp_path, toy_data, "tpm")
    snapshot, dice = str(trained / "snapshots/3.pth"), {}
    for prior in CLASS_PRIORS:
        folder = run("test", tmp_path, toy_data, class_prior=prior, model="tpm", reload_model_path=snapshot, supp_idx=0,
                     test_label=[1, 2], whole_volume=False)
        dice[prior] = json.loads((folder / "results.json").read_text(encoding="utf-8"))["mean"]["dice_mean"]
    assert len(set(dice.values())) == 4 and max(dice, key=dice.get) == "oracle"
    with pytest.raises(SystemExit, match=r"^error: class_prior: got 'oracle', which reads the query's labels"):
        run("test", tmp_path, toy_data, class_prior="oracle", model="tpm", reload_model_path=snapshot, supp_idx=0)


@pytest.mark.parametrize(("program", "options", "message"), [
    ("train", {"model": "vnet"}, "model: got 'vnet', allowed: one of 'qnet', 'adnet', 'adnet3d', 'alpnet', 'panet'"),
    ("train", {"encoder_paths": "middle"}, "encoder_paths: got 'middle', allowed: one of 'both', 'fine', 'coarse'"),
    ("train", {"threshold": -10}, "threshold: got -10, allowed: one of 'query', 'learned'"),
    ("train", {"prototype_windows": [4]}, r"prototype_windows: got \[4\], allowed: two whole numbers"),
    ("train", {"t_loss_scaler": -1}, "t_loss_scaler: got -1"),
    ("train", {"pseudo_labels": "superpixels", "n_sp": 7}, "superpixels_7/superpix-MIDDLE_.*: no such file"),
    ("test", {"protocol": "ep2"}, "n_part: got 3, allowed with protocol 'ep2': 1"),
    ("train", {"model": "qnet_tpm", "threshold": "support"}, "threshold: got 'support', allowed with model 'qnet_tpm'"),
    ("train", {"model": "universeg"}, "model: got 'universeg', which is not trained here"),
    ("test", {"model": "adnet"}, r"weights of another architecture: .*; it was trained with model=qnet, encoder=small"),
    ("test", {"threshold": "learned"}, "it was trained with .*threshold=query"),
])
def test_bad_option(program, options, message, tmp_path, toy_data, trained):
    with pytest.raises(SystemExit, match="^error: .*" + message):
        run(program, tmp_path, toy_data, reload_model_path=str(trained / "snapshots/3.pth") if program == "test" else None,
            supp_idx=0, **options)
