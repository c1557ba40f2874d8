"""Headless Chromium in tests: what a page looks like."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from selenium import webdriver

from qnet.scripts.tables.report_pictures import CHROMEDRIVER, CHROMIUM, drawn

needs_chromium = pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None,
                                    reason="no Chromium with chromedriver is installed")
DRAWN_ONCE = ("--disable-gpu-compositing",)      # without a GPU, the pixels of a viewer cost as much again to put into the page
SIZE_PX = 600, 700                               # of the browser: a report in few pixels


@contextmanager
def window(browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """Yield a browser in a new window, with empty logs, and close the window at the end of the block."""
    before = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.set_window_size(*SIZE_PX)
    new = browser.current_window_handle
    forget(browser)
    try:
        yield browser
    finally:
        browser.switch_to.window(new)
        browser.close()
        browser.switch_to.window(before)
        forget(browser)


def forget(browser: webdriver.Chrome) -> None:
    """Empty the logs of what pages printed and asked for."""
    for kind in ("browser", "performance"):
        browser.get_log(kind)


def screen(browser: webdriver.Chrome) -> np.ndarray:
    """Return the pixels of the viewer, once two looks at it agree."""
    last = None
    browser.execute_script("document.getElementById('screen').scrollIntoView({block: 'center'})")
    for _ in range(100):
        drawn(browser)
        now = cv2.imdecode(np.frombuffer(browser.find_element("id", "screen").screenshot_as_png, np.uint8), cv2.IMREAD_COLOR)
        if last is not None and np.array_equal(now, last):
            assert now is not None
            return now
        last = now
        time.sleep(0.05)
    raise AssertionError("the viewer does not come to rest")
