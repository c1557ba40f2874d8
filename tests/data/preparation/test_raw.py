"""Reading a case whose files are NIfTI: image and labels on one grid, and what is said of a broken one."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from qnet.data.preparation.raw import RawCase, read_nifti_pair
from qnet.util.base.errors import InputError
from tests.data.raw_downloads import as_image, empty_scan, organs, scanned, write_nifti_pair

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
    moved.SetOrigin(np.add(GRID.GetOrigin(), (0, 0, 20)).tolist())
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
