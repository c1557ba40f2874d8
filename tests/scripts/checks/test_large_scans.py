"""The check of the page with large scans, on small ones."""

import time

import pytest

from qnet.scripts.checks.large_scans import main, timed, too_slow


@pytest.mark.whole
def test_what_is_asked_for_is_timed(capsys):
    assert main(["--cases", "3", "--size", "40", "40", "12"]) in (0, 1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("a scan", "a stroke"))]
    assert len(lines) == 5 and all(0 <= float(line.split()[-3]) < 60 for line in lines)


def test_the_time_is_that_of_what_is_done():
    seconds, result = timed(lambda: time.sleep(0.05) or "done")
    assert 0.05 <= seconds < 60 and result == "done"


def test_what_is_too_slow_is_told():
    assert too_slow([("a", 1.0, 5, 1.0), ("b", 1.1, 5, 1.0), ("c", 9.0, 5, None)]) == ["b"]
