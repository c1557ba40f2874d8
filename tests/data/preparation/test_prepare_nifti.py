"""NIfTI downloads: which files are a case, how damaged ones are refused, the entry for a user's own dataset."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data.preparation.own_dataset import config_text, describe_dataset
from data.preparation.recipes import find_chaos, find_cmr, find_nifti, find_sabs
from dataloaders.reading import RawCase, read_nifti, read_nifti_pair
from tests.data.raw_downloads import as_image, empty_scan, organs, scanned, write_nifti_pair
from util.base.errors import InputError
from util.options.config import base_config, check_config, read_json5

GRID = empty_scan((40, 36, 6), (6.0, 6.0, 20.0))


@pytest.fixture
def case(tmp_path):
    raw = RawCase("1", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    write_nifti_pair(raw.image, raw.label, GRID)
    return raw


def test_a_pair_is_read_with_its_geometry(case):
    image, labels = read_nifti_pair(case)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), organs(GRID))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(scanned(GRID)[0]))
    for volume in (image, labels):
        assert volume.GetSpacing() == (6.0, 6.0, 20.0)
        np.testing.assert_allclose(volume.GetOrigin(), GRID.GetOrigin())


def test_spacing_is_the_decimal_that_was_written(tmp_path):
    volume = sitk.Image(4, 4, 4, sitk.sitkInt16)
    volume.SetSpacing((1.36, 1.89, 7.7))
    sitk.WriteImage(volume, tmp_path / "image.nii.gz")
    assert read_nifti(tmp_path / "image.nii.gz").GetSpacing() == (1.36, 1.89, 7.7)


def write_image(case, array, grid=GRID):
    sitk.WriteImage(as_image(array, grid), case.image)


def write_label(case, array, grid=GRID):
    sitk.WriteImage(as_image(array, grid), case.label)


def missing_image(case):
    case.image.unlink()


def missing_label(case):
    case.label.unlink()


def empty_file(case):
    case.image.write_bytes(b"")


def text_file(case):
    case.label.write_text("<html>Please log in</html>", encoding="utf-8")


def truncated_image(case):
    case.image.write_bytes(case.image.read_bytes()[:-2000])


def truncated_within_the_archive(case):
    case.image.write_bytes(gzip.compress(gzip.decompress(case.image.read_bytes())[:-2000]))


def flipped_bit(case):
    content = bytearray(case.image.read_bytes())
    content[len(content) // 2] ^= 1
    case.image.write_bytes(content)


def flat_image(case):
    sitk.WriteImage(sitk.Image(40, 36, sitk.sitkInt16), case.image)


def label_of_other_size(case):
    smaller = empty_scan((40, 36, 5), (6.0, 6.0, 20.0))
    write_label(case, organs(smaller), smaller)


def label_elsewhere(case):
    moved = as_image(organs(GRID), GRID)
    moved.SetOrigin((np.array(GRID.GetOrigin()) + [0, 0, 20]).tolist())
    sitk.WriteImage(moved, case.label)


def nan_in_image(case):
    array = sitk.GetArrayFromImage(scanned(GRID)[0]).astype(np.float32)
    array[2, 3, 4:6] = np.nan
    write_image(case, array)


def constant_image(case):
    write_image(case, np.full(GRID.GetSize()[::-1], 7, np.int16))


def fractional_label(case):
    write_label(case, organs(GRID) * np.float32(0.5))


def negative_label(case):
    write_label(case, -organs(GRID))


def nan_in_label(case):
    write_label(case, np.where(organs(GRID) == 1, np.float32(np.nan), organs(GRID)).astype(np.float32))


@pytest.mark.parametrize(("damage", "message"), [
    (missing_image, "image.nii.gz: no such file"),
    (missing_label, "label.nii.gz: no such file"),
    (empty_file, "image.nii.gz: cannot be read as NIfTI"),
    (text_file, "label.nii.gz: cannot be read as NIfTI"),
    (truncated_image, "image.nii.gz: cannot be read as NIfTI"),
    (truncated_within_the_archive, "image.nii.gz: cannot be read as NIfTI"),
    (flipped_bit, "image.nii.gz: cannot be read as NIfTI"),
    (flat_image, "image.nii.gz: expected a volume with 3 axes"),
    (label_of_other_size, r"label.nii.gz: size \(x, y, z\) = \(40, 36, 5\), but .*image.nii.gz has \(40, 36, 6\)"),
    (label_elsewhere, "label.nii.gz: lies up to 20.0 mm away from .*image.nii.gz"),
    (nan_in_image, "image.nii.gz: holds 2 values that are NaN or infinite"),
    (constant_image, "image.nii.gz: every voxel has the value 7"),
    (fractional_label, "label.nii.gz: holds 0.5, allowed in labels: whole numbers from 0"),
    (negative_label, "label.nii.gz: holds -4, allowed"),
    (nan_in_label, "label.nii.gz: holds nan, allowed"),
], ids=lambda value: value.__name__ if callable(value) else "")
def test_a_broken_case_says_what_is_wrong(case, damage, message):
    damage(case)
    with pytest.raises(InputError, match=message) as caught:
        read_nifti_pair(case)
    assert "\n" not in str(caught.value)


def test_labels_without_geometry_of_their_own_can_take_the_images(case):
    label_elsewhere(case)
    image, labels = read_nifti_pair(case, trust_image_geometry=True)
    assert labels.GetOrigin() == image.GetOrigin()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), organs(GRID))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names_and_files(cases):
    return [(case.name, case.image.name, case.label.name) for case in cases]


def test_cmr_patients_keep_their_numbers_and_need_labels(tmp_path):
    touch(tmp_path, "scans/patient10_C0.nii.gz", "scans/patient2_C0.nii.gz", "scans/patient2_T2.nii.gz",
          "scans/patient40_C0.nii.gz", "gd/patient2_C0_manual.nii.gz", "gd/patient10_C0_manual.nii.gz",
          "gd/._patient3_C0_manual.nii.gz", "gd/patient2_LGE_manual.nii.gz")
    cases, left_out = find_cmr(tmp_path)
    assert names_and_files(cases) == [("2", "patient2_C0.nii.gz", "patient2_C0_manual.nii.gz"),
                                      ("10", "patient10_C0.nii.gz", "patient10_C0_manual.nii.gz")]
    assert left_out == [f"{tmp_path / 'scans/patient40_C0.nii.gz'}: left out, it has no label"]


def test_a_cmr_label_without_its_image_is_a_case_to_be_named(tmp_path):
    touch(tmp_path, "patient7_C0_manual.nii.gz")
    cases, _ = find_cmr(tmp_path)
    assert names_and_files(cases) == [("7", "patient7_C0.nii.gz", "patient7_C0_manual.nii.gz")]


def test_sabs_is_numbered_in_order_whatever_is_missing(tmp_path):
    touch(tmp_path, *(f"Training/img/img{n:04d}.nii.gz" for n in (1, 2, 3, 21)), "Testing/img/img0061.nii.gz",
          *(f"Training/label/label{n:04d}.nii.gz" for n in (1, 3, 4, 21)))
    cases, left_out = find_sabs(tmp_path)
    assert names_and_files(cases) == [(str(position), f"img{number:04d}.nii.gz", f"label{number:04d}.nii.gz")
                                      for position, number in enumerate((1, 2, 3, 4, 21))]
    assert not cases[1].label.exists()
    assert not cases[3].image.exists()
    assert left_out == [f"{tmp_path / 'Testing/img/img0061.nii.gz'}: left out, it has no label"]


def test_two_files_of_one_number_are_refused(tmp_path):
    touch(tmp_path, "a/img0001.nii.gz", "b/img0001.nii.gz", "label0001.nii.gz")
    with pytest.raises(InputError, match="img0001.nii.gz: has the same number as"):
        find_sabs(tmp_path)


def test_chaos_cases_are_those_of_the_training_set(tmp_path):
    for folder in ("Train_Sets/MR/1/T2SPIR", "Train_Sets/MR/10/T2SPIR", "Train_Sets/MR/1/T1DUAL",
                   "Test_Sets/MR/4/T2SPIR", "__MACOSX/Train_Sets/MR/1/T2SPIR"):
        (tmp_path / folder).mkdir(parents=True)
    cases, _ = find_chaos(tmp_path)
    folders = {name: tmp_path / "Train_Sets/MR" / name / "T2SPIR" for name in ("1", "10")}
    assert cases == [RawCase(name, folder / "DICOM_anon", folder / "Ground") for name, folder in folders.items()]


@pytest.mark.parametrize(("image", "label", "files"), [
    ("image_{case}.nii.gz", "label_{case}.nii.gz", ["image_a.nii.gz", "label_a.nii.gz", "label_b.nii.gz"]),
    ("{case}.nii", "{case}_label.nii", ["a.nii", "a_label.nii", "b.nii"]),
    ("{case}/t2.nii.gz", "{case}/t2_seg.nii.gz", ["a/t2.nii.gz", "b/t2_seg.nii.gz", "b/t1.nii.gz"]),
])
def test_own_files_follow_patterns_and_half_a_case_counts(tmp_path, image, label, files):
    touch(tmp_path, *files)
    cases, _ = find_nifti(tmp_path, image, label)
    labels = {name: tmp_path / label.format(case=name) for name in ("a", "b")}
    assert cases == [RawCase(name, tmp_path / image.format(case=name), path if path.exists() else None)
                     for name, path in labels.items()]


def test_an_own_image_without_a_label_file_is_an_unlabelled_case(tmp_path):
    touch(tmp_path, "image_a.nii.gz", "label_a.nii.gz", "image_b.nii.gz", "image_c.nii.gz")
    cases, notes = find_nifti(tmp_path, "image_{case}.nii.gz", "label_{case}.nii.gz")
    assert [case.label for case in cases] == [tmp_path / "label_a.nii.gz", None, None]
    assert notes == ["no label for 2 of 3 cases: b, c"]


def own_dataset(tmp_path, values, names):
    raw = RawCase("a", tmp_path / "image_a.nii.gz", tmp_path / "label_a.nii.gz")
    write_nifti_pair(raw.image, raw.label, GRID, values)
    broken = RawCase("b", tmp_path / "image_b.nii.gz", tmp_path / "label_b.nii.gz")
    return describe_dataset("MINE", [raw, broken], names)


@pytest.mark.parametrize(("values", "names", "labels", "file_values"), [
    ((1, 7), {7: "spleen"}, {1: "label 1", 7: "spleen"}, {}),
    ((200, 500, 600), {500: "blood pool"}, {1: "label 200", 2: "blood pool", 3: "label 600"}, {200: 1, 500: 2, 600: 3}),
])
def test_the_entry_of_an_own_dataset_is_a_valid_config(tmp_path, values, names, labels, file_values):
    spec = own_dataset(tmp_path, values, names)
    assert (spec.labels, spec.file_values, spec.n_folds) == (labels, file_values, 2)
    file = tmp_path / "mine.json5"
    file.write_text(config_text(spec, "data/MINE", 800), encoding="utf-8")
    changes, config = read_json5(file), base_config()
    for section in ("path", "datasets"):
        config[section] |= changes.pop(section)
    check_config(config | changes)
    assert type(spec).from_config("MINE", config["datasets"]["MINE"]) == spec
    assert config["path"]["MINE"] == {"data_dir": "data/MINE"}


def test_names_for_values_that_no_file_has_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"--names: 3 is in no label file, which hold \[1, 2\]"):
        own_dataset(tmp_path, (1, 2), {3: "liver"})


def test_own_labels_that_are_all_background_are_refused(tmp_path):
    with pytest.raises(InputError, match="no label file of MINE that can be read holds a value above 0"):
        own_dataset(tmp_path, (), {})
