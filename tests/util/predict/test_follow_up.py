"""Two scans of one patient: the change of volume with the confidence of both, in a table and in the report."""

import json
from dataclasses import replace

import numpy as np
import pytest

from qnet.scripts.segment import main, parse_arguments, request_of
from qnet.util.base.tables import read_rows
from qnet.util.options.config import base_config
from qnet.util.predict.outline import outline
from qnet.util.predict.request import untrained_method
from tests.dataloaders.outlines.made import SHAPE
from tests.kinds import SPACING, grid, patient, save

AFFINE = grid(shape=SHAPE)
ML = float(np.prod(SPACING)) / 1000


@pytest.fixture
def place(tmp_path):
    for number, name in enumerate(("a 1", "a 2", "a 3")):
        save(patient(AFFINE, SHAPE, number)[0].round().astype(np.int16), AFFINE, tmp_path / f"scans/{name}.nii.gz")
    save(patient(AFFINE, SHAPE, 0)[1], AFFINE, tmp_path / "labels.nii.gz")
    return tmp_path


def words(place, *more):
    outlined = f"a 1={place / 'labels.nii.gz'}"
    return ["--scans", str(place / "scans"), "--outlined", outlined, "--output", str(place / "out"), *more]


def test_the_change_between_two_scans(place):
    quick = {**base_config()["registration"], "finest": 4.0, "n_steps": 1, "affine": False, "zoom": False}
    request = request_of(parse_arguments(words(place, "--follow-up", "a 1", "a 3", "--follow-up", "a 2", "a 3.nii.gz")))
    *_, finished = outline(replace(request, method=untrained_method("registration", device="cpu", registration=quick)))
    columns, rows = read_rows(place / "out/changes.csv")
    assert columns[:4] == ("first", "second", "label", "label_name") and len(rows) == 8
    truth = patient(AFFINE, SHAPE, 0)[1]
    of_last = {int(row["label"]): row for row in finished.outcome.rows["a 3"]}
    for row in rows[:4]:
        label = int(row["label"])
        assert float(row["first_ml"]) == pytest.approx((truth == label).sum() * ML, rel=1e-3) and row["first_confidence"] == ""
        assert float(row["second_ml"]) == of_last[label]["volume_ml"]
        assert float(row["second_confidence"]) == of_last[label]["confidence"]
        assert float(row["change_ml"]) == pytest.approx(float(row["second_ml"]) - float(row["first_ml"]), abs=0.01)
    text = (place / "out/report.html").read_text(encoding="utf-8")
    facts = dict(json.loads(text.split('id="content">')[1].split("</script>")[0])["facts"])
    row = of_last[1]
    assert f"→ {row['volume_ml']:g} ml" in facts["change from a 1.nii.gz to a 3.nii.gz"]
    assert f"(confidence by hand and {row['confidence']:.2f})" in facts["change from a 1.nii.gz to a 3.nii.gz"]
    assert "change from a 2.nii.gz to a 3.nii.gz" in facts


@pytest.mark.parametrize(("pair", "says"), [
    (("a 1", "a 9"), "--follow-up: 'a 9' is no scan of --scans; did you mean a [123]"),
    (("a 1", "a 1.nii.gz"), "--follow-up: .*a 1.nii.gz is given as both; allowed: two scans"),
])
def test_what_is_no_pair_is_refused(pair, says, place):
    with pytest.raises(SystemExit, match=says):
        main(words(place, "--follow-up", *pair))
