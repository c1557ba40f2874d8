"""The viewer's file is the one that its package ships."""

from __future__ import annotations

import re

import pytest

from qnet.util.base.errors import InputError
from qnet.util.results.report_page import Content, Volumes, write_report_page
from qnet.util.viewer import niivue


def test_the_file_is_that_of_its_version():
    assert "</script" not in niivue.niivue_script() and niivue.VERSION in niivue.__doc__
    assert "BSD 2-Clause" in niivue.LICENSE.read_text(encoding="utf-8")


@pytest.mark.parametrize("library", ["gl-matrix", "fflate", "nifti-reader-js", "zarrita", "@zarrita/storage", "numcodecs",
                                     "@ungap/structured-clone", "@lukeed/uuid", "array-equal", "Papaya", "Roboto"])
def test_what_it_is_made_of_has_its_notice(library):
    notices = niivue.NOTICES.read_text(encoding="utf-8")
    assert re.search(rf"^{re.escape(library)}\b.* \((MIT|ISC|BSD|Apache)", notices, re.MULTILINE)


def test_the_notices_go_along_with_every_report(tmp_path):
    write_report_page(Content("t", {}, {1: "a"}, [], [], "case", "", []), Volumes([1]), tmp_path / "report.html")
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Brandon Jones" in report and "Arjun Barrett" in report and "Apache License" in report


def test_another_file_is_refused(tmp_path):
    other = tmp_path / "niivue.umd.js"
    other.write_bytes(niivue.SCRIPT.read_bytes() + b" ")
    with pytest.raises(InputError, match="SHA-256"):
        niivue.niivue_script(other)
