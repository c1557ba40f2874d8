"""The README's lines "From Python" do what they say."""

import re
import shutil

import nibabel
import numpy as np
import pytest

from qnet.util.base.root import ROOT
from tests.toy import AFFINE, toy_case, write

METHODS = {      # the line that makes the predictor, and what the labels are called then
    'Predictor.untrained("guided")': ["label 1", "label 2", "label 3", "label 4"],
    'Predictor.load("snapshots/30000.pth")': ["liver", "right kidney", "left kidney", "spleen"]}


@pytest.mark.whole
@pytest.mark.parametrize("method", METHODS)
def test_the_lines_of_the_readme(method, trained, tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"### From Python\n\n```python\n(.*?)```", text, re.DOTALL)
    assert all(named in lines for named in METHODS)
    lines = lines.replace(next(iter(METHODS)), method, 1)
    (tmp_path / "snapshots").mkdir()
    shutil.copy(trained / "snapshots/3.pth", tmp_path / "snapshots/30000.pth")
    (outlined, labels, _), (scan, _, _) = toy_case(1), toy_case(2)
    for array, name in ((outlined, "outlined"), (labels, "outlined_labels"), (scan, "scan")):       # thinned out, for speed
        write(tmp_path / f"{name}.nii.gz", array[:, ::4, ::4], AFFINE @ np.diag([4.0, 4.0, 1.0, 1.0]))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(lines, "README.md", "exec"), names)
    scan, written = nibabel.load("scan.nii.gz"), nibabel.load("scan_labels.nii.gz")
    np.testing.assert_array_equal(written.affine, scan.affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(names["label_map"].dataobj))
    assert written.shape == scan.shape and np.asarray(written.dataobj).any()
    assert names["probability"].shape == scan.shape[::-1] and 0 < names["probability"].max() <= 1
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" ml, ")[0].rpartition(" ")[0] for line in printed] == METHODS[method]
