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
from tests.toy import AFFINE, toy_case, write

pytestmark = pytest.mark.whole
LABELS = (1, 2, 3, 4)


def made(folder, size, slices):
    """The folder of the images of a phantom."""
    generate_phantom(folder / "scans", {"version": VERSION, "seed": 0, "min_size": 1000, "cases": 2, "size": size,
                                        "slices": slices})
    return folder / "scans/chaos_MR_T2_normalized"


def with_support(phantom, **registration):
    """A predictor that has the first case of a phantom as its support."""
    predictor = Predictor.untrained("guided", device="cpu", registration={**base_config()["registration"], **registration})
    predictor.add_support(phantom / "image_1.nii.gz", phantom / "label_1.nii.gz")
    return predictor


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return made(tmp_path_factory.mktemp("phantom"), 96, 20)


@pytest.fixture(scope="module")
def predictor(phantom):
    return with_support(phantom, finest=0.85)       # seconds for a scan


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A predictor of rough outlines, a toy scan of few voxels, and its outlines: a second for each."""
    folder = tmp_path_factory.mktemp("small")
    for number in (1, 2):
        image, label_map, _ = toy_case(number)
        for array, name in ((image, "image"), (label_map, "label")):
            write(folder / f"{name}_{number}.nii.gz", array[:, ::2, ::2], AFFINE @ np.diag([2.0, 2.0, 1.0, 1.0]))
    predictor, query = with_support(folder, finest=0.7, n_steps=20), sitk.ReadImage(folder / "image_2.nii.gz")
    outlined = predictor.segment(query)
    assert set(np.unique(outlined.label_map)) == {0, *LABELS}
    return predictor, query, outlined


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


@pytest.mark.parametrize("axes", ["RAS", "SAL"])
def test_flips_and_permuted_axes_change_nothing(axes, small):
    predictor, query, outlined = small
    found = predictor.segment(sitk.DICOMOrient(query, axes))
    back = sitk.Resample(found.image, query, sitk.Transform(), sitk.sitkNearestNeighbor)
    np.testing.assert_array_equal(array(back), outlined.label_map)


def test_a_scan_that_lies_obliquely_gives_nearly_the_same(small):
    """Outlines that were written without the turn would overlap by half."""
    predictor, query, outlined = small
    found = predictor.segment(on_grid(query, (34, 34, 9), (4.0, 4.0, 7.0), (8, -6, 20)))
    overlaps = overlaps_of(found, query, outlined)
    assert np.mean(overlaps) > 0.75 and min(overlaps) > 0.65, overlaps


@pytest.mark.slow
@pytest.mark.parametrize(("size", "spacing_mm", "angles"), [
    ((81, 81, 20), (3.95, 3.95, 7.7), (0, 0, 0)), ((96, 96, 32), (3.33, 3.33, 4.8), (0, 0, 0)),
    ((116, 116, 20), (3.33, 3.33, 7.7), (0, 0, 10)), ((106, 106, 24), (3.33, 3.33, 7.7), (8, -6, 0))],
    ids=["coarser", "thinner slices", "rotated", "oblique"])
def test_other_voxels_and_frames_give_nearly_the_same(size, spacing_mm, angles, predictor, query, outlined):
    """Compared on the scan's own voxels of 3.3 mm; tests/util/predict/test_outline_real.py asks for 0.95 on real scans."""
    found = predictor.segment(on_grid(query, size, spacing_mm, angles))
    overlaps = overlaps_of(found, query, outlined)
    assert np.mean(overlaps) > 0.92 and min(overlaps) > 0.9, overlaps


def overlaps_of(found, query, outlined):
    """Dice of the outlines of a scan on other voxels with its own ones, on its own voxels, for each label."""
    back = array(sitk.Resample(found.image, query, sitk.Transform(), sitk.sitkNearestNeighbor))
    return [dice(back == label, outlined.label_map == label) for label in LABELS]


def test_a_scan_far_away_in_the_scanner_is_no_other_scan(small):
    predictor, query, outlined = small
    far = sitk.Image(query)
    far.SetOrigin((5000.0, -5000.0, 5000.0))
    np.testing.assert_array_equal(predictor.segment(far).label_map, outlined.label_map)


def test_one_slice_of_a_scan_has_a_low_confidence(small):
    predictor, query, outlined = small
    found = predictor.segment(odd_scan("one slice", query))
    assert found.label_map.shape == (1, 32, 32)
    assert (confidences(found) < 0.75 * confidences(outlined)).all(), (confidences(found), confidences(outlined))


def odd_scan(kind, query):
    rng, values = np.random.default_rng(0), array(query)
    made = {"noise": lambda: rng.random(values.shape),
            "another body part": lambda: ndimage.gaussian_filter(rng.random(values.shape), (1, 5, 5)),
            "upside down, and said not to be": lambda: values[::-1, ::-1],
            "one slice": lambda: values[len(values) // 2:][:1]}[kind]()
    image = sitk.GetImageFromArray(made.astype(np.float32))
    image.SetSpacing(query.GetSpacing())
    return image


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["noise", "another body part", "upside down, and said not to be", "one slice"])
def test_what_does_not_fit_has_a_low_confidence(kind, predictor, query, outlined):
    found = predictor.segment(odd_scan(kind, query))
    assert found.label_map.shape == array(odd_scan(kind, query)).shape
    assert (confidences(found) < 0.75 * confidences(outlined)).all(), (confidences(found), confidences(outlined))
