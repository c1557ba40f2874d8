"""`python data/prepare.py`, whole: downloads in, the folders that training reads out."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import json5
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from qnet.data import check, prepare
from qnet.data.preparation import recipes
from qnet.data.preparation.maps import generate_maps
from qnet.data.preparation.recipes import table_entry
from qnet.data.supervoxels.generate_supervoxels import default_n_sv
from qnet.dataloaders.datasets import Grid, find_cases
from qnet.dataloaders.episodes import EpisodeDataset, load_training_volumes
from qnet.dataloaders.store import Store
from qnet.dataloaders.volumes import read_label, read_supervoxels
from qnet.util.base.files import LIST
from qnet.util.options.config import load_config
from qnet.util.options.sections import dataset_spec
from tests.data.raw_downloads import empty_scan, organs, write_chaos, write_nifti_pair
from tests.settings import EPISODES, TRAINING_VOLUMES

ROOT = Path(__file__).resolve().parents[3]
OBLIQUE = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
COARSE = empty_scan((40, 36, 6), (6.0, 6.0, 20.0))


def files(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
            for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}


def command(download, source, target, *options):
    return [download, "--source", str(source), "--target", str(target), "--jobs", "1", *options]


def in_this_process(arguments):
    """Another process loads for seconds; test_own_files_with_two_processes has some."""
    return prepare.main(arguments, make_maps=partial(generate_maps, pool=ThreadPoolExecutor))


def without_maps(arguments):
    return prepare.main(arguments, make_maps=lambda *_: True)


@pytest.mark.whole
def test_chaos_from_download_to_a_checked_dataset(tmp_path, capsys):
    source, target = tmp_path / "download", tmp_path / "CHAOST2"
    train = source / "CHAOS_Train_Sets/Train_Sets/MR"
    for name, labels in (("2", (1, 2, 3, 4)), ("10", (1, 2, 3)), ("5", (1, 2, 3, 4))):
        write_chaos(train / name / "T2SPIR", empty_scan(), range(16), labels, seed=int(name))
    (source / "CHAOS_Test_Sets/Test_Sets/MR/4/T2SPIR/DICOM_anon").mkdir(parents=True)
    broken = train / "5/T2SPIR/Ground/IMG-0004-00003.png"
    broken.rename(broken.with_suffix(".lost"))
    chaos = command("chaos", source, target, "--n-sv", "500")

    # the broken case is named and leaves nothing, the others are done
    assert in_this_process(chaos) == 1
    error = capsys.readouterr().err
    assert "error: case 5: " in error
    assert "number 3 is on one side only" in error
    assert "note: 3 cases found, where a whole CHAOST2 has 20" in error
    folder = "chaos_MR_T2_normalized"
    expected = {f"{folder}/{kind}_{case}.nii.gz" for kind in ("image", "label") for case in ("2", "10")}
    expected |= {f"supervoxels_500/superpix-MIDDLE_{case}.nii.gz" for case in ("2", "10")}
    expected |= {f"{folder}/{name}.json" for name in ("classmap_1", "classmap_100", "preparation")}
    assert set(files(target)) == expected | {"supervoxels_500/supervoxels.json"}

    # mended, it is done too, and nothing else is made anew
    before = files(target)
    broken.with_suffix(".lost").rename(broken)
    assert in_this_process(chaos) == 0
    assert "1 prepared, 2 skipped, 0 broken" in capsys.readouterr().err
    volumes = {name: time for name, time in before.items() if name.endswith(".nii.gz")}
    assert volumes.items() <= files(target).items()

    spec = table_entry("CHAOST2")
    cases = find_cases(spec, target, 500)
    assert [case.name for case in cases] == ["2", "5", "10"]
    classmaps = {n: json.loads((target / folder / f"classmap_{n}.json").read_text(encoding="utf-8")) for n in (1, 100)}
    for case in cases:
        image, label = nibabel.load(case.image), read_label(case.label, spec)
        np.testing.assert_allclose(nibabel.load(case.supervoxels).affine, image.affine)
        assert read_supervoxels(case.supervoxels).shape == label.shape == image.shape[::-1]
        assert nibabel.aff2axcodes(image.affine) == ("L", "A", "S")
        for value, name in spec.labels.items():
            areas_px = [np.count_nonzero(label_slice == value) for label_slice in label]
            for n, classmap in classmaps.items():
                assert classmap[name][case.name] == [z for z, area in enumerate(areas_px) if area >= n]
    assert classmaps[1]["spleen"]["10"] == []
    assert 0 < len(classmaps[100]["spleen"]["2"]) <= len(classmaps[1]["spleen"]["2"])

    sheet = tmp_path / "sheet.png"
    assert check.main(["CHAOST2", "--data-dir", str(target), "--n-sv", "500", "--sheet", str(sheet)]) == 0
    assert "3 cases, no inconsistency" in capsys.readouterr().out
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_cmr_stays_in_its_own_frame_with_its_stored_values(tmp_path):
    grid = empty_scan((60, 60, 10), (4.0, 4.0, 12.0), OBLIQUE)
    for number in (3, 12):
        write_nifti_pair(tmp_path / f"in/c0/patient{number}_C0.nii.gz",
                         tmp_path / f"in/gd/patient{number}_C0_manual.nii.gz", grid, (200, 500, 600), number)
    assert without_maps(command("cmr", tmp_path / "in", tmp_path / "out")) == 0
    spec = table_entry("CMR")
    cases = find_cases(spec, tmp_path / "out", 1000)
    assert [case.name for case in cases] == ["3", "12"]
    label = sitk.ReadImage(cases[0].label)
    assert set(np.unique(sitk.GetArrayViewFromImage(label))) == {0, 200, 500, 600}
    np.testing.assert_allclose(label.GetDirection(), OBLIQUE.ravel(), atol=1e-6)
    np.testing.assert_allclose(label.GetSpacing(), (1.25, 1.25, 7.99), rtol=1e-6)
    inner = organs(label, (1, 2, 3), shrink=0.35)
    label_map = read_label(cases[0].label, spec)
    assert (label_map[inner > 0] == inner[inner > 0]).all()
    classmap = json.loads((tmp_path / "out/cmr_MR_normalized/classmap_1.json").read_text(encoding="utf-8"))
    assert classmap["LV blood pool"]["12"] == np.flatnonzero((label_map == 2).any(axis=(1, 2))).tolist()


def test_cmr_refuses_a_label_value_that_it_does_not_know(tmp_path, capsys):
    write_nifti_pair(tmp_path / "patient3_C0.nii.gz", tmp_path / "patient3_C0_manual.nii.gz", COARSE, (200, 500, 601))
    assert without_maps(command("cmr", tmp_path, tmp_path / "out")) == 1
    assert "C0_manual.nii.gz: holds the value 601, allowed for CMR: [0, 200, 500, 600]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_sabs_is_windowed_and_numbered(tmp_path):
    grid = empty_scan((128, 128, 4), (2.0, 2.0, 30.0))
    for number in (1, 7):
        write_nifti_pair(tmp_path / f"in/img/img{number:04d}.nii.gz", tmp_path / f"in/label/label{number:04d}.nii.gz",
                         grid, seed=number)
    assert without_maps(command("sabs", tmp_path / "in", tmp_path / "out")) == 0
    cases = find_cases(table_entry("SABS"), tmp_path / "out", 5000)
    assert [case.name for case in cases] == ["0", "1"]
    image = nibabel.load(cases[1].image)
    assert image.shape == (256, 256, 4)
    np.testing.assert_allclose(image.header.get_zooms(), (2.0 * 64 / 256, 2.0 * 64 / 256, 30.0))
    assert (image.get_fdata().min(), image.get_fdata().max()) == (0, 255)


def own_files(folder, names="ab"):
    for seed, name in enumerate(names):
        write_nifti_pair(folder / f"scan_{name}.nii.gz", folder / f"mask_{name}.nii.gz", COARSE, (1, 2, 9), seed)
    return command("nifti", folder, folder / "MINE", "--image", "scan_{case}.nii.gz", "--label", "mask_{case}.nii.gz",
                   "--spacing", "6", "6", "20", "--size", "48", "--names", "9=left kidney")


@pytest.mark.whole
def test_where_nothing_could_be_prepared_no_config_is_printed(tmp_path, capsys):
    nifti = own_files(tmp_path)
    for case in "ab":
        (tmp_path / f"scan_{case}.nii.gz").write_bytes(b"")
    assert without_maps(nifti) == 1
    out, error = capsys.readouterr()
    assert out == "" and "0 prepared, 0 skipped, 2 broken" in error


@pytest.mark.whole
def test_own_files_with_two_processes_and_the_config_for_them(warm, tmp_path, capsys):
    nifti = own_files(tmp_path)
    (tmp_path / "scan_c.nii.gz").write_bytes(b"")
    options = ["--n-sv", "300", "--superpixels", "--jobs", "2"]
    done = subprocess.run([sys.executable, "data/prepare.py", *nifti, *options], cwd=ROOT, capture_output=True,
                          encoding="utf-8")
    assert done.returncode == 1
    assert f"error: case c: {tmp_path / 'scan_c.nii.gz'}: cannot be read as NIfTI" in done.stderr
    assert "Traceback" not in done.stderr
    config = json5.loads(done.stdout)
    assert config["path"] == {"MINE": {"data_dir": str(tmp_path / "MINE")}}
    assert config["datasets"]["MINE"]["labels"] == {"1": "label 1", "2": "label 2", "9": "left kidney"}
    assert config["datasets"]["MINE"]["grid"] == {"spacing_mm": [6, 6, 20], "size_px": 48, "orientation": "LPS", "window": None}
    for case in "ab":
        image = nibabel.load(tmp_path / f"MINE/images/image_{case}.nii.gz")
        assert image.shape[:2] == (48, 48)
        for maps in ("supervoxels_300", "superpixels_400"):
            assert nibabel.load(tmp_path / f"MINE/{maps}/superpix-MIDDLE_{case}.nii.gz").shape == image.shape

    (tmp_path / "mine.json5").write_text(done.stdout, encoding="utf-8")
    assert check.main(["MINE", "--config", str(tmp_path / "mine.json5"), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "2 cases, no inconsistency" in capsys.readouterr().out


@pytest.mark.whole
def test_scans_without_labels_can_be_prepared_checked_and_trained_on(tmp_path, monkeypatch, capsys):
    nifti = own_files(tmp_path, "abcdef")
    for case in "bcdef":
        (tmp_path / f"mask_{case}.nii.gz").unlink()
    assert in_this_process([*nifti, "--n-sv", "300"]) == 0
    printed = capsys.readouterr()
    assert "note: no label for 5 of 6 cases: b, c, d, e, f" in printed.err
    assert [path.name for path in (tmp_path / "MINE/images").glob("label_*")] == ["label_a.nii.gz"]
    assert json.loads((tmp_path / "MINE/images/classmap_1.json").read_text(encoding="utf-8"))["label 1"].keys() == {"a"}
    assert in_this_process([*nifti, "--n-sv", "300"]) == 0
    assert "0 prepared, 6 skipped" in capsys.readouterr().err

    (tmp_path / "mine.json5").write_text(printed.out, encoding="utf-8")
    assert check.main(["MINE", "--config", str(tmp_path / "mine.json5"), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "no label for 5 of 6 cases: b, c, d, e, f" in capsys.readouterr().out
    config = load_config(str(tmp_path / "mine.json5"))
    spec = dataset_spec("MINE", config["datasets"]["MINE"])
    volumes = load_training_volumes(find_cases(spec, tmp_path / "MINE", 300), spec, Store(tmp_path / "store"), **TRAINING_VOLUMES)
    assert len(EpisodeDataset(volumes, 3, seed=1, **{**EPISODES, "min_size": 20}).volumes) == 6


def test_a_label_that_comes_later_is_prepared(tmp_path):
    nifti = own_files(tmp_path)
    label = tmp_path / "mask_b.nii.gz"
    label.rename(tmp_path / "later.nii.gz")
    assert without_maps(nifti) == 0
    (tmp_path / "later.nii.gz").rename(label)
    assert without_maps(nifti) == 0
    assert (tmp_path / "MINE/images/label_b.nii.gz").exists()


def test_no_label_at_all(tmp_path, capsys):
    nifti = own_files(tmp_path)
    for case in "ab":
        (tmp_path / f"mask_{case}.nii.gz").unlink()
    assert without_maps(nifti) == 2
    assert f"--label: no file mask_{{case}}.nii.gz below {tmp_path}; leave it out if no case" in capsys.readouterr().err
    without = [option for option in nifti if option not in ("--label", "mask_{case}.nii.gz", "--names", "9=left kidney")]
    assert without_maps(without) == 0
    assert json5.loads(capsys.readouterr().out)["datasets"]["MINE"]["labels"] == {"1": "label 1"}
    assert not list((tmp_path / "MINE").rglob("label_*"))


def test_other_settings_are_refused_where_a_case_is_done(tmp_path, capsys):
    nifti = own_files(tmp_path)
    assert without_maps(nifti) == 0
    before = files(tmp_path / "MINE")
    assert without_maps([*nifti, "--spacing", "5", "5", "20"]) == 1
    error = capsys.readouterr().err
    assert "image_a.nii.gz: was prepared from" in error
    assert "delete it or choose another --target" in error
    assert before.items() - files(tmp_path / "MINE").items() <= {
        (name, time) for name, time in before.items() if "classmap" in name}


def test_published_files_are_kept(tmp_path):
    nifti = own_files(tmp_path)
    assert without_maps(nifti) == 0
    (tmp_path / "MINE/images/preparation.json").unlink()      # as if they came from elsewhere
    before = files(tmp_path / "MINE/images")
    assert without_maps(nifti) == 0
    images = {name: time for name, time in before.items() if name.endswith(".nii.gz")}
    assert images.items() <= files(tmp_path / "MINE/images").items()


def test_a_case_that_fails_in_an_unforeseen_way_stops_no_other(tmp_path, monkeypatch, capsys):
    nifti = own_files(tmp_path)
    write = nibabel.save

    def write_all_but_a(image, path):
        if "image_a" in str(path):
            raise MemoryError("no room for a")
        write(image, path)

    monkeypatch.setattr(nibabel, "save", write_all_but_a)
    assert without_maps(nifti) == 1
    assert "error: case a: MemoryError: no room for a" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "MINE/images").glob("*.nii.gz")} == {"image_b.nii.gz", "label_b.nii.gz"}


def test_nothing_to_prepare_is_an_error(tmp_path, capsys):
    for source, message in ((tmp_path / "typo", "no folder"), (tmp_path, "no case below")):
        for download, extra in (("chaos", []), ("cmr", []), ("sabs", []), ("nifti", ["--spacing", "1", "1", "1"])):
            assert prepare.main(command(download, source, tmp_path / "out", *extra)) == 2
            error = capsys.readouterr().err
            assert error.startswith(f"error: --source: {message} {source}")
            assert error.count("\n") == 1


def test_two_chaos_folders_of_one_case_are_an_error(tmp_path, capsys):
    for copy in ("a", "b"):
        (tmp_path / copy / "MR/1/T2SPIR").mkdir(parents=True)
    assert prepare.main(command("chaos", tmp_path, tmp_path / "out")) == 2
    assert "are case 1" in capsys.readouterr().err


def test_a_damaged_record_is_named(tmp_path, capsys):
    nifti = own_files(tmp_path)
    assert without_maps(nifti) == 0
    (tmp_path / "MINE/images/preparation.json").write_text("{", encoding="utf-8")
    assert without_maps(nifti) == 2
    assert "preparation.json: not valid JSON" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "message"), [
    (["--spacing", "1", "0", "1"], "got '0', allowed: a number from 0.01 to 1000"),
    (["--spacing", "1", "nan", "1"], "got 'nan', allowed: a number from 0.01 to 1000"),
    (["--size", "1.5"], "got '1.5', allowed: a whole number of at least 1"),
    (["--n-sv", "0"], "got '0', allowed: a whole number of at least 1"),
    (["--image", "image.nii.gz"], "allowed: a path below --source with {case} in it once"),
    (["--names", "liver"], "got 'liver', allowed: VALUE=NAME"),
    (["--window", "5", "5"], "--window: got [5.0, 5.0], allowed: LOW below HIGH"),
])
def test_options_that_are_not_allowed(tmp_path, option, message, capsys):
    try:
        status = prepare.main(command("nifti", tmp_path, tmp_path / "out", "--spacing", "1", "1", "1", *option))
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_the_smallest_supervoxel_is_that_of_the_configs():
    assert [default_n_sv(name) for name in ("CHAOST2", "CMR", "SABS", "")] == [5000, 1000, 5000, 5000]


def test_nothing_is_left_of_an_interrupted_case(tmp_path, monkeypatch):
    nifti = own_files(tmp_path)
    monkeypatch.setattr(nibabel, "save", lambda image, path: shutil.copy(__file__, path) and 1 / 0)
    assert without_maps(nifti) == 1
    left = {path.name for path in (tmp_path / "MINE").rglob("*") if path.is_file()}
    assert left <= {"classmap_1.json", "classmap_100.json", LIST, prepare.KEPT_VALUES}


def test_files_that_match_no_pattern_are_told(tmp_path, capsys):
    nifti = own_files(tmp_path)
    for name in ("other_c.nii.gz", "more/d.NRRD", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    without_maps(nifti)
    assert "note: left out, as they match neither --image" in (said := capsys.readouterr().err)
    assert ": more/d.NRRD, other_c.nii.gz\n" in said
    without_maps(nifti)
    assert ": more/d.NRRD, other_c.nii.gz\n" in capsys.readouterr().err


def test_a_recipe_takes_its_grid_from_the_table_and_its_record_stays_as_it_was():
    """What is recorded decides whether prepared files are made anew."""
    assert [recipe.settings for recipe in (recipes.chaos(), recipes.cmr(False), recipes.sabs(False))] == [
        "clipped at the 99.5th percentile, resampled to 1.25 x 1.25 x 7.7 mm, cropped or padded to 256 px",
        "clipped at the 99.5th percentile, resampled to 1.25 x 1.25 x 7.99 mm, cropped or padded to 256 px",
        "window -125…275 to 0…255, border of 32 px cut, resampled in-plane to 256 px"]
    spec = table_entry("SABS")
    grid = Grid((1.0, 2.0, 3.0), 64, "LAS", (-10, 20))
    recipe = recipes.nifti(replace(spec, grid=grid), lambda _: ([], []), trust_image_geometry=False)
    assert recipe.settings == "window -10…20 to 0…255, resampled to 1 x 2 x 3 mm, cropped or padded to 64 px"
    image, labels = recipe.convert(empty_scan((60, 30, 4), (1.0, 2.0, 6.0)), None)
    assert labels is None and image.GetSpacing() == grid.spacing_mm and image.GetSize()[:2] == (64, 64)
