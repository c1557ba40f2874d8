"""The labelling page in a real browser, headless Chromium: with the mouse, with keys alone, reloaded, killed, started again."""

import json
import math
import webbrowser

import nibabel
import numpy as np
import pytest
from selenium.webdriver import ActionChains, Keys

from qnet.scripts.tables.label_pictures import open_page, open_scan, press, wait_for
from qnet.util.base.classes import MAX_NAME, PALETTE
from qnet.util.base.own_folder import OwnFolder
from qnet.util.base.root import ROOT
from qnet.util.label.client import running
from qnet.util.label.serve import open_browser
from qnet.util.label.session import Session
from tests.browser import needs_chromium
from tests.labelling import FAST, drawing, nifti, served, wait_until, write_scans
from tests.toy import AFFINE, toy_case, write

pytestmark = [pytest.mark.whole, needs_chromium]
LIMIT_S = 60
FAST_PROGRAM = ROOT / "tests/label_fast.py"
IDLE = "return document.getElementById('stop').hidden && document.getElementById('run-text').textContent"
COUNT = "return labelPage.viewer.drawing.reduce((n, value) => n + (value > 0), 0)"


def text(browser, element):
    return browser.find_element("id", element).text


def status_of(browser, name):
    return browser.execute_script(f"""return document.querySelector('[data-scan="{name}"] .what').textContent""")


def current(browser):
    return browser.execute_script("return document.querySelector('[aria-current=true]').dataset.scan")


def drag(browser, points):
    """Drag the mouse over points of the axial slice, (x, y) as shares of its width and height."""
    canvas = browser.find_element("id", "canvas")
    left, top, width, height = browser.execute_script(
        "return labelPage.viewer.niivue.screenSlices.find(tile => tile.axCorSag === 0).leftTopWidthHeight;")
    places = [(int(left + x * width - canvas.size["width"] / 2), int(top + y * height - canvas.size["height"] / 2))
              for x, y in points]
    chain = ActionChains(browser, duration=10).move_to_element_with_offset(canvas, *places[0]).click_and_hold()
    for place in places[1:]:
        chain.move_to_element_with_offset(canvas, *place)
    chain.release().perform()


def ring(x, y, radius, n=16):
    return [(x + radius * math.cos(2 * math.pi * k / n), y + radius * math.sin(2 * math.pi * k / n)) for k in range(n + 1)]


def saved(browser):
    wait_for(browser, "return document.getElementById('saved').textContent === 'saved'", LIMIT_S)


def read(path):
    return np.asarray(nibabel.load(path).dataobj).T


def errors_of(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def addresses_of(browser):
    """Where the page sent requests to, as the browser's own log of the network has it."""
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_scans(tmp_path_factory.mktemp("page") / "scans", [1, 2, 3])


@pytest.fixture(scope="module")
def client(place):
    with served(Session(place), FAST) as client:
        yield client


@pytest.fixture(scope="module")
def browser(client):
    browser = open_page(client.address)
    yield browser
    browser.quit()


@pytest.fixture
def fresh(browser, client):
    """The first scan open, with nothing drawn."""
    for scan in client.state()["scans"]:
        client.draw(scan["name"], nifti(np.zeros_like(drawing())))
    browser.refresh()
    wait_for(browser, "return document.getElementById('position').textContent.includes(':')", LIMIT_S)
    open_scan(browser, "a_1")
    return browser


def test_the_token_leaves_the_address_and_is_in_no_cookie(browser, client):
    assert client.token not in browser.current_url
    assert browser.execute_script("return document.cookie") == "" and browser.get_cookies() == []
    assert browser.execute_script("return sessionStorage.getItem('label-token')") == client.token


def test_a_filled_stroke_is_on_disk_at_once_and_undone(fresh, place):
    hand = place / "label_page/hand/a_1.nii.gz"
    press(fresh, "f")
    drag(fresh, ring(0.3, 0.3, 0.1))
    saved(fresh)
    once = read(hand)
    assert 80 < once.sum() < 200 and once.any(axis=(1, 2)).sum() == 1        # a disc of 6.4 pixels in one slice
    assert once.sum() == fresh.execute_script(COUNT)
    wait_until(lambda: status_of(fresh, "a_1") == "being drawn")
    drag(fresh, ring(0.7, 0.7, 0.05))
    wait_until(lambda: read(hand).sum() > once.sum())
    press(fresh, "u")
    wait_until(lambda: (read(hand) == once).all())
    press(fresh, "u")
    wait_until(lambda: not hand.exists())
    press(fresh, "u")
    assert text(fresh, "status") == "Nothing to undo." and errors_of(fresh) == []


def test_pen_eraser_width_and_classes(fresh, place, client):
    hand = place / "label_page/hand/a_1.nii.gz"
    fresh.find_element("id", "add-class").click()
    wait_until(lambda: len(client.state()["classes"]) == 2)
    wait_for(fresh, "return document.activeElement.type === 'text'", LIMIT_S)
    assert fresh.switch_to.active_element.get_attribute("maxLength") == str(MAX_NAME)
    ActionChains(fresh).send_keys("spleen", Keys.ENTER).perform()
    wait_until(lambda: client.state()["classes"][1] == {"value": 2, "name": "spleen", "colour": PALETTE[1]})
    press(fresh, "p")
    drag(fresh, [(0.2, 0.2), (0.8, 0.2)])
    saved(fresh)
    line = read(hand)
    assert set(np.unique(line)) == {0, 2} and 30 < (line == 2).sum() < 50
    press(fresh, "1")
    fresh.find_element("css selector", "#width option:nth-child(2)").click()
    drag(fresh, [(0.2, 0.6), (0.8, 0.6)])
    wait_until(lambda: (read(hand) == 1).sum() > 100)
    press(fresh, "e")
    drag(fresh, [(0.5, 0.1), (0.5, 0.9)])
    wait_until(lambda: 30 - 3 <= (read(hand) == 2).sum() < (line == 2).sum())
    fresh.find_element("css selector", "#width option:nth-child(1)").click()
    assert errors_of(fresh) == []


def test_a_stroke_that_leaves_the_slice_ends_there_and_is_kept(fresh, place):
    press(fresh, "f")
    canvas = fresh.find_element("id", "canvas")
    chain = ActionChains(fresh, duration=10).move_to_element_with_offset(canvas, -200, -100).click_and_hold()
    for offset in ((-100, -100), (-100, 0), (-200, 0)):
        chain.move_to_element_with_offset(canvas, *offset)
    chain.move_to_element(fresh.find_element("id", "run")).release().perform()
    saved(fresh)
    assert read(place / "label_page/hand/a_1.nii.gz").sum() == fresh.execute_script(COUNT) > 50


@pytest.mark.parametrize("axes", ["LAS", *(pytest.param(axes, marks=pytest.mark.slow) for axes in ("RAS", "LPS", "PSR", "AIL"))])
def test_outlines_keep_their_voxels_whatever_the_axes(axes, tmp_path):
    """What the browser shows and sends back is what was there, voxel by voxel."""
    image, label_map, _ = toy_case(1)
    label_map[2, 5:9, 50:60] = 3        # nothing is symmetric
    for path, array in ((tmp_path / "a.nii.gz", image.astype(np.int16)), (tmp_path / "truth/a.nii.gz", label_map)):
        volume = nibabel.Nifti1Image(array.transpose(2, 1, 0), AFFINE)
        turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(AFFINE), nibabel.orientations.axcodes2ornt(axes))
        path.parent.mkdir(exist_ok=True)
        nibabel.save(volume.as_reoriented(turn), path)
    truth = read(tmp_path / "truth/a.nii.gz")
    with served(Session(tmp_path)) as client:
        client.tell("POST", "/api/scans/a/load", {"labels": "truth/a.nii.gz"})
        browser = open_page(client.address)
        try:
            press(browser, "p")
            drag(browser, [(0.5, 0.5), (0.52, 0.5)])
            saved(browser)
            after = read(tmp_path / "label_page/hand/a.nii.gz")
            changed = np.argwhere(after != truth)
            assert 1 <= len(changed) <= 6
            press(browser, "u")
            wait_until(lambda: (read(tmp_path / "label_page/hand/a.nii.gz") == truth).all())
        finally:
            browser.quit()


def test_keys_alone_draw_a_filled_square(fresh, place):
    press(fresh, "f")
    press(fresh, " ")
    assert "pen down" in text(fresh, "position")
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.ARROW_DOWN):
        press(fresh, 8 * key)
    press(fresh, " ")
    saved(fresh)
    label_map = read(place / "label_page/hand/a_1.nii.gz")
    assert label_map.sum() == 81 and label_map.any(axis=(1, 2)).sum() == 1
    press(fresh, Keys.PAGE_UP + " " + Keys.SHIFT + Keys.ARROW_LEFT + Keys.NULL + " ")
    wait_until(lambda: read(place / "label_page/hand/a_1.nii.gz").any(axis=(1, 2)).sum() == 2)
    assert errors_of(fresh) == []


def test_every_control_has_a_name_for_screen_readers(browser):
    nameless = browser.execute_script("""
        const all = 'button, input, select, canvas, progress, dialog, nav, aside, section, [role=toolbar]';
        return [...document.querySelectorAll(all)].filter(one =>
          !(one.textContent.trim() && one.tagName === 'BUTTON') && !one.ariaLabel && !one.getAttribute('aria-labelledby')
          && !(one.labels && [...one.labels].some(label => label.textContent.trim()))).map(one => one.outerHTML.slice(0, 80));""")
    assert nameless == []
    assert browser.find_element("id", "status").get_attribute("role") == "status"
    for element in ("run", "canvas"):
        assert browser.find_element("id", element).accessible_name


def test_everything_is_reached_with_tab(fresh):
    seen = set()
    for _ in range(60):
        ActionChains(fresh).send_keys(Keys.TAB).perform()
        seen.add(fresh.execute_script("const { id, dataset, name } = document.activeElement; return id || dataset.scan || name;"))
    assert {"a_1", "a_2", "run", "careful", "export", "tool", "width", "undo", "view", "canvas", "load", "leave-out", "add-class",
            "low", "high", "opacity", "shown"} <= seen


@pytest.mark.parametrize("dark", [False, True])
def test_dark_and_light(dark, client):
    browser = open_page(client.address, dark=dark)
    try:
        paper, ink = (browser.execute_script(f"return getComputedStyle(document.body).{name}")
                      for name in ("backgroundColor", "color"))
        brightness = [sum(map(int, colour.strip("rgb()").split(","))) / 3 for colour in (paper, ink)]
        assert (brightness[0] < 60 and brightness[1] > 200) if dark else (brightness[0] > 200 and brightness[1] < 60)
    finally:
        browser.quit()


def test_views_window_and_opacity(fresh):
    shown = "labelPage.viewer.niivue.screenSlices.map(tile => tile.axCorSag)"
    views = []
    for _ in range(5):
        views.append(fresh.execute_script(f"return {shown}"))
        press(fresh, "v")
    assert views == [[0, 1, 2], [0], [1], [2], [0, 1, 2]]
    fresh.find_element("css selector", "#view option:nth-child(1)").click()
    fresh.execute_script("""const high = document.getElementById('high'); high.value = 300;
                         high.dispatchEvent(new Event('input'));""")
    assert fresh.execute_script("return labelPage.viewer.volume.cal_max") == pytest.approx(300, abs=3)
    press(fresh, "h")
    assert fresh.execute_script("return labelPage.viewer.niivue.drawOpacity") == 0
    press(fresh, "h")
    assert fresh.execute_script("return labelPage.viewer.niivue.drawOpacity") == 0.5


def test_outlines_are_loaded_from_a_file_and_a_scan_is_left_out(fresh, client):
    open_scan(fresh, "a_3")
    fresh.find_element("id", "load").click()
    wait_for(fresh, "return document.getElementById('load-dialog').open", LIMIT_S)
    fresh.find_element("xpath", "//select[@id='load-file']/option[text()='truth/a_3.nii.gz']").click()
    fresh.find_element("css selector", "#load-dialog button.strong").click()
    wait_until(lambda: client.scan("a_3")["state"] == "outlined")
    wait_for(fresh, f"return ({COUNT.removeprefix('return ')}) > 1000", LIMIT_S)
    open_scan(fresh, "a_2")
    fresh.find_element("id", "leave-out").click()
    wait_until(lambda: status_of(fresh, "a_2") == "left out")
    fresh.find_element("id", "leave-out").click()
    wait_until(lambda: status_of(fresh, "a_2") == "no outlines yet")


def test_two_windows_on_one_scan(fresh, place, client):
    client.draw("a_1", nifti(drawing()))        # as another window would
    wait_for(fresh, f"return ({COUNT.removeprefix('return ')}) === {int(drawing().sum())}", LIMIT_S)


def test_names_are_text_and_no_markup(fresh, client):
    name = "<img src=x onerror=alert(1)>"
    classes = client.state()["classes"]
    client.tell("PUT", "/api/classes", {"classes": [{**classes[0], "name": name}, *classes[1:]]})
    wait_for(fresh, "return document.querySelector('#classes input[type=text]').value.includes('onerror')", LIMIT_S)
    assert fresh.find_elements("tag name", "img") == []
    client.tell("PUT", "/api/classes", {"classes": classes})


def test_only_this_machine_was_asked_and_nothing_went_wrong(browser, client):
    asked = addresses_of(browser)
    assert asked and all(address.startswith((f"http://{client.host}/", "data:", "blob:")) for address in asked)
    assert errors_of(browser) == []


def test_the_file_that_opens_the_browser_leads_to_the_page(browser, client, place, monkeypatch):
    opened, folder = [], OwnFolder(place / "label_page")
    monkeypatch.setattr(webbrowser, "open", opened.append)
    browser.execute_script("sessionStorage.clear()")
    open_browser(client.address, folder)
    browser.get(*opened)
    wait_for(browser, "return document.getElementById('position')?.textContent.includes(':')", LIMIT_S)
    assert client.token not in browser.current_url and status_of(browser, "a_1") == "no outlines yet"
    (place / "label_page/open.html").unlink()
    folder.close()


def test_the_address_of_a_later_start_counts_in_an_open_tab(browser, client):
    browser.execute_script("sessionStorage.clear(); location.hash = 'token=of-another-start'")
    wait_for(browser, "return document.getElementById('status').textContent.startsWith('token: open the address')", LIMIT_S)
    browser.execute_script(f"location.hash = 'token={client.token}'")
    wait_for(browser, "return document.getElementById('position').textContent.includes(':')", LIMIT_S)


def test_the_whole_path_killed_on_the_way(tmp_path):
    """Draw, run, look through, correct, run again, accept, export; reload, and kill the server in between."""
    folder = write_scans(tmp_path / "scans", [1, 2, 3])
    for path in (folder / "truth").iterdir():
        write(path, (read(path) == 1).astype(np.uint8))
    truth = read(folder / "truth/a_1.nii.gz")
    with running(folder, program=FAST_PROGRAM) as (client, process):
        browser = open_page(client.address)
        try:
            _outline_and_run(browser, client, folder, truth)
            process.kill()
            process.wait()
            press(browser, "x")
            wait_for(browser, "return document.getElementById('status').textContent.includes('does not answer')", LIMIT_S)
            with running(folder, program=FAST_PROGRAM) as (client, _):
                browser.get(client.address)
                wait_for(browser, "return document.getElementById('position').textContent.includes(':')", LIMIT_S)
                _correct_and_export(browser, client, folder)
        finally:
            browser.quit()


def _outline_and_run(browser, client, folder, truth):
    press(browser, "f")
    drag(browser, ring(0.3, 0.3, 0.1))
    saved(browser)
    client.draw("a_1", nifti(truth))                # the other slices
    wait_for(browser, f"return ({COUNT.removeprefix('return ')}) === {int(truth.sum())}", LIMIT_S)
    browser.refresh()
    wait_for(browser, "return document.getElementById('position').textContent.includes(':')", LIMIT_S)
    open_scan(browser, "a_1")
    assert browser.execute_script(COUNT) == truth.sum()
    press(browser, "o")                             # makes an example of the open scan
    wait_for(browser, "return !document.getElementById('stop').hidden", LIMIT_S)
    assert (read(folder / "label_page/hand/a_1.nii.gz") == truth).all()
    wait_for(browser, IDLE, LIMIT_S)
    assert text(browser, "run-text") == "2 of 2 scans outlined." and status_of(browser, "a_1") == "outlined by you: an example"
    numbers = [float(number) for number in browser.execute_script(
        "return [...document.querySelectorAll('#scans .number')].map(one => one.textContent)") if number]
    assert len(numbers) == 2 and numbers == sorted(numbers)


def _correct_and_export(browser, client, folder):
    worst, other = (scan["name"] for scan in client.state()["scans"] if scan["state"] == "found")
    wait_until(lambda: current(browser) == worst and status_of(browser, worst) == "to look through")
    assert "label 1" in text(browser, "numbers")
    found = browser.execute_script(COUNT)
    press(browser, "f")
    drag(browser, ring(0.5, 0.5, 0.04))
    saved(browser)
    wait_until(lambda: status_of(browser, worst) == "being corrected")
    assert browser.execute_script(COUNT) > found
    press(browser, Keys.ENTER)
    wait_until(lambda: status_of(browser, worst) == "corrected: an example" and current(browser) == other)
    before = client.scan(other)["found"]
    press(browser, "o")
    wait_until(lambda: client.scan(other)["found"] != before)
    wait_for(browser, IDLE, LIMIT_S)
    press(browser, Keys.ENTER)
    wait_until(lambda: status_of(browser, other) == "accepted")
    press(browser, "x")
    wait_for(browser, "return document.getElementById('exported').textContent", LIMIT_S)
    assert "5 files" in text(browser, "exported") and (folder / "label_page/export/cases.csv").is_file()
    assert (read(folder / f"label_page/export/{worst}.nii.gz") == read(folder / f"label_page/hand/{worst}.nii.gz")).all()
