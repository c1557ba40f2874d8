"""test.py predict, whole, on the toy data."""

import csv
import json
import shutil
import subprocess
import sys
from typing import ClassVar

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from qnet.dataloaders.geometry import voxel_to_patient
from qnet.util.base.checksums import sha256
from qnet.util.base.files import LIST
from qnet.util.base.root import ROOT
from qnet.util.engine.uncertainty import Agreement
from qnet.util.predict.cases import EARLIER_COLUMNS, read_cases
from qnet.util.predict.events import Failed, Outlined
from qnet.util.predict.outline import _outline_one
from qnet.util.predict.plan import Plan, output_path
from qnet.util.predict.predictor import Predictor, Segmentation
from qnet.util.predict.request import Query, Request, untrained_method
from qnet.util.predict.scans import read_scan
from qnet.util.training.as_trained import as_trained
from tests.data.raw_downloads import write_dicom
from tests.programs import predict


@pytest.fixture
def files(trained, toy_data, tmp_path):
    """Options of predict that stay the same, with case 1 as support and case 2 as query."""
    images = toy_data / "chaos_MR_T2_normalized"
    return {"reload_model_path": trained / "snapshots/3.pth", "support_image": images / "image_1.nii.gz",
            "support_label": images / "label_1.nii.gz", "query": images / "image_2.nii.gz", "output": tmp_path / "out"}


def content_of(report):
    return json.loads(report.read_text(encoding="utf-8").split('id="content">')[1].split("</script>")[0])


def read(path):
    return np.asanyarray(nibabel.load(path).dataobj)


def test_a_label_map_on_the_querys_own_grid(files, tmp_path):
    predict(**files, save_probs=True)
    source, written = nibabel.load(files["query"]), nibabel.load(tmp_path / "out/image_2.nii.gz")
    np.testing.assert_array_equal(written.affine, source.affine)
    assert written.shape == source.shape and written.get_data_dtype() == np.uint8
    label_map = read(tmp_path / "out/image_2.nii.gz")
    assert set(np.unique(label_map)) <= {0, 1, 2, 3, 4} and label_map.any()
    names = ("liver", "right_kidney", "left_kidney", "spleen")
    probs = np.stack([read(tmp_path / f"out/image_2_{name}_prob.nii.gz") for name in names])
    assert probs.min() >= 0 and probs.max() <= 1
    inside = label_map > 0
    chosen = np.take_along_axis(probs, np.maximum(label_map, 1)[None] - 1, axis=0)[0]
    assert (chosen[inside] >= probs.max(axis=0)[inside] - 1e-3).all() and (chosen[inside] >= 0.5).all()      # rounded to 1e-3
    uncertainty = read(tmp_path / "out/image_2_uncertainty.nii.gz")
    # made on the model's grid and resampled after, here made of what was resampled
    np.testing.assert_allclose(uncertainty, (1 - np.abs(2 * probs - 1)).max(axis=0), atol=0.05)
    rows = list(csv.DictReader((tmp_path / "out/cases.csv").open(encoding="utf-8")))
    assert [row["label_name"] for row in rows] == ["liver", "right kidney", "left kidney", "spleen"]
    for row in rows:
        assert float(row["volume_ml"]) == pytest.approx((label_map == int(row["label"])).sum() * 2 * 2 * 7.7 / 1000, rel=5e-4)


@pytest.mark.whole
def test_the_same_organs_however_the_scans_are_stored(files, tmp_path):
    predict(**files)
    turned = {}
    for key, order in (("support_image", "SAL"), ("support_label", "SAL"), ("query", "PIR")):
        turned[key] = tmp_path / f"turned_{files[key].name}"
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(files[key]), order), turned[key])
    predict(**{**files, **turned, "output": tmp_path / "turned.nii.gz"})
    assert nibabel.aff2axcodes(nibabel.load(tmp_path / "turned.nii.gz").affine) == ("P", "I", "R")
    first = sitk.ReadImage(tmp_path / "out/image_2.nii.gz")
    second = sitk.Resample(sitk.ReadImage(tmp_path / "turned.nii.gz"), first, sitk.Transform(), sitk.sitkNearestNeighbor)
    a, b = map(sitk.GetArrayFromImage, (first, second))
    for label in np.unique(a)[1:]:
        assert 2 * ((a == label) & (b == label)).sum() / ((a == label).sum() + (b == label).sum()) > 0.99


@pytest.mark.whole
def test_several_supports_and_altered_copies_tell_how_far_they_agree(files, toy_data, tmp_path):
    images = toy_data / "chaos_MR_T2_normalized"
    several = {"support_image": [str(images / f"image_{n}.nii.gz") for n in (1, 3)],
               "support_label": [str(images / f"label_{n}.nii.gz") for n in (1, 3)]}
    predict(**{**files, **several}, augment=True)
    for row in csv.DictReader((tmp_path / "out/cases.csv").open(encoding="utf-8")):
        assert 0 <= float(row["agreement"]) <= 1


@pytest.mark.whole
def test_options_of_cleaning(files, tmp_path):
    options = {"raw": {}, "clean": {"largest_component": True}, "smooth": {"smooth_z": 2.0}}
    for name, changed in options.items():
        predict(**{**files, "output": tmp_path / f"{name}.nii.gz"}, **{"largest_component": False, "location_mm": 0.0, **changed})
    raw, clean, smooth = (read(tmp_path / f"{name}.nii.gz") for name in options)
    assert (clean[clean > 0] == raw[clean > 0]).all()
    for label in np.unique(raw)[1:]:
        assert ndimage.label(clean == label)[1] == 1
    assert (smooth != raw).any()


@pytest.mark.whole
def test_a_query_that_fails_is_named_and_the_others_finish(files, tmp_path):
    folder = tmp_path / "queries"
    folder.mkdir()
    shutil.copy(files["query"], folder / "good.nii.gz")
    (folder / "broken.nii.gz").write_bytes(files["query"].read_bytes()[:500])
    with pytest.raises(SystemExit, match=r"^error: query broken.nii.gz: .*cannot be read as NIfTI"):
        predict(**{**files, "query": folder})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good.nii.gz", "cases.csv", "report.html", LIST}


@pytest.mark.whole
def test_a_dicom_folder_as_query(files, tmp_path):
    scan = sitk.Cast(sitk.ReadImage(files["query"]), sitk.sitkUInt16)
    (tmp_path / "series").mkdir()
    for z in range(scan.GetDepth()):
        write_dicom(tmp_path / f"series/{z}", scan, z, z + 1)
    predict(**{**files, "query": tmp_path / "series"})
    label_map = sitk.ReadImage(tmp_path / "out/series.nii.gz")
    assert sitk.GetArrayFromImage(label_map).any()
    here, there = (voxel_to_patient(sitk.DICOMOrient(image, "LPS")) for image in (label_map, scan))
    np.testing.assert_allclose(here, there, atol=1e-3)


@pytest.mark.whole
def test_queries_that_are_done_are_skipped_unless_something_else_made_them(files, toy_data, trained, tmp_path, monkeypatch,
                                                                             capsys):
    queries, images = tmp_path / "queries", toy_data / "chaos_MR_T2_normalized"
    queries.mkdir()
    for name, number in (("a", 2), ("b", 3)):
        shutil.copy(images / f"image_{number}.nii.gz", queries / f"{name}.nii.gz")
    made, segment, found = [], Predictor.segment, {}

    def counted(predictor, query):
        """What is found is not looked at: it is the same for the same scan."""
        made.append(query[0].name[0])
        content = query[0].read_bytes()
        if content not in found:
            found[content] = segment(predictor, query)
        return found[content]

    monkeypatch.setattr(Predictor, "segment", counted)

    def makes(**changes):
        made.clear()
        predict(**{**files, "query": queries, **changes})
        return "".join(made)

    assert makes() == "ab"
    table = (tmp_path / "out/cases.csv").read_text(encoding="utf-8")
    assert makes() == "" and (tmp_path / "out/cases.csv").read_text(encoding="utf-8") == table
    (tmp_path / "out/a.nii.gz").unlink()
    assert makes() == "a"
    capsys.readouterr()
    assert makes(reload_model_path=trained / "snapshots/2.pth") == "ab"       # these are not of the snapshot that is asked for
    assert "\n2 of 2 queries were outlined from something else (outlines, options" in capsys.readouterr().out
    assert makes() == "ab"
    shutil.copy(images / "image_10.nii.gz", queries / "b.nii.gz")
    assert makes() == "b" and makes(location_mm=30.0) == "ab" and makes(location_mm=30.0, resume="never") == "ab"
    assert len(list(csv.DictReader((tmp_path / "out/cases.csv").open(encoding="utf-8")))) == 8
    (tmp_path / "out/cases.csv").unlink()
    assert makes(location_mm=30.0) == "ab"
    (tmp_path / "out/cases.csv").write_bytes(b"\xff\xfe")      # it may be a user's, in another encoding
    with pytest.raises(SystemExit, match=r"^error: .*/out/cases.csv: is there and was not made by this program"):
        makes(location_mm=30.0)
    assert makes(location_mm=30.0, overwrite=True) == "ab"


@pytest.mark.whole
def test_the_report_has_every_query_also_after_an_interruption(files, toy_data, tmp_path, monkeypatch, capsys):
    queries, report = tmp_path / "queries", tmp_path / "out/report.html"
    queries.mkdir()
    for name, number in (("a", 2), ("b", 3)):
        shutil.copy(toy_data / f"chaos_MR_T2_normalized/image_{number}.nii.gz", queries / f"{name}.nii.gz")
    with monkeypatch.context() as patched:
        segment = Predictor.segment
        patched.setattr(Predictor, "segment", lambda predictor, scan: segment(predictor, scan) if scan[0].name < "b" else 1 / 0)
        with pytest.raises(ZeroDivisionError):      # as good as a kill: predict does not expect it
            predict(**{**files, "query": queries}, save_probs=True)
    assert not report.exists()
    predict(**{**files, "query": queries}, save_probs=True)
    content = content_of(report)
    assert sorted(view["title"] for view in content["views"]) == ["a", "b"] and len(content["rows"]) == 8
    assert [len(view["probabilities"]) for view in content["views"]] == [4, 4] and content["problems"] == []
    assert "1 of 2 queries were there already" in capsys.readouterr().out
    assert {row["volume_ml"] for row in content["rows"]} == {
        float(row["volume_ml"]) for row in csv.DictReader((tmp_path / "out/cases.csv").open(encoding="utf-8"))}
    (queries / "c.nii.gz").write_bytes(b"no scan")
    with pytest.raises(SystemExit, match=r"^error: query c.nii.gz"):
        predict(**{**files, "query": queries})
    (problem,) = content_of(report)["problems"]
    assert problem.startswith("query c.nii.gz: ") and len(content_of(report)["views"]) == 2
    report.write_text("mine", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^error: .*/out/report.html: is there and was not made by this program"):
        predict(**{**files, "query": queries})


@pytest.mark.whole
def test_the_report_of_a_method_that_registers_shows_the_registered_support(thin_data, tmp_path):
    images = thin_data / "chaos_MR_T2_normalized"
    files = {"support_image": images / "image_1.nii.gz", "query": images / "image_2.nii.gz"}
    predict(**files, support_label=images / "label_1.nii.gz", output=tmp_path / "out", model="registration",
            registration={"finest": 0.7, "n_steps": 20})
    (view,) = content_of(tmp_path / "out/report.html")["views"]
    registered, scan = read(tmp_path / "out/warped_supports/image_2.nii.gz"), read(files["query"])
    assert view["support"] is not None and registered.shape == scan.shape and registered.dtype == np.uint8
    support = read(files["support_image"])
    alike, before = (np.corrcoef(image.ravel(), scan.ravel())[0, 1] for image in (registered, support))
    assert alike > before + 0.1


@pytest.mark.whole
def test_an_outline_that_was_corrected_by_hand_stays(files, toy_data, tmp_path, monkeypatch):
    queries, out = tmp_path / "queries", tmp_path / "out"
    queries.mkdir()
    for name, number in (("a", 2), ("b", 3)):
        shutil.copy(toy_data / f"chaos_MR_T2_normalized/image_{number}.nii.gz", queries / f"{name}.nii.gz")
    predict(**{**files, "query": queries})
    (row, *_) = csv.DictReader((out / "cases.csv").open(encoding="utf-8"))
    assert row["sha256"] == sha256(out / "a.nii.gz")
    corrected = shutil.copy(files["support_label"], out / "b.nii.gz").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "prepare", lambda _: pytest.fail("work began"))
        with pytest.raises(SystemExit, match=r"^error: .*/out/b.nii.gz: is there .* changed since; .*overwrite=true"):
            predict(**{**files, "query": queries})
        with pytest.raises(SystemExit, match=r"^error: .*/out/b.nii.gz: is there"):
            predict(**{**files, "query": queries, "resume": "never"})
    assert (out / "b.nii.gz").read_bytes() == corrected
    predict(**{**files, "query": queries}, overwrite=True)
    assert (out / "b.nii.gz").read_bytes() != corrected
    predict(**{**files, "query": queries})


@pytest.mark.whole
def test_a_table_of_an_earlier_version_is_read(files, tmp_path, capsys):
    predict(**files)
    table = tmp_path / "out/cases.csv"
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, EARLIER_COLUMNS[1], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "query": "another"} for row in rows)
    (tmp_path / "out" / LIST).unlink()
    with pytest.raises(SystemExit, match=r"^error: .*/out/cases.csv: is there and was not made"):
        predict(**files)
    predict(**files, overwrite=True)
    assert [row["query"] for row in csv.DictReader(table.open(encoding="utf-8"))] == ["another"] * 4 + ["image_2"] * 4


@pytest.mark.whole
@pytest.mark.parametrize("output", ["out", "", "a/out"])
def test_results_among_the_scans_are_no_scans_at_the_next_run(output, files, tmp_path):
    """In a folder of their own there, or where no name clashes beside DICOM folders; a/out holds nothing but results."""
    scan, scans = sitk.Cast(sitk.ReadImage(files["query"]), sitk.sitkUInt16), tmp_path / "scans"
    (scans / "b").mkdir(parents=True)
    for z in range(scan.GetDepth()):
        write_dicom(scans / f"b/{z}", scan, z, z + 1)
    for _ in range(2):
        predict(**{**files, "query": scans, "output": scans / output})
    if output:
        predict(**{**files, "query": scans, "output": tmp_path / "elsewhere"})
    assert {row["query"] for row in csv.DictReader((scans / output / "cases.csv").open(encoding="utf-8"))} == {"b"}


def test_probabilities_of_one_query_never_take_the_place_of_another(files, tmp_path):
    queries = tmp_path / "queries"
    queries.mkdir()
    for name in ("a", "a_liver_prob"):
        shutil.copy(files["query"], queries / f"{name}.nii.gz")
    with pytest.raises(SystemExit, match=r"^error: query: a.nii.gz and a_liver_prob.nii.gz would both be written to"):
        predict(**{**files, "query": queries}, save_probs=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.whole
def test_an_own_dataset_is_known_from_the_snapshot(files, tmp_path, capsys):
    content = torch.load(files["reload_model_path"], weights_only=True)
    config = json.loads(content["config"])
    for section in ("datasets", "path"):
        config[section]["MINE"] = config[section].pop("CHAOST2")
    config["datasets"]["MINE"]["labels"]["1"] = "lesion"
    own = tmp_path / "own.pth"
    torch.save({**content, "config": json.dumps({**config, "dataset": "MINE"})}, own)
    predict(**{**files, "reload_model_path": own})
    rows = csv.DictReader((tmp_path / "out/cases.csv").open(encoding="utf-8"))
    assert {row["label_name"] for row in rows} >= {"lesion", "spleen"}
    predict(**{**files, "reload_model_path": own}, dataset="CHAOST2")
    assert "dataset: CHAOST2 from the command line; the snapshot was trained with MINE\n" in capsys.readouterr().out
    assert "lesion" not in (tmp_path / "out/cases.csv").read_text(encoding="utf-8")


def test_a_snapshots_options_are_laid_over_the_config():
    config = {"datasets": {"CMR": {}}, "path": {"CMR": {}}, "dataset": "CMR", "encoder": "resnet101", "alpha": [0.9, 0.1],
              "seed": 1}
    own = {"datasets": {"MINE": {"labels": {"1": "lesion"}}}, "path": {"MINE": {}}, "dataset": "MINE", "encoder": "small",
           "alpha": [0.6, 0.4], "seed": 3}
    both = {"datasets": {**config["datasets"], **own["datasets"]}, "path": {"CMR": {}, "MINE": {}}}
    assert as_trained(config, own) == {**own, **both, "seed": 1}
    assert as_trained(config, own, given={"alpha": [0, 1]}) == {**own, **both, "seed": 1, "alpha": [0, 1]}
    assert as_trained(config, None) == config


def test_where_the_results_go(tmp_path):
    assert output_path("scan", tmp_path / "out", 3) == tmp_path / "out/scan.nii.gz"
    assert output_path("scan", tmp_path / "x.nii", 1) == tmp_path / "x.nii"


@pytest.mark.parametrize(("change", "message"), [
    ({"reload_model_path": None}, "reload_model_path: got null"),
    ({"query": None}, "query, output: got null"),
    ({"support_label": "nowhere.nii.gz"}, "nowhere.nii.gz: no such file"),
    ({"support_image": ["a", "b"]}, "support_image, support_label: got 2 images and 1 labels"),
    ({"slice_margin": -1}, "slice_margin: got -1, allowed: a whole number of at least 0"),
    ({"surface_tolerance_mm": 0}, "surface_tolerance_mm: got 0"),
])
def test_bad_options(files, change, message):
    options = {**files, **change}
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        predict(**{key: value for key, value in options.items() if value is not None})


@pytest.mark.whole
def test_the_command_line(warm, files, tmp_path):
    done = subprocess.run([sys.executable, "test.py", "predict", "with", "device=cpu", "n_iters=0",
                           *(f"{key}={value}" for key, value in files.items())], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/image_2.nii.gz").is_file()


def test_a_query_whose_rows_could_not_be_written_is_not_done(toy_data, tmp_path):
    query, target, table = toy_data / "chaos_MR_T2_normalized/image_2.nii.gz", tmp_path / "image_2.nii.gz", tmp_path / "cases.csv"

    class Predicts:
        names: ClassVar = {1: "liver"}

        def segment(self, _):
            agreement = Agreement()
            agreement.add({1: np.ones((8, 64, 64))}, {1: 0.9})
            return Segmentation(read_scan(query, None), np.ones((8, 64, 64), np.uint8), {1: "liver"}, {}, agreement)

    asked = Query("image_2", query, target)
    request, plan = Request(untrained_method(), query), Plan([asked], [asked], root=query, table=table)
    (table / "in the way").mkdir(parents=True)
    assert isinstance(_outline_one(asked, Predicts(), plan, request, {}), Failed)
    shutil.rmtree(table)
    assert isinstance(_outline_one(asked, Predicts(), plan, request, {}), Outlined)
    assert list(read_cases(table)) == ["image_2"]
