"""util/predict/outlined.py: which scan and which file SCAN=LABELS names."""

from pathlib import Path

from qnet.scripts.segment import outlined_phase
from qnet.util.predict.outlined import outlined_pair


def test_a_file_of_outlines_is_sought_in_the_folder_too(tmp_path, monkeypatch):
    here, folder = tmp_path / "here", tmp_path / "scans"
    for path in (here / "both.nii", folder / "both.nii", folder / "one.nii", folder / "a.nii"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.chdir(here)
    names = {folder / "a.nii": "a"}
    assert outlined_pair("a=both.nii", names, folder, "--scans") == (folder / "a.nii", Path("both.nii"))
    assert outlined_pair("a=one.nii", names, folder, "--scans") == (folder / "a.nii", folder / "one.nii")
    assert outlined_phase("2=one.nii", 3, folder) == (2, folder / "one.nii")


def test_either_side_of_an_outlined_pair_may_have_an_equals_sign(tmp_path):
    scans = [tmp_path / name for name in ("a.nii", "a=b.nii.gz")]
    for path in (*scans, tmp_path / "c=d.nii"):
        path.touch()
    names = {scans[0]: "a", scans[1]: "a=b"}
    assert outlined_pair(f"a={tmp_path}/c=d.nii", names, tmp_path, "--scans") == (scans[0], tmp_path / "c=d.nii")
    assert outlined_pair(f"a=b={tmp_path}/c=d.nii", names, tmp_path, "--scans") == (scans[1], tmp_path / "c=d.nii")
    assert outlined_pair(f"{scans[1]}={tmp_path}/c=d.nii", names, tmp_path, "--scans") == (scans[1], tmp_path / "c=d.nii")
