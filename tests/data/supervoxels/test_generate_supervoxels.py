"""The command on a tiny data set of the CHAOST2 layout."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from qnet.data.supervoxels.felzenszwalb import generate_supervoxels
from qnet.data.supervoxels.generate_supervoxels import main, parse_arguments, plan
from qnet.dataloaders.nifti import read_array

pytestmark = pytest.mark.usefixtures("warm")
ROOT = Path(__file__).resolve().parents[3]
SPACING_ZYX = (7.7, 1.25, 1.25)


def make_case(data_dir, case, folder="chaos_MR_T2_normalized", seed=0):
    """Write a random image with a rotated affine and return its (D, H, W) values."""
    path = data_dir / folder / f"image_{case}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng([seed, int(case)]).integers(50, 900, (4, 20, 18)).astype(np.int16)
    affine = np.array([[0, -1.25, 0, 11], [1.25, 0, 0, -7], [0, 0, 7.7, 3], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(image.transpose(2, 1, 0), affine), path)
    return image


def run(data_dir, *options):
    return main(["CHAOST2", "--data-dir", str(data_dir), "--min-size", "50", "--jobs", "1", *options])


def contents(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()
            if not path.name.startswith(".")}


@pytest.fixture
def data_dir(tmp_path):
    for case in ("1", "2", "10"):
        make_case(tmp_path, case)
    return tmp_path


@pytest.mark.whole
def test_command_writes_maps_on_the_image_grid_and_their_record(data_dir):
    command = [sys.executable, "data/supervoxels/generate_supervoxels.py", "CHAOST2", "--data-dir", str(data_dir),
               "--cases", "2", "--min-size", "50", "--jobs", "1"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    folder = data_dir / "supervoxels_50"
    assert sorted(contents(folder)) == ["superpix-MIDDLE_2.nii.gz", "supervoxels.json"]
    expected = generate_supervoxels(make_case(data_dir, "2"), SPACING_ZYX, 50)
    written = nibabel.load(folder / "superpix-MIDDLE_2.nii.gz")
    image_path = data_dir / "chaos_MR_T2_normalized" / "image_2.nii.gz"
    np.testing.assert_array_equal(read_array(folder / "superpix-MIDDLE_2.nii.gz"), expected)
    np.testing.assert_allclose(written.affine, nibabel.load(image_path).affine)
    assert written.get_data_dtype() == np.int32 and expected.max() > 1
    assert json.loads((folder / "supervoxels.json").read_text(encoding="utf-8"))["2"] == {
        "algorithm": "felzenszwalb 3d, stable sort", "scale": 1.0, "min_size": 50, "spacing_mm": list(SPACING_ZYX),
        "image_sha256": hashlib.sha256(image_path.read_bytes()).hexdigest(),
        "labels_sha256": hashlib.sha256(expected.tobytes()).hexdigest()}


@pytest.mark.whole
def test_finished_cases_are_skipped_changed_ones_made_again_and_foreign_maps_kept(data_dir, capsys):
    folder = data_dir / "supervoxels_50"
    foreign = folder / "superpix-MIDDLE_1.nii.gz"
    foreign.parent.mkdir()
    foreign.write_bytes(b"somebody's own map")
    assert run(data_dir) == 0
    assert "2 of 3 cases to do" in capsys.readouterr().out
    first = contents(folder)
    assert json.loads(first["supervoxels.json"][0]).keys() == {"2", "10"}      # added one after the other

    assert run(data_dir) == 0
    assert "0 of 3 cases to do, 2 done before" in (out := capsys.readouterr().out)
    assert "left 1 map(s) as they are" in out
    assert contents(folder) == first

    changed = make_case(data_dir, "10", seed=1)
    assert run(data_dir) == 0
    second = contents(folder)
    assert {name for name in first if first[name] != second[name]} == {"superpix-MIDDLE_10.nii.gz", "supervoxels.json"}
    np.testing.assert_array_equal(read_array(folder / "superpix-MIDDLE_10.nii.gz"),
                                  generate_supervoxels(changed, SPACING_ZYX, 50))
    assert foreign.read_bytes() == b"somebody's own map"


@pytest.mark.whole
def test_broken_cases_are_named_and_the_others_go_on(data_dir, capsys):
    images = data_dir / "chaos_MR_T2_normalized"
    broken = images / "image_2.nii.gz"
    broken.write_bytes(broken.read_bytes()[:300])
    nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 4), np.nan), np.eye(4)), images / "image_3.nii.gz")
    output = data_dir / "elsewhere"
    assert run(data_dir, "--output", str(output), "--jobs", "2") == 1
    errors = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("error")]
    truncated, not_finite = sorted(errors)
    assert truncated.startswith(f"error: case 2: {broken}: cannot be read")
    assert not_finite.startswith(f"error: case 3: {images / 'image_3.nii.gz'}: image: expected finite values")
    assert sorted(contents(output / "supervoxels_50")) == [
        "superpix-MIDDLE_1.nii.gz", "superpix-MIDDLE_10.nii.gz", "supervoxels.json"]


@pytest.mark.whole
def test_superpixels_have_their_own_folder_and_depend_on_the_threshold(data_dir, capsys):
    assert run(data_dir, "--superpixels", "--cases", "1") == 0
    folder = data_dir / "superpixels_50"
    assert sorted(contents(folder)) == ["superpix-MIDDLE_1.nii.gz", "superpixels.json"]
    assert json.loads((folder / "superpixels.json").read_text(encoding="utf-8"))["1"]["foreground_threshold"] == 50
    assert read_array(folder / "superpix-MIDDLE_1.nii.gz").any()
    assert run(data_dir, "--superpixels", "--cases", "1", "--foreground-threshold", "900") == 0
    assert "1 of 1 cases to do" in capsys.readouterr().out
    assert not read_array(folder / "superpix-MIDDLE_1.nii.gz").any()


@pytest.mark.parametrize(("options", "folder"), [
    (["CMR"], "supervoxels_1000"), (["CHAOST2"], "supervoxels_5000"), (["CHAOST2", "--min-size", "7"], "supervoxels_7"),
    (["CHAOST2", "--config", "cmr_setting1"], "supervoxels_1000"), (["CMR", "--superpixels"], "superpixels_400"),
    (["CMR", "--superpixels", "--config", "demo"], "superpixels_100")])
def test_default_minimum_size_comes_from_the_configs(tmp_path, options, folder):
    make_case(tmp_path, "4", "cmr_MR_normalized")
    make_case(tmp_path, "4")
    (planned,) = plan(parse_arguments([*options, "--data-dir", str(tmp_path)]))
    assert planned.output == tmp_path / folder / "superpix-MIDDLE_4.nii.gz"


@pytest.mark.parametrize(("arguments", "message"), [
    (["HEART"], "dataset: got 'HEART', allowed: one of"),
    (["CHAOST2", "--config", "mine"], "config 'mine': no such file in configs/"),
    (["CHAOST2", "--cases", "1", "77"], "--cases: got 77, allowed: 1 2 10"),
    (["CHAOST2", "--data-dir", "no/such/folder"], "path.CHAOST2.data_dir: no folder no/such/folder"),
])
def test_mistakes_are_one_line(data_dir, capsys, arguments, message):
    assert main([arguments[0], "--data-dir", str(data_dir), *arguments[1:]]) != 0
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_damaged_record_stops_before_any_work(data_dir, capsys):
    record = data_dir / "supervoxels_50" / "supervoxels.json"
    record.parent.mkdir()
    record.write_text("{", encoding="utf-8")
    assert run(data_dir) != 0
    assert capsys.readouterr().err.startswith(f"error: {record}: not valid JSON")
    assert list(record.parent.iterdir()) == [record]


@pytest.mark.parametrize("option", ["--jobs", "--min-size"])
def test_counts_start_at_one(data_dir, capsys, option):
    with pytest.raises(SystemExit):
        run(data_dir, option, "0")
    assert "allowed: a whole number of at least 1" in capsys.readouterr().err
