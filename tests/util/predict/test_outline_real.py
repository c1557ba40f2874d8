"""Prediction on real scans that were resampled, flipped and re-oriented."""

import pytest

from qnet.dataloaders.itk import with_geometry
from qnet.scripts.checks.resampling import check, overlaps, turn
from qnet.util.predict.predictor import Predictor
from tests.goldens import CHAOST2, needs_chaost2
from tests.programs import run

IMAGES = CHAOST2 / "chaos_MR_T2_normalized"


@pytest.mark.slow
@needs_chaost2
def test_the_same_organs_in_the_patient_however_the_scans_are_stored(tmp_path):
    """Support and query with other pixels, twice as many slices, flipped and permuted axes: Dice of 0.95 and more."""
    trained = run("train", tmp_path, CHAOST2, "chaost2_setting1_scratch", n_steps=500, lr_step_every=500, min_size=200,
                  print_interval=100)
    conditions = [("linear", None, "middle"), ("spline", (3.5, 3.0), "middle")]
    files = [IMAGES / f"{name}.nii.gz" for name in ("image_1", "label_1", "image_2")]
    names, rows = check(trained / "snapshots/500.pth", files[0], files[1], files[2], conditions, device="cpu",
                        precision="float32")
    assert names == ["liver", "right kidney", "left kidney", "spleen"]
    for row in rows:
        assert min(row[3:7]) >= 0.95, row


@pytest.mark.slow
@needs_chaost2
@pytest.mark.parametrize("condition", [("linear", None, "middle"), ("spline", (3.5, 3.0), "middle"),
                                       ("linear", (5.0, 6.0), "middle")])
def test_guided_outlines_however_the_query_is_stored(condition, tmp_path):
    query = IMAGES / "image_2.nii.gz"
    predictor = Predictor.untrained("guided", device="cpu")
    predictor.add_support(IMAGES / "image_1.nii.gz", IMAGES / "label_1.nii.gz")
    plain, turned = (with_geometry(found.label_map, found.scan.original) for found in map(
        predictor.segment, (query, turn(query, "query", condition, tmp_path))))
    assert min(overlaps(plain, turned, [1, 2, 3, 4])) >= 0.95
