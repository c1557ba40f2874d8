"""scripts/checks/advisories.py: what it makes of the answers of pip-audit, or of none."""

import json
import sys

import pytest

from qnet.scripts.checks.advisories import NotAskedError, advisories, installed, main
from qnet.util.base.root import ROOT


def answering(text):
    return [sys.executable, "-c", f"print({text!r})"]


def as_json(*dependencies):
    return json.dumps({"dependencies": dependencies, "fixes": []})


SOUND = {"name": "h11", "version": "0.16.0", "vulns": []}
BAD = {"name": "h11", "version": "0.14.0", "vulns": [{"id": "CVE-1", "fix_versions": ["0.16.0"]}]}
UNKNOWN = {"name": "h11", "skip_reason": "not found"}


@pytest.mark.parametrize(("answer", "status", "said"), [
    (as_json(SOUND), 0, "no advisory is known"), (as_json(SOUND, BAD), 1, "h11 0.14.0: CVE-1, mended in 0.16.0"),
    (as_json(UNKNOWN), 0, "skipped: the index that can be reached has no"),
    ("", 0, "skipped: no index of advisories can be reached"),
    ("a traceback", 0, "skipped: no index of advisories can be reached")])
def test_answers(answer, status, said, capsys):
    assert main(answering(answer)) == status
    assert said in capsys.readouterr().out


def test_it_asks_for_the_installed_versions_of_what_the_programs_need():
    asked = installed(ROOT / "requirements.txt")
    assert len(asked) > 15 and any(one.startswith("h11==") for one in asked) and not any("+" in one for one in asked)


@pytest.mark.whole
def test_no_advisory_is_known_for_what_the_programs_need():
    try:
        found = advisories()
    except NotAskedError as reason:
        pytest.skip(str(reason))
    assert found == []
