"""The command line as a report tells it."""

import sys

import pytest

from qnet.util.base.arguments import command_line


@pytest.mark.parametrize(("argv", "orig_argv", "expected"), [
    (["scripts/segment.py", "--scans", "my scans"], ["python", "scripts/segment.py", "--scans", "my scans"],
     "python scripts/segment.py --scans 'my scans'"),
    (["qnet predict", "predict", "with", "guided"], ["/bin/python", "/bin/qnet", "predict", "guided"], "qnet predict guided"),
    (["qnet segment", "--scans", "a"], ["/bin/python", "-m", "qnet", "segment", "--scans", "a"], "qnet segment --scans a"),
    (["qnet segment", "--scans", "a"], ["python"], "qnet segment --scans a")])
def test_it_is_as_a_person_types_it(argv, orig_argv, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert command_line() == expected
