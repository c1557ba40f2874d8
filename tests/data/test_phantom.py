import json
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from qnet.data import phantom
from qnet.data.supervoxels.generate_supervoxels import default_n_sv
from qnet.dataloaders.datasets import find_cases
from qnet.dataloaders.volumes import read_image, read_label, read_supervoxels
from qnet.util.base.files import LIST
from qnet.util.options.config import base_config
from qnet.util.options.sections import dataset_spec

ROOT = Path(__file__).resolve().parents[2]
REAL_IMAGE = ROOT.parent / "shared/data/CHAOST2/chaos_MR_T2_normalized/image_1.nii.gz"
SPEC = dataset_spec("PHANTOM", base_config()["datasets"]["PHANTOM"])
SMALL = ["--cases", "3", "--size", "64", "--slices", "12"]
SHAPE, MIN_SIZE = (12, 64, 64), 150
LIVER, RIGHT_KIDNEY, LEFT_KIDNEY, SPLEEN = 1, 2, 3, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("data") / "PHANTOM"
    assert phantom.main(["--output", str(output), *SMALL]) == 0
    return output


@pytest.fixture(scope="module")
def volumes(folder):
    cases = find_cases(SPEC, folder, MIN_SIZE)
    return [(read_image(c.image), read_label(c.label, SPEC), read_supervoxels(c.supervoxels)) for c in cases]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != LIST}


def test_folder_is_laid_out_as_the_dataset_table_says(folder):
    assert [case.name for case in find_cases(SPEC, folder, MIN_SIZE)] == ["1", "2", "3"]
    images = {f"chaos_MR_T2_normalized/{kind}_{case}.nii.gz" for kind in ("image", "label") for case in (1, 2, 3)}
    maps = {f"supervoxels_{MIN_SIZE}/superpix-MIDDLE_{case}.nii.gz" for case in (1, 2, 3)}
    assert {str(path) for path in contents(folder)} == images | maps | {"phantom.json"}
    assert list(folder.parent.iterdir()) == [folder]


def test_values(volumes):
    for image, labels, supervoxels in volumes:
        assert image.shape == labels.shape == supervoxels.shape == SHAPE
        assert (image == image.round()).all() and image.min() >= 0 and 400 < image.max() < 1500
        assert set(np.unique(labels)) == {0, 1, 2, 3, 4}
        assert not supervoxels[:, 0].any()      # outside the body
        assert (supervoxels[labels > 0] > 0).all()


def test_every_label_has_four_consecutive_slices_or_more(volumes):
    for _, labels, _ in volumes:
        for label in SPEC.labels:
            slices = np.flatnonzero((labels == label).any(axis=(1, 2)))
            assert len(slices) >= 4 and (np.diff(slices) == 1).all()


@pytest.mark.parametrize(("slices", "complete"), [(range(2, 6), True), (range(2, 5), False), ((1, 2, 4, 5), False)])
def test_labels_with_few_slices_or_gaps_are_drawn_again(slices, complete):
    labels = np.zeros((8, 2, 4), np.uint8)
    labels[:, 0] = LIVER, RIGHT_KIDNEY, LEFT_KIDNEY, 0
    labels[list(slices), 0, 3] = SPLEEN
    assert phantom._complete(labels) is complete


def test_organs_are_in_their_places(volumes):
    for _, labels, _ in volumes:
        z, y, x = np.transpose([np.argwhere(labels == label).mean(axis=0) for label in (1, 2, 3, 4)])
        liver, right, left, spleen = range(4)
        assert x[liver] < 32 and x[right] < 32 < x[left] < x[spleen]      # columns run to the patient's left
        assert y[right] < y[liver] and y[left] < 32                       # rows run to anterior
        assert z[right] < z[liver] and z[left] < z[spleen]                # slices run to superior


def test_files_of_a_case_share_a_geometry_of_the_stated_extent(folder):
    case = find_cases(SPEC, folder, MIN_SIZE)[0]
    image = nibabel.load(case.image)
    assert nibabel.aff2axcodes(image.affine) == ("L", "A", "S")
    np.testing.assert_allclose(np.multiply(image.header.get_zooms(), image.shape), (320, 320, 154), rtol=1e-4)
    np.testing.assert_allclose(image.affine @ [31.5, 31.5, 5.5, 1], [0, 0, 0, 1], atol=1e-4)
    for other in (case.label, case.supervoxels):
        np.testing.assert_array_equal(nibabel.load(other).affine, image.affine)


@pytest.mark.skipif(not REAL_IMAGE.exists(), reason=f"needs {REAL_IMAGE}")
def test_orientation_is_that_of_prepared_chaos(folder):
    ours, real = (SimpleITK.ReadImage(str(path)) for path in (find_cases(SPEC, folder, MIN_SIZE)[0].image, REAL_IMAGE))
    np.testing.assert_allclose(ours.GetDirection(), real.GetDirection(), atol=1e-6)


def test_the_seed_decides_every_byte(folder, tmp_path):
    phantom.main(["--output", str(tmp_path / "again"), *SMALL])
    assert contents(tmp_path / "again") == contents(folder)
    phantom.main(["--output", str(tmp_path / "other"), *SMALL, "--seed", "1"])
    assert all(data != contents(folder)[path] for path, data in contents(tmp_path / "other").items())


def test_a_case_does_not_depend_on_how_many_there_are(folder, tmp_path):
    phantom.main(["--output", str(tmp_path), *SMALL, "--cases", "1"])
    ours = contents(tmp_path)
    del ours[Path("phantom.json")]
    assert len(ours) == 3 and ours.items() <= contents(folder).items()


def test_no_window_of_intensities_picks_an_organ(volumes):
    best = np.array([[best_window_dice(image, labels == label) for label in SPEC.labels]
                     for image, labels, _ in volumes])
    assert best.max() < 0.85 and best[:, 1:].mean() < 0.6


def best_window_dice(image, mask):
    low, high = np.percentile(image[mask], [range(0, 50, 5), range(55, 105, 5)])
    windows = [(image >= a) & (image <= b) for a in low for b in high]
    return max(2 * (window & mask).sum() / (window.sum() + mask.sum()) for window in windows)


def test_unions_of_supervoxels_cover_the_organs(volumes):
    best = [[best_union_dice(supervoxels, labels == label) for label in SPEC.labels]
            for _, labels, supervoxels in volumes]
    assert (np.mean(best, axis=0) >= 0.7).all()
    assert all(15 <= len(np.unique(supervoxels)) - 1 <= 60 for _, _, supervoxels in volumes)


def best_union_dice(supervoxels, mask):
    """The best union is made of the purest supervoxels: try every number of them."""
    inside, size = np.bincount(supervoxels[mask], minlength=supervoxels.max() + 1), np.bincount(supervoxels.ravel())
    order = np.argsort(-inside / np.maximum(size, 1))
    return (2 * inside[order].cumsum() / (size[order].cumsum() + mask.sum())).max()


def test_finished_data_are_kept(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert phantom.main(["--output", str(folder), *SMALL]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_other_parameters_are_refused_unless_overwritten(tmp_path, capsys):
    few = ["--output", str(tmp_path), "--size", "32", "--slices", "10", "--cases"]
    assert phantom.main([*few, "2"]) == 0
    capsys.readouterr()
    assert phantom.main([*few, "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "'cases': 2" in error and "'cases': 1" in error and "--overwrite" in error
    assert phantom.main([*few, "1", "--overwrite"]) == 0
    assert json.loads((tmp_path / "phantom.json").read_text(encoding="utf-8"))["cases"] == 1
    assert len(list(tmp_path.rglob("image_*"))) == 1


@pytest.mark.parametrize("record", ["[]", "3", '{"cases": "many"}', "{"])
def test_a_record_of_something_else_is_not_taken_for_a_phantom(record, tmp_path, capsys):
    (tmp_path / "phantom.json").write_text(record, encoding="utf-8")
    assert phantom.main(["--output", str(tmp_path), *SMALL, "--overwrite"]) == 2
    assert capsys.readouterr().err.startswith(f"error: --output: {tmp_path} holds no phantom")


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_files_of_others_are_never_replaced(tmp_path, capsys, overwrite):
    (tmp_path / "image_1.nii.gz").write_bytes(b"a patient")
    assert phantom.main(["--output", str(tmp_path), *SMALL, *overwrite]) == 2
    assert capsys.readouterr().err.startswith(f"error: --output: {tmp_path} holds no phantom")
    assert contents(tmp_path) == {Path("image_1.nii.gz"): b"a patient"}


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(image, path):
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(nibabel, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        phantom.main(["--output", str(tmp_path / "PHANTOM"), *SMALL])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "value", "allowed"), [
    ("--cases", "0", "from 1 to 1000"), ("--size", "8", "from 32 to 256"), ("--slices", "9", "from 10 to 60"),
    ("--seed", "-1", "from 0 to"), ("--min-size", "0", "from 1 to 327680")])
def test_bad_options_give_one_line(option, value, allowed, tmp_path, capsys):
    assert phantom.main(["--output", str(tmp_path / "new"), option, value]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {option}: got {value}, allowed: a whole number {allowed}")
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.whole
def test_runs_as_a_script(tmp_path):
    done = subprocess.run([sys.executable, "data/phantom.py", "--output", tmp_path / "a" / "PHANTOM", "--cases", "1",
                           "--size", "32", "--slices", "10"], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("PHANTOM: cases 1 to 1, supervoxels_31\n")


def test_the_configs_know_the_phantom_that_is_made_without_options():
    _, parameters = phantom.parse_parameters([])
    shape = (parameters["slices"], parameters["size"], parameters["size"])
    assert default_n_sv("PHANTOM") == parameters["min_size"] == phantom.MIN_SIZE
    assert SPEC.grid.size_px == parameters["size"] and SPEC.grid.spacing_mm[::-1] == phantom.spacing_mm(shape)
