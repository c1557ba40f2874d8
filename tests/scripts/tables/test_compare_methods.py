import csv
from pathlib import Path

import pytest

from qnet.dataloaders.nifti import read_array
from qnet.scripts.tables.compare_methods import DEFAULT, METHODS, Comparison, Row, data_with_superpixels, main, model_of, rows_of
from qnet.util.base.errors import InputError
from qnet.util.options.config import named_configs
from qnet.util.options.names import MODELS
from tests.programs import TINY
from tests.toy import CASES


def test_data_that_has_superpixels_is_used_as_it_is(toy_data):
    with data_with_superpixels("CHAOST2", toy_data, 400) as folder:
        assert folder == toy_data


@pytest.mark.whole
def test_superpixels_are_made_in_a_folder_that_goes_away(warm, toy_data):
    before = sorted(toy_data.iterdir())
    with data_with_superpixels("CHAOST2", toy_data, 30) as folder:
        assert (folder / "chaos_MR_T2_normalized/image_1.nii.gz").is_file() and (folder / "supervoxels_5000").is_dir()
        maps = [read_array(folder / f"superpixels_30/superpix-MIDDLE_{case}.nii.gz") for case in CASES]
        assert all(array.shape == (8, 64, 64) and array.max() > 1 for array in maps)
    assert not folder.exists() and sorted(toy_data.iterdir()) == before


def test_no_data_folder(tmp_path):
    with pytest.raises(InputError, match=r"path.CHAOST2.data_dir: no folder"), \
            data_with_superpixels("CHAOST2", tmp_path / "nowhere", 400):
        pass


def test_rows_of_a_method():
    assert [row.name for row in rows_of("rpt_2023", ["none", "registration"], False)] == [
        "RPT (2023) (untrained)", "RPT (2023)", "RPT (2023) + registration"]
    assert [row.trained for row in rows_of("adnet", ["none"], False)] == [False, True]
    assert [row.name for row in rows_of("adnet", ["registration"], True)] == ["ADNet + registration"]
    assert rows_of("guided", ["none", "registration"], False) == [Row("Guided", (), False)]


def test_named_configs_are_methods_of_their_model():
    assert model_of("gmrd_small") == "gmrd" and model_of("qnet") == "qnet" and model_of("tpm_mixture") == "tpm"
    assert set(DEFAULT) < set(METHODS) and not {"gmrd", "universeg"} & set(DEFAULT)
    for name in METHODS:
        assert name in MODELS or name in named_configs()


def test_superpixels_are_asked_for_only_where_they_are_trained_on():
    assert Comparison("demo", [], Path("runs")).takes_superpixels("alpnet")
    assert not Comparison("demo", ["pseudo_labels=supervoxels"], Path("runs")).takes_superpixels("alpnet")
    assert not any(Comparison("demo", [], Path("runs")).takes_superpixels(name) for name in ("qnet", "guided", "rpt"))


OPTIONS = [f"{key}={value}" for key, value in {**TINY, "n_steps": 2, "supp_idx": "all"}.items()]


@pytest.mark.slow
def test_two_folds_with_and_without_a_prior_and_what_is_done_is_kept(toy_data, tmp_path):
    command = ["chaost2_setting1", "--methods", "adnet", "rpt_2023", "--folds", "0", "1", "--priors", "none", "registration",
               "--trained-only", "--output", str(tmp_path), "--options", *OPTIONS, f"path.CHAOST2.data_dir={toy_data}"]
    assert main(command) == 0
    rows = list(csv.DictReader((tmp_path / "comparison.csv").open(encoding="utf-8")))
    measured = {row["method"] for row in rows if "published" not in row["method"]}
    assert measured == {"ADNet", "ADNet + registration", "RPT (2023)", "RPT (2023) + registration"}
    before = sorted(tmp_path.rglob("results.json"))
    assert len(before) == 8
    (before[0]).unlink()
    assert main(command) == 0
    after = sorted(tmp_path.rglob("results.json"))
    assert len(after) == 8 and len(set(before) & set(after)) == 7


@pytest.mark.slow
def test_all_methods(toy_data, tmp_path):
    small = ["gmrd.n_background=5", "gmrd.n_foreground=4", "gmrd.mix_px=16"]
    assert main(["chaost2_setting1", "--methods", *METHODS, "--output", str(tmp_path), "--options", *OPTIONS, *small,
                 f"path.CHAOST2.data_dir={toy_data}"]) == 0
    rows = list(csv.DictReader((tmp_path / "comparison.csv").open(encoding="utf-8")))
    measured = {row["method"] for row in rows if "published" not in row["method"]}
    assert measured == {row.name for method in METHODS for row in rows_of(method, ["none"], False)}
