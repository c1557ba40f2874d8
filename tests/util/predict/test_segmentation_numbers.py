"""The numbers of a segmentation and the summary of a folder, of label maps made by hand."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from qnet.util.base.tables import significant
from qnet.util.engine.segmenters import Member, whole_predictions
from qnet.util.engine.uncertainty import Agreement
from qnet.util.options.sections import WholeVolumeOptions
from qnet.util.predict.cases import COLUMNS, EARLIER_COLUMNS, PAGE_COLUMNS, as_numbers, worst_first
from qnet.util.predict.events import Outcome
from qnet.util.predict.predictor import Segmentation
from qnet.util.predict.request import Query
from tests.toy import toy_volume

WHOLE = WholeVolumeOptions(0, 0, 0, False, 1)


def segmentation(label_map, agreement, members=(), spacing_mm=(0.05, 0.05, 0.05)):
    original = sitk.GetImageFromArray(label_map)
    original.SetSpacing(spacing_mm)
    return Segmentation(SimpleNamespace(name="mouse", original=original), label_map, {1: "cortex", 2: "ventricle"}, {}, agreement,
                        members)


def two_members(confidences):
    agreement, members = Agreement(), []
    for of_member, border in zip(confidences, ("registration", "own contrast"), strict=True):
        agreement.add({1: np.ones((2, 2, 2)), 2: np.zeros((2, 2, 2))}, of_member)
        members.append(Member(toy_volume(1), {}, of_member, borders={1: border, 2: "registration"}, wide_mm=0.07123))
    return agreement, members


def test_an_empty_class_has_the_confidence_0_and_a_voxel_has_a_volume():
    label_map = np.zeros((2, 2, 2), np.uint8)
    label_map[0, 0, 0] = 1
    cortex, ventricle = segmentation(label_map, *two_members([{1: 0.8, 2: 0.5}, {1: 0.6, 2: 0.5}])).numbers()
    assert cortex["confidence"] == pytest.approx(0.7) and ventricle["confidence"] == 0 and ventricle["slices"] == 0
    assert cortex["volume_ml"] == pytest.approx(0.05**3 / 1000) and ventricle["volume_ml"] == 0
    assert cortex["border"] == "registration; own contrast" and ventricle["border"] == "registration"
    assert cortex["wide_mm"] == 0.07123


def test_where_to_look_first_is_where_most_is_in_doubt():
    """The scan's voxels are in another order than those of the model's grid."""
    probs = np.zeros((4, 5, 6), np.float32)
    probs[1] = 1                    # is sure
    probs[2, 3, :4] = 0.5
    probs[:, 3, 4] = 0.4
    original = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.uint8))
    original.SetSpacing((0.5, 1, 2))
    scan = SimpleNamespace(name="a", original=sitk.Flip(original, [True, False, False]), on_grid=original)
    found = Segmentation(scan, np.zeros((4, 5, 6), np.uint8), {1: "a", 2: "b", 3: "c"}, {1: probs, 2: 1 * (probs > 0.9)},
                         Agreement(), outlined_ml={1: 12.34567})
    assert found.look_at(1) == (5 - 4, 3, 2) and found.look_at(2) is None
    assert [(row["look_at"], row["outlined_ml"]) for row in found.numbers()] == [("1 3 2", 12.35), (None, None), (None, None)]


def test_a_model_without_confidence_has_none_for_an_empty_class_either():
    agreement = Agreement()
    agreement.add({1: np.ones((2, 2, 2)), 2: np.zeros((2, 2, 2))})
    rows = segmentation(np.ones((2, 2, 2), np.uint8), agreement).numbers()
    assert [(row["confidence"], row["border"], row["wide_mm"]) for row in rows] == [(None, None, None)] * 2


def test_a_class_that_another_covers_has_the_confidence_0():
    probs = {1: np.full((8, 64, 64), 0.9, np.float32), 2: np.full((8, 64, 64), 0.6, np.float32)}
    for confidence, expected in (({1: 0.7, 2: 0.7}, [0.7, 0.0]), ({}, [None, None])):
        found = whole_predictions(toy_volume(2), Member(toy_volume(1), probs, confidence), WHOLE)
        assert [prediction.confidence for prediction in found] == expected


def test_significant_digits():
    assert [significant(value) for value in (1234.56, 0.000123456, 0.0, 1.0)] == [1235, 0.0001235, 0, 1]


def row(query, label, slices, confidence=None):
    return {"query": query, "label": label, "label_name": f"label {label}", "slices": slices, "confidence": confidence}


def test_empty_classes_come_first_and_their_scans_are_counted_apart():
    rows = {"a": [row("a", 1, 3, 0.9), row("a", 2, 5, 0.1)], "b": [row("b", 1, "0", "0.0"), row("b", 2, 4, 0.3)],
            "c": [row("c", 1, 2), row("c", 2, 0)], "elsewhere": [row("elsewhere", 1, 0, 0.0)]}
    assert [(one["query"], one["label"]) for one in worst_first(rows)][:3] == [("b", 1), ("elsewhere", 1), ("c", 2)]
    queries = [Query(name, Path(f"{name}.nii.gz"), Path(f"out/{name}.nii.gz")) for name in "abcd"]
    outcome = Outcome(queries, rows, {"d": "damaged"}, Path())
    assert outcome.summary() == "1 of 4 scans are outlined; 2 have an empty class: b (label 1), c (label 2)"
    assert Outcome(queries[:1], rows, {}, Path()).summary() == "1 of 1 scans are outlined"


def test_tables_of_each_earlier_version_are_known():
    assert EARLIER_COLUMNS[2] == ("query", "label", "label_name", "volume_ml", "slices", "confidence", "agreement", "margin",
                                  "made_from", "sha256")
    assert set(COLUMNS) - set(EARLIER_COLUMNS[2]) == {"border", "wide_mm", "problem", "outlined_ml", "look_at"}
    assert "sha256" not in EARLIER_COLUMNS[-1] and set(COLUMNS) - set(EARLIER_COLUMNS[0]) == {"outlined_ml", "look_at"}
    assert set(PAGE_COLUMNS) - set(COLUMNS) == {"scan", "state", "flagged"}


def test_the_numbers_of_a_row_that_was_read_again_are_those_of_the_row():
    made = {"label": 2, "label_name": "spleen", "volume_ml": 1.5, "slices": 3, "confidence": 0.0, "agreement": None,
            "border": "as it is"}
    read = {key: "" if value is None else str(value) for key, value in made.items()}
    assert as_numbers(made) == as_numbers(read) == {**made, "margin": None, "outlined_ml": None, "look_at": None, "empty": True}
