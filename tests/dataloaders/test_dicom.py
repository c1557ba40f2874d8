"""A folder of DICOM slices as one volume: whatever the names and the order, and what is said of a broken one."""

import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from qnet.dataloaders.dicom import read_dicom
from qnet.util.base.errors import InputError
from tests.data.raw_downloads import empty_scan, scanned, write_dicom

N = 16
ANGLE = np.deg2rad(12)
TILTED = np.array([[1, 0, 0], [0, np.cos(ANGLE), -np.sin(ANGLE)], [0, np.sin(ANGLE), np.cos(ANGLE)]])


@pytest.fixture
def folder(tmp_path):
    """A folder of slices, from the lowest upwards."""
    for number in range(1, N + 1):
        write_dicom(dicom(tmp_path, number), sitk.Cast(scanned(empty_scan())[0], sitk.sitkUInt16), number - 1, number)
    return tmp_path


def dicom(folder, number):
    return folder / f"IMG-0004-{number:05d}.dcm"


@pytest.mark.parametrize("direction", [np.eye(3), TILTED], ids=["upright", "tilted"])
def test_the_slices_are_stacked_by_their_position(tmp_path, direction):
    grid = empty_scan((60, 50, 8), (3.0, 2.0, 15.0), direction)
    scan = sitk.Cast(scanned(grid)[0], sitk.sitkUInt16)
    for number, z in enumerate([3, 0, 7, 1, 2, 6, 5, 4]):
        write_dicom(tmp_path / f"file{number}", scan, z, number + 1)
    (tmp_path / "DICOMDIR").write_bytes(b"an index")
    (tmp_path / "._file0").write_bytes(b"resource fork")
    image = read_dicom(tmp_path)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(scan))
    for ours, true in ((image.GetSpacing(), (3.0, 2.0, 15.0)), (image.GetOrigin(), grid.GetOrigin()),
                       (image.GetDirection(), grid.GetDirection())):
        np.testing.assert_allclose(ours, true, atol=1e-6)


def no_slices(folder):
    for path in folder.iterdir():
        path.unlink()


def missing_slice(folder):
    dicom(folder, 7).unlink()


def one_slice_only(folder):
    for number in range(2, N + 1):
        dicom(folder, number).unlink()


def same_position_twice(folder):
    shutil.copy(dicom(folder, 7), dicom(folder, 8))


def empty_slice(folder):
    dicom(folder, 7).write_bytes(b"")


def truncated_slice(folder):
    dicom(folder, 7).write_bytes(dicom(folder, 7).read_bytes()[:-5000])


def slice_that_is_no_dicom(folder):
    dicom(folder, 7).write_text("404 not found", encoding="utf-8")


def other_series(folder):
    write_dicom(dicom(folder, 7), scanned(empty_scan())[0], 6, 7, series="9.9.9", intercept=-1)


def other_spacing(folder):
    coarser = scanned(empty_scan(spacing_mm=(3.5, 3.5, 8.0)))[0]
    write_dicom(dicom(folder, 7), coarser, 6, 7, intercept=-1)


def other_orientation(folder):
    write_dicom(dicom(folder, 7), scanned(empty_scan(direction=TILTED))[0], 6, 7, intercept=-1)


def other_size(folder):
    write_dicom(dicom(folder, 7), scanned(empty_scan((72, 72, N)))[0], 6, 7, intercept=-1)


@pytest.mark.parametrize(("damage", "message"), [
    (no_slices, "no DICOM file in it"),
    (missing_slice, "evenly stacked: 16.00 mm from IMG-0004-00006.dcm to IMG-0004-00008.dcm, usually 8.00"),
    (one_slice_only, "expected several slices, found one"),
    (same_position_twice, "not evenly stacked: 0.00 mm"),
    (empty_slice, "00007.dcm: cannot be read as DICOM"),
    (truncated_slice, "00007.dcm: cannot be read as DICOM"),
    (slice_that_is_no_dicom, "00007.dcm: cannot be read as DICOM"),
    (other_series, "expected one series of equal slices, found 2 series"),
    (other_orientation, "found 2 slice orientations"),
    (other_spacing, "found 2 pixel spacings"),
    (other_size, "found 2 slice sizes"),
], ids=lambda value: value.__name__ if callable(value) else "")
def test_a_broken_folder_says_what_is_wrong(folder, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message) as caught:
        read_dicom(folder)
    assert "\n" not in str(caught.value)
