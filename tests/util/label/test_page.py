"""The labelling page in a real browser, headless Chromium: with the mouse, with keys alone, reloaded, killed, started again."""

import json
import math
from contextlib import contextmanager
from urllib.parse import urlsplit

import cv2
import nibabel
import numpy as np
import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.actions.action_builder import ActionBuilder

from qnet.scripts.tables.label_person import next_worth
from qnet.scripts.tables.label_pictures import open_scan, press, show_page, shown, wait_for
from qnet.scripts.tables.report_pictures import drawn
from qnet.util.base.classes import MAX_NAME, PALETTE
from qnet.util.base.own_folder import OwnFolder
from qnet.util.base.root import ROOT
from qnet.util.label.advice import Advisor
from qnet.util.label.client import running
from qnet.util.label.run import CAREFUL
from qnet.util.label.serve import write_way
from qnet.util.label.session import Session
from qnet.util.predict.first_scan import Comparison
from tests.browser import needs_chromium, window
from tests.labelling import FAST, drawing, nifti, served, wait_until, write_scans
from tests.toy import AFFINE, toy_case, write

pytestmark = [pytest.mark.whole, needs_chromium, pytest.mark.usefixtures("warm")]
LIMIT_S = 60
THUMB_PX = 16        # of a slider
SMALL = 1000, 617, 0.5      # the page with both its lists, and 2 pixels for a voxel of toy scans: each costs without a GPU
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
        "return labelPage.viewer.niivue.screenSlices.find(tile => tile.axCorSag === 0)"
        ".leftTopWidthHeight.map(pixels => pixels / devicePixelRatio);")
    places = [(int(left + x * width - canvas.size["width"] / 2), int(top + y * height - canvas.size["height"] / 2))
              for x, y in points]
    chain = ActionChains(browser, duration=10).move_to_element_with_offset(canvas, *places[0]).click_and_hold()
    for place in places[1:]:
        chain.move_to_element_with_offset(canvas, *place)
    chain.release().perform()


def ring(x, y, radius, n=8):
    return [(x + radius * math.cos(2 * math.pi * k / n), y + radius * math.sin(2 * math.pi * k / n)) for k in range(n + 1)]


def saved(browser):
    wait_for(browser, "return document.getElementById('saved').textContent === 'saved'", LIMIT_S)


def read(path):
    return np.asarray(nibabel.load(path).dataobj).T


def errors_of(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def addresses_of(browser):
    """Where windows sent requests to, (window, address), as the browser's own log of the network has it."""
    entries = [json.loads(entry["message"]) for entry in browser.get_log("performance")]
    return {(entry["webview"], entry["message"]["params"]["request"]["url"]) for entry in entries
            if entry["message"]["method"] == "Network.requestWillBeSent"}


def elsewhere(asked, host, **hosts):
    """Of requests, those that went to another machine than `host`, or than that of their window in `hosts`."""
    return {address for window, address in asked
            if not address.startswith((f"http://{hosts.get(window, host)}/", "data:", "blob:"))}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_scans(tmp_path_factory.mktemp("page") / "scans", [1, 2, 3])


@pytest.fixture(scope="module")
def client(place):
    session = Session(place)
    advisor = Advisor(session)
    advisor.comparison = Comparison(["a_1", "a_2", "a_3"], [[0, 1, 3], [1, 0, 2], [3, 2, 0]], 3)
    with served(session, FAST, advisor) as client:
        yield client


@pytest.fixture(scope="module")
def browser(chromium, client):
    with window(chromium) as browser:
        size(browser, *SMALL)
        show_page(browser, client.address)
        yield browser


@contextmanager
def other_page(browser, client, address):
    """Another page in a window of its own. Until then nothing went wrong in the first, and each asks its own server alone."""
    assert errors_of(browser) == [] and elsewhere(addresses_of(browser), client.host) == set()
    with window(browser):
        size(browser, *SMALL)
        show_page(browser, address)
        yield
        asked = addresses_of(browser)
        assert asked and elsewhere(asked, client.host, **{browser.current_window_handle: urlsplit(address).netloc}) == set()


def size(browser, width, height, ratio=1.0):
    """Give the page a size, with `ratio` pixels of the screen for each of its own."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": False})


@contextmanager
def sized(browser, width, height):
    size(browser, width, height)
    try:
        yield
    finally:
        size(browser, *SMALL)


# All that a person can set, what is shown and said, and what the viewer holds. Each tool has its own width.
SETTINGS = """const { viewer } = labelPage, { niivue, volume, history } = viewer, width = document.getElementById('width');
    const all = what => [...document.querySelectorAll(what)], tool = document.querySelector('#tools input:checked');
    const value = one => ['checkbox', 'radio'].includes(one.type) ? one.checked : one.value;
    const widths = all('#tools input').map(one => { one.click(); return width.value; });
    tool.click();
    await null;      // the scene is drawn
    const { penSize, penValue, isFilledPen, drawingEnabled, crosshairWidth, sliceType } = niivue.opts;
    return { controls: all('main input, main select').filter(one => !one.closest('#classes')).map(value), widths,
             classes: [document.getElementById('classes').innerHTML, ...all('#classes input').map(value)],
             text: document.body.innerText, focus: document.activeElement.id, location: location.hash,
             disabled: all('button').map(one => one.disabled), open: all('details, dialog').map(one => one.open),
             scrolled: all('*').map(one => one.scrollTop).filter(Boolean),
             size: [innerWidth, innerHeight, devicePixelRatio, viewer.canvas.width, viewer.canvas.height],
             place: [...niivue.scene.crosshairPos, ...niivue.scene.pan2Dxyzmm],
             niivue: [penSize, penValue, isFilledPen, drawingEnabled, crosshairWidth, sliceType, niivue.drawOpacity,
                      niivue.drawRimOpacity, niivue.uiData.mousedown, [...niivue.drawLut.lut],
                      niivue.screenSlices.map(tile => tile.axCorSag)],
             viewer: [viewer.tool, viewer.value, viewer.penIsDown, viewer.similar, viewer.slice, viewer.slices,
                      [...viewer.locked], volume.cal_min, volume.cal_max, history.undo.length, history.redo.length,
                      viewer.drawing.some(Boolean)] };"""
# with the page's own controls, as they were in SETTINGS; the classes are those that the server has
SET_BACK = """const [{ controls, widths, place, open }] = arguments, { viewer } = labelPage;
    const all = what => document.querySelectorAll(what), width = document.getElementById('width');
    const choose = (one, value) => {
        if (one.value === value) return;
        one.value = value;
        for (const name of ['input', 'change']) one.dispatchEvent(new Event(name, { bubbles: true }));
    };
    document.querySelector('#classes input[type=radio]').click();
    for (const one of all('#classes [aria-pressed=true]')) one.click();
    all('#tools input').forEach((one, k) => { one.click(); choose(width, widths[k]); });
    [...all('main input, main select')].filter(one => !one.closest('#classes')).forEach((one, k) => {
        if (!['checkbox', 'radio'].includes(one.type)) choose(one, controls[k]);
        else if (one.checked !== controls[k] && (one.type === 'checkbox' || controls[k])) one.click();
    });
    all('details').forEach((one, k) => { one.open = open[k]; });
    for (const id of ['exported', 'reported']) document.getElementById(id).replaceChildren();
    for (const one of all('*')) if (one.scrollTop) one.scrollTop = 0;
    viewer.niivue.scene.crosshairPos = place.slice(0, 3);
    viewer.niivue.createOnLocationChange();
    viewer.canvas.focus({ preventScroll: true });"""


@pytest.fixture(scope="module")
def settings():
    """Of the page when it was loaded last."""
    return {}


@pytest.fixture(scope="module")
def classes(client):
    """Those that the folder begins with."""
    return client.state()["classes"]


@pytest.fixture
def fresh(browser, client, classes, settings):
    """The first scan open, with nothing drawn and all as after loading the page, which is loaded again if it has to be."""
    assert errors_of(browser) == []
    wait_for(browser, "return document.getElementById('saved').textContent !== 'saving …'", LIMIT_S)
    state = client.state()
    for scan in state["scans"]:
        if scan["drawn"]:
            client.draw(scan["name"], nifti(np.zeros_like(drawing())))
    if state["classes"] != classes:
        client.tell("PUT", "/api/v1/classes", {"classes": classes})
    if not settings or not is_set_back(browser, settings):
        reload(browser, settings)
    return browser


@pytest.fixture
def reloaded(fresh, settings):
    """The same, and surely loaded again."""
    reload(fresh, settings)
    return fresh


def reload(browser, settings):
    browser.refresh()
    wait_for(browser, "return document.getElementById('position').textContent.includes(':')", LIMIT_S)
    shown(browser, "a_1")
    settings.clear()
    settings.update(browser.execute_script(SETTINGS))


def is_set_back(browser, settings):
    """Open the first scan anew, set back what a person can set, and return whether all is as it was."""
    try:
        open_scan(browser, "a_1")
        look(browser)
        browser.execute_script(SET_BACK, settings)
        return browser.execute_script(SETTINGS) == settings
    except WebDriverException:      # a dialog is open, or another page
        return False


def look(browser):
    """Let the page ask the server now, in the place of within a second."""
    browser.execute_async_script("labelPage.refresh().then(arguments[0])")


def test_the_token_leaves_the_address_and_is_in_no_cookie(browser, client):
    assert client.token not in browser.current_url
    assert browser.execute_script("return document.cookie") == "" and browser.get_cookies() == []
    assert browser.execute_script("return sessionStorage.getItem('label-token')") == client.token


def test_the_scan_to_begin_with_is_named_until_something_is_drawn(fresh):
    assert text(fresh, "advice") == "a_2 is a safe one to begin with: it looks most like the 2 others."
    fresh.find_element("css selector", "#advice button").click()
    wait_until(lambda: current(fresh) == "a_2")
    press(fresh, "f")
    drag(fresh, ring(0.3, 0.3, 0.1))
    wait_until(lambda: not fresh.find_element("id", "advice").is_displayed())


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


def test_slices_are_filled_between_and_redrawn(fresh, place, client):
    """Two discs some slices apart; what is between is filled, undone, filled again, and one of it redrawn."""
    hand = place / "label_page/hand/a_1.nii.gz"
    press(fresh, "f")
    drag(fresh, ring(0.4, 0.4, 0.1))
    press(fresh, 3 * Keys.PAGE_UP)
    drag(fresh, ring(0.4, 0.4, 0.06))
    wait_until(lambda: slices_of(client) == ([3, 6], []) or slices_of(client) == ([4, 7], []))
    (low, high), _ = slices_of(client)
    press(fresh, "i")
    wait_until(lambda: slices_of(client) == ([low, high], [low + 1, low + 2]))
    sizes = read(hand).sum(axis=(1, 2))
    assert sizes[low] > sizes[low + 1] > sizes[low + 2] > sizes[high] > 0 == sizes[[*range(low), *range(high + 1, 8)]].sum()
    assert text(fresh, "bar-text").startswith("2 drawn, 2 filled") and "ml" in text(fresh, "bar-text")
    press(fresh, "u")
    wait_until(lambda: slices_of(client) == ([low, high], []) and read(hand).any(axis=(1, 2)).sum() == 2)
    press(fresh, "y")
    wait_until(lambda: slices_of(client) == ([low, high], [low + 1, low + 2]))
    press(fresh, Keys.PAGE_DOWN)
    drag(fresh, ring(0.6, 0.6, 0.05))
    wait_until(lambda: slices_of(client) == ([low, low + 2, high], [low + 1]))
    press(fresh, "k" + Keys.PAGE_DOWN + "k")
    wait_until(lambda: slices_of(client) == ([low, low + 1, low + 2, high], []))
    assert errors_of(fresh) == []


def slices_of(client, name="a_1", value="1"):
    """The drawn and the filled slices of a class across the axial axis, as the server has them."""
    ((_, slices),) = (client.scan(name)["slices"] or {}).get(value, {"0": {"drawn": [], "filled": []}}).items()
    return slices["drawn"], slices["filled"]


def test_the_bar_goes_to_a_slice_and_the_next_one_worth_drawing(fresh, client):
    slice_number = "return labelPage.viewer.slice"
    bar = fresh.find_element("id", "bar")
    width = bar.size["width"]
    for k in (0, 7, 3):
        ActionChains(fresh).move_to_element_with_offset(bar, int((k + 0.5) * width / 8 - width / 2), 0).click().perform()
        assert fresh.execute_script(slice_number) == k and bar.get_attribute("aria-valuenow") == str(k + 1)
    press(fresh, "f")
    drag(fresh, ring(0.4, 0.4, 0.1))
    saved(fresh)
    press(fresh, "j")
    assert fresh.execute_script(slice_number) in (0, 6)
    bar.send_keys(Keys.ARROW_RIGHT)
    assert fresh.execute_script(slice_number) in (1, 7)


@pytest.mark.parametrize(("states", "at", "expected"), [
    ("eeee", 1, None), ("effffffe", 0, 4), ("deeee", 0, 3), ("ledee", 2, 4), ("eeedeee", 3, 0), ("edeeeeede", 1, 4),
    ("ldiidl", 2, None), ("dffdfff", 3, 6), ("dlllllld", 0, None)])
def test_the_next_slice_is_the_middle_of_a_wide_gap_or_the_third_beyond_an_end(states, at, expected, browser):
    words = {"e": "empty", "d": "drawn", "l": "looked at", "f": "found", "i": "filled"}
    next_worth = "const [states, at, tell] = arguments; import('/page/slices.js').then(one => tell(one.nextWorth(states, at)));"
    assert browser.execute_async_script(next_worth, [words[one] for one in states], at) == expected


def test_a_scan_is_drawn_once_when_it_is_opened_and_never_by_a_stroke(fresh, settings):
    """Of a large scan that takes NiiVue seconds without a GPU, and its gradient twice as long and as much memory."""
    fresh.execute_script("""const { niivue } = labelPage.viewer, { gl, refreshLayers } = niivue;
        const { texStorage3D, texImage3D } = gl;
        globalThis.made = { scans: 0, textures: [] };
        const keep = (format, size) => { if (format === gl.RGBA8) made.textures.push(size); };
        niivue.refreshLayers = (...given) => { made.scans += 1; return refreshLayers.apply(niivue, given); };
        gl.texStorage3D = (...given) => { keep(given[2], given.slice(3)); return texStorage3D.apply(gl, given); };
        gl.texImage3D = (...given) => { keep(given[2], given.slice(3, 6)); return texImage3D.apply(gl, given); };""")
    open_scan(fresh, "a_2")
    made = fresh.execute_script("return made")
    assert made["scans"] == 1 and [size for size in made["textures"] if size[0] > 3] == [[64, 64, 8]]
    press(fresh, "f")
    drag(fresh, ring(0.4, 0.4, 0.1))
    saved(fresh)
    assert fresh.execute_script("return made.scans") == 1
    fresh.execute_script("document.querySelector('#classes button[aria-label^=hide]').click()")
    assert fresh.execute_script("return made.scans") == 2
    settings.clear()        # what counts goes with the page


def test_the_scene_is_drawn_once_for_all_that_an_event_changes(fresh, settings):
    """NiiVue draws it twice for each move of a stroke, and seven times for a scan that is opened: without a GPU, seconds."""
    fresh.execute_script("globalThis.drawn = 0; const { niivue } = labelPage.viewer, { drawSceneCore } = niivue;"
                         "niivue.drawSceneCore = (...given) => { drawn += 1; return drawSceneCore.apply(niivue, given); };")
    drawn_by = "const n = drawn; drawn = 0; return n"
    for key, n in (("f", 1), ("v", 1), ("h", 1), ("h", 1), (Keys.ARROW_RIGHT, 1)):
        press(fresh, key)
        assert fresh.execute_script(drawn_by) == n
    fresh.execute_script("globalThis.moves = 0; labelPage.viewer.canvas.addEventListener('mousemove', () => { moves += 1; });")
    drag(fresh, ring(0.4, 0.4, 0.1))
    saved(fresh)
    drawn, moves = fresh.execute_script("return [drawn, moves]")
    assert 0 < drawn <= moves + 2       # and by the button, down and up
    fresh.execute_script("drawn = 0")
    open_scan(fresh, "a_2")
    assert 1 <= fresh.execute_script(drawn_by) <= 3
    settings.clear()        # what counts goes with the page


def test_the_next_slice_is_that_of_the_tables_person(browser):
    """scripts/tables/label_person.py goes as the key J does."""
    rng, words = np.random.default_rng(0), ["drawn", "looked at", "filled", "found", "empty"]
    some = [rng.choice(words, int(rng.integers(1, 20)), p=rng.dirichlet([1] * 5)).tolist() for _ in range(500)]
    asked = [[states, int(rng.integers(20))] for states in some]
    all_next = """const [asked, tell] = arguments;
        import('/page/slices.js').then(one => tell(asked.map(given => one.nextWorth(...given))));"""
    assert browser.execute_async_script(all_next, asked) == [next_worth(*given) for given in asked]


@pytest.mark.parametrize("width", [360, 900, 1000, 1280, 1440])
def test_the_letters_at_the_planes_and_the_place_of_the_cross_are_not_cut_off(width, fresh):
    """A letter is drawn half outside of its plane. The place has its value at the end."""
    with sized(fresh, width, 900):
        wait_for(fresh, "return labelPage.viewer.canvas.width === document.getElementById('stage').clientWidth", LIMIT_S)
        for view in range(4):
            room = fresh.execute_script("""const { viewer } = labelPage, { canvas } = viewer;
                viewer.view = arguments[0];
                await null;      // the scene is drawn
                return viewer.niivue.screenSlices.map(({ leftTopWidthHeight: [left, top, wide, high] }) =>
                    Math.min(left, top, canvas.width - left - wide, canvas.height - top - high));""", view)
            assert len(room) == (3 if view == 3 else 1) and min(room) >= 5
        is_whole = """const [place, counts] = ['position', 'bar-text'].map(id => document.getElementById(id));
            place.textContent = place.textContent.replace(/slice.*/, 'slice 123 of 300 · S -105.9 mm');
            counts.textContent = counts.textContent.replace(/.*drawn.*/, '12 drawn, 24 filled, 15 as found');
            return [place, counts].every(one => one.scrollWidth <= one.clientWidth)"""
        assert fresh.execute_script(is_whole)


def use(browser, tool):
    """Choose a tool with the mouse."""
    browser.find_element("css selector", f"#tools label:has([value='{tool}'])").click()


def click(browser, *elements):
    """Click buttons of the page, one after the other, each once its turn has come."""
    for element in elements:
        browser.find_element("id", element).click()


def told(browser, words, limit_s=LIMIT_S):
    wait_for(browser, f"return document.getElementById('status').textContent.startsWith('{words}')", limit_s)


def area(place):
    """How many voxels of the drawing on disk hold a class. The page takes the file away when nothing is left of it."""
    try:
        return int((read(place / "label_page/hand/a_1.nii.gz") > 0).sum())
    except FileNotFoundError:
        return 0


def test_a_stroke_does_not_move_the_scan_under_the_pen(fresh, place):
    where = "const box = document.getElementById('canvas').getBoundingClientRect(); return [box.x, box.y, box.width, box.height];"
    before = fresh.execute_script(where)
    use(fresh, "filled")
    drag(fresh, ring(0.4, 0.4, 0.1))
    wait_until(lambda: area(place) > 0)
    wait_until(lambda: text(fresh, "done").startswith("Done: an example"))
    assert fresh.execute_script(where) == before


def test_every_tool_that_draws_by_mouse(fresh, place):
    use(fresh, "filled")
    drag(fresh, ring(0.4, 0.4, 0.1))
    wait_until(lambda: 80 < area(place) < 200)
    disc = area(place)
    use(fresh, "pen")
    drag(fresh, [(0.2, 0.8), (0.8, 0.8)])
    wait_until(lambda: 30 <= area(place) - disc <= 50)
    line = area(place)
    use(fresh, "eraser")
    drag(fresh, [(0.3, 0.8), (0.5, 0.8)])
    wait_until(lambda: disc < area(place) < line - 10)
    use(fresh, "filled eraser")
    drag(fresh, ring(0.4, 0.4, 0.06))
    wait_until(lambda: area(place) < disc)
    left = area(place)
    click(fresh, "undo")
    wait_until(lambda: area(place) > left)
    click(fresh, "redo")
    wait_until(lambda: area(place) == left)
    use(fresh, "look")
    drag(fresh, [(0.5, 0.5), (0.6, 0.6)])
    assert area(place) == left and errors_of(fresh) == []


def test_scribbles_inside_and_outside_by_mouse(fresh, place, client):
    """An organ of the toy scan: a click grows, one outside takes away, and each is undone by itself."""
    organ = toy_case(1)[1] == 4
    z, y, x = (int(np.median(axis)) for axis in np.nonzero(organ))
    fresh.execute_script("labelPage.viewer.goToSlice(arguments[0])", z)
    inside, outside, below = (((x + 0.5 + right) / 64, (63.5 - y + down) / 64) for right, down in ((0, 0), (-13, 0), (0, 5)))
    use(fresh, "outside")
    drag(fresh, [outside])
    told(fresh, "Now scribble inside")
    use(fresh, "inside")
    drag(fresh, [inside])
    told(fresh, "Grown")
    wait_until(lambda: area(place) > 100)
    both = read(place / "label_page/hand/a_1.nii.gz") > 0
    assert 2 * (both & organ).sum() / (both.sum() + organ.sum()) > 0.6
    wait_until(lambda: not slices_of(client)[0] and len(slices_of(client)[1]) > 2)
    use(fresh, "outside")
    drag(fresh, [below])
    wait_until(lambda: area(place) < both.sum())
    press(fresh, "u")
    wait_until(lambda: area(place) == both.sum())
    press(fresh, "uu")
    wait_until(lambda: area(place) == 0)
    press(fresh, "y" + "y")
    wait_until(lambda: area(place) == both.sum())
    press(fresh, "o")
    wait_for(fresh, "return document.getElementById('status').textContent.startsWith('No class is finished') "
                    "|| document.getElementById('run-dialog').open", LIMIT_S)
    assert "nobody looked at" in text(fresh, "unfinished")        # what grew is no example before somebody looked at it
    fresh.find_element("css selector", "#run-dialog button:not(.strong)").click()


def test_every_tool_of_the_bar_by_mouse(fresh, place, client):
    """Fill, next, looked, grow, and what lies behind More."""
    use(fresh, "filled")
    drag(fresh, ring(0.4, 0.4, 0.1))
    saved(fresh)
    ((first,), _) = slices_of(client)
    click(fresh, "next")
    drag(fresh, ring(0.4, 0.4, 0.1))
    wait_until(lambda: len(slices_of(client)[0]) == 2)
    click(fresh, "fill")
    told(fresh, "Filled")
    assert "Nothing is filled before slice" in text(fresh, "status")
    wait_until(lambda: len(slices_of(client)[1]) == 2)
    click(fresh, "looked")
    fresh.execute_script("document.getElementById('more').open = true")
    before = area(place)
    fresh.execute_script("labelPage.viewer.goToSlice(arguments[0])", 7 if first < 4 else 0)
    click(fresh, "copy")
    told(fresh, "Copied")
    wait_until(lambda: area(place) > before)
    copied = area(place)
    use(fresh, "filled eraser")
    drag(fresh, ring(0.4, 0.4, 0.04))
    wait_until(lambda: area(place) < copied)
    holed = area(place)
    click(fresh, "holes")
    told(fresh, "Filled holes")
    wait_until(lambda: area(place) > holed)
    use(fresh, "pen")
    drag(fresh, [(0.8, 0.8), (0.82, 0.8)])
    saved(fresh)
    click(fresh, "largest")
    told(fresh, "Kept the largest part")
    click(fresh, "smooth")
    told(fresh, "Smoothed")
    click(fresh, "grow")
    told(fresh, "Grown")
    click(fresh, "all-looked")
    wait_until(lambda: slices_of(client)[1] == [])
    fresh.execute_script("document.getElementById('more').open = false")
    assert errors_of(fresh) == []


def test_surfaces_are_shown_in_3d_and_nothing_is_drawn_there(fresh, place, client):
    client.draw("a_1", nifti(drawing(slices=slice(1, 7))))
    look(fresh)
    wait_for(fresh, f"return ({COUNT.removeprefix('return ')}) === {int(drawing(slices=slice(1, 7)).sum())}", LIMIT_S)
    with sized(fresh, 360, 740):
        fresh.find_element("css selector", "#view option[value='4']").click()
        press(fresh, "t")
        use(fresh, "pen")
        canvas = fresh.find_element("id", "canvas")
        before = coloured(canvas)
        assert before > 500         # pixels of the class
        ActionChains(fresh, duration=10).move_to_element(canvas).click_and_hold().move_by_offset(60, 30).release().perform()
        press(fresh, " ")
        assert coloured(canvas) > 500 and area(place) == drawing(slices=slice(1, 7)).sum()
        assert text(fresh, "status").startswith("In 3D nothing is drawn")
        press(fresh, "h")
        assert coloured(canvas) == 0
        press(fresh, "ht")
        fresh.find_element("css selector", "#view option[value='3']").click()


def coloured(canvas):
    """How many pixels of the viewer have the orange of the first class."""
    shown = cv2.imdecode(np.frombuffer(canvas.screenshot_as_png, np.uint8), cv2.IMREAD_COLOR)
    blue, _, red = np.moveaxis(shown.astype(int), 2, 0)
    return int((red - blue > 60).sum())


def test_redo_by_every_key_for_it(fresh, place):
    hand = place / "label_page/hand/a_1.nii.gz"
    press(fresh, "f")
    drag(fresh, ring(0.3, 0.3, 0.1))
    saved(fresh)
    once = read(hand)
    for keys in ("y", Keys.CONTROL + "y" + Keys.NULL, Keys.CONTROL + Keys.SHIFT + "z" + Keys.NULL):
        press(fresh, Keys.CONTROL + "z" + Keys.NULL)
        wait_until(lambda: not hand.exists())
        press(fresh, keys)
        wait_until(lambda: hand.exists() and (read(hand) == once).all())
    press(fresh, keys)
    assert text(fresh, "status") == "Nothing to redo."


def test_each_scan_has_its_undo(fresh, place, client):
    press(fresh, "f")
    drag(fresh, ring(0.3, 0.3, 0.1))
    saved(fresh)
    open_scan(fresh, "a_2")
    press(fresh, "u")
    assert text(fresh, "status") == "Nothing to undo."
    drag(fresh, ring(0.3, 0.3, 0.1))
    saved(fresh)
    open_scan(fresh, "a_1")
    press(fresh, "u")
    wait_until(lambda: client.scan("a_1")["state"] == "empty" and client.scan("a_2")["state"] == "drawing")


def give_classes(browser, client, second):
    """Give the first class another beside it, and return the list of the first."""
    one = client.state()["classes"][:1]
    client.tell("PUT", "/api/v1/classes", {"classes": [*one, {"value": 2, "name": second, "colour": "#00aa00"}]})
    look(browser)
    return one


def test_a_locked_class_stays_and_a_hidden_one_is_not_seen(fresh, place, client):
    hand = place / "label_page/hand/a_1.nii.gz"
    give_classes(fresh, client, "b")
    press(fresh, "f")
    drag(fresh, ring(0.4, 0.4, 0.1))
    saved(fresh)
    before = read(hand)
    toggle(fresh, 2)
    wait_for(fresh, "return document.querySelectorAll('#classes li').length === 2", LIMIT_S)
    press(fresh, "2")
    drag(fresh, ring(0.45, 0.4, 0.1))
    wait_until(lambda: (read(hand) == 2).any())
    after = read(hand)
    assert ((after == 1) == (before == 1)).all() and 10 < (after == 2).sum() < (before == 1).sum()
    toggle(fresh, 1)
    assert fresh.execute_script("return [1, 2].map(value => labelPage.viewer.niivue.drawLut.lut[4 * value + 3])") == [0, 255]
    assert (read(hand) == after).all()
    for number in (1, 2):
        toggle(fresh, number)


def toggle(browser, number):
    """Click a button of the first class: 1 hides it, 2 locks it."""
    browser.execute_script(f"document.querySelector('#classes li .of-class button:nth-of-type({number})').click()")


def test_a_class_goes_that_nothing_holds(fresh, client):
    one = give_classes(fresh, client, "gone")
    wait_for(fresh, "return !!document.querySelector('[aria-label=\"delete gone\"]')", LIMIT_S)
    fresh.find_element("css selector", '[aria-label="delete gone"]').click()
    wait_until(lambda: client.state()["classes"] == one)


def test_a_name_that_is_refused_goes_from_the_page(fresh, client):
    one = give_classes(fresh, client, "other")
    wait_for(fresh, "return document.querySelectorAll('#classes li').length === 2", LIMIT_S)
    field = "#classes li:nth-child(2) input[type=text]"
    for keys in (one[0]["name"] + Keys.ENTER, "half a name" + Keys.ESCAPE):
        fresh.find_element("css selector", field).send_keys(Keys.CONTROL + "a" + Keys.NULL + keys)
        wait_for(fresh, f"return document.querySelector('{field}').value === 'other'", LIMIT_S)
    assert client.state()["classes"][1]["name"] == "other" and len(errors_of(fresh)) >= 1      # the refusal


def test_a_polygon_is_closed_by_a_double_click_and_left_by_escape(fresh, place):
    hand = place / "label_page/hand/a_1.nii.gz"
    press(fresh, "g")
    corners = [(0.3, 0.3), (0.5, 0.3), (0.5, 0.5), (0.3, 0.5)]
    for corner in corners:
        drag(fresh, [corner])
    press(fresh, Keys.ESCAPE)
    assert fresh.execute_script(COUNT) == 0
    for corner in corners[:3]:
        drag(fresh, [corner])
    drag(fresh, [corners[3]])
    ActionChains(fresh).double_click().perform()
    saved(fresh)
    square = read(hand)
    assert square.any(axis=(1, 2)).sum() == 1 and 100 < square.sum() < 250       # 12.8 pixels wide
    press(fresh, "l")


def test_a_pen_of_similar_grey_stays_inside_its_range(fresh, place):
    fresh.find_element("id", "similar").click()
    by = slide(fresh, "by", 0.2) / 100
    assert 0.07 < by < 0.13 and fresh.execute_script("return labelPage.viewer.similar") == by
    press(fresh, "f")
    drag(fresh, ring(0.5, 0.5, 0.3, n=12))
    saved(fresh)
    fresh.find_element("id", "similar").click()
    image, drawn = read(place / "a_1.nii.gz"), read(place / "label_page/hand/a_1.nii.gz") > 0
    low, high = fresh.execute_script("return [labelPage.viewer.volume.cal_min, labelPage.viewer.volume.cal_max]")
    assert 0 < drawn.sum() < 0.9 * np.pi * (0.3 * 64) ** 2 and np.ptp(image[drawn]) <= 2 * by * (high - low) + 1


def test_each_tool_has_its_width(reloaded):
    fresh = reloaded
    width = "return [document.getElementById('width').value, labelPage.viewer.niivue.opts.penSize]"
    press(fresh, "e]")
    assert fresh.execute_script(width) == ["9", 9]
    press(fresh, "f")
    assert fresh.execute_script(width) == ["1", 1]
    press(fresh, "e[")
    assert fresh.execute_script(width) == ["5", 5]


def test_zoom_at_the_mouse_pan_window_and_reset(fresh):
    view = "const { niivue, volume } = labelPage.viewer; return [...niivue.scene.pan2Dxyzmm, volume.cal_min, volume.cal_max];"
    under = """const { left, top } = document.getElementById('canvas').getBoundingClientRect(), { viewer } = labelPage;
        return [...viewer.niivue.frac2mm(viewer.placeUnder({ clientX: left + 150, clientY: top + 120 }))].slice(0, 2);"""
    at_first, before = fresh.execute_script(view), fresh.execute_script(under)
    fresh.execute_script("""const canvas = document.getElementById('canvas'), { left, top } = canvas.getBoundingClientRect();
        canvas.dispatchEvent(new WheelEvent('wheel', { deltaY: -300, ctrlKey: true, cancelable: true,
                                                       clientX: left + 150, clientY: top + 120 }));""")
    zoomed = fresh.execute_script(view)
    assert zoomed[3] == pytest.approx(math.e) and fresh.execute_script(under) == pytest.approx(before, abs=0.5)
    mouse(fresh, 1, (-40, 30))
    assert fresh.execute_script(view)[:2] != zoomed[:2] and fresh.execute_script(view)[3] == zoomed[3]
    mouse(fresh, 2, (60, 0))
    low, high = fresh.execute_script(view)[4:]
    assert high - low > at_first[5] - at_first[4]
    press(fresh, "0")
    assert fresh.execute_script(view) == at_first
    press(fresh, "+")
    assert fresh.execute_script(view)[3] == pytest.approx(1.25)
    press(fresh, "-")
    assert fresh.execute_script(view) == at_first


def slide(browser, element, share):
    """Drag the thumb of a slider with the mouse to a share of its range, and return its value."""
    slider = browser.find_element("id", element)
    least, most, value = (float(slider.get_property(name)) for name in ("min", "max", "value"))
    offsets = [int((at - 0.5) * (slider.size["width"] - THUMB_PX)) for at in ((value - least) / (most - least), share)]
    ActionChains(browser, duration=10).move_to_element_with_offset(slider, offsets[0], 0).click_and_hold() \
        .move_to_element_with_offset(slider, offsets[1], 0).release().perform()
    return float(slider.get_property("value"))


def mouse(browser, button, by):
    """Drag with another button of the mouse, from the middle of the viewer."""
    actions = ActionBuilder(browser, duration=10)
    actions.pointer_action.move_to(browser.find_element("id", "canvas"), -100, 0).pointer_down(button)
    actions.pointer_action.move_by(*by).pointer_up(button)
    actions.perform()


def test_space_enter_and_an_empty_run_say_what_to_do(fresh, client):
    press(fresh, "l ")
    assert text(fresh, "status").startswith("Look draws nothing. Choose a tool first")
    press(fresh, "o")
    wait_for(fresh, "return document.getElementById('status').textContent.startsWith('Nothing is outlined yet')", LIMIT_S)
    press(fresh, "i")
    wait_for(fresh, "return document.getElementById('status').textContent.startsWith('There is no slice between')", LIMIT_S)
    assert len(errors_of(fresh)) == 2       # the refusals


def test_the_list_is_filtered_and_counted(fresh, client):
    assert text(fresh, "count") == "0 of 3 done"
    fresh.find_element("id", "filter").send_keys("a_2")
    assert [one.text for one in fresh.find_elements("css selector", "#scans .name")] == ["a_2"]
    assert text(fresh, "count") == "0 of 3 done · 1 shown"
    fresh.find_element("id", "filter").send_keys(Keys.CONTROL + "a" + Keys.NULL + Keys.BACKSPACE)


def test_a_scan_is_flagged_and_a_picture_and_a_report_are_taken_away(fresh, client, tmp_path):
    fresh.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    press(fresh, "m")
    wait_until(lambda: client.scan("a_1")["flagged"] and status_of(fresh, "a_1").endswith("· flagged"))
    press(fresh, "m")
    wait_until(lambda: not client.scan("a_1")["flagged"])
    press(fresh, "f")
    drag(fresh, ring(0.4, 0.4, 0.1))
    saved(fresh)
    with sized(fresh, 1000, 700):
        wait_for(fresh, "return document.getElementById('canvas').width > 300", LIMIT_S)
        fresh.find_element("id", "picture").click()
    wait_until(lambda: [path.suffix for path in tmp_path.iterdir()] == [".png"] and tmp_path.glob("a_1, slice ?.png"))
    pixels = cv2.imread(str(*tmp_path.iterdir())).astype(int)
    assert pixels.shape[1] > 300 and (np.ptp(pixels, axis=2) > 60).sum() > 100       # colours of outlines
    fresh.find_element("id", "report").click()
    wait_for(fresh, "return document.querySelector('#reported a') !== null", LIMIT_S)
    page, before = fresh.current_window_handle, {*fresh.window_handles}
    (link,) = fresh.find_elements("css selector", "#reported a")
    link.click()
    (report,) = {*fresh.window_handles} - before
    fresh.switch_to.window(report)
    try:
        assert drawn(fresh).startswith("0/") and "no medical device" in fresh.page_source
        fresh.find_element("link text", "correct").click()
        wait_for(fresh, "return document.getElementById('position')?.textContent.includes(':')", LIMIT_S)
        assert current(fresh) == "a_1" and "#" not in fresh.current_url
    finally:
        fresh.close()
        fresh.switch_to.window(page)
    assert errors_of(fresh) == []


def test_the_export_has_the_formats_that_are_ticked(fresh, place, client):
    client.draw("a_1", nifti(drawing()))

    def export(ticked):
        fresh.execute_script("for (const one of document.querySelectorAll('#formats input')) one.checked = "
                             "arguments[0].includes(one.value)", ticked)
        press(fresh, "x")
        wait_for(fresh, "return !document.getElementById('export').disabled", LIMIT_S)

    export(["seg.nrrd"])
    wait_until(lambda: "a_1.seg.nrrd" in text(fresh, "exported"))
    assert (place / "label_page/export/a_1.seg.nrrd").is_file()
    export(["rtstruct"])
    wait_until(lambda: "formats: rtstruct refers to the files of a DICOM series" in text(fresh, "status"))
    export([])
    wait_until(lambda: "a_1.nii.gz" in text(fresh, "exported"))
    assert text(fresh, "status") == "a_1.seg.nrrd: is of an earlier export"
    assert len(errors_of(fresh)) == 1       # the refusal


def test_an_unfinished_class_is_named_before_a_run(fresh, client):
    press(fresh, "f")
    drag(fresh, ring(0.4, 0.4, 0.1))
    saved(fresh)
    press(fresh, "o")
    wait_for(fresh, "return document.getElementById('run-dialog').open", LIMIT_S)
    assert "is drawn in 1 slice only" in text(fresh, "unfinished")
    fresh.find_element("css selector", "#run-dialog button:not(.strong)").click()
    wait_until(lambda: client.scan("a_1")["state"] == "drawing")       # and is no example after all
    assert client.state()["run"]["state"] == "idle"


@pytest.mark.parametrize(("width", "height"), [(360, 740), (700, 900), (900, 700), (1440, 900)])
def test_nothing_covers_anything_at_any_width(width, height, browser):
    with sized(browser, width, height):
        covered, wide = browser.execute_script(OVERLAPS)
        assert covered == [] and wide <= width


# pairs of controls that overlap, and the width of the page
OVERLAPS = """
    const kinds = 'main button, main select, main input:not([type=radio]), main canvas, header button, main h2', found = [];
    const all = [...document.querySelectorAll(kinds)].filter(one => one.checkVisibility() && !one.closest('#scans'));
    for (const [k, one] of all.entries()) for (const other of all.slice(k + 1)) {
      const a = one.getBoundingClientRect(), b = other.getBoundingClientRect();
      const inside = one.contains(other) || other.contains(one), width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (!inside && width > 1 && height > 1) found.push([one.id || one.textContent, other.id || other.textContent]);
    }
    return [found, document.documentElement.scrollWidth];"""


@pytest.mark.parametrize("axes", ["LAS", *(pytest.param(axes, marks=pytest.mark.slow) for axes in ("RAS", "LPS", "PSR", "AIL"))])
def test_outlines_keep_their_voxels_whatever_the_axes(axes, browser, client, tmp_path):
    """What the browser shows and sends back is what was there, voxel by voxel."""
    image, label_map, _ = toy_case(1)
    label_map[2, 5:9, 50:60] = 3        # nothing is symmetric
    for path, array in ((tmp_path / "a.nii.gz", image.astype(np.int16)), (tmp_path / "truth/a.nii.gz", label_map)):
        volume = nibabel.Nifti1Image(array.transpose(2, 1, 0), AFFINE)
        turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(AFFINE), nibabel.orientations.axcodes2ornt(axes))
        path.parent.mkdir(exist_ok=True)
        nibabel.save(volume.as_reoriented(turn), path)
    truth = read(tmp_path / "truth/a.nii.gz")
    with served(Session(tmp_path)) as own:
        own.tell("POST", "/api/v1/scans/a/load", {"labels": "truth/a.nii.gz"})
        with other_page(browser, client, own.address):
            press(browser, "p")
            drag(browser, [(0.5, 0.5), (0.52, 0.5)])
            saved(browser)
            after = read(tmp_path / "label_page/hand/a.nii.gz")
            changed = np.argwhere(after != truth)
            assert 1 <= len(changed) <= 6
            ((axis, slices),) = own.scan("a")["slices"]["1"].items()
            assert int(axis) == 2 - axes.replace("I", "S").index("S") and set(changed[:, int(axis)]) <= set(slices["drawn"])
            assert browser.execute_script("""const { viewer } = labelPage, voxels = Uint32Array.of(0, 7, 900, 20011, 32767);
                return String(viewer.fromFile(viewer.inFile(voxels))) === String(voxels);""")
            assert browser.execute_script("return labelPage.viewer.slice") == changed[0, int(axis)]
            press(browser, "u")
            wait_until(lambda: (read(tmp_path / "label_page/hand/a.nii.gz") == truth).all())


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
    press(fresh, "p")
    drag(fresh, [(0.2, 0.2), (0.3, 0.2)])
    saved(fresh)
    for _ in range(80):
        ActionChains(fresh).send_keys(Keys.TAB).perform()
        seen.add(fresh.execute_script("const { id, dataset, name } = document.activeElement; return id || dataset.scan || name;"))
    assert {"a_1", "a_2", "run", "careful", "filter", "bar", "fill", "next", "looked", "similar", "lines", "cross", "reset",
            "export",
            "tool", "width", "undo", "view", "canvas", "leave-out", "add-class",
            "low", "high", "opacity", "shown"} <= seen


def test_the_server_says_how_many_times_as_long_a_careful_run_takes(fresh, client):
    assert client.state()["run"]["seconds"] is None
    assert text(fresh, "careful-text") == f"careful: better, and takes {CAREFUL} times as long"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dark_and_light(scheme, browser):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    try:
        paper, ink = (browser.execute_script(f"return getComputedStyle(document.body).{name}")
                      for name in ("backgroundColor", "color"))
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    brightness = [sum(map(int, colour.strip("rgb()").split(","))) / 3 for colour in (paper, ink)]
    assert (brightness[0] < 60 and brightness[1] > 200) if scheme == "dark" else (brightness[0] > 200 and brightness[1] < 60)


def test_views_window_and_opacity(fresh):
    shown = "labelPage.viewer.niivue.screenSlices.map(tile => tile.axCorSag)"
    views = []
    for _ in range(6):
        views.append(fresh.execute_script(f"return {shown}"))
        press(fresh, "v")
    assert views == [[0, 1, 2], [0], [1], [2], [4], [0, 1, 2]]
    fresh.find_element("css selector", "#view option:nth-child(1)").click()
    dark, bright = slide(fresh, "low", 0.2), slide(fresh, "high", 0.6)
    least, most, low, high = fresh.execute_script(
        "const { volume } = labelPage.viewer; return [volume.global_min, volume.global_max, volume.cal_min, volume.cal_max];")
    assert (low, high) == (pytest.approx(dark), pytest.approx(bright))
    assert [(value - least) / (most - least) for value in (low, high)] == pytest.approx([0.2, 0.6], abs=0.06)
    opacity = slide(fresh, "opacity", 0.8) / 100
    assert opacity == pytest.approx(0.8, abs=0.06)
    for expected in (opacity, 0, opacity):
        assert fresh.execute_script("return labelPage.viewer.niivue.drawOpacity") == expected
        press(fresh, "h")
    press(fresh, "h")


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


def test_the_other_buttons_and_the_view_by_mouse(browser, client, tmp_path):
    """Of a CT scan: its window, lines, cross, reset; then done, run, stop, export."""
    folder = write_scans(tmp_path / "scans", [1, 2])
    for number in (1, 2):
        write(folder / f"a_{number}.nii.gz", read(folder / f"a_{number}.nii.gz") - 1000)
    view = """const { volume, niivue } = labelPage.viewer;
              return [volume.cal_min, volume.cal_max, niivue.drawRimOpacity, niivue.opts.crosshairWidth];"""
    with served(Session(folder), FAST) as other:
        other.draw("a_1", nifti(drawing()))
        with other_page(browser, client, other.address):
            open_scan(browser, "a_1")
            first = browser.execute_script(view)
            browser.find_element("xpath", "//select[@id='preset']/option[text()='soft tissue']").click()
            click(browser, "lines", "cross")
            assert browser.execute_script(view) == [-160, 240, 1, 0] and first[2:] != [1, 0]
            click(browser, "reset", "lines", "cross")
            assert browser.execute_script(view) == first
            click(browser, "shown")
            assert browser.execute_script("return labelPage.viewer.niivue.drawOpacity") == 0
            click(browser, "shown", "done")
            wait_until(lambda: other.scan("a_1")["state"] == "outlined")
            click(browser, "careful", "run")
            wait_for(browser, "return !document.getElementById('stop').hidden", LIMIT_S)
            click(browser, "stop")
            wait_until(lambda: text(browser, "run-text") == "Stopped.")
            click(browser, "export")
            wait_until(lambda: "cases.csv" in text(browser, "exported"))
            browser.find_element("css selector", '[data-scan="a_2"]').click()
            wait_until(lambda: current(browser) == "a_2")
            assert errors_of(browser) == []


def test_what_cannot_be_read_is_named_in_its_row_and_blocks_nothing(browser, client, tmp_path):
    """A folder of notes, and a scan whose file was cut off: in a run, and opened. Only the scan that is open can be left out."""
    folder = write_scans(tmp_path / "scans", [1, 2])
    (folder / "notes").mkdir()
    (folder / "notes/a.txt").write_text("x", encoding="utf-8")
    cut = folder / "a_2.nii.gz"
    cut.write_bytes(cut.read_bytes()[:2000])
    with served(Session(folder), FAST) as other:
        other.draw("a_1", nifti(drawing()))
        with other_page(browser, client, other.address):
            open_scan(browser, "a_1")
            press(browser, "o")
            wait_until(lambda: status_of(browser, "a_2").startswith("not outlined: "))
            assert "a_2.nii.gz" in status_of(browser, "a_2")
            wait_until(lambda: text(browser, "run-text") == "0 of 1 scans outlined.")
            assert status_of(browser, "notes").startswith("holds no scan")
            browser.find_element("css selector", '[data-scan="a_2"]').click()
            wait_until(lambda: "a_2.nii.gz: cannot be read" in text(browser, "status"))
            assert current(browser) == "a_1" and text(browser, "leave-out") == "Leave out"
            wait_until(lambda: status_of(browser, "a_2").endswith("end-of-stream marker was reached)"))
            assert len(errors_of(browser)) == 1         # the refusal


def test_two_windows_on_one_scan(fresh, place, client):
    client.draw("a_1", nifti(drawing()))        # as another window would
    wait_for(fresh, f"return ({COUNT.removeprefix('return ')}) === {int(drawing().sum())}", LIMIT_S)


def test_a_stroke_that_is_refused_goes_from_the_page(fresh, client):
    """As when its class was deleted in another window: what is shown is what is saved."""
    client.draw("a_1", nifti(drawing()))
    look(fresh)
    wait_for(fresh, f"return ({COUNT.removeprefix('return ')}) === {int(drawing().sum())}", LIMIT_S)
    fresh.execute_script("labelPage.viewer.useTool('filled', 99)")
    drag(fresh, ring(0.7, 0.7, 0.1))
    wait_for(fresh, "return document.getElementById('status').textContent.includes('hold the value 99')", LIMIT_S)
    wait_for(fresh, f"return ({COUNT.removeprefix('return ')}) === {int(drawing().sum())}", LIMIT_S)
    press(fresh, "f")
    drag(fresh, ring(0.7, 0.7, 0.1))
    saved(fresh)
    assert client.present("a_1", drawing().shape).sum() == fresh.execute_script(COUNT) > drawing().sum()
    assert len(errors_of(fresh)) == 1       # the refusal


def test_names_are_text_and_no_markup(fresh, client, classes):
    name = "<img src=x onerror=alert(1)>"
    client.tell("PUT", "/api/v1/classes", {"classes": [{**classes[0], "name": name}, *classes[1:]]})
    look(fresh)
    wait_for(fresh, "return document.querySelector('#classes input[type=text]').value.includes('onerror')", LIMIT_S)
    assert fresh.find_elements("css selector", "img:not(.picture)") == []


def test_only_this_machine_was_asked_and_nothing_went_wrong(browser, client):
    asked = addresses_of(browser)
    assert asked and elsewhere(asked, client.host) == set()
    assert errors_of(browser) == []


def test_the_file_that_opens_the_browser_leads_to_a_scan_of_the_page(browser, client, place):
    folder = OwnFolder(place / "label_page")
    browser.execute_script("sessionStorage.clear()")
    way = f"{write_way(client.address, folder)}#scan=a_2&label=1"
    browser.get(way)
    wait_for(browser, "return document.getElementById('position')?.textContent.includes(':')", LIMIT_S)
    assert client.token not in browser.current_url and status_of(browser, "a_1") == "no outlines yet"
    assert current(browser) == "a_2" and elsewhere(addresses_of(browser), client.host) == {way.partition("#")[0]}
    (place / "label_page/open.html").unlink()
    folder.close()


def test_the_address_of_a_later_start_counts_in_an_open_tab(browser, client):
    browser.execute_script("sessionStorage.clear(); location.hash = 'token=of-another-start'")
    wait_for(browser, "return document.getElementById('status').textContent.startsWith('token: open the address')", LIMIT_S)
    browser.execute_script(f"location.hash = 'token={client.token}'")
    wait_for(browser, "return document.getElementById('position').textContent.includes(':')", LIMIT_S)
    assert {error.partition("status of ")[2] for error in errors_of(browser)} == {"403 (Forbidden)"}


def go_by_keys(browser, name):
    """Open a scan of the list with the keys for the next one and the one before."""
    names = browser.execute_script("return [...document.querySelectorAll('#scans [data-scan]')].map(one => one.dataset.scan)")
    for _ in names:
        if (here := current(browser)) == name:
            return
        press(browser, "n" if names.index(name) > names.index(here) else "b")
        wait_for(browser, f"return document.querySelector('[aria-current=true]').dataset.scan !== '{here}'", LIMIT_S)
        shown(browser, current(browser))
    assert current(browser) == name


def square_by_keys(browser, side):
    """Draw a filled square from the cross on, to the right and up."""
    press(browser, "f ")
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.ARROW_DOWN):
        press(browser, side * key)
    press(browser, " ")
    saved(browser)


def test_the_whole_path_by_keys_killed_on_the_way(browser, client, tmp_path):
    """Draw, run, look through, correct, run again, accept, export, with keys alone; reload, and kill the server in between."""
    folder = write_scans(tmp_path / "scans", [1, 2, 3])
    for path in (folder / "truth").iterdir():
        write(path, (read(path) == 1).astype(np.uint8))
    truth = read(folder / "truth/a_1.nii.gz")
    with running(folder, program=FAST_PROGRAM) as (other, process), other_page(browser, client, other.address):
        _outline_and_run(browser, other, folder, truth)
        go_by_keys(browser, "a_1")
        process.kill()
        process.wait()
        press(browser, "f")
        drag(browser, ring(0.6, 0.6, 0.3))         # while there is no server
        wait_for(browser, "return document.getElementById('status').textContent.includes('does not answer')", LIMIT_S)
        with running(folder, program=FAST_PROGRAM) as (other, _):
            saved(browser)                          # the page that is open goes on
            assert read(folder / "label_page/hand/a_1.nii.gz").sum() > truth.sum()
            press(browser, "u")
            wait_until(lambda: (read(folder / "label_page/hand/a_1.nii.gz") == truth).all())
            browser.get(other.address)
            wait_for(browser, "return document.getElementById('position').textContent.includes(':')", LIMIT_S)
            go_by_keys(browser, next(scan["name"] for scan in other.state()["scans"] if scan["state"] == "found"))
            _correct_and_export(browser, other, folder)


def _outline_and_run(browser, client, folder, truth):
    square_by_keys(browser, 8)
    client.draw("a_1", nifti(truth))                # the other slices
    wait_for(browser, f"return ({COUNT.removeprefix('return ')}) === {int(truth.sum())}", LIMIT_S)
    browser.refresh()
    wait_for(browser, "return document.getElementById('position').textContent.includes(':')", LIMIT_S)
    go_by_keys(browser, "a_1")
    assert browser.execute_script(COUNT) == truth.sum()
    press(browser, "o")                             # makes an example of the open scan
    wait_for(browser, "return !document.getElementById('stop').hidden", LIMIT_S)
    assert (read(folder / "label_page/hand/a_1.nii.gz") == truth).all()
    wait_for(browser, IDLE, LIMIT_S)
    assert text(browser, "run-text") == "2 of 2 scans outlined." and status_of(browser, "a_1") == "outlined by you: an example"
    numbers = [float(number) for number in browser.execute_script(
        "return [...document.querySelectorAll('#scans .number')].map(one => one.textContent)") if number]
    assert len(numbers) == 2 and numbers == sorted(numbers)
    wait_for(browser, "return [...document.querySelectorAll('#scans .picture')].every(one => one.naturalWidth === 64)", LIMIT_S)
    assert {scan["name"]: scan["picture"].split(".")[1] for scan in client.state()["scans"] if scan["state"] == "found"} == {
        "a_2": "1", "a_3": "1"}         # of the run, with outlines


def _correct_and_export(browser, client, folder):
    worst, other = (scan["name"] for scan in client.state()["scans"] if scan["state"] == "found")
    wait_until(lambda: current(browser) == worst and status_of(browser, worst) == "to look through")
    assert "label 1" in text(browser, "numbers")
    ((row,), outlined) = client.scan(worst)["rows"], read(folder / "truth/a_1.nii.gz")
    assert browser.execute_script("return labelPage.viewer.slice") == int(row["look_at"].split()[2])
    assert row["outlined_ml"] == pytest.approx(outlined.sum() * abs(np.linalg.det(AFFINE[:3, :3])) / 1000, rel=1e-3)
    assert f"{row['volume_ml'] / row['outlined_ml']:.1f} ×" in text(browser, "numbers")
    found = browser.execute_script(COUNT)
    assert text(browser, "fill").startswith("Let the rest follow")
    square_by_keys(browser, 14)
    assert text(browser, "status") == ""
    wait_until(lambda: status_of(browser, worst) == "being corrected")
    corrected = browser.execute_script(COUNT)
    assert corrected > found
    press(browser, "i")                 # the other slices follow
    wait_until(lambda: slices_of(client, worst)[1])
    assert browser.execute_script(COUNT) > corrected and "Look through them" in text(browser, "status")
    press(browser, "u")
    wait_until(lambda: not slices_of(client, worst)[1] and browser.execute_script(COUNT) == corrected)
    press(browser, "y")
    wait_until(lambda: slices_of(client, worst)[1])
    press(browser, "o")
    wait_for(browser, "return document.getElementById('run-dialog').open", LIMIT_S)
    assert f"{worst}: label 1: nobody looked at" in text(browser, "unfinished")
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    wait_until(lambda: status_of(browser, worst) == "being corrected")
    press(browser, "K")                 # the others are right as they are
    saved(browser)
    press(browser, Keys.ENTER)
    wait_until(lambda: status_of(browser, worst) == "corrected: an example" and current(browser) == other)
    before = client.scan(other)["found"]
    press(browser, "o")
    wait_until(lambda: client.scan(other)["found"] != before)
    wait_for(browser, IDLE, LIMIT_S)
    press(browser, Keys.ENTER)
    wait_until(lambda: status_of(browser, other) == "accepted" and text(browser, "status").startswith("All are looked through"))
    wait_until(lambda: text(browser, "export").startswith("All looked through: export"))
    press(browser, Keys.ENTER)              # once too often
    press(browser, Keys.ENTER)
    press(browser, "x")
    wait_for(browser, "return document.getElementById('exported').textContent.includes(' in ')", LIMIT_S)
    assert client.scan(other)["state"] == "accepted"
    assert "5 files" in text(browser, "exported") and (folder / "label_page/export/cases.csv").is_file()
    assert (read(folder / f"label_page/export/{worst}.nii.gz") == read(folder / f"label_page/hand/{worst}.nii.gz")).all()
