import csv

import pytest

from dataloaders.nifti import read_array
from scripts.tables.compare_methods import data_with_superpixels, main
from tests.programs import TINY
from tests.toy import CASES
from util.base.errors import InputError


def test_data_that_has_superpixels_is_used_as_it_is(toy_data):
    with data_with_superpixels("CHAOST2", toy_data, 400) as folder:
        assert folder == toy_data


@pytest.mark.whole
def test_superpixels_are_made_in_a_folder_that_goes_away(toy_data):
    before = sorted(toy_data.iterdir())
    with data_with_superpixels("CHAOST2", toy_data, 30) as folder:
        assert (folder / "chaos_MR_T2_normalized/image_1.nii.gz").is_file() and (folder / "supervoxels_5000").is_dir()
        maps = [read_array(folder / f"superpixels_30/superpix-MIDDLE_{case}.nii.gz") for case in CASES]
        assert all(array.shape == (8, 64, 64) and array.max() > 1 for array in maps)
    assert not folder.exists() and sorted(toy_data.iterdir()) == before


def test_no_data_folder(tmp_path):
    with pytest.raises(InputError, match="path.CHAOST2.data_dir: no folder"), \
            data_with_superpixels("CHAOST2", tmp_path / "nowhere", 400):
        pass


@pytest.mark.slow
def test_all_methods(toy_data, tmp_path):
    options = [f"{key}={value}" for key, value in {**TINY, "n_steps": 2, "supp_idx": "all"}.items()]
    assert main(["chaost2_setting1", "--output", str(tmp_path), "--options", *options,
                 f"path.CHAOST2.data_dir={toy_data}"]) == 0
    rows = list(csv.DictReader((tmp_path / "comparison.csv").open(encoding="utf-8")))
    measured = {row["method"] for row in rows if "published" not in row["method"]}
    trained = {f"{name}{suffix}" for name in ("QNet", "ADNet", "ALPNet", "PANet") for suffix in ("", " (untrained)")}
    assert measured == trained | {"Registration", "Guided"}
