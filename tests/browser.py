"""Headless Chromium in tests: what a page looks like."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from selenium import webdriver

from qnet.scripts.tables.report_pictures import CHROMEDRIVER, CHROMIUM, WEBGL, drawn

needs_chromium = pytest.mark.skipif(CHROMIUM is None or CHROMEDRIVER is None,
                                    reason="no Chromium with chromedriver is installed")
DRAWN_ONCE = ("--disable-gpu-compositing",)      # without a GPU, the pixels of a viewer cost as much again to put into the page
FEW_PIXELS = 800, 800, (*WEBGL, *DRAWN_ONCE)     # of a report
SMALL_PX = 1000, 760                             # the labelling page with both its lists, and 4 pixels for a voxel of toy scans


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
