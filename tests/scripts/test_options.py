"""scripts/options.py: the help of segment and label, without a library, and options that both have."""

import re
import subprocess
import sys

import pytest

from qnet.scripts.options import label_parser, segment_parser
from qnet.util.base.root import ROOT

PARSERS = {"segment": segment_parser(outlines=True), "label": label_parser()}


@pytest.mark.parametrize("name", PARSERS)
def test_the_help_of_a_script_has_every_option(name, tmp_path):
    said = subprocess.run(["bash", ROOT / f"scripts/{name}.sh", "--help"], cwd=tmp_path, capture_output=True, encoding="utf-8",
                          check=True).stdout
    usage = PARSERS[name].format_usage()
    options = set(re.findall("--[a-z-]+", usage))
    assert {"--outlined"} < options <= set(re.findall("--[a-z-]+", said.partition("\noptions:")[2]))
    assert f"    bash scripts/{name}.sh " in said and f"qnet {name} " not in said
    assert list(tmp_path.iterdir()) == []


def test_the_help_needs_no_library():
    command = [sys.executable, "-S", "-m", "qnet.scripts.options", "segment"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
    assert "No GPU is needed" in said and "--method METHOD" in said


def test_both_take_outlined_scans_in_the_same_way():
    given = ["--outlined", "a=1", "b=2", "--outlined", "c=3"]
    told = [PARSERS[name].parse_args([*words, *given]) for name, words in
            (("segment", ["--scans", "s", "--output", "o"]), ("label", ["s"]))]
    assert [one.outlined for one in told] == [["a=1", "b=2", "c=3"]] * 2
