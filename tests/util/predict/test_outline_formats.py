"""Outlines come in as other programs write them, and go out so: names and colours all the way, and only what is missing anew."""

import json
from contextlib import closing

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from qnet.dataloaders.outlines.formats import FORMATS, RTSTRUCT, SEG_NRRD, STL
from qnet.dataloaders.outlines.reading import stored_outlines
from qnet.dataloaders.outlines.writing import files_in, write_formats
from qnet.dataloaders.reading import read_image
from qnet.util.base.checksums import sha256
from qnet.util.base.errors import InputError
from qnet.util.engine.task import label_map_of
from qnet.util.label.session import Session
from qnet.util.options.config import base_config
from qnet.util.predict.cases import read_cases
from qnet.util.predict.events import Failed, Finished, Outlined, Warned
from qnet.util.predict.outline import outline
from qnet.util.predict.predictor import Predictor
from qnet.util.predict.request import Request
from qnet.util.predict.task_command import main as task
from qnet.util.taskfile.task_file import manifest_of
from tests.dataloaders.outlines.made import PLACES, nifti, outlines, series

NAMES, COLOURS = {1: "liver", 2: "right kidney", 3: "dots", 7: "ring"}, {1: "#0000ff", 2: "#00ff00", 3: "#ff0000", 7: "#123456"}
QUICK = {**base_config()["registration"], "finest": 4.0, "n_steps": 1, "affine": False, "zoom": False}


@pytest.fixture
def place(tmp_path):
    """Two DICOM series, of which the first has outlines of 3D Slicer."""
    for name in ("a", "b"):
        (tmp_path / "scans").mkdir(exist_ok=True)
        series(tmp_path / name, PLACES["axial"]).rename(tmp_path / "scans" / name)
    scan = tmp_path / "scans/a"
    write_formats([SEG_NRRD], outlines(), read_image(scan), scan, NAMES, COLOURS, tmp_path / "labels.nii.gz")
    return tmp_path


def request(place, labels="labels.seg.nrrd", **options):
    return Request.of_folder(place / "scans", [(place / "scans/a", place / labels)], place / "out", method="registration",
                             **{"device": "cpu", "registration": QUICK, "format": list(FORMATS), **options})


def contents(place):
    return {path.name: sha256(path) for path in (place / "out").iterdir() if path.suffix in (".nrrd", ".dcm", ".stl", ".gz")}


@pytest.mark.whole
def test_names_and_colours_come_in_and_all_formats_go_out(place):
    events = list(outline(request(place)))
    assert not [event for event in events if isinstance(event, Failed)]
    assert [event.message.partition(": ")[2][:30] for event in events if isinstance(event, Warned)] == [
        "label 3: not outlined in the s"]
    rows = read_cases(place / "out/cases.csv")["b"]
    assert {int(row["label"]): row["label_name"] for row in rows} == NAMES
    report = (place / "out/report.html").read_text(encoding="utf-8")
    labels = json.loads(report.split('id="content">')[1].split("</script>")[0])["labels"]
    assert {one["value"]: one["colour"] for one in labels} == COLOURS
    target, image = place / "out/b.nii.gz", read_image(place / "scans/b")
    found = sitk.GetArrayFromImage(read_image(target))
    for path in files_in([SEG_NRRD, "dicom-seg", RTSTRUCT], target, NAMES.values()):
        read = stored_outlines(path, image, place / "scans/b")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read.labels) > 0, found > 0)
        assert set(read.names.values()) == set(NAMES.values()) and set(read.colours.values()) == set(COLOURS.values())
    assert pydicom.dcmread(place / "out/b_seg.dcm").ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.4.1"


@pytest.mark.whole
def test_only_what_is_missing_is_made_again(place):
    list(outline(request(place, format="nifti")))
    first = contents(place)
    events = list(outline(request(place)))
    assert not [event for event in events if isinstance(event, Outlined | Failed)] and len(contents(place)) == 8
    assert first.items() <= contents(place).items()
    (place / "out/b_ring.stl").unlink()
    before = contents(place)
    assert not [event for event in outline(request(place)) if isinstance(event, Failed | Outlined)]
    assert before.items() <= contents(place).items() and (place / "out/b_ring.stl").exists()


def test_a_file_of_somebody_else_is_not_replaced(place):
    (place / "out").mkdir()
    (place / "out/b_rtstruct.dcm").write_bytes(b"somebody's")
    with pytest.raises(InputError, match=r"b_rtstruct.dcm: is there and was not made by this program"):
        list(outline(request(place)))
    assert (place / "out/b_rtstruct.dcm").read_bytes() == b"somebody's"


def test_two_scans_are_not_written_to_one_surface(place):
    (place / "scans/b").rename(place / "scans/b_right")
    nifti(place, PLACES["axial"]).rename(place / "scans/b.nii.gz")
    names = {1: "right_ring", 2: "right kidney", 3: "dots", 7: "ring"}
    with pytest.raises(InputError, match=r"b\S* and b\S* would both be written to .*b_right_ring.stl; allowed: other names"):
        list(outline(request(place, format="stl", names=names)))
    assert not list((place / "out").glob("*.stl"))


@pytest.mark.whole
def test_in_a_mixed_folder_series_get_their_formats_and_other_scans_the_others(place):
    nifti(place, PLACES["axial"]).rename(place / "scans/c.nii.gz")
    (place / "out").mkdir()
    (place / "out/c_seg.dcm").write_bytes(b"somebody's")
    said = "is no DICOM series, so dicom-seg and rtstruct cannot be written"
    for _ in range(2):      # the second time nothing is left to do, and the same is told
        *events, finished = outline(request(place))
        assert "format: dicom-seg and rtstruct refers to the files of a DICOM series, and so is not written for c.nii.gz" in [
            event.message for event in events if isinstance(event, Warned)]
        assert finished.outcome.problems == [f"c.nii.gz: {said}"] and not finished.outcome.failures
    names = {path.name for path in (place / "out").iterdir()}
    assert {"b_seg.dcm", "b_rtstruct.dcm", "b.seg.nrrd", "b.nii.gz", "c.nii.gz", "c.seg.nrrd", "c_ring.stl"} <= names
    assert "c_rtstruct.dcm" not in names and (place / "out/c_seg.dcm").read_bytes() == b"somebody's"
    assert not [event for event in events if isinstance(event, Outlined | Failed)]


@pytest.mark.whole
def test_a_format_that_a_series_cannot_have_costs_no_outlines(place):
    for path in (place / "scans/b").iterdir():
        head = pydicom.dcmread(path)
        del head.StudyInstanceUID, head.SOPInstanceUID
        head.save_as(path)
    for n_outlined in (1, 0):
        *events, finished = outline(request(place, format=["rtstruct", "seg.nrrd"]))
        assert len([event for event in events if isinstance(event, Outlined)]) == n_outlined
        (failed,) = (event for event in events if isinstance(event, Failed))
        assert "no RTSTRUCT can refer to it" in failed.message and "\n" not in failed.message
        assert finished.outcome.problems and (place / "out/b.nii.gz").exists() and (place / "out/b.seg.nrrd").exists()
    assert len(read_cases(place / "out/cases.csv")["b"]) == len(NAMES)


@pytest.mark.whole
def test_files_in_other_formats_are_those_of_the_present_label_map(place):
    list(outline(request(place, format="seg.nrrd")))
    before = (place / "out/b.seg.nrrd").read_bytes()
    list(outline(request(place, format="seg.nrrd", registration={**QUICK, "smoothness": 3.0, "finest": 2.0, "n_steps": 10})))
    found = stored_outlines(place / "out/b.seg.nrrd", read_image(place / "scans/b"), place / "scans/b")
    assert (place / "out/b.seg.nrrd").read_bytes() != before
    label_map = sitk.GetArrayFromImage(read_image(place / "out/b.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found.labels) > 0, label_map > 0)


def test_a_table_of_names_that_changed_makes_the_outlines_anew(place):
    image = sitk.GetImageFromArray(outlines())
    image.CopyInformation(read_image(place / "scans/a"))
    sitk.WriteImage(image, place / "labels.nii.gz")
    for name in ("liver", "hepar"):
        (place / "labels.tsv").write_text(f"index\tname\n1\t{name}\n", encoding="utf-8")
        *_, finished = outline(request(place, "labels.nii.gz", format="nifti"))
        assert isinstance(finished, Finished)
        assert [row["label_name"] for row in finished.outcome.rows["b"] if int(row["label"]) == 1] == [name]


def test_python_writes_the_formats_beside_the_label_map(place):
    predictor = Predictor.untrained("registration", device="cpu", registration=QUICK)
    predictor.add_support(place / "scans/a", place / "labels.seg.nrrd")
    assert predictor.names == NAMES and predictor.colours == COLOURS
    found = predictor.segment(place / "scans/b")
    found.save(place / "b.nii.gz", [STL, RTSTRUCT])
    assert (place / "b_rtstruct.dcm").exists() and (place / "b_right_kidney.stl").exists()
    with pytest.raises(InputError, match=r"formats: got 'obj', allowed: nifti, seg.nrrd"):
        found.save(place / "c.nii.gz", ["obj"])
    second = {1: "ring", 2: "liver", 3: "dots", 7: "right kidney"}
    write_formats([SEG_NRRD], outlines(), read_image(place / "scans/b"), None, second, COLOURS, place / "other.nii.gz")
    predictor.add_support(place / "scans/b", place / "other.seg.nrrd")
    assert predictor.names == NAMES
    of_first, of_second = (label_map_of(support.volume) for support in predictor.supports)
    for value, other in ((1, 7), (2, 1), (3, 3), (7, 2)):
        np.testing.assert_array_equal(of_first == value, of_second == other)


def test_a_task_file_has_the_names_and_colours(place, capsys):
    assert task(["create", str(place / "organs.task"), "--support", str(place / "scans/a"), str(place / "labels.seg.nrrd"),
                 "--names", "7=circle"]) == 0, capsys.readouterr()
    manifest = manifest_of(place / "organs.task")
    assert manifest.names == {**NAMES, 7: "circle"} and manifest.colours == COLOURS


def test_the_page_takes_them_from_its_command_line(place):
    with closing(Session(place / "scans")) as session:
        session.load("a", place / "labels.seg.nrrd")
        assert {one["value"]: (one["name"], one["colour"]) for one in session.classes} == {
            value: (name, COLOURS[value]) for value, name in NAMES.items()}
        assert session.state_of("a") == "outlined"


def test_the_page_lists_files_of_outlines_of_any_kind_but_dicom(place):
    (place / "scans/more").mkdir()
    for name in ("c.seg.nrrd", "d.mha", "e.nii.gz", "f.mgz", "g.img", "h.dcm", "i.txt"):
        (place / "scans/more" / name).touch()
    with closing(Session(place / "scans")) as session:
        assert [name for name in session.label_files() if name.startswith("more/")] == [
            "more/c.seg.nrrd", "more/d.mha", "more/e.nii.gz", "more/f.mgz"]


def test_a_table_of_names_that_is_a_link_out_of_the_folder_is_not_read_for_the_page(place):
    image = sitk.GetImageFromArray(outlines())
    image.CopyInformation(read_image(place / "scans/a"))
    sitk.WriteImage(image, place / "scans/labels.nii.gz")
    (place / "secret.txt").write_text('1 1 2 3 1 1 1 "liver"\na secret\n', encoding="utf-8")
    (place / "scans/labels.txt").symlink_to(place / "secret.txt")
    with closing(Session(place / "scans")) as session, pytest.raises(InputError, match=r"labels.txt: leads out of") as caught:
        session.load("a", place / "scans/labels.nii.gz")
    assert "a secret" not in str(caught.value)
