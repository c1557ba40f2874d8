"""test.py report: one file that opens without network, tried in headless Chromium from file://."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest

from qnet.scripts.tables.report_pictures import drawn, open_report, show_report, take_pictures
from qnet.util.results.report import write_report
from tests.browser import needs_chromium, screen, window
from tests.programs import entry_point, run

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def evaluated(trained, toy_data, tmp_path_factory):
    folder = run("test", tmp_path_factory.mktemp("evaluated"), toy_data, supp_idx="all", n_iters=1,
                 reload_model_path=str(trained / "snapshots/3.pth"))
    entry_point("test").experiment.run("report", config_updates={"run": str(folder)})
    return folder


def test_one_file_without_anything_from_outside(evaluated):
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert len(page) < 10e6
    assert not re.findall(r"@@[A-Z]+@@", page)
    head, content = page[:page.index("<style>")], page.split('id="content">')[1].split("</script>")[0]
    assert "default-src 'none'" in head and "unsafe-eval" not in head and "http:" not in head
    assert "NaN" not in content and "<" not in content and json.loads(content)["views"]


def test_a_page_that_is_full_shows_the_worst_cases_and_lists_all(evaluated, tmp_path, monkeypatch):
    monkeypatch.setattr("qnet.util.results.report_page.MOST_EMBEDDED", 1)
    folder = shutil.copytree(evaluated, tmp_path / "1")
    page = write_report(str(folder)).read_text(encoding="utf-8")
    content = json.loads(page.split('id="content">')[1].split("</script>")[0])
    worst = min(content["rows"], key=lambda row: row["dice"])
    assert [view["title"] for view in content["views"]] == [f"{worst['query_case']}, from support {worst['support_case']}"]
    assert worst["view"] == 0 and {row["view"] for row in content["rows"]} == {0, None}
    assert "of the 1 worst cases of 2, as a page" in content["hint"]


@pytest.fixture(scope="module")
def asked():
    """What the browser asked for so far."""
    return set()


@pytest.fixture(scope="module")
def browser(evaluated, chromium):
    with window(chromium) as browser:
        show_report(browser, evaluated / "report.html")
        yield browser


def set_to(browser, element, value):
    """Bring a slider or a list to a value, as a user does."""
    browser.execute_script("const e = document.getElementById(arguments[0]); e.value = arguments[1];"
                           "e.dispatchEvent(new Event('input')); e.dispatchEvent(new Event('change'));", element, value)


@needs_chromium
def test_a_slice_is_drawn_and_the_slider_moves_through_the_slices(browser):
    first = screen(browser)
    assert first.std() > 10 and (first.max(axis=2) > 40).mean() > 0.1      # a scan, not an empty screen
    set_to(browser, "slice", 1)
    assert (screen(browser) != first).mean() > 0.02
    assert browser.find_element("id", "slice-number").text == "2 of 8, axial"
    said = browser.find_element("id", "canvas").get_attribute("aria-label")
    assert said == "case 1, from support 2, three planes, axial slice 2 of 8"


@needs_chromium
@pytest.mark.parametrize(("box", "key"), [("truth", "."), ("predicted", "h"), ("probability", "Q")])
def test_what_lies_over_the_scan_can_be_switched_by_mouse_and_by_key(browser, box, key):
    set_to(browser, "slice", 4)
    before = screen(browser)
    browser.find_element("id", box).click()
    after = screen(browser)
    assert (after != before).any(axis=2).sum() > 100
    browser.find_element("tag name", "body").send_keys(key)
    np.testing.assert_array_equal(screen(browser), before)


@needs_chromium
def test_the_prediction_is_filled_or_outlined_in_the_classes_colours_and_fades(browser):
    set_to(browser, "slice", 4)
    for box in ("truth", "predicted"):
        browser.find_element("id", box).click()
    grey = screen(browser)
    assert not colourful(grey).any()      # the scan itself
    browser.find_element("id", "predicted").click()
    filled = screen(browser)
    browser.find_element("tag name", "body").send_keys("d")
    outlined = screen(browser)
    assert 0 < colourful(outlined).sum() < 0.7 * colourful(filled).sum()
    set_to(browser, "predicted-opacity", 5)
    assert np.abs(screen(browser).astype(int) - grey).sum() < 0.3 * np.abs(outlined.astype(int) - grey).sum()
    browser.find_element("tag name", "body").send_keys("d")
    browser.find_element("id", "truth").click()


def colourful(pixels: np.ndarray) -> np.ndarray:
    return np.ptp(pixels.astype(int), axis=2) > 40


@needs_chromium
def test_one_plane_or_three_and_the_window(browser):
    three = screen(browser)
    set_to(browser, "planes", "1")
    coronal = screen(browser)
    assert (coronal != three).mean() > 0.1 and browser.find_element("id", "slice-number").text.endswith("of 64")
    set_to(browser, "level", 1e9)      # as dark as it goes
    assert screen(browser).mean() < 0.7 * coronal.mean()
    browser.find_element("id", "reset").click()
    np.testing.assert_array_equal(screen(browser), coronal)
    set_to(browser, "planes", "3")


@needs_chromium
def test_a_registered_support_can_be_laid_over_the_scan(browser, asked, thin_data, tmp_path):
    assert not browser.find_element("id", "of-support").is_displayed()      # of a method that registers nothing
    folder = run("test", tmp_path, thin_data, "registration", supp_idx=0, test_label=[1], reload_model_path=None,
                 registration={"finest": 2.0, "n_steps": 1})
    entry_point("test").experiment.run("report", config_updates={"run": str(folder)})
    nothing_went_wrong(browser, asked)
    with window(browser) as other:
        show_report(other, folder / "report.html")
        assert other.find_element("id", "of-support").is_displayed()
        scan = screen(other)
        other.find_element("id", "support").click()
        registered = screen(other)
        assert (np.abs(registered.astype(int) - scan).max(axis=2) > 10).mean() > 0.02
        set_to(other, "support-opacity", 50)
        half = screen(other).astype(int)
        assert 0 < np.abs(half - scan).sum() < np.abs(registered.astype(int) - scan).sum()
        nothing_went_wrong(other, asked)


@needs_chromium
def test_slices_and_cases_by_keyboard_alone(browser):
    slider = browser.find_element("id", "slice")
    slider.send_keys("\ue011")      # Home
    slider.send_keys("\ue014")      # arrow to the right
    assert browser.find_element("id", "slice-number").text == "2 of 8, axial"
    canvas = browser.find_element("id", "canvas")
    canvas.send_keys("\ue00e")      # page up
    assert browser.find_element("id", "slice-number").text == "3 of 8, axial"
    x, y, z = place(browser)
    canvas.send_keys("\ue014\ue013")      # arrows to the right, which is the patient's left, and up, which is the front
    assert place(browser) == (x - 1, y + 1, z)
    canvas.send_keys("n")
    assert drawn(browser).startswith("1/")
    canvas.send_keys("b")
    assert drawn(browser).startswith("0/")
    canvas.send_keys("v")
    assert drawn(browser).startswith("0/2/")
    set_to(browser, "planes", "3")


def place(browser):
    return tuple(map(int, drawn(browser).split("/")[2].split(",")))


@needs_chromium
def test_the_cases_can_be_sorted_and_shown(browser):
    def column(n):
        return browser.execute_script(
            f"return [...document.querySelectorAll('#cases tbody tr')].map(row => row.children[{n}].textContent)")

    dice = [float(value) for value in column(4)]
    assert dice == sorted(dice) and len(dice) == 16      # 4 classes, 2 supports, protocol and whole volume
    browser.find_element("css selector", "#cases th[aria-sort] button").click()
    assert [float(value) for value in column(4)] == sorted(dice, reverse=True)
    browser.find_element("css selector", "#cases th button").send_keys("\ue007")      # Enter on "query"
    assert column(0) == ["1"] * 8 + ["2"] * 8
    browser.find_element("css selector", "#cases tbody tr:last-child button").click()
    assert drawn(browser).startswith("1/")
    selected = browser.execute_script("return document.getElementById('view').selectedOptions[0].textContent")
    assert selected == "2, from support 1"
    assert len(browser.find_elements("css selector", "#cases tr.chosen")) == 1
    of_this_volume = [row for row in browser.execute_script("return content.rows") if row["query_case"] == "2" and
                      row["support_case"] == "1" and row["map"] == browser.find_element("id", "map").get_attribute("value")]
    shown = ", ".join(f"{row['label_name']} {100 * row['dice']:.1f}" for row in of_this_volume)
    assert len(of_this_volume) == 4 and browser.find_element("id", "scores").text == f"Dice: {shown}"


@needs_chromium
def test_pictures_of_it(browser, tmp_path):
    pictures = take_pictures(browser, tmp_path)
    classes, plots, outlines, overlay = (cv2.imread(str(path)) for path in pictures)
    assert classes.std() > 1 and plots.std() > 1
    assert outlines.shape == overlay.shape and (outlines != overlay).any()


@needs_chromium
def test_nothing_went_wrong_on_the_way_and_nothing_was_asked_of_a_network(browser, asked):
    nothing_went_wrong(browser, asked)
    assert asked


def nothing_went_wrong(browser, asked):
    """Of all that the browser logged so far, which is forgotten then. What it asked for is added to `asked`."""
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked.update(event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent")
    assert not [url for url in asked if not url.startswith(("file://", "data:", "blob:"))]


@needs_chromium
def test_a_browser_without_webgl_says_so_and_shows_the_tables(evaluated):
    other = open_report(evaluated / "report.html", flags=("--disable-3d-apis",))
    try:
        assert "no WebGL2" in other.find_element("id", "no-webgl").text
        assert not other.find_element("id", "viewer").is_displayed()
        other.find_element("css selector", "#cases tbody button").click()
        assert len(other.find_elements("css selector", "#cases tbody tr")) == 16
        assert [entry for entry in other.get_log("browser") if "TypeError" in entry["message"]] == []
    finally:
        other.quit()


@pytest.mark.parametrize(("run_folder", "message"), [
    (None, "run: got null"), ("runs/nothing", "run: runs/nothing/config.json: no such file"),
])
def test_bad_runs(run_folder, message):
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        entry_point("test").experiment.run("report", config_updates={"run": run_folder} if run_folder else {})
