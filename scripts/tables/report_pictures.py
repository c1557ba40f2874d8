"""Take pictures of a report (of test.py report) with headless Chromium: tables, plots, outlines, probability.

    python scripts/tables/report_pictures.py runs/QNet_test_CHAOST2_cv4/1/report.html docs/images

The viewer shows the query and support whose Dice over the whole volume, mean of the classes, is the median.
Chromium and chromedriver must be installed (Debian: apt-get install chromium chromium-driver).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from selenium import webdriver

from util.base.errors import InputError
from util.base.files import replacing
from util.base.guard import OVERWRITE_HELP, claim

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
CHROMEDRIVER = shutil.which("chromedriver")
PICTURES = ("classes", "plots", "outlines", "probability")
VIEWER_WIDTH = 880      # keeps pictures of it under 300 kB
MEDIAN_CASE = """
    const mean = rows => rows.reduce((sum, row) => sum + row.dice, 0) / rows.length;
    const rows = pair => allRows.filter(row => row.kind === 'predictions_whole_volume' && row.query_case === pair.query
      && row.support_case === pair.support);
    const ranked = content.pairs.map((pair, k) => [k, mean(rows(pair))]).sort((a, b) => a[1] - b[1]);
    return ranked[Math.floor(ranked.length / 2)][0];"""


def open_report(report: Path, width: int = 1200, height: int = 1600) -> webdriver.Chrome:
    """Return a headless Chromium that has opened the report. The caller quits it.

    Raises:
        InputError: Chromium or chromedriver is not installed, or the report is missing.
    """
    if CHROMIUM is None or CHROMEDRIVER is None:
        raise InputError("chromium, chromedriver: not installed; Debian: apt-get install chromium chromium-driver")
    if not report.is_file():
        raise InputError(f"{report}: no such file; test.py report with run=… makes it")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                 "--disable-dev-shm-usage", "--hide-scrollbars", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    browser.get(report.resolve().as_uri())
    return browser


def take_pictures(browser: webdriver.Chrome, folder: Path) -> list[Path]:
    """Write report_{classes,plots,outlines,probability}.png of an open report. Return their paths."""
    def picture(name: str, element: str) -> Path:
        shown = browser.find_element("id", element)
        browser.execute_script("arguments[0].scrollIntoView()", shown)
        path = folder / f"report_{name}.png"
        with replacing(path) as partial:
            partial.write_bytes(shown.screenshot_as_png)
        return path

    def redraw(script: str) -> None:
        browser.execute_async_script(f"const done = arguments[arguments.length - 1]; {script}.then(() => done());")

    pictures = [picture("classes", "classes"), picture("plots", "plots")]
    browser.set_window_size(VIEWER_WIDTH, 1600)
    redraw(f"choosePair({browser.execute_script(MEDIAN_CASE)})")
    pictures.append(picture("outlines", "viewer"))
    browser.find_element("id", "overlay").click()
    redraw("draw()")
    return [*pictures, picture("probability", "viewer")]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="report.html in the run folder of an evaluation with whole volumes")
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
