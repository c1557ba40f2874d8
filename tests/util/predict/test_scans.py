"""Scans on any grid: there and back without losing their place."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from qnet.dataloaders.datasets import Grid
from qnet.dataloaders.finding import find_scans
from qnet.util.base.errors import InputError
from qnet.util.predict.scans import (
    label_names,
    orientation_of,
    read_scan,
    read_support,
    to_scan,
    write_on_scan,
)
from tests.data.raw_downloads import as_image, empty_scan, organs, scanned, write_dicom

GRID = Grid((2.5, 2.5, 6.0), 104, "LAS", None)


def rotation(axis: int, degrees: float) -> np.ndarray:
    a = np.deg2rad(degrees)
    turn = np.eye(3)
    i, k = [n for n in range(3) if n != axis]
    turn[[i, i, k, k], [i, k, i, k]] = [np.cos(a), -np.sin(a), np.sin(a), np.cos(a)]
    return turn


DIRECTIONS = {
    "plain": np.eye(3),
    "flipped": np.diag([-1.0, 1.0, -1.0]),
    "permuted": np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]]),
    "oblique": rotation(0, 12) @ rotation(2, -17),
    "all": rotation(1, 9) @ np.array([[0, -1.0, 0], [0, 0, 1], [-1, 0, 0]]),
}
GRIDS = {(name, spacing): empty_scan(size, spacing, direction) for name, direction in DIRECTIONS.items()
         for size, spacing in (((100, 90, 40), (2.4, 2.4, 6.0)), ((72, 120, 60), (3.3, 2.0, 4.0)))}


@pytest.mark.whole
@pytest.mark.parametrize(("name", "spacing"), GRIDS)
def test_organs_come_back_to_the_scans_own_voxels(name, spacing, tmp_path):
    original = GRIDS[name, spacing]
    path = tmp_path / "scan.nii.gz"
    sitk.WriteImage(scanned(original)[0], path)
    scan = read_scan(path, GRID)
    assert orientation_of(scan.on_grid) == "LAS"
    assert scan.on_grid.GetSize()[:2] == (104, 104)
    np.testing.assert_allclose(scan.on_grid.GetSpacing(), GRID.spacing_mm)
    on_grid, truth = organs(scan.on_grid), organs(original)
    for label in (1, 2, 3, 4):
        back = to_scan((on_grid == label).astype(np.float32), scan) > 0.5
        assert 2 * (back & (truth == label)).sum() / (back.sum() + (truth == label).sum()) > 0.9
    write_on_scan(truth.astype(np.uint8), scan, tmp_path / "out.nii.gz")
    written, source = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(path)
    np.testing.assert_array_equal(written.affine, source.affine)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj).transpose(2, 1, 0), truth)


@pytest.mark.parametrize("name", ["flipped", "permuted"])
def test_the_model_sees_the_same_however_a_scan_is_stored(name, tmp_path):
    grid = empty_scan((90, 90, 40), (2.5, 2.5, 6.0))
    image, _ = scanned(grid)
    stored = sitk.DICOMOrient(image, {"flipped": "RPI", "permuted": "SAL"}[name])
    assert stored.GetDirection() != image.GetDirection()
    for volume, file in ((image, "a.nii.gz"), (stored, "b.nii.gz")):
        sitk.WriteImage(volume, tmp_path / file)
    a, b = (read_scan(tmp_path / file, GRID) for file in ("a.nii.gz", "b.nii.gz"))
    np.testing.assert_allclose(a.image, b.image, atol=1e-4)
    np.testing.assert_allclose(a.on_grid.GetOrigin(), b.on_grid.GetOrigin(), atol=1e-3)


def test_a_grid_without_orientation_turns_the_query_like_the_support(tmp_path):
    sitk.WriteImage(scanned(GRIDS["flipped", (2.4, 2.4, 6.0)])[0], tmp_path / "scan.nii.gz")
    free = Grid(GRID.spacing_mm, GRID.size_px, None, None)
    assert orientation_of(read_scan(tmp_path / "scan.nii.gz", free).on_grid) == "RPI"
    assert orientation_of(read_scan(tmp_path / "scan.nii.gz", free, np.eye(3)).on_grid) == "LPS"


@pytest.mark.parametrize(("axis", "degrees", "spacing", "anew"), [
    (2, 35, (2.0, 2.0, 6.0), True), (2, -25, (2.0, 2.0, 6.0), True), (2, 10, (2.0, 2.0, 6.0), False),
    (0, 10, (2.0, 2.0, 6.0), False), (0, 30, (2.0, 2.0, 6.0), False), (1, 40, (2.0, 2.0, 6.0), False),
    (2, 35, (2.0, 2.0, 2.0), True), (0, 30, (2.0, 2.0, 2.0), False), (2, 35, (6.0, 2.0, 2.0), False)])
def test_only_what_is_turned_within_its_slices_is_put_on_other_voxels(axis, degrees, spacing, anew):
    array = np.random.default_rng(0).normal(size=(10, 30, 40)).astype(np.float32)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    image.SetDirection(rotation(axis, degrees).ravel().tolist())
    found = read_scan(image, None, np.eye(3)).on_grid
    if anew:
        np.testing.assert_allclose(found.GetDirection(), np.eye(3).ravel(), atol=1e-9)
    else:
        assert found.GetDirection() == image.GetDirection() and np.array_equal(sitk.GetArrayFromImage(found), array)


def test_a_scan_that_is_turned_and_tipped_a_little_is_put_on_other_voxels():
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(10, 30, 40)).astype(np.float32))
    image.SetSpacing((2.0, 2.0, 6.0))
    image.SetDirection((rotation(0, 12) @ rotation(2, 35)).ravel().tolist())
    np.testing.assert_allclose(read_scan(image, None, np.eye(3)).on_grid.GetDirection(), np.eye(3).ravel(), atol=1e-9)


def test_a_ct_window_is_applied(tmp_path):
    sitk.WriteImage(scanned(empty_scan())[0], tmp_path / "scan.nii.gz")
    scan = read_scan(tmp_path / "scan.nii.gz", Grid(GRID.spacing_mm, GRID.size_px, "LAS", (300.0, 900.0)))
    array = sitk.GetArrayFromImage(scan.on_grid)
    assert (array.min(), array.max()) == (0, 255)


def test_a_support_has_its_labels_on_the_grid(tmp_path):
    grid = GRIDS["all", (2.4, 2.4, 6.0)]
    image, labels = scanned(grid, (1, 3))
    sitk.WriteImage(image, tmp_path / "image.nii.gz")
    sitk.WriteImage(labels * 200, tmp_path / "label.nii.gz")
    scan, label_map, gaps, _ = read_support(tmp_path / "image.nii.gz", tmp_path / "label.nii.gz", GRID)
    assert label_map.shape == scan.image.shape and gaps is None
    assert set(np.unique(label_map)) == {0, 200, 600}
    truth = organs(scan.on_grid, (1, 3)) * 200
    assert (label_map == truth).mean() > 0.99


def test_a_dicom_folder_whatever_its_file_names(tmp_path):
    grid = empty_scan((60, 50, 8), (3.0, 3.0, 15.0))
    image = sitk.Cast(scanned(grid)[0], sitk.sitkUInt16)
    folder = tmp_path / "series"
    folder.mkdir()
    for number, z in enumerate([3, 0, 7, 1, 2, 6, 5, 4]):
        write_dicom(folder / f"file{number}", image, z, number + 1)
    scan = read_scan(folder, GRID)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(scan.original), sitk.GetArrayFromImage(image))
    write_on_scan(organs(grid).astype(np.uint8), scan, tmp_path / "out.nii.gz")
    written = sitk.ReadImage(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(written.GetOrigin(), grid.GetOrigin(), atol=1e-4)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), organs(grid))


def test_which_scans_a_path_stands_for(tmp_path):
    for name in ("b.nii", "a.NII.gz", "notes.txt", ".hidden.nii.gz", "patient/study/y.txt", "labels/a.nii.gz", "x.vtk", "c.NRRD"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "nothing").mkdir()
    image = sitk.Cast(scanned(empty_scan((20, 20, 3)))[0], sitk.sitkUInt16)
    for number in range(3):
        write_dicom(tmp_path / f"patient/study/{number}.dcm", image, number, number)
    found = find_scans(tmp_path)
    assert sorted(found.names.values()) == ["a", "b", "c", "labels", "patient"]
    assert found.names[tmp_path / "patient/study"] == "patient"
    assert {(one.path.name, one.may_be_scan) for one in found.left_out} == {
        ("notes.txt", False), ("y.txt", False), ("x.vtk", True), ("nothing", True)}
    assert list(find_scans(tmp_path / "b.nii").names) == [tmp_path / "b.nii"]
    assert list(find_scans(tmp_path / "patient/study").names) == [tmp_path / "patient/study"]
    assert find_scans(tmp_path / "nothing").names == {}


def test_labels_are_called_as_the_dataset_calls_them():
    names = {1: "LV myocardium", 2: "LV blood pool"}
    assert label_names([200, 500, 7], names, {200: 1, 500: 2}) == {200: "LV myocardium", 500: "LV blood pool", 7: "label 7"}


@pytest.mark.parametrize(("make", "message"), [
    (lambda path: None, "no such file"),
    (lambda path: path.write_bytes(b"x"), "cannot be read as NIfTI"),
    (lambda path: sitk.WriteImage(as_image(np.full((4, 20, 20), 7, np.int16), empty_scan((20, 20, 4))), path), "constant"),
])
def test_a_scan_that_cannot_be_used_is_named(tmp_path, make, message):
    make(tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match=f"scan.nii.gz: .*{message}"):
        read_scan(tmp_path / "scan.nii.gz", GRID)
