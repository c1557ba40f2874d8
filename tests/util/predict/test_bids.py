"""A BIDS folder comes in by the suffix of its scans, and derivatives go out that the BIDS validator accepts."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from qnet.dataloaders.outlines.name_tables import read_table
from qnet.scripts.segment import parse_arguments, request_of
from qnet.util.base.errors import InputError
from qnet.util.options.config import base_config
from qnet.util.predict.bids import find_bids
from qnet.util.predict.outline import outline
from qnet.util.predict.request import untrained_method
from tests.dataloaders.outlines.made import SHAPE
from tests.kinds import grid, patient, save

AFFINE = grid(shape=SHAPE)
SCANS = ("sub-01/anat/sub-01_T1w", "sub-02/anat/sub-02_T1w", "sub-02/anat/sub-02_T2w", "sub-03/ses-a/anat/sub-03_ses-a_run-1_T1w")


@pytest.fixture
def place(tmp_path):
    for number, name in enumerate(SCANS):
        image, labels = patient(AFFINE, SHAPE, number)
        save(image.round().astype(np.int16), AFFINE, tmp_path / f"set/{name}.nii.gz")
        if number == 0:
            save(labels, AFFINE, tmp_path / "set/derivatives/hand/sub-01/anat/sub-01_dseg.nii.gz")
    (tmp_path / "set/derivatives/hand/dseg.tsv").write_text("index\tname\tcolor\n1\tliver\t#123456\n", encoding="utf-8")
    (tmp_path / "set/derivatives/hand/desc-other_dseg.tsv").write_text("index\tname\n1\tspleen\n", encoding="utf-8")
    (tmp_path / "set/dataset_description.json").write_text('{"Name": "a", "BIDSVersion": "1.10.0"}', encoding="utf-8")
    return tmp_path


def words(place, *more):
    labels = place / "set/derivatives/hand/sub-01/anat/sub-01_dseg.nii.gz"
    return ["--scans", str(place / "set"), "--suffix", "T1w", "--outlined", f"sub-01_T1w={labels}",
            "--output", str(place / "out"), *more]


@pytest.mark.whole
def test_derivatives_that_the_validator_accepts(place):
    quick = {**base_config()["registration"], "finest": 4.0, "n_steps": 1, "affine": False, "zoom": False}
    request = replace(request_of(parse_arguments(words(place, "--names", "2==SUM(A1)"))),
                      method=untrained_method("registration", device="cpu", registration=quick))
    *_, finished = outline(request)
    assert [query.name for query in finished.outcome.queries] == ["sub-02_T1w", "sub-03_ses-a_run-1_T1w"]
    assert not finished.outcome.problems
    root = place / "out/derivatives"
    for name, scan in (("sub-02/anat/sub-02_desc-qnetT1w_dseg", SCANS[1]),
                       ("sub-03/ses-a/anat/sub-03_ses-a_run-1_desc-qnetT1w_dseg", SCANS[3])):
        written, source = nibabel.load(root / f"{name}.nii.gz"), nibabel.load(place / f"set/{scan}.nii.gz")
        np.testing.assert_array_equal(written.affine, source.affine)
        np.testing.assert_array_equal(np.asanyarray(written.dataobj),
                                      np.asanyarray(nibabel.load(place / f"out/{Path(scan).name}.nii.gz").dataobj))
        names, colours = read_table(root / f"{name}.tsv")
        assert names == {1: "liver", 2: "=SUM(A1)", 3: "label 3", 4: "label 4"} and colours[1] == "#123456"
        assert "'=SUM" in (root / f"{name}.tsv").read_text(encoding="utf-8")
    assert len([path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".")]) == 6
    done = subprocess.run([str(Path(sys.executable).with_name("bids-validator-deno")), "--json", str(root)],
                          capture_output=True, encoding="utf-8", check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert done.returncode == 0 and [one["code"] for one in issues if one["severity"] == "error"] == []


@pytest.mark.parametrize(("change", "suffix", "says"), [
    (lambda root: (root / "dataset_description.json").unlink(), "T1w", "is no BIDS folder, as it has no dataset_description"),
    (lambda root: None, "FLAIR", "no scan has the suffix FLAIR; its scans have T1w, T2w"),
    (lambda root: None, "../T1w", "got '../T1w', allowed: letters and digits"),
])
def test_what_is_no_scan_of_bids_is_refused(change, suffix, says, place):
    change(place / "set")
    with pytest.raises(InputError) as caught:
        find_bids(place / "set", suffix)
    assert says in str(caught.value)


def test_files_of_somebody_else_among_the_derivatives_are_kept(place):
    other = place / "out/derivatives/sub-02/anat/sub-02_desc-qnetT1w_dseg.tsv"
    other.parent.mkdir(parents=True)
    other.write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"sub-02_desc-qnetT1w_dseg.tsv: is there and was not made by this program"):
        list(outline(request_of(parse_arguments(words(place)))))
    assert other.read_text(encoding="utf-8") == "mine"
