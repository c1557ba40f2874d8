"""The viewer's file is the one that its package ships."""

from __future__ import annotations

import pytest

from util.base.errors import InputError
from util.viewer import niivue


def test_the_file_is_that_of_its_version():
    assert "</script" not in niivue.niivue_script() and niivue.VERSION in niivue.__doc__
    assert "BSD 2-Clause" in niivue.LICENSE.read_text(encoding="utf-8")


def test_another_file_is_refused(tmp_path):
    other = tmp_path / "niivue.umd.js"
    other.write_bytes(niivue.SCRIPT.read_bytes() + b" ")
    with pytest.raises(InputError, match="SHA-256"):
        niivue.niivue_script(other)
