"""CHAOS as downloaded, DICOM and PNG: whatever the order and orientation, labels lie where their organs are."""

import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from qnet.data.preparation.chaos import read_chaos
from qnet.data.preparation.raw import RawCase
from qnet.data.preparation.recipes import chaos
from qnet.util.base.errors import InputError
from tests.data.raw_downloads import (
    BACKGROUND,
    IDENTITY,
    STEP,
    as_image,
    empty_scan,
    organs,
    scanned,
    write_chaos,
    write_dicom,
)

LAS = (1, 0, 0, 0, -1, 0, 0, 0, 1)
ANGLE = np.deg2rad(12)
TILTED = np.array([[1, 0, 0], [0, np.cos(ANGLE), -np.sin(ANGLE)], [0, np.sin(ANGLE), np.cos(ANGLE)]])
ROWS_AND_COLUMNS_TURNED = np.diag([-1.0, -1.0, 1.0])
FEET_LAST = np.diag([1.0, -1.0, -1.0])
CORONAL = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
N = 16
UP, DOWN, SHUFFLED = list(range(N)), list(range(N))[::-1], [5, 0, 11, 3, 15, 8, 1, 13, 2, 9, 7, 14, 4, 12, 6, 10]


def read(folder):
    return read_chaos(RawCase("1", folder / "DICOM_anon", folder / "Ground"))


@pytest.mark.whole
@pytest.mark.parametrize(("direction", "order"), [
    (IDENTITY, UP), (IDENTITY, DOWN), (IDENTITY, SHUFFLED), (ROWS_AND_COLUMNS_TURNED, SHUFFLED), (FEET_LAST, UP),
    (TILTED, SHUFFLED), (CORONAL, DOWN),
], ids=["upwards", "downwards", "shuffled", "rows and columns turned", "feet last", "tilted", "coronal"])
def test_image_and_labels_lie_where_the_organs_are(tmp_path, direction, order):
    size, spacing_mm = ((80, 32), (3.0, 4.0, 12.5)) if direction is CORONAL else ((80, 72), (3.0, 3.0, 8.0))
    grid = empty_scan((*size, N), spacing_mm, direction)
    write_chaos(tmp_path, grid, order)
    image, labels = read(tmp_path)
    # orientation: LAS up to the tilt of the scan itself
    turned = np.reshape(image.GetDirection(), (3, 3)).T @ np.reshape(LAS, (3, 3))
    assert np.trace(turned) > 2.9
    if direction is not TILTED:
        np.testing.assert_allclose(image.GetDirection(), LAS, atol=1e-9)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), organs(image))
    assert np.abs(sitk.GetArrayFromImage(image).astype(int) - BACKGROUND - STEP * organs(image)).max() <= 3

    prepared, prepared_labels = chaos().convert(image, labels)
    assert prepared.GetSize()[:2] == (256, 256)
    np.testing.assert_allclose(prepared.GetSpacing(), (1.25, 1.25, 7.7))
    found, intensities = sitk.GetArrayFromImage(prepared_labels), sitk.GetArrayFromImage(prepared).astype(int)
    inner = organs(prepared, shrink=0.35)               # away from the edges, which resampling blurs
    assert set(np.unique(inner)) == {0, 1, 2, 3, 4}
    for label in (1, 2, 3, 4):
        assert (found[inner == label] == label).all()
        assert np.abs(intensities[inner == label] - BACKGROUND - STEP * label).max() <= 4
    assert not found[organs(prepared, shrink=1.4) == 0].any()


@pytest.mark.parametrize(("slope", "intercept"), [(2, 0), (3, -1000)])
def test_rescaled_values_come_out_as_what_they_stand_for(tmp_path, slope, intercept):
    grid = empty_scan()
    write_chaos(tmp_path, grid, DOWN, slope=slope, intercept=intercept)
    image, _ = read(tmp_path)
    expected = sitk.GetArrayFromImage(scanned(grid)[0]) // slope * slope + intercept
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), expected[:, ::-1])      # rows turned, as LAS has them


@pytest.mark.parametrize("missing", [4, 1])
def test_a_missing_organ_renames_no_other(tmp_path, missing):
    present = [label for label in (1, 2, 3, 4) if label != missing]
    write_chaos(tmp_path, empty_scan(), UP, labels=present)
    _, labels = read(tmp_path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels), organs(labels, present))


def test_hidden_files_are_left_out(tmp_path):
    write_chaos(tmp_path, empty_scan(), UP)
    (tmp_path / "DICOM_anon" / "._IMG-0004-00001.dcm").write_bytes(b"resource fork")
    assert read(tmp_path)[0].GetSize()[2] == N


def dicom(folder, number):
    return folder / "DICOM_anon" / f"IMG-0004-{number:05d}.dcm"


def png(folder, number):
    return folder / "Ground" / f"IMG-0004-{number:05d}.png"


def no_slices(folder):
    shutil.rmtree(folder / "DICOM_anon")


def no_masks(folder):
    shutil.rmtree(folder / "Ground")


def missing_mask(folder):
    png(folder, 7).unlink()


def missing_slice_and_mask(folder):
    dicom(folder, 7).unlink()
    png(folder, 7).unlink()


def name_without_number(folder):
    dicom(folder, 7).rename(folder / "DICOM_anon" / "slice.dcm")


def same_number_twice(folder):
    shutil.copy(dicom(folder, 7), folder / "DICOM_anon" / "IMG-0009-00007.dcm")


def empty_mask(folder):
    png(folder, 7).write_bytes(b"")


def truncated_mask(folder):
    png(folder, 7).write_bytes(png(folder, 7).read_bytes()[:60])


def mask_of_other_size(folder):
    sitk.WriteImage(sitk.Image(72, 80, sitk.sitkUInt8), png(folder, 7))


def coloured_mask(folder):
    sitk.WriteImage(sitk.Image([80, 72], sitk.sitkVectorUInt8, 3), png(folder, 7))


def unknown_grey(folder):
    sitk.WriteImage(sitk.Image(80, 72, sitk.sitkUInt8) + 90, png(folder, 7))


def constant_image(folder):
    grid = empty_scan()
    for number in range(1, N + 1):
        write_dicom(dicom(folder, number), as_image(np.full((N, 72, 80), 7, np.uint16), grid), number - 1, number)


@pytest.mark.parametrize(("damage", "message"), [
    (no_slices, r"DICOM_anon: no file \*.dcm"),
    (no_masks, r"Ground: no file \*.png"),
    (missing_mask, "do not pair up: number 7 is on one side only"),
    (missing_slice_and_mask, "evenly stacked: 16.00 mm from IMG-0004-00006.dcm to IMG-0004-00008.dcm, usually 8.00"),
    (name_without_number, "slice.dcm: expected a number of its own"),
    (same_number_twice, "IMG-0009-00007.dcm: expected a number of its own"),
    (empty_mask, "00007.png: cannot be read as PNG"),
    (truncated_mask, "00007.png: cannot be read as PNG"),
    (mask_of_other_size, r"00007.png: 1 channel\(s\) of \(width, height\) = \(72, 80\), expected one of \(80, 72\)"),
    (coloured_mask, r"00007.png: 3 channel\(s\)"),
    (unknown_grey, "00007.png: holds the grey level 90, allowed: 0, 55…70, 110…135, 175…200, 240…255"),
    (constant_image, "every voxel has the value 7"),
], ids=lambda value: value.__name__ if callable(value) else "")
def test_a_broken_case_says_what_is_wrong(tmp_path, damage, message):
    write_chaos(tmp_path, empty_scan(), UP)
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
