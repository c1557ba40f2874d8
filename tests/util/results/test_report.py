"""test.py report: one file that opens without network, tried in headless Chromium."""

import re
import time

import cv2
import pytest

from scripts.tables.report_pictures import CHROMEDRIVER, CHROMIUM, open_report, take_pictures
from tests.programs import entry_point, run

pytestmark = pytest.mark.whole
needs_chromium = pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None,
                                    reason="no Chromium with chromedriver is installed")


@pytest.fixture(scope="module")
def evaluated(trained, toy_data, tmp_path_factory):
    folder = run("test", tmp_path_factory.mktemp("evaluated"), toy_data, supp_idx="all", n_iters=1,
                 reload_model_path=str(trained / "snapshots/3.pth"))
    entry_point("test").experiment.run("report", config_updates={"run": str(folder)})
    return folder


def test_one_file_without_anything_from_outside(evaluated):
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert len(page) < 30e6
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:)[a-z]*:?//""", page)
    assert "http" not in re.sub(r'"[A-Za-z0-9+/=]{200,}"', "", page).replace("http-equiv", "")
    assert "/*CONTENT*/" not in page and "NaN" not in re.sub(r'"[A-Za-z0-9+/=]{40,}"', "", page)


@pytest.fixture(scope="module")
def browser(evaluated):
    driver = open_report(evaluated / "report.html")
    yield driver
    driver.quit()


def settled(browser) -> str:
    """The canvas's content, once two looks at it agree."""
    last = None
    for _ in range(50):
        time.sleep(0.1)
        now = browser.execute_script("const c = document.getElementById('canvas'); return c.dataset.drawn + c.toDataURL();")
        if now == last and not now.startswith("undefined"):
            return now
        last = now
    raise AssertionError("the canvas does not come to rest")


@needs_chromium
def test_the_slider_moves_through_the_slices(browser):
    first = settled(browser)
    z = int(browser.execute_script("return document.getElementById('slice').value"))
    browser.execute_script("const s = document.getElementById('slice'); s.value = 1; s.dispatchEvent(new Event('input'));")
    assert z != 1 and settled(browser) != first
    assert browser.find_element("id", "slice-number").text == "2 of 8"


@needs_chromium
@pytest.mark.parametrize(("box", "key"), [("truth", "t"), ("predicted", "p"), ("overlay", "o")])
def test_outlines_and_overlay_can_be_switched_by_mouse_and_by_key(browser, box, key):
    browser.execute_script("const s = document.getElementById('slice'); s.value = 4; s.dispatchEvent(new Event('input'));")
    before = settled(browser)
    browser.find_element("id", box).click()
    after = settled(browser)
    assert after != before
    browser.find_element("tag name", "body").send_keys(key)
    assert settled(browser) == before


@needs_chromium
def test_a_registered_support_is_shown_beside_the_query(browser, toy_data, tmp_path):
    assert not browser.find_element("id", "support").is_displayed()      # of a method that registers nothing
    folder = run("test", tmp_path, toy_data, "registration", supp_idx=0, test_label=[1], reload_model_path=None)
    entry_point("test").experiment.run("report", config_updates={"run": str(folder)})
    other = open_report(folder / "report.html")
    try:
        query = settled(other)
        assert other.find_element("id", "support").is_displayed()
        assert "registered to case 2, slice" in other.find_element("id", "warped").get_attribute("aria-label")
        drawn = other.execute_script("return document.getElementById('warped').toDataURL()")
        assert drawn not in query and len(drawn) > 5000      # a picture, and another one
    finally:
        other.quit()


@needs_chromium
def test_slices_by_keyboard_alone(browser):
    slider = browser.find_element("id", "slice")
    slider.send_keys("\ue011")      # Home
    settled(browser)
    slider.send_keys("\ue014")      # arrow to the right
    settled(browser)
    assert browser.find_element("id", "slice-number").text == "2 of 8"


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
    assert settled(browser).startswith("1/")
    selected = browser.execute_script("return document.getElementById('pair').selectedOptions[0].textContent")
    assert selected == "2, from support 1"
    assert len(browser.find_elements("css selector", "#cases tr.chosen")) == 1
    of_this_volume = [row for row in browser.execute_script("return allRows") if row["query_case"] == "2" and
                      row["support_case"] == "1" and row["kind"] == browser.find_element("id", "kind").get_attribute("value")]
    shown = ", ".join(f"{row['label_name']} {100 * row['dice']:.1f}" for row in of_this_volume)
    assert len(of_this_volume) == 4 and f"Dice of this volume: {shown}" in browser.find_element("id", "legend").text


@needs_chromium
def test_pictures_of_it(browser, tmp_path):
    pictures = take_pictures(browser, tmp_path)
    classes, plots, outlines, probability = (cv2.imread(str(path)) for path in pictures)
    assert classes.std() > 1 and plots.std() > 1
    assert outlines.shape == probability.shape and (outlines != probability).any()
    browser.find_element("id", "overlay").click()


@needs_chromium
def test_nothing_went_wrong_on_the_way(browser):
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize(("run_folder", "message"), [
    (None, "run: got null"), ("runs/nothing", "run: runs/nothing/config.json: no such file"),
])
def test_bad_runs(run_folder, message):
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        entry_point("test").experiment.run("report", config_updates={"run": run_folder} if run_folder else {})
