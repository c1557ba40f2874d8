"""Prediction on real scans that were resampled, flipped and re-oriented."""

import numpy as np
import pytest
import SimpleITK as sitk

from tests.conftest import entry_point, run
from tests.goldens import CHAOST2, needs_chaost2

IMAGES = CHAOST2 / "chaos_MR_T2_normalized"


def resampled(image: sitk.Image, spacing_mm: tuple[float, float, float], is_label: bool) -> sitk.Image:
    """The same scan on voxels of another size, around the same middle."""
    size = [int(np.ceil(n * old / new)) for n, old, new in zip(image.GetSize(), image.GetSpacing(), spacing_mm, strict=True)]
    direction = np.reshape(image.GetDirection(), (3, 3))
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    origin = middle - direction @ ((np.array(size) - 1) / 2 * spacing_mm)
    return sitk.Resample(image, size, sitk.Transform(), sitk.sitkNearestNeighbor if is_label else sitk.sitkLinear,
                         origin.tolist(), spacing_mm, image.GetDirection())


def predict(snapshot, folder, output, query):
    entry_point("test").experiment.run("predict", config_updates={
        "device": "cpu", "reload_model_path": str(snapshot), "support_image": str(folder / "image_1.nii.gz"),
        "support_label": str(folder / "label_1.nii.gz"), "query": str(query), "output": str(output)})
    return sitk.ReadImage(output)


@pytest.mark.slow
@needs_chaost2
def test_the_same_organs_in_the_patient_however_the_scans_are_stored(tmp_path):
    """Support and query with other pixels, three times as many slices, flipped and permuted axes: Dice of 0.95 and more."""
    trained = run("train", tmp_path, CHAOST2, "chaost2_setting1", n_steps=300, min_size=200, print_interval=100)
    snapshot = trained / "snapshots/300.pth"
    for number, spacing_mm, order in ((1, (1.1, 1.4, 2.6), "SPR"), (2, (1.4, 1.0, 2.6), "IRA")):
        for kind in ("image", "label"):
            image = sitk.ReadImage(IMAGES / f"{kind}_{number}.nii.gz")
            image = sitk.Cast(image, sitk.sitkUInt8 if kind == "label" else sitk.sitkFloat32)
            turned = sitk.DICOMOrient(resampled(image, spacing_mm, kind == "label"), order)
            sitk.WriteImage(turned, tmp_path / f"{kind}_{number}.nii.gz")
    plain = predict(snapshot, IMAGES, tmp_path / "plain.nii.gz", IMAGES / "image_2.nii.gz")
    turned = predict(snapshot, tmp_path, tmp_path / "turned.nii.gz", tmp_path / "image_2.nii.gz")
    a = sitk.GetArrayFromImage(plain)
    b = sitk.GetArrayFromImage(sitk.Resample(turned, plain, sitk.Transform(), sitk.sitkNearestNeighbor))
    for label in (1, 2, 3, 4):
        overlap = 2 * ((a == label) & (b == label)).sum() / ((a == label).sum() + (b == label).sum())
        assert overlap >= 0.95, label
