"""The check that kills segment.py: what it takes for a difference; and, slow, a few kills."""

import random

import pytest

from qnet.scripts.checks.kill_segment import contents, differences, kill_segment
from qnet.util.base.files import LIST


def test_every_kind_of_difference_is_named(tmp_path):
    for name in ("a", "b", LIST):
        (tmp_path / name).write_text(name, encoding="utf-8")
    expected = contents(tmp_path)
    assert set(expected) == {"a", "b"}
    (tmp_path / "a").unlink()
    (tmp_path / "b").write_text("changed", encoding="utf-8")
    (tmp_path / ".partial-1-b").touch()
    assert differences(expected, contents(tmp_path)) == [".partial-1-b: too many", "a: missing", "b: differs"]
    assert differences(expected, expected) == []


@pytest.mark.slow
def test_kills_lose_nothing_and_change_nothing(tmp_path):
    assert kill_segment(tmp_path, 4, random.Random(0)) == []
