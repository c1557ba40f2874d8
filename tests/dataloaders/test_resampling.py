"""The pure steps from a scan to the model's grid: goldens, geometry, cases worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from qnet.data.preparation.recipes import chaos, cmr, sabs
from qnet.dataloaders import resampling as resample
from qnet.dataloaders.geometry import grid_distance_mm, voxel_to_patient
from qnet.dataloaders.nifti import read_nifti
from qnet.util.base.errors import InputError

GOLDENS = Path(__file__).resolve().parents[2].parent / "shared" / "goldens"
needs_goldens = pytest.mark.skipif(not GOLDENS.exists(), reason="../shared/goldens is not here")


def scan(array, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), direction=((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0))):
    image = sitk.GetImageFromArray(np.asarray(array))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(np.ravel(direction))
    return image


def tilted(degrees=20, other=35):
    """A rotation about x, then about z: no axis of the grid lies along one of the patient's."""
    a, b = np.deg2rad([degrees, other])
    about_x = [[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]
    about_z = [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]
    return np.array(about_z) @ about_x


@needs_goldens
@pytest.mark.parametrize(("name", "recipe"), [("chaos_a", chaos()), ("chaos_b", chaos()), ("cmr_a", cmr(False))])
def test_agrees_with_the_published_preparation(name, recipe):
    goldens = np.load(GOLDENS / "preprocess.npz")
    raw = [read_nifti(GOLDENS / "preprocess" / f"{name}_{kind}.nii.gz") for kind in ("image", "label")]
    image, labels = map(sitk.GetArrayFromImage, recipe.convert(*raw))
    np.testing.assert_array_equal(labels, goldens[f"{name}_label"])
    assert image.shape == tuple(goldens[f"{name}_shape"])
    np.testing.assert_allclose(image[:, ::2, ::2], goldens[f"{name}_image"], atol=1e-3)
    assert image.sum(dtype=float) == pytest.approx(goldens[f"{name}_image_sum"])


def bright_point_mm(image):
    """Where in the patient the intensity-weighted mean of an image lies."""
    array = sitk.GetArrayFromImage(image).astype(float)
    z, y, x = (np.average(index, weights=array) for index in np.indices(array.shape))
    return np.array(image.TransformContinuousIndexToPhysicalPoint((x, y, z)))


@pytest.mark.parametrize("width", [40, 41, 90, 91])    # padded and cropped, even and odd
def test_a_voxel_keeps_its_place_in_the_patient_on_a_tilted_grid(width):
    array = np.zeros((12, 60, width), np.float32)
    array[5:8, 24:30, 24:30] = 100                     # off-centre
    raw = scan(array, (1.7, 1.3, 4.0), (-70.0, 15.0, 220.0), tilted())
    blob = resample.image_to_grid(raw, (1.25, 1.25, 3.0), 64)
    assert blob.GetSize()[:2] == (64, 64)
    np.testing.assert_allclose(bright_point_mm(blob), bright_point_mm(raw), atol=0.05)
    labels = resample.labels_to_grid(raw > 50, (1.25, 1.25, 3.0), 64)
    assert grid_distance_mm(voxel_to_patient(blob), voxel_to_patient(labels), blob.GetSize()) == 0


def test_labels_on_the_grid_keep_their_place():
    array = np.zeros((12, 60, 70), np.int16)
    array[3:9, 20:40, 15:35] = 3
    raw = scan(array, (1.0, 1.2, 3.0), (-70.0, 15.0, 220.0), tilted())
    on_grid = resample.labels_to_grid(raw, (1.25, 1.25, 2.5), 128)
    back = sitk.Resample(on_grid, raw, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    found, true = sitk.GetArrayFromImage(back) == 3, array == 3
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.9


@pytest.mark.parametrize("n", [6, 7, 8, 9, 10, 11])
def test_index_half_n_lands_on_half_the_size(n):
    array = np.arange(n * n, dtype=np.int16).reshape(1, n, n)
    placed = sitk.GetArrayFromImage(resample.crop_or_pad_in_plane(scan(array), 8, pad_value=-7))
    assert placed.shape == (1, 8, 8)
    assert placed[0, 4, 4] == array[0, n // 2, n // 2]
    assert (placed == -7).sum() == max(0, 64 - n * n)


def test_crop_moves_the_origin():
    image = resample.crop_or_pad_in_plane(scan(np.zeros((2, 10, 4)), (2.0, 3.0, 1.0), (100.0, 50.0, 0.0)), 6)
    # x: 4 // 2 = 2 lands on 3, so one column of 2 mm comes before; y: 5 lands on 3, so two rows of 3 mm go
    assert image.GetOrigin() == (98.0, 56.0, 0.0)


def test_size_is_rounded_down_plus_one():
    # 10 · 1 / 2 + 1 = 6; 7 · 1.5 / 2 + 1 = 6.25; 3 · 5 / 7.7 + 1 = 2.948
    assert resample.resampled_size(scan(np.zeros((3, 7, 10)), (1.0, 1.5, 5.0)), (2.0, 2.0, 7.7)) == [6, 6, 2]


def test_clip_keeps_the_integer_type_and_truncates():
    image = resample.clip_at_percentile(scan(np.arange(1000, dtype=np.int16).reshape(10, 10, 10)))
    array = sitk.GetArrayFromImage(image)
    assert array.dtype == np.int16
    assert array.max() == 994                          # the percentile is 994.005
    assert (array == 994).sum() == 6


def test_window_uses_the_windowed_volumes_own_range():
    image = resample.window_to_255(scan(np.array([[[-1000, -75, 25, 225]]], np.int16)), -125, 275)
    # -125 … 225 after the window, 350 wide
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), [[[0, 50 / 350 * 255, 150 / 350 * 255, 255]]], rtol=1e-6)
    assert not sitk.GetArrayFromImage(resample.window_to_255(scan(np.full((1, 2, 2), 900.0)), -125, 275)).any()


def test_outside_the_volume_is_zero_or_a_negative_minimum():
    array = np.full((1, 4, 4), 50, np.int16)
    beyond = (2.0, 2.0, 1.0)                           # 4 voxels become 3, the last 0.5 beyond the volume's edge
    assert sitk.GetArrayFromImage(resample.resample_image(scan(array), beyond))[0, 2, 2] == 0
    array[0, 0, 0] = -1000
    assert sitk.GetArrayFromImage(resample.resample_image(scan(array), beyond))[0, 2, 2] == -1000


def test_labels_are_resampled_one_value_at_a_time():
    # halfway between 1 and 3 lies half of each: neither covers more than half, and 2 is never made up; the last two lie
    # at the volume's edge and beyond
    labels = resample.resample_labels(scan(np.array([[[1, 3, 3, 500]]], np.int16)), (0.5, 1.0, 1.0))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(labels)[0, 0], [1, 0, 3, 3, 3, 0, 500, 0, 0])


def test_the_recipe_of_sabs_halves_what_is_left_of_a_ct():
    array = np.full((3, 512, 512), -1000, np.int16)
    array[:, 200:300, 200:320] = 100
    raw = scan(array, (0.8, 0.8, 5.0), (-200.0, -150.0, 40.0), tilted(5, 10))
    image, labels = sabs(False).convert(raw, raw > 0)
    assert image.GetSize() == labels.GetSize() == (256, 256, 3)
    np.testing.assert_allclose(image.GetSpacing(), (0.8 * 1.75, 0.8 * 1.75, 5.0))
    assert image.TransformIndexToPhysicalPoint((0, 0, 0)) == raw.TransformIndexToPhysicalPoint((32, 32, 0))
    np.testing.assert_allclose(bright_point_mm(image), bright_point_mm(raw > 0), atol=0.3)
    np.testing.assert_allclose(bright_point_mm(labels), bright_point_mm(raw > 0), atol=0.7)


def test_the_recipe_of_sabs_refuses_a_tiny_image():
    with pytest.raises(InputError, match="a border of 32 pixels"):
        sabs(False).convert(scan(np.zeros((1, 64, 80))), scan(np.zeros((1, 64, 80))))
