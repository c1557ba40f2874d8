"""`python data/check.py`: the numbers it gives, and every inconsistency named."""

import itertools
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from qnet.data import check
from qnet.data.preparation.contact_sheet import draw_contact_sheet
from qnet.data.preparation.inspect_case import best_union_dice, inspect_case, telling_slice
from qnet.data.preparation.recipes import table_entry
from qnet.dataloaders.datasets import find_cases

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "CHAOST2"
AFFINE = np.diag([-2.0, 2.0, 5.0, 1.0])
SHAPE = (6, 30, 40)      # (D, H, W)


def write(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)


def label_map():
    labels = np.zeros(SHAPE)
    labels[1:4, 5:15, 5:15] = 1      # 300 voxels
    labels[2, 20:25, 20:30] = 4      # 50 voxels
    return labels


@pytest.fixture
def dataset(tmp_path):
    supervoxels = np.zeros(SHAPE, np.int32)
    supervoxels[:, 2:28, 2:38] = 1
    supervoxels[1:4, 5:15, 5:20] = 2      # liver and half as much again: Dice 2 · 300 / (300 + 450) = 0.8
    supervoxels[2, 20:25, 20:30] = 3      # the spleen exactly
    for seed, case in enumerate(("1", "2", "10")):
        image = np.random.default_rng(seed).integers(0, 900, SHAPE).astype(np.float64)
        write(tmp_path / f"chaos_MR_T2_normalized/image_{case}.nii.gz", image)
        write(tmp_path / f"chaos_MR_T2_normalized/label_{case}.nii.gz", label_map())
        write(tmp_path / f"supervoxels_500/superpix-MIDDLE_{case}.nii.gz", supervoxels, np.eye(4))
    return tmp_path


def run(dataset, *options, draw=draw_contact_sheet):
    return check.main(["CHAOST2", "--data-dir", str(dataset), "--n-sv", "500", "--sheet", str(dataset / "sheet.png"),
                       *options], draw)


def image(dataset, case="2"):
    return dataset / f"chaos_MR_T2_normalized/image_{case}.nii.gz"


def label(dataset, case="2"):
    return dataset / f"chaos_MR_T2_normalized/label_{case}.nii.gz"


def supervoxels(dataset, case="2"):
    return dataset / f"supervoxels_500/superpix-MIDDLE_{case}.nii.gz"


def test_the_facts_of_a_case(dataset):
    case = find_cases(table_entry("CHAOST2"), dataset, 500)[0]
    report = inspect_case(case, table_entry("CHAOST2"))
    assert (report.name, report.shape, report.spacing_mm) == ("1", SHAPE, (5.0, 2.0, 2.0))
    assert report.intensity == (nibabel.load(case.image).get_fdata().min(), nibabel.load(case.image).get_fdata().max())
    assert report.volumes_ml == pytest.approx({1: 300 * 0.02, 4: 50 * 0.02})
    assert report.n_supervoxels == 3
    assert report.best_dice == pytest.approx({1: 0.8, 4: 1.0})
    assert report.problems == []
    np.testing.assert_array_equal(report.slices["label"], label_map()[2])     # the only slice with both classes


def test_a_sound_dataset_and_its_contact_sheet(dataset, capsys):
    assert run(dataset) == 0
    out = capsys.readouterr().out
    assert "3 cases, no inconsistency" in out
    row = next(line.split() for line in out.splitlines() if line.startswith("10 "))
    assert row[:3] == ["10", "6x30x40", "5.00x2.00x2.00"]
    assert row[4:] == ["3", "6", "(0.800)", "-", "-", "1", "(1.000)"]
    assert (dataset / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_label_is_told_and_no_inconsistency(dataset, capsys):
    no_label(dataset)
    label(dataset, "10").unlink()
    assert run(dataset) == 0
    out = capsys.readouterr().out
    assert "no label for 2 of 3 cases: 2, 10; they can be trained on in setting 1\n3 cases, no inconsistency" in out


def test_best_union_dice_is_that_of_the_best_of_all_unions():
    rng = np.random.default_rng(5)
    for _ in range(20):
        segments = rng.integers(0, 6, (2, 6, 6))
        mask = (segments == 2) ^ (rng.random(segments.shape) < 0.3)
        unions = itertools.chain.from_iterable(itertools.combinations(range(1, 6), n) for n in range(6))
        dice = [2 * (np.isin(segments, union) & mask).sum() / (np.isin(segments, union).sum() + mask.sum())
                for union in unions]
        assert best_union_dice(mask, segments) == pytest.approx(max(dice))


def test_best_union_dice_without_anything_to_cover():
    segments = np.array([[[0, 0, 1, 1]]])
    assert best_union_dice(np.zeros((1, 1, 4), bool), segments) == 0
    assert best_union_dice(np.array([[[True, True, False, False]]]), segments) == 0      # outside every supervoxel
    assert best_union_dice(np.ones((1, 1, 4), bool), np.zeros((1, 1, 4), int)) == 0


def test_the_telling_slice_has_most_classes_then_most_area():
    labels = np.zeros((4, 3, 3), int)
    labels[0] = 1
    labels[1, 0] = [1, 2, 2]
    labels[2, :2] = [[1, 2, 2], [1, 1, 1]]
    assert telling_slice(labels) == 2


def no_label(dataset):
    label(dataset).unlink()


def no_supervoxels(dataset):
    supervoxels(dataset).unlink()


def no_supervoxel_folder(dataset):
    shutil.rmtree(dataset / "supervoxels_500")


def no_image(dataset):
    image(dataset).unlink()


def damaged_image(dataset):
    image(dataset).write_bytes(image(dataset).read_bytes()[:-500])


def empty_label_file(dataset):
    label(dataset).write_bytes(b"")


def nan_in_image(dataset):
    array = np.random.default_rng(8).random(SHAPE)
    array[1, 2, 3] = np.nan
    write(image(dataset), array)


def constant_image(dataset):
    write(image(dataset), np.full(SHAPE, 3.0))


def label_of_other_shape(dataset):
    write(label(dataset), label_map()[:5])


def label_elsewhere(dataset):
    moved = AFFINE.copy()
    moved[2, 3] = 5
    write(label(dataset), label_map(), moved)


def label_turned(dataset):
    write(label(dataset), label_map(), np.diag([-2.0, -2.0, 5.0, 1.0]))


def unknown_label_value(dataset):
    write(label(dataset), label_map() * 2)


def nan_in_label(dataset):
    write(label(dataset), np.where(label_map() == 1, np.nan, label_map()))


def empty_label(dataset):
    write(label(dataset), np.zeros(SHAPE))


def supervoxels_of_other_shape(dataset):
    write(supervoxels(dataset), np.ones((6, 40, 30), np.int32))


def no_supervoxel_at_all(dataset):
    write(supervoxels(dataset), np.zeros(SHAPE, np.int32))


def negative_supervoxels(dataset):
    write(supervoxels(dataset), np.full(SHAPE, -1, np.int32))


def same_image_twice(dataset):
    shutil.copy(image(dataset, "1"), image(dataset))


def same_number_twice(dataset):
    for file in (image, label, supervoxels):
        shutil.copy(file(dataset, "1"), file(dataset, "01"))
    write(image(dataset, "01"), np.random.default_rng(9).random(SHAPE))


@pytest.mark.parametrize(("damage", "messages"), [
    (no_supervoxels, ["superpix-MIDDLE_2.nii.gz: no such file"]),
    (no_supervoxel_folder, [f"superpix-MIDDLE_{case}.nii.gz: no such file" for case in ("1", "2", "10")]),
    (no_image, ["label_2.nii.gz: has no image", "superpix-MIDDLE_2.nii.gz: has no image"]),
    (damaged_image, ["image_2.nii.gz: cannot be read as NIfTI"]),
    (empty_label_file, ["label_2.nii.gz: cannot be read as NIfTI"]),
    (nan_in_image, ["image_2.nii.gz: holds 1 values that are NaN or infinite"]),
    (constant_image, ["image_2.nii.gz: every voxel has the value 3.0"]),
    (label_of_other_shape, ["label_2.nii.gz: shape (D, H, W) = (5, 30, 40), but"]),
    (label_elsewhere, ["label_2.nii.gz: geometry differs from", "by up to 5.00 mm"]),
    (label_turned, ["label_2.nii.gz: geometry differs from", "by up to 116.00 mm"]),      # 2 · 29 rows of 2 mm
    (unknown_label_value, ["label_2.nii.gz: holds the value 8, allowed for CHAOST2: [0, 1, 2, 3, 4]"]),
    (nan_in_label, ["label_2.nii.gz: holds the value nan, allowed for CHAOST2"]),
    (empty_label, ["label_2.nii.gz: holds no label, only background"]),
    (supervoxels_of_other_shape, ["superpix-MIDDLE_2.nii.gz: shape (D, H, W) = (6, 40, 30), but"]),
    (no_supervoxel_at_all, ["superpix-MIDDLE_2.nii.gz: holds no supervoxel, only 0"]),
    (negative_supervoxels, ["superpix-MIDDLE_2.nii.gz: holds the value -1, allowed for supervoxels"]),
    (same_image_twice, ["cases 1, 2: the same image"]),
    (same_number_twice, ["cases 1, 01: the same number"]),
], ids=lambda value: value.__name__ if callable(value) else "")
def test_every_inconsistency_is_named(dataset, damage, messages, capsys):
    damage(dataset)
    assert run(dataset, draw=lambda *_: None) == 1      # the sheet has tests of its own
    found = capsys.readouterr().out.partition("inconsistenc")[2]
    for message in messages:
        assert message in found
    assert found.count("\n  ") == len({message.split(": ")[0] for message in messages if ": " in message})


def test_a_sheet_of_cases_that_lack_files(dataset):
    no_label(dataset)
    supervoxels(dataset, "1").unlink()
    empty_label(dataset)
    damaged_image(dataset)
    spec = table_entry("CHAOST2")
    reports = [inspect_case(case, spec) for case in find_cases(spec, dataset, 500)]
    assert ["image" in report.slices for report in reports] == [True, False, True]
    draw_contact_sheet(reports, spec, dataset / "sheet.png")
    draw_contact_sheet([], spec, dataset / "empty.png")
    assert {path.name for path in dataset.glob("*.png")} == {"sheet.png", "empty.png"}


@pytest.mark.parametrize(("arguments", "message"), [
    (["CHAOST3"], "dataset: got 'CHAOST3', allowed: CHAOST2, CMR"),
    (["CMR", "--data-dir", "nowhere"], "path.CMR.data_dir: no folder nowhere"),
    (["CMR", "--config", "nothing"], "config 'nothing': no such file in configs/"),
])
def test_mistaken_arguments(arguments, message, capsys):
    assert check.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.whole
@pytest.mark.skipif(not REAL.exists(), reason="../shared/data/CHAOST2 is not here")
def test_real_cases_are_consistent():
    spec = table_entry("CHAOST2")
    reports = [inspect_case(case, spec) for case in find_cases(spec, REAL, 5000)[:3]]
    assert [report.problems for report in reports] == [[], [], []]
    assert all(set(report.volumes_ml) == {1, 2, 3, 4} for report in reports)
    assert all(report.spacing_mm == pytest.approx((7.7, 1.25, 1.25)) for report in reports)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="../shared/data/CHAOST2 is not here")
def test_the_whole_real_dataset_is_consistent(tmp_path, capsys):
    assert check.main(["CHAOST2", "--data-dir", str(REAL), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "20 cases, no inconsistency" in capsys.readouterr().out
