"""The table of data sets and the cases in a folder."""

import pytest

from qnet.dataloaders.datasets import case_order, find_cases
from qnet.util.base.errors import InputError
from qnet.util.options.config import base_config
from qnet.util.options.sections import dataset_spec


def spec(name="CHAOST2"):
    return dataset_spec(name, base_config()["datasets"][name])


def test_cases_sort_by_number_and_only_images_count(tmp_path):
    folder = tmp_path / "chaos_MR_T2_normalized"
    folder.mkdir()
    for name in ("image_10.nii.gz", "image_9.nii.gz", "image_1.nii.gz", "label_3.nii.gz", "image_2.nii", "note.txt"):
        (folder / name).touch()
    cases = find_cases(spec(), tmp_path, 5000)
    assert [case.name for case in cases] == ["1", "9", "10"]
    assert cases[0].supervoxels == tmp_path / "supervoxels_5000/superpix-MIDDLE_1.nii.gz"


def test_names_that_are_no_number_sort_by_the_numbers_in_them():
    assert sorted(["b10", "b9", "a1", "7"], key=case_order) == ["7", "a1", "b9", "b10"]


@pytest.mark.parametrize(("make", "message"), [
    (lambda root: None, "path.CHAOST2.data_dir: no folder"),
    (lambda root: root.mkdir(), r"path.CHAOST2.data_dir: no file chaos_MR_T2_normalized/image_\*.nii.gz below"),
])
def test_missing_data(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(InputError, match=message):
        find_cases(spec(), tmp_path / "data", 5000)
