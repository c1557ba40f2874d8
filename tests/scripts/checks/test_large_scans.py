"""The check of the page with large scans, on small ones."""

import re
import time

import pytest

from qnet.scripts.checks.large_scans import main, timed, too_slow
from tests.browser import needs_chromium


@needs_chromium
@pytest.mark.whole
def test_what_is_asked_for_is_timed(warm, capsys):
    assert main(["--cases", "3", "--size", "40", "40", "12", "--browser"]) in (0, 1)
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith(("a scan", "a stroke"))]
    assert len(lines) == 5 and all(0 <= float(line.split()[-3]) < 60 for line in lines)
    page, another, read = (float(re.split("  +", line)[1]) for line in out.splitlines()[-3:])
    assert page > 0 and 0 < read < another


def test_the_time_is_that_of_what_is_done():
    seconds, result = timed(lambda: time.sleep(0.05) or "done")
    assert 0.05 <= seconds < 60 and result == "done"


def test_what_is_too_slow_is_told():
    assert too_slow([("a", 1.0, 5, 1.0), ("b", 1.1, 5, 1.0), ("c", 9.0, 5, None)]) == ["b"]
