"""scripts/checks/resampling.py on the toy data."""

import numpy as np
import pytest
import SimpleITK as sitk

from qnet.scripts.checks.resampling import check, main, overlaps, resample
from tests.data.raw_downloads import as_image, empty_scan


@pytest.mark.parametrize("kept", ["middle", "first voxel"])
def test_what_stays_in_its_place(kept):
    scan = as_image(np.zeros((6, 20, 20), np.float32), empty_scan((20, 20, 6), (2.0, 2.0, 6.0)))
    other = resample(scan, (1.0, 2.5, 4.0), sitk.sitkLinear, kept)
    assert other.GetSize() == (40, 16, 9) and other.GetSpacing() == (1.0, 2.5, 4.0)
    places = [(0, 0, 0) if kept == "first voxel" else [(n - 1) / 2 for n in image.GetSize()] for image in (scan, other)]
    here, there = map(sitk.Image.TransformContinuousIndexToPhysicalPoint, (scan, other), places)
    np.testing.assert_allclose(here, there, atol=1e-6)


def test_overlap_in_the_patient():
    a, b = (np.zeros((4, 10, 10), np.uint8) for _ in range(2))
    a[1:3, 2:6, 2:6], b[1:3, 4:8, 2:6] = 1, 1
    grid = empty_scan((10, 10, 4), (2.0, 2.0, 6.0))
    turned = sitk.DICOMOrient(as_image(b, grid), "SPR")
    assert overlaps(as_image(a, grid), turned, [1, 2]) == [0.5, 1.0]


@pytest.mark.whole
def test_real_predictions(trained, toy_data):
    images = toy_data / "chaos_MR_T2_normalized"
    names, rows = check(trained / "snapshots/3.pth", images / "image_1.nii.gz", images / "label_1.nii.gz",
                        images / "image_2.nii.gz", [("spline", None, "middle")], device="cpu", n_iters=0)
    assert names == ["liver", "right kidney", "left kidney", "spleen"]
    [(*condition, a, b, c, d, best_a, best_b, best_c, best_d)] = rows
    assert condition == ["spline", None, "middle"]
    assert all(0.8 < score <= 1 for score in (a, b, c, d, best_a, best_b, best_c, best_d))


def test_a_missing_file_is_named(trained, toy_data, capsys):
    images = toy_data / "chaos_MR_T2_normalized"
    assert main([str(trained / "snapshots/3.pth"), "nowhere.nii.gz", str(images / "label_1.nii.gz"), "b.nii.gz"]) == 1
    assert capsys.readouterr().err.startswith("error: nowhere.nii.gz: no such file")
