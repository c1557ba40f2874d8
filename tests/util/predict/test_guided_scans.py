"""Guided outlines of scans that are stored in another way, and of scans that do not fit. On the phantom."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from qnet.data.phantom import VERSION, generate_phantom
from qnet.util.engine.metrics import dice
from qnet.util.options.config import base_config
from qnet.util.predict.predictor import Predictor

pytestmark = pytest.mark.whole
LABELS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    generate_phantom(folder / "scans", {"version": VERSION, "seed": 0, "min_size": 1000, "cases": 2, "size": 96, "slices": 20})
    return folder / "scans/chaos_MR_T2_normalized"


@pytest.fixture(scope="module")
def predictor(phantom):
    coarse = {"finest": 0.85}      # seconds for a scan
    predictor = Predictor.untrained("guided", device="cpu", registration={**base_config()["registration"], **coarse})
    predictor.add_support(phantom / "image_1.nii.gz", phantom / "label_1.nii.gz")
    return predictor


@pytest.fixture(scope="module")
def query(phantom):
    return sitk.ReadImage(phantom / "image_2.nii.gz")


@pytest.fixture(scope="module")
def outlined(predictor, query):
    return predictor.segment(query)


def array(image):
    return sitk.GetArrayFromImage(image)


def confidences(found):
    return np.array([row["confidence"] for row in found.numbers()])


def on_grid(image, size, spacing_mm, angles=(0, 0, 0)):
    """The scan on other voxels, the middle staying where it is, turned by angles about x, y and z."""
    direction = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.reshape(image.GetDirection(), (3, 3))
    middle = np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing(spacing_mm)
    grid.SetDirection(direction.ravel())
    grid.SetOrigin(middle - direction @ ((np.array(size) - 1) / 2 * spacing_mm))
    return sitk.Resample(image, grid, sitk.Transform(), sitk.sitkBSpline, float(array(image).min()))


def test_the_outlines_are_right(outlined, phantom):
    truth = np.asarray(nibabel.load(phantom / "label_2.nii.gz").dataobj).T
    assert min(dice(outlined.label_map == label, truth == label) for label in LABELS) > 0.85


# what a mark of `slow` leaves to another case of the same test is seen there too
@pytest.mark.parametrize("axes", [pytest.param("RAS", marks=pytest.mark.slow), "SAL"])
def test_flips_and_permuted_axes_change_nothing(axes, predictor, query, outlined):
    found = predictor.segment(sitk.DICOMOrient(query, axes))
    back = sitk.Resample(found.image, query, sitk.Transform(), sitk.sitkNearestNeighbor)
    np.testing.assert_array_equal(array(back), outlined.label_map)


@pytest.mark.parametrize(("size", "spacing_mm", "angles"), [
    ((81, 81, 20), (3.95, 3.95, 7.7), (0, 0, 0)), ((96, 96, 32), (3.33, 3.33, 4.8), (0, 0, 0)),
    pytest.param((116, 116, 20), (3.33, 3.33, 7.7), (0, 0, 10), marks=pytest.mark.slow),
    ((106, 106, 24), (3.33, 3.33, 7.7), (8, -6, 0))],
    ids=["coarser", "thinner slices", "rotated", "oblique"])
def test_other_voxels_and_frames_give_nearly_the_same(size, spacing_mm, angles, predictor, query, outlined):
    """Compared on the scan's own voxels of 3.3 mm; tests/util/predict/test_outline_real.py asks for 0.95 on real scans."""
    found = predictor.segment(on_grid(query, size, spacing_mm, angles))
    back = array(sitk.Resample(found.image, query, sitk.Transform(), sitk.sitkNearestNeighbor))
    overlaps = [dice(back == label, outlined.label_map == label) for label in LABELS]
    assert np.mean(overlaps) > 0.92 and min(overlaps) > 0.9, overlaps


def test_a_scan_far_away_in_the_scanner_is_no_other_scan(predictor, query, outlined):
    far = sitk.Image(query)
    far.SetOrigin((5000.0, -5000.0, 5000.0))
    np.testing.assert_array_equal(predictor.segment(far).label_map, outlined.label_map)


def odd_scan(kind, query):
    rng = np.random.default_rng(0)
    values = {"noise": lambda: rng.random((20, 96, 96)),
              "another body part": lambda: ndimage.gaussian_filter(rng.random((20, 96, 96)), (1, 5, 5)),
              "upside down, and said not to be": lambda: array(query)[::-1, ::-1],
              "one slice": lambda: array(query)[10:11]}[kind]()
    image = sitk.GetImageFromArray(values.astype(np.float32))
    image.SetSpacing(query.GetSpacing())
    return image


@pytest.mark.parametrize("kind", [
    pytest.param("noise", marks=pytest.mark.slow), "another body part", "upside down, and said not to be", "one slice"])
def test_what_does_not_fit_has_a_low_confidence(kind, predictor, query, outlined):
    found = predictor.segment(odd_scan(kind, query))
    assert found.label_map.shape == array(odd_scan(kind, query)).shape
    assert (confidences(found) < 0.75 * confidences(outlined)).all(), (confidences(found), confidences(outlined))
