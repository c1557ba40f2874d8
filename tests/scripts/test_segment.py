"""scripts/segment.py, whole, on the toy scans: what it writes, what it refuses, and that scans stay as they are."""

import csv
import json
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import qnet
from qnet.models import likeness
from qnet.scripts.segment import main
from qnet.util.base.checksums import sha256
from qnet.util.base.files import LIST
from qnet.util.base.root import ROOT
from qnet.util.engine.metrics import dice
from tests.damage import elsewhere
from tests.data.raw_downloads import write_dicom
from tests.settings import COARSE, FEW_POINTS
from tests.toy import toy_case

IMAGES = "chaos_MR_T2_normalized"
ANY = {**COARSE, "finest": 3.0, "n_steps": 1, "affine": False, "zoom": False}       # where no outline is looked at


def everything(folder):
    return {path: sha256(path) for path in folder.rglob("*") if path.is_file()}


def results(place):
    """All but the report, which names what failed in the last run."""
    return {path: found for path, found in everything(place / "out").items() if path.name not in ("report.html", LIST)}


def write_series(folder, image):
    folder.mkdir()
    for z in range(image.GetDepth()):
        write_dicom(folder / f"slice {z}", image, z, z + 1)


def resampled(image, size, spacing_mm):
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing(spacing_mm)
    grid.SetDirection(image.GetDirection())
    middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    direction = np.reshape(image.GetDirection(), (3, 3))
    grid.SetOrigin(middle - direction @ ((np.array(size) - 1) / 2 * spacing_mm))
    return sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, 200.0)


@pytest.fixture
def place(toy_data, tmp_path):
    """Five scans of few voxels that are stored in five ways, and the outlines of the first."""
    scans = tmp_path / "my scans"
    scans.mkdir()
    images = {number: sitk.ReadImage(toy_data / IMAGES / f"image_{number}.nii.gz")[::2, ::2] for number in (1, 2, 3, 10, 12)}
    sitk.WriteImage(images[1], scans / "first = outlined.nii.gz")
    sitk.WriteImage(sitk.DICOMOrient(images[2], "SAL"), scans / "turned scan.nii")
    write_series(scans / "a series", sitk.Cast(images[3], sitk.sitkUInt16))
    sitk.WriteImage(resampled(images[10], (24, 28, 10), (5.0, 4.4, 5.6)), scans / "other voxels.nii.gz")
    sitk.WriteImage(images[12][2:, :30, 1:], scans / "less is seen.nii.gz")
    sitk.WriteImage(sitk.ReadImage(toy_data / IMAGES / "label_1.nii.gz")[::2, ::2], tmp_path / "its labels.nii.gz")
    return tmp_path


def words(place, **changes):
    outlined = f"first = outlined={place / 'its labels.nii.gz'}"
    options = {"scans": place / "my scans", "outlined": outlined, "output": place / "out"}
    return [str(word) for key, value in (options | changes).items() for word in (f"--{key}", value)]


def rows_of(place):
    with (place / "out/cases.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def truth_on(label_map, number):
    """The outlines of a toy case on the grid of a label map that was found."""
    _, truth, _ = toy_case(number)
    return sitk.GetArrayFromImage(sitk.Resample(as_image(truth), label_map, sitk.Transform(), sitk.sitkNearestNeighbor))


def as_image(array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 2.0, 7.7))
    image.SetDirection(sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation("LAS"))
    return image


@pytest.mark.whole
def test_scans_that_are_stored_in_many_ways_are_outlined_on_their_own_grids(place, capsys):
    before = everything(place / "my scans")
    less = {**COARSE, "finest": 0.7, "stones": 1}      # the Dice is 0.83 to 0.97
    given = [*words(place), "--json", str(place / "out/all.json"), "--names", "1=liver", "2=right kidney"]
    assert main(given, registration=less) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "4 of 4 scans are outlined"
    for name, number in (("turned scan.nii", 2), ("a series", 3), ("other voxels.nii.gz", 10), ("less is seen.nii.gz", 12)):
        found = sitk.ReadImage(place / f"out/{name.split('.')[0]}.nii.gz")
        if name != "a series":
            given = nibabel.load(place / "my scans" / name)
            assert nibabel.load(place / f"out/{name.split('.')[0]}.nii.gz").affine == pytest.approx(given.affine)
        truth = truth_on(found, number)
        assert np.mean([dice(sitk.GetArrayFromImage(found) == label, truth == label) for label in (1, 2, 3, 4)]) > 0.75, name
    rows = rows_of(place)
    confidences = [float(row["confidence"]) for row in rows]
    assert len(rows) == 16 and confidences == sorted(confidences)
    assert {row["label_name"] for row in rows} == {"liver", "right kidney", "label 3", "label 4"}
    said = json.loads((place / "out/all.json").read_text(encoding="utf-8"))
    assert said["failed"] == said["empty"] == 0 and [len(scan["labels"]) for scan in said["scans"]] == [4] * 4
    assert all(scan["wide_mm"] > 0 for scan in said["scans"])
    assert all(label["border"] and not label["empty"] for scan in said["scans"] for label in scan["labels"])
    assert min(label["confidence"] for scan in said["scans"] for label in scan["labels"]) == confidences[0]
    assert all(tuple(map(int, row["look_at"].split())) < (32, 32, 32) and float(row["outlined_ml"]) > 0 for row in rows)
    assert everything(place / "my scans") == before


def _expect_provenance(place):
    """The report tells what its outlines were made of, and how to correct one; and no secret of the labelling page."""
    page = (place / "out/report.html").read_text(encoding="utf-8")
    content = json.loads(page.split('id="content">')[1].split("</script>")[0])
    facts = content["facts"]
    assert facts["outlined by hand"] == "first = outlined.nii.gz" and facts["by"] == f"qnet {qnet.__version__}"
    assert facts["method"].startswith("guided, up to 6 stepping stones") and " to " in facts["expected Dice"]
    assert content["correction"] == {"command": f"qnet label '{place}/my scans' --found {place}/out",
                                     "page": (place / "my scans/label_page/open.html").as_uri()}
    assert "no medical device" in page and "token=" not in content["correction"]["page"]


@pytest.mark.whole
def test_a_bad_scan_costs_only_itself_and_the_rest_is_kept(place, capsys):
    for name in ("a series", "other voxels.nii.gz"):
        path = place / "my scans" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    bad = place / "my scans/bad.nii.gz"
    bad.write_bytes(b"no scan")
    json_file = ["--json", str(place / "all.json")]
    assert main([*words(place), *json_file], registration=ANY) == 1
    assert "error: bad.nii.gz: " in capsys.readouterr().err
    _expect_provenance(place)
    first = results(place)
    (failed,) = [scan for scan in json.loads((place / "all.json").read_text(encoding="utf-8"))["scans"] if "error" in scan]
    assert failed["scan"] == str(bad) and "label_map" not in failed
    bad.unlink()
    assert main([*words(place), *json_file], registration=ANY) == 0
    assert "2 of 2 queries were there already" in capsys.readouterr().out and results(place) == first
    kept = json.loads((place / "all.json").read_text(encoding="utf-8"))["scans"][0]["labels"][0]
    assert isinstance(kept["confidence"], float) and kept["agreement"] is None      # of an earlier table, read again as numbers
    (place / "out/turned scan.nii.gz").write_bytes(b"corrected by hand")
    with pytest.raises(SystemExit, match=r"^error: .*turned scan.nii.gz: is there and was not made by .* --overwrite"):
        main(words(place), registration=ANY)


def with_a_loop(place):
    (place / "loop").symlink_to(place / "my scans")


def nothing(place):
    pass


REFUSED = {
    "no folder": ({"scans": "{place}/nowhere"}, nothing, r"--scans: .*nowhere is no folder; allowed"),
    "no scan": ({"scans": "{place}/empty"}, lambda place: (place / "empty").mkdir(), r"--scans: no scan in .*; allowed in it"),
    "one series": ({"scans": "{place}/my scans/a series"}, nothing, r"--scans: no scan in"),
    "no =": ({"outlined": "first"}, nothing, r"--outlined: got 'first', allowed: SCAN=LABELS"),
    "another scan": ({"outlined": "second=x.nii.gz"}, nothing, r"--outlined: 'second' is no scan of .*; allowed: a series, f"),
    "no labels": ({"outlined": "a series={place}/x.nii.gz"}, nothing, r".*x.nii.gz: no such file"),
    "the scan itself": ({"outlined": "turned scan={place}/my scans/turned scan.nii"}, nothing, r"--outlined: .* the scan itself"),
    "labels of another grid": ({"outlined": "other voxels={place}/its labels.nii.gz"}, nothing, r".*its labels.nii.gz: size"),
    "labels elsewhere": ({}, lambda place: elsewhere(place / "its labels.nii.gz"), r".*its labels.nii.gz: lies up to 86.6 mm"),
    "into the scans": ({"output": "{place}/my scans"}, nothing, r"--output: .* lies in .*; allowed: a place outside of it"),
    "below them": ({"output": "{place}/my scans/a series/out"}, nothing, r"--output: .* lies in"),
    "below them, by a link": ({"output": "{place}/loop/out"}, with_a_loop, r"--output: .* lies in"),
    "a file": ({"output": "{place}/its labels.nii.gz"}, nothing, r"--output: got .*, allowed: a folder"),
    "a label file in the way": ({"json": "{place}/its labels.nii.gz"}, nothing, r".*its labels.nii.gz: is read, as"),
    "json among the scans": ({"json": "{place}/my scans/x.json"}, nothing, r"--json: .* lies in"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_before_any_work(case, place):
    changes, arrange, message = REFUSED[case]
    arrange(place)
    before = everything(place)
    with pytest.raises(SystemExit, match=rf"^error: {message}[^\n]*$"):
        main(words(place, **{key: value.format(place=place) for key, value in changes.items()}))
    assert everything(place) == before and not (place / "out").exists()


@pytest.mark.whole
def test_which_scan_to_outline_first_is_told_without_any_outline(place, capsys, monkeypatch):
    monkeypatch.setattr(likeness, "COARSE", FEW_POINTS)
    before = everything(place / "my scans")
    (place / "my scans/outlines.nii.gz").write_bytes((place / "its labels.nii.gz").read_bytes())
    command = ["--scans", str(place / "my scans"), "--which-first"]
    assert main([*command, "--json", str(place / "first.json")]) == 1
    told = capsys.readouterr()
    said, found = told.out.splitlines(), json.loads((place / "first.json").read_text(encoding="utf-8"))
    assert said[0] == "how unlike the others each of 5 scans is:" and len(said) == 7
    best = found["scans"][0]["name"]
    assert said[-1] == f"outline {best} first: it looks most like the 4 others"
    assert [line.split()[0] for line in said[1:-1]] == [f"{one['unlike']:.3f}" for one in found["scans"]]
    assert {one["scan"] for one in found["scans"]} == {str(path) for path in (place / "my scans").iterdir()
                                                       if path.name != "outlines.nii.gz"}
    assert found["compared"] == 5 and found["of"] == 6 and "these are outlines" in told.err and "outlines" in found["problems"]
    assert everything(place / "my scans").items() >= before.items()


def test_which_first_needs_three_scans_and_writes_none_of_them_over(place):
    command = ["--scans", str(place / "my scans"), "--which-first"]
    with pytest.raises(SystemExit, match=r"^error: --json: .* lies in"):
        main([*command, "--json", str(place / "my scans/x.json")])
    with pytest.raises(SystemExit, match=r"^error: .*its labels.nii.gz: is there and was not made by this program"):
        main([*command, "--json", str(place / "its labels.nii.gz")])
    for name in ("turned scan.nii", "other voxels.nii.gz", "less is seen.nii.gz"):
        (place / "my scans" / name).unlink()
    with pytest.raises(SystemExit, match=r"^error: --which-first: 2 scans in .*; allowed: 3 or more[^\n]*$"):
        main(command)


def test_training_is_told_where_it_went(place):
    with pytest.raises(SystemExit, match=r"^error: --train: this option is gone, .*; allowed: .*qnet train.*model_path=[^\n]*$"):
        main([*words(place), "--train"])
    assert not (place / "out").exists()


def test_a_scan_that_is_outlined_twice_and_one_that_is_alone(place):
    pair = f"first = outlined={place / 'its labels.nii.gz'}"
    with pytest.raises(SystemExit, match=r"^error: --outlined: .* is given twice"):
        main([*words(place), "--outlined", pair])
    for name in ("turned scan.nii", "other voxels.nii.gz", "less is seen.nii.gz", "a series"):
        path = place / "my scans" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(SystemExit, match=r"^error: --scans: .* holds only scans that are outlined"):
        main(words(place))


@pytest.mark.slow
def test_processes_of_torchrun_share_out_the_scans_and_tell_a_problem_once(toy_data, tmp_path):
    small = tmp_path / "scans"
    small.mkdir()
    for kind, number, path in [("label", 1, tmp_path / "labels.nii.gz"),
                               *(("image", number, small / f"case {number}.nii.gz") for number in (1, 2, 3, 10))]:
        given = sitk.ReadImage(toy_data / IMAGES / f"{kind}_{number}.nii.gz")
        sitk.WriteImage(sitk.Shrink(given, [3, 3, 1]), path)
    (small / "bad.nii.gz").write_bytes(b"no scan")
    command = ["scripts/segment.py", "--scans", small, "--outlined", f"case 1={tmp_path / 'labels.nii.gz'}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = [subprocess.run([*launch, *command, "--output", tmp_path / name, "--json", tmp_path / f"{name}.json"], cwd=ROOT,
                            capture_output=True, encoding="utf-8")
             for launch, name in ((torchrun, "two"), ([sys.executable], "one"))]
    assert all(done.returncode == 1 and done.stderr.count("error: bad.nii.gz: ") == 1 for done in ended), ended[0].stderr
    two, one = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.name not in ("report.html", LIST)
                 and path.is_file()} for name in ("two", "one"))
    assert two == one and len(one) == 3 + 1
    assert json.loads((tmp_path / "two.json").read_text(encoding="utf-8"))["failed"] == 1
