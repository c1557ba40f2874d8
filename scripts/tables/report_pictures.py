"""Take pictures of a report (of test.py report or test.py predict) with headless Chromium.

    python scripts/tables/report_pictures.py runs/chaost2_setting1/Guided_test_CHAOST2_cv0/1/report.html docs/images
    python scripts/tables/report_pictures.py predicted/report.html docs/images

Of an evaluation: tables, plots, and in the viewer the query and support whose Dice over the whole volume, mean of the classes, is
the median, with truth and prediction, then with the registered support or the probability. Of scans without truth: the page.
Chromium and chromedriver must be installed (Debian: apt-get install chromium chromium-driver).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.support.wait import WebDriverWait

from qnet.util.base.arguments import Parser
from qnet.util.base.errors import InputError
from qnet.util.base.files import replacing
from qnet.util.base.guard import OVERWRITE_HELP, claim

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
CHROMEDRIVER = shutil.which("chromedriver")
PICTURES = ("classes", "plots", "outlines", "overlay", "scans")
SIZE_PX = (1200, 1600)
VIEWER_WIDTH = 1160
LOAD_S = 120        # a report is read and drawn in this time, also without a GPU
WEBGL = ("--enable-unsafe-swiftshader", "--use-angle=swiftshader")
MEDIAN_CASE = """
    const mean = rows => rows.reduce((sum, row) => sum + row.dice, 0) / rows.length;
    const ranked = content.views.map((_, k) => [k, mean(content.rows.filter(row => row.view === k && row.map === 'whole'))])
      .sort((a, b) => a[1] - b[1]);
    return ranked[Math.floor(ranked.length / 2)][0];"""


def open_browser(width: int, height: int, flags: tuple[str, ...] = WEBGL) -> webdriver.Chrome:
    """Return a headless Chromium that keeps logs of what pages print and ask for. The caller quits it.

    Args:
        flags: of Chromium, besides those that every use needs.
    Raises:
        InputError: Chromium or chromedriver is not installed.
    """
    if CHROMIUM is None or CHROMEDRIVER is None:
        raise InputError("chromium, chromedriver: not installed; Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-background-networking", "--disable-dev-shm-usage",
                 "--hide-scrollbars", f"--window-size={width},{height}", *flags):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))


def open_report(report: Path, flags: tuple[str, ...] = WEBGL) -> webdriver.Chrome:
    """Return a headless Chromium that has opened the report and drawn its first case. The caller quits it.

    Args:
        flags: of Chromium, besides those that every use needs.
    Raises:
        InputError: Chromium or chromedriver is not installed, or the report is missing.
    """
    if not report.is_file():
        raise InputError(f"{report}: no such file; test.py report with run=… makes it")
    browser = open_browser(*SIZE_PX, flags)
    try:
        show_report(browser, report)
    except WebDriverException:
        browser.quit()
        raise
    return browser


def show_report(browser: webdriver.Chrome, report: Path) -> None:
    """Go to a report, and wait until its first case is drawn."""
    browser.get(report.resolve().as_uri())
    drawn(browser)


def drawn(browser: webdriver.Chrome) -> str:
    """Wait until a case is drawn, or the page says that it cannot be, and return what is shown, as `data-drawn` has it."""
    script = "return document.getElementById('viewer').hidden ? 'nothing' : document.getElementById('canvas').dataset.drawn"
    return WebDriverWait(browser, LOAD_S, 0.05).until(lambda _: browser.execute_script(script))


def take_pictures(browser: webdriver.Chrome, folder: Path) -> list[Path]:
    """Write report_<name>.png of an open report, for each of PICTURES that it has. Return their paths."""
    def picture(name: str, element: str) -> Path:
        drawn(browser)
        shown = browser.find_element("css selector", element)
        browser.execute_script("arguments[0].scrollIntoView()", shown)
        path = folder / f"report_{name}.png"
        with replacing(path) as partial:
            partial.write_bytes(shown.screenshot_as_png)
        return path

    if browser.execute_script("return content.classes === null"):
        browser.set_window_size(VIEWER_WIDTH, 1600)
        return [picture("scans", "main")]
    pictures = [picture("classes", "#classes"), picture("plots", "#plots")]
    browser.set_window_size(VIEWER_WIDTH, 1600)
    browser.execute_async_script(f"choose({browser.execute_script(MEDIAN_CASE)}).then(arguments[arguments.length - 1])")
    pictures.append(picture("outlines", "#viewer"))
    browser.execute_script("KEYS.d(); KEYS[document.getElementById('of-support').hidden ? 'q' : ',']();")
    return [*pictures, picture("overlay", "#viewer")]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = Parser(__doc__)
    parser.add_argument("report", type=Path, help="report.html of an evaluation with whole volumes, or of predict")
    parser.add_argument("output", type=Path, help="folder for the pictures")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    options = parser.parse_args(arguments)
    try:
        claim([options.output / f"report_{name}.png" for name in PICTURES], [options.report], overwrite=options.overwrite)
        browser = open_report(options.report)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    try:
        print("written: " + ", ".join(str(path) for path in take_pictures(browser, options.output)))
    finally:
        browser.quit()
    return 0


if __name__ == "__main__":
    sys.exit(main())
