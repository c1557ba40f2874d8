"""Which files of a download are a case."""

from pathlib import Path

import pytest

from qnet.data.preparation.raw import RawCase
from qnet.data.preparation.recipes import find_chaos, find_cmr, find_nifti, find_sabs
from qnet.util.base.errors import InputError


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
    with pytest.raises(InputError, match=r"img0001.nii.gz: has the same number as"):
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
