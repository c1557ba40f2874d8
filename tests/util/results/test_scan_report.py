"""The report about scans without truth, and names that try to break out of a page."""

import base64
import gzip
import json
import re
from dataclasses import replace

import cv2
import nibabel
import numpy as np
import pytest

from qnet.scripts.tables.report_pictures import show_report
from qnet.util.base.classes import PALETTE
from qnet.util.base.errors import InputError
from qnet.util.results import report_page
from qnet.util.results.report_page import Layers, Volumes
from qnet.util.results.scan_report import ScanEntry, empty_classes, is_empty, write_scan_report
from tests.browser import forget, needs_chromium, screen, window
from tests.labelling import wait_until
from tests.toy import AFFINE, toy_case

NAMES = {1: "liver", 700: "spleen"}
HOSTILE = """</script><script>document.title = "broken"</script><img src=x onerror='document.title="broken"'>"""


def layers(number=1, probabilities=None, support=None):
    image, label_map, _ = toy_case(number)
    whole = np.where(label_map == 4, 700, label_map == 1).astype(np.int16)
    return Layers(image, AFFINE, {"whole": whole}, probabilities or {}, support)


def entry(name, number=1, confidence=(0.5, 0.5)):
    return ScanEntry(name, {1: {"confidence": confidence[0], "volume_ml": 12.5},
                            700: {"confidence": confidence[1], "volume_ml": None}}, lambda: layers(number))


def content_of(path):
    return json.loads(re.search(r'id="content">(.*?)</script>', path.read_text(encoding="utf-8"), re.S)[1])


def volume(path, number):
    text = re.search(rf'id="volume-{number}">(.*?)</script>', path.read_text(encoding="utf-8"))[1]
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_the_least_trusted_scans_come_first_and_nothing_is_said_of_truth(tmp_path):
    path = tmp_path / "report.html"
    write_scan_report([entry("good"), entry("bad", 2, (0.9, 0.1)), entry("middling", 3, (0.3, 0.8))], NAMES, path, title="mine",
                      facts={"method": "guided"}, colours={700: "#0000ff"}, problems=["query c.nii.gz: damaged"])
    content = content_of(path)
    assert [view["title"] for view in content["views"]] == ["bad", "middling", "good"]
    assert content["order"] == "confidence"
    found = {(row["case"], row["label_name"]): (row["view"], row["confidence"]) for row in content["rows"]}
    assert found["bad", "spleen"] == (0, 0.1) and found["good", "liver"] == (2, 0.5)
    assert [column["key"] for column in content["columns"]] == ["case", "label_name", "confidence", "volume_ml", "of_median"]
    assert content["labels"][1] == {"value": 700, "name": "spleen", "colour": "#0000ff"} and content["classes"] is None
    assert content["labels"][0]["colour"] == PALETTE[0]      # as on the labelling page
    assert all(set(view["maps"]) == {"whole"} for view in content["views"]) and "Dice" not in json.dumps({**content, "hint": ""})
    assert content["problems"] == ["query c.nii.gz: damaged"] and content["facts"] == {"method": "guided"}


def test_scans_with_an_empty_class_come_first_are_marked_and_named(tmp_path):
    path = tmp_path / "report.html"
    lost = ScanEntry("lost", {1: {"agreement": 0.9, "slices": 3.0}, 700: {"agreement": 1.0, "slices": 0.0}}, lambda: layers(2))
    sure = ScanEntry("sure", {1: {"agreement": 0.4, "slices": 3.0, "border": "registration", "wide_mm": 0.0712}}, layers)
    write_scan_report([sure, lost], NAMES, path, title="mine")
    content = content_of(path)
    assert [view["title"] for view in content["views"]] == ["lost", "sure"]
    assert {(row["case"], row["label_name"]) for row in content["rows"] if row["empty"]} == {("lost", "spleen")}
    assert content["facts"] == {"empty": "1 has an empty class: lost (spleen)"}
    assert [column["key"] for column in content["columns"]][-2:] == ["border", "wide_mm"]


def test_volumes_stand_beside_those_of_the_outlined_scan_and_of_the_group(tmp_path):
    path, ml = tmp_path / "report.html", {"a": 10.0, "b": 20.0, "c": 46.0}
    write_scan_report([ScanEntry(name, {1: {"volume_ml": volume, "outlined_ml": 23.0, "look_at": "3 4 5"}}, layers)
                       for name, volume in ml.items()], NAMES, path, title="mine")
    rows = {row["case"]: row for row in content_of(path)["rows"]}
    assert {name: (row["of_outlined"], row["of_median"]) for name, row in rows.items()} == {
        "a": (10 / 23, 0.5), "b": (20 / 23, 1.0), "c": (2.0, 2.3)}
    assert rows["a"]["look_at"] == [3, 4, 5] and {"outlined_ml"}.isdisjoint(rows["a"])
    write_scan_report([ScanEntry("a", {1: {"volume_ml": 3.0, "look_at": "3 4 <b>"}}, layers)], NAMES, path, title="mine")
    (row,) = content_of(path)["rows"]
    assert (row["of_outlined"], row["of_median"], row["look_at"]) == (None, None, None)


def test_what_is_empty_and_how_it_is_said():
    assert is_empty({"slices": "0", "confidence": ""}) and is_empty({"slices": 2, "confidence": 0.0})
    assert not is_empty({"slices": "2", "confidence": "0.3"}) and not is_empty({"confidence": None})
    many = {f"scan {k}": ["liver", "spleen"][:k + 1] for k in range(7)}
    assert empty_classes(many) == ("7 have an empty class: scan 0 (liver), scan 1 (liver, spleen), scan 2 (liver, spleen), "
                                   "scan 3 (liver, spleen), scan 4 (liver, spleen) and 2 more")


def test_the_embedded_volumes_are_the_scan_and_its_label_map(tmp_path):
    path = tmp_path / "report.html"
    made = layers(probabilities={1: np.full((8, 64, 64), 0.6)}, support=np.full((8, 64, 64), 77, np.uint8))
    write_scan_report([ScanEntry("a", {}, lambda: made)], NAMES, path, title="mine")
    (view,) = content_of(path)["views"]
    image, label_map = volume(path, view["image"]), volume(path, view["maps"]["whole"])
    np.testing.assert_allclose(image.affine, AFFINE)
    inside = made.image < np.percentile(made.image, 99.9)
    step = np.ptp(made.image) / 255
    np.testing.assert_allclose(image.get_fdata().transpose(2, 1, 0)[inside], made.image[inside], atol=step)
    np.testing.assert_array_equal(label_map.get_fdata().transpose(2, 1, 0),
                                  np.select([made.maps["whole"] == 1, made.maps["whole"] == 700], [1, 2]))
    probability = volume(path, view["probabilities"]["1"])
    assert probability.shape == (32, 32, 8) and np.allclose(probability.get_fdata(), 0.6)      # every second pixel
    np.testing.assert_allclose(probability.affine, AFFINE @ np.diag([2, 2, 1, 1]))
    assert set(np.unique(volume(path, view["support"]).get_fdata())) == {76}


def test_a_scan_that_is_too_large_is_thinned_out_where_it_is_finest():
    assert report_page._step((60, 512, 512), np.array([5, 0.8, 0.8])) == (1, 2, 2)
    assert report_page._step((300, 512, 512), np.array([1, 0.8, 0.8])) == (2, 2, 2)
    assert report_page._step((30, 256, 256), np.array([7.7, 1.25, 1.25])) == (1, 1, 1)


def test_directions_of_a_turned_scan():
    turned = np.array([[0, 0, 6.0, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])      # to posterior, inferior, right
    assert report_page._directions(turned) == {"axes": [2, 0, 1], "flipped": [False, True, True], "across": 0}


def test_what_is_the_same_is_embedded_once():
    volumes, made = Volumes([1, 700]), layers()
    twice = replace(made, maps={**made.maps, "truth": made.maps["whole"]})
    first, second = volumes.view("a", twice), volumes.view("b", twice)
    assert len(volumes.texts) == 2 and first["image"] == second["image"] and first["maps"]["whole"] == first["maps"]["truth"]


def test_a_page_that_is_full_shows_the_least_trusted_and_lists_all(tmp_path, monkeypatch):
    path, read = tmp_path / "report.html", []

    def scan(name, number, confidence):
        def read_it():
            read.append(name)
            if name == "damaged":
                raise InputError("damaged.nii.gz: cut short")
            return layers(number)
        return ScanEntry(name, {1: {"confidence": confidence}}, read_it)

    volumes = Volumes([1, 700])
    volumes.view("a", layers())
    monkeypatch.setattr(report_page, "MOST_EMBEDDED", 1.5 * sum(map(len, volumes.texts)))
    scans = [scan("sure", 1, 0.9), scan("worst", 2, 0.1), scan("damaged", 2, 0.2), scan("bad", 3, 0.3), scan("middling", 4, 0.5)]
    write_scan_report(scans, NAMES, path, title="mine")
    content = content_of(path)
    assert read == ["worst", "damaged", "bad"] and [view["title"] for view in content["views"]] == ["worst", "bad"]
    views = {row["case"]: row["view"] for row in content["rows"]}
    assert views == {"worst": 0, "bad": 1, "middling": None, "sure": None}
    assert content["problems"] == ["damaged: not shown: damaged.nii.gz: cut short"]
    assert content["hint"].endswith("Slices are shown of the 2 least trusted of 4, as a page with all of them would be too large "
                                    "to open; the tables are complete.")


def test_numbers_that_are_not_finite_and_scans_without_confidence(tmp_path):
    path = tmp_path / "report.html"
    constant = Layers(np.zeros((2, 4, 4)), AFFINE, {"whole": np.zeros((2, 4, 4), np.uint8)}, {})
    odd = [ScanEntry("z", {1: {"margin": float("nan"), "volume_ml": 3.0}}, layers), ScanEntry("b", {}, lambda: constant)]
    write_scan_report(odd, NAMES, path, title="mine")
    content = content_of(path)
    assert content["rows"][0]["margin"] is None and [view["title"] for view in content["views"]] == ["z", "b"]


@pytest.fixture(scope="module")
def browser(chromium):
    with window(chromium) as browser:
        yield browser


def show(browser, report):
    """Open a report. What the browser said of earlier ones is forgotten."""
    forget(browser)
    show_report(browser, report)


@pytest.mark.whole
@needs_chromium
def test_the_less_probable_the_fainter(browser, tmp_path):
    path = tmp_path / "report.html"
    probability = np.zeros((8, 64, 64))
    probability[:, :, 20:32], probability[:, :, 32:44] = 0.6, 1
    flat = np.full((8, 64, 64), 100.0)
    flat[0] = np.arange(64) * 5
    made = Layers(flat, AFFINE, {"whole": np.zeros((8, 64, 64), np.int16)}, {1: probability})
    write_scan_report([ScanEntry("a", {}, lambda: made)], NAMES, path, title="mine")
    show(browser, path)
    before = screen(browser).astype(int)
    browser.find_element("id", "probability").click()
    changed = np.abs(screen(browser) - before).max(axis=2)
    strong = changed > 0.75 * changed.max()
    faint = (changed > 5) & (changed < 0.6 * changed.max())
    assert strong.sum() > 1000 and 0.5 < faint.sum() / strong.sum() < 2


@pytest.mark.whole
@needs_chromium
def test_a_line_leads_to_its_correction_and_a_picture_is_saved(browser, tmp_path):
    """It opens at the voxel to look at first, in a scan whose axes run in other directions than the viewer's."""
    path, voxel = tmp_path / "report.html", [40, 12, 5]
    numbers = {1: {"confidence": 0.4, "look_at": " ".join(map(str, voxel))}, 700: {"confidence": 0.9, "look_at": "1 1 1"}}
    write_scan_report([ScanEntry("a & b", numbers, layers)], NAMES, path, title="mine",
                      correction={"command": "qnet label 'my scans'", "page": "file:///my%20scans/label_page/open.html"})
    show(browser, path)
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    assert browser.find_element("id", "command").text == "qnet label 'my scans'"
    assert [link.get_attribute("href") for link in browser.find_elements("link text", "correct")] == [
        f"file:///my%20scans/label_page/open.html#scan=a%20%26%20b&label={value}" for value in (1, 700)]
    x, y, z = browser.execute_script("return position()")
    assert [63 - x, y, z] == voxel      # LAS
    browser.find_element("id", "picture").click()
    picture = tmp_path / "a & b, slice 6.png"
    wait_until(picture.exists, 10)
    pixels = cv2.imread(str(picture))
    assert pixels.shape[1] > 300 and (np.ptp(pixels.astype(int), axis=2) > 60).sum() > 100      # and colours of outlines


@pytest.mark.whole
@needs_chromium
def test_a_hostile_name_stays_text_and_a_scan_that_is_not_embedded_is_no_button(browser, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    monkeypatch.setattr(report_page, "MOST_EMBEDDED", 1)
    write_scan_report([entry("second", 2, (0.9, 0.9)), entry(HOSTILE)], {1: HOSTILE, 700: "<!--<script>"}, path,
                      title=f"{HOSTILE} @@SCRIPT@@", facts={HOSTILE: HOSTILE}, problems=[HOSTILE])
    show(browser, path)
    assert browser.title.startswith("</script>") and browser.find_element("id", "title").text.endswith("@@SCRIPT@@")
    assert not browser.find_elements("tag name", "img")
    assert browser.find_element("css selector", "#problems p").text == HOSTILE
    assert [button.text for button in browser.find_elements("css selector", "#cases tbody button")] == 2 * [HOSTILE]
    unseen = browser.find_elements("css selector", "#cases tr.unseen")
    assert [row.text.split()[0] for row in unseen] == ["second", "second"]
    unseen[0].click()
    assert not browser.find_elements("css selector", "#cases tr.chosen")
    assert browser.find_element("css selector", "#legend li").text == HOSTILE
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    browser.execute_script("const s = document.createElement('script'); s.textContent = 'document.title = \"broken\"';"
                           "document.body.append(s)")
    assert browser.title != "broken"      # the policy of the page lets no other script run
