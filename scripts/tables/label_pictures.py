"""Take the six pictures of docs/label_page.md: CHAOS scans on the labelling page, in headless Chromium.

    python scripts/tables/label_pictures.py data/CHAOST2 docs/images

Every third slice of the true outlines is drawn in the place of a hand, and the page fills the others. Chromium and chromedriver
must be installed (Debian: apt-get install chromium chromium-driver). It takes minutes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from selenium import webdriver
from selenium.common.exceptions import WebDriverException

from qnet.scripts.tables.label_curve import chaos_cases, copy_scans, give_classes
from qnet.scripts.tables.label_person import Labour, Person
from qnet.scripts.tables.report_pictures import open_browser
from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.files import replacing
from qnet.util.base.guard import OVERWRITE_HELP, claim
from qnet.util.label.client import PageClient, running

PICTURES = ("1_scans", "2_drawing", "3_running", "4_looking", "5_correcting", "6_exported")
SIZE_PX = (1280, 900)
WAIT_S = 600
POLL_S = 0.03


def open_page(address: str) -> webdriver.Chrome:
    """Return a headless Chromium that shows the labelling page with its first scan. The caller quits it.

    Args:
        address: that label.sh printed.
    Raises:
        InputError: Chromium or chromedriver is not installed.
    """
    browser = open_browser(*SIZE_PX)
    try:
        show_page(browser, address)
    except (WebDriverException, RuntimeError):
        browser.quit()
        raise
    return browser


def show_page(browser: webdriver.Chrome, address: str) -> None:
    """Go to the labelling page, and wait until its first scan is shown."""
    browser.get(address)
    wait_for(browser, "return document.getElementById('position')?.textContent.includes(':')")


def wait_for(browser: webdriver.Chrome, script: str, limit_s: float = WAIT_S) -> Any:
    """Return what a script returns in the page, once that is true.

    Raises:
        RuntimeError: that takes longer than `limit_s`; with the page's words.
    """
    deadline = time.monotonic() + limit_s
    while not (found := browser.execute_script(script)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited in vain for {script}; the page says {browser.find_element('id', 'status').text!r}")
        time.sleep(POLL_S)
    return found


def press(browser: webdriver.Chrome, keys: str) -> None:
    """Press keys in the viewer."""
    browser.find_element("id", "canvas").send_keys(keys)


def open_scan(browser: webdriver.Chrome, name: str) -> None:
    """Open a scan of the list."""
    browser.find_element("css selector", f'[data-scan="{name}"]').click()
    shown(browser, name)


def shown(browser: webdriver.Chrome, name: str) -> None:
    """Wait until a scan is the one that is open, with its slices and outlines."""
    wait_for(browser, "return document.getElementById('loading').hidden "
                      f"""&& document.querySelector('[data-scan="{name}"]')?.ariaCurrent === 'true'""")


def go_to(browser: webdriver.Chrome, voxel: Sequence[int]) -> None:
    """Move the cross to a voxel (x, y, z), right, anterior and superior of the first."""
    browser.execute_script("""const { niivue } = labelPage.viewer;
        niivue.scene.crosshairPos = niivue.vox2frac(arguments[0]); niivue.drawScene(); niivue.createOnLocationChange();""",
                           list(voxel))


def middle_of(label_map: np.ndarray) -> list[int]:
    """Return the voxel (x, y, z) in the slice with most labels of a (D, H, W) label map, in CHAOS's orientation."""
    z = int((label_map > 0).sum(axis=(1, 2)).argmax())
    _, y, x = (int(np.median(axis)) for axis in np.nonzero(label_map))
    return [label_map.shape[2] - 1 - x, y, z]


def walk(client: PageClient, browser: webdriver.Chrome, truth: dict[str, np.ndarray], picture: Callable[[str], None]) -> None:
    """Go the whole way on the page, and take a picture of each step."""
    first = next(iter(truth))
    open_scan(browser, first)
    go_to(browser, middle_of(truth[first]))
    picture("1_scans")
    Person(client, first, truth[first], Labour()).outline()
    press(browser, "f")
    wait_for(browser, f"""return document.querySelector('[data-scan="{first}"]').textContent.includes('drawn')""")
    time.sleep(2)
    picture("2_drawing")
    press(browser, "o")
    wait_for(browser, "return document.getElementById('progress').value >= 2")
    picture("3_running")
    wait_for(browser, "return document.getElementById('stop').hidden && document.getElementById('run-text').textContent")
    worst = _worst(client)
    open_scan(browser, worst)
    go_to(browser, middle_of(truth[worst]))
    picture("4_looking")
    Person(client, worst, truth[worst], Labour()).outline()
    time.sleep(3)
    picture("5_correcting")
    client.set_done(worst)
    press(browser, "o")
    wait_for(browser, "return !document.getElementById('stop').hidden")
    wait_for(browser, "return document.getElementById('stop').hidden")
    open_scan(browser, _worst(client))
    for _ in range(sum(scan["state"] == "found" for scan in client.state()["scans"])):
        press(browser, "\ue007")       # Enter
        time.sleep(1.5)
    shown = browser.execute_script("return document.querySelector('[aria-current=true]').dataset.scan")
    go_to(browser, middle_of(truth[shown]))
    press(browser, "x")
    wait_for(browser, "return document.getElementById('exported').textContent.includes(' in ')")
    picture("6_exported")


def _worst(client: PageClient) -> str:
    return next(scan["name"] for scan in client.state()["scans"] if scan["state"] == "found")


def take_pictures(client: PageClient, truth: dict[str, np.ndarray], output: Path) -> None:
    """Write label_{1_scans,2_drawing,…}.png."""
    browser = open_page(client.address)

    def picture(name: str) -> None:
        time.sleep(1)
        with replacing(output / f"label_{name}.png") as partial:
            partial.write_bytes(smaller(browser.get_screenshot_as_png()))

    try:
        walk(client, browser, truth, picture)
    finally:
        browser.quit()


def smaller(png: bytes) -> bytes:
    """Return a picture with the grey values and colours in steps of 8, which takes half the bytes."""
    pixels = np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR))
    steps = np.where(pixels == 255, 255, pixels // 8 * 8).astype(np.uint8)
    return cv2.imencode(".png", steps, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = Parser(__doc__)
    parser.add_argument("data", type=Path, help="folder of CHAOS-T2, as data/README.md has it")
    parser.add_argument("output", type=Path, help="folder for the pictures")
    parser.add_argument("--cases", type=int, default=6, help="so many, the first ones; default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    options = parser.parse_args(arguments)
    try:
        claim([options.output / f"label_{name}.png" for name in PICTURES], overwrite=options.overwrite)
        cases = chaos_cases(options.data, options.cases)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "scans"
            folder.mkdir()
            truth = copy_scans(cases, folder)
            os.environ["HOME"] = temporary      # so that the page says ~/scans
            with running(folder) as (client, _):
                give_classes(client)
                take_pictures(client, truth, options.output)
    except (InputError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
