"""The README's lines "From Python" do what they say."""

import re
import shutil

import nibabel
import numpy as np
import pytest

from qnet.util.base.root import ROOT

METHODS = {      # the line that makes the predictor, and what the labels are called then
    'Predictor.untrained("guided")': ["label 1", "label 2", "label 3", "label 4"],
    'Predictor.load("snapshots/30000.pth")': ["liver", "right kidney", "left kidney", "spleen"]}


@pytest.mark.whole
@pytest.mark.parametrize("method", METHODS)
def test_the_lines_of_the_readme(method, trained, toy_data, tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"### From Python\n\n```python\n(.*?)```", text, re.DOTALL)
    assert all(named in lines for named in METHODS)
    lines = lines.replace(next(iter(METHODS)), method, 1)
    images = toy_data / "chaos_MR_T2_normalized"
    for source, name in ((trained / "snapshots/3.pth", "snapshots/30000.pth"), (images / "image_1.nii.gz", "outlined.nii.gz"),
                         (images / "label_1.nii.gz", "outlined_labels.nii.gz"), (images / "image_2.nii.gz", "scan.nii.gz")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(source, tmp_path / name)
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
