"""Every method by the same commands: training, resuming, both evaluation protocols, parts swapped by the config."""

import csv

import nibabel
import numpy as np
import pytest

from tests.programs import run
from tests.toy import toy_case
from util.options.config import check_config, load_config
from util.options.sections import ModelOptions
from util.options.table import MODELS
from util.training.building import build_model
from util.training.snapshots import read_snapshot

METHODS = {"adnet": ["adnet"], "alpnet": ["alpnet"], "panet": ["panet"], "qnet": []}   # named configs of each


@pytest.fixture(scope="module", params=METHODS)
def method(request, toy_data, tmp_path_factory):
    """Model name and run folder of a training of three steps."""
    name = request.param
    return name, run("train", tmp_path_factory.mktemp(name), toy_data, *METHODS[name], model=name)


@pytest.mark.whole
def test_trains_into_a_folder_of_its_own_and_resumes(method, toy_data, tmp_path):
    name, trained = method
    assert trained.parent.name == f"{MODELS[name]}_train_CHAOST2_cv0"
    run("train", tmp_path, toy_data, *METHODS[name], model=name, n_steps=2)
    resumed = run("train", tmp_path, toy_data, *METHODS[name], model=name, resume="auto")
    whole, again = (read_snapshot(folder / "snapshots/3.pth") for folder in (trained, resumed))
    assert whole.history.isfinite().all() and whole.history[:, :2].min() > 0
    assert whole.history.equal(again.history)
    assert all(value.equal(again.model[key]) for key, value in whole.model.items())


@pytest.mark.whole
def test_scores_by_the_published_protocol(method, toy_data, tmp_path):
    name, trained = method
    folder = run("test", tmp_path, toy_data, model=name, reload_model_path=str(trained / "snapshots/3.pth"), supp_idx="all")
    rows = list(csv.DictReader((folder / "scores.csv").open(encoding="utf-8")))
    assert folder.parent.name == f"{MODELS[name]}_test_CHAOST2_cv0" and len(rows) == 8
    assert any(0 < float(row["dice"]) < 1 for row in rows)


@pytest.mark.whole
def test_ep2_scores_whole_volumes_from_the_middle_support_slice(method, toy_data, tmp_path):
    name, trained = method
    folder = run("test", tmp_path, toy_data, "ep2", model=name, reload_model_path=str(trained / "snapshots/3.pth"), supp_idx=0)
    rows = list(csv.DictReader((folder / "scores.csv").open(encoding="utf-8")))
    assert len(rows) == 4
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
    {"threshold": "learned"}, {"encoder_paths": "fine"}, {"encoder_paths": "coarse"}, {"n_iters": 0},
    {"threshold": "learned", "encoder_paths": "coarse", "n_iters": 0}, {"pseudo_labels": "superpixels"},
    {"model": "adnet", "pseudo_labels": "superpixels"}, {"model": "alpnet", "n_shot": 2}, {"model": "adnet", "batch_size": 2},
    {"model": "panet", "n_shot": 2, "batch_size": 2, "pseudo_labels": "superpixels"},
])
def test_parts_can_be_swapped(options, toy_data, tmp_path):
    trained = run("train", tmp_path, toy_data, **options, n_steps=1)
    folder = run("test", tmp_path, toy_data, **options, supp_idx=0, reload_model_path=str(trained / "snapshots/1.pth"))
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


@pytest.mark.parametrize("name", ["adnet", "alpnet", "panet", "ep2"])
def test_method_configs_combine_with_experiments(name):
    for experiment in ("chaost2_setting1", "cmr_setting1"):
        config, reverse = load_config(experiment, name), load_config(name, experiment)
        check_config(config)
        assert config == reverse and config["dataset"] == load_config(experiment)["dataset"]


@pytest.mark.parametrize(("program", "options", "message"), [
    ("train", {"model": "unet"}, "model: got 'unet', allowed: one of 'qnet', 'adnet', 'alpnet', 'panet'"),
    ("train", {"encoder_paths": "middle"}, "encoder_paths: got 'middle', allowed: one of 'both', 'fine', 'coarse'"),
    ("train", {"threshold": -10}, "threshold: got -10, allowed: one of 'query', 'learned'"),
    ("train", {"prototype_windows": [4]}, r"prototype_windows: got \[4\], allowed: two whole numbers"),
    ("train", {"t_loss_scaler": -1}, "t_loss_scaler: got -1"),
    ("train", {"pseudo_labels": "superpixels", "n_sp": 7}, "superpixels_7/superpix-MIDDLE_.*: no such file"),
    ("test", {"protocol": "ep2"}, "n_part: got 3, allowed with protocol 'ep2': 1"),
    ("test", {"model": "adnet"}, r"weights of another architecture: .*; it was trained with model=qnet, encoder=small"),
    ("test", {"threshold": "learned"}, "it was trained with .*threshold=query"),
])
def test_bad_option(program, options, message, tmp_path, toy_data, trained):
    with pytest.raises(SystemExit, match="^error: .*" + message):
        run(program, tmp_path, toy_data, reload_model_path=str(trained / "snapshots/3.pth") if program == "test" else None,
            supp_idx=0, **options)
