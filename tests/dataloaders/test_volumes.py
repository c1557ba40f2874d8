import nibabel
import numpy as np
import pytest

from dataloaders.datasets import DatasetSpec, case_order, find_cases
from dataloaders.volumes import normalise, read_array, read_label, write_like
from tests.toy import write
from util.base.errors import InputError
from util.base.files import LIST
from util.options.config import base_config


def spec(name="CHAOST2"):
    return DatasetSpec.from_config(name, base_config()["datasets"][name])


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


def test_axes_are_slice_row_column(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    write(tmp_path / "a.nii.gz", array)
    assert nibabel.load(tmp_path / "a.nii.gz").shape == (4, 3, 2)
    assert np.array_equal(read_array(tmp_path / "a.nii.gz"), array)


def test_labels_of_cmr_are_mapped_and_label_values_are_taken_as_they_are(tmp_path):
    stored = np.array([[[0, 200], [500, 600]]], np.float64)
    write(tmp_path / "l.nii.gz", stored)
    assert read_label(tmp_path / "l.nii.gz", spec("CMR")).tolist() == [[[0, 1], [2, 3]]]
    write(tmp_path / "l.nii.gz", np.array([[[0, 1], [2, 3]]], np.int16))
    assert read_label(tmp_path / "l.nii.gz", spec("CMR")).tolist() == [[[0, 1], [2, 3]]]


@pytest.mark.parametrize(("value", "shown"), [(7, "7"), (0.5, "0.5"), (-1, "-1")])
def test_unknown_label_value(tmp_path, value, shown):
    write(tmp_path / "l.nii.gz", np.full((1, 2, 2), value, np.float32))
    with pytest.raises(InputError, match=rf"l.nii.gz: holds the value {shown}, allowed for CMR: \[0, 200, 500, 600\]"):
        read_label(tmp_path / "l.nii.gz", spec("CMR"))


def test_normalise_by_hand():
    assert np.allclose(normalise(np.array([[[1.0, 3.0]]], np.float32)), [[[-1.0, 1.0]]])


def test_written_like_an_oblique_reference(tmp_path):
    affine = np.array([[1.2, 0.3, 0.1, -80], [-0.3, 1.2, 0.4, 12], [-0.1, -0.5, 7.0, 33], [0, 0, 0, 1]])
    write(tmp_path / "image.nii.gz", np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32), affine)
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[1, 2, 3] = 1
    write_like(tmp_path / "image.nii.gz", mask, tmp_path / "out/mask.nii.gz")
    file = nibabel.load(tmp_path / "out/mask.nii.gz")
    assert np.allclose(file.affine, affine, atol=1e-5) and file.get_data_dtype() == np.uint8
    assert np.array_equal(read_array(tmp_path / "out/mask.nii.gz"), mask)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mask.nii.gz", LIST}
    with pytest.raises(ValueError, match=r"expected shape \(3, 4, 5\), got \(3, 4, 4\)"):
        write_like(tmp_path / "image.nii.gz", mask[:, :, :4], tmp_path / "out/other.nii.gz")
