"""Ask whether an advisory is known for a package that the programs need.

    python scripts/checks/advisories.py         # exit status 1 if there is one

Asked about are the packages of requirements.txt, in the versions that are installed. Where no index of advisories can be reached,
this says so and ends with 0. The tests ask, too, and are skipped there.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from qnet.util.base.root import ROOT

COMMAND = (sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "10",
           "--format", "json", "--requirement")
LIMIT_S = 60


def installed(requirements: Path) -> list[str]:
    """Return name==version of the packages that a file of requirements names, as they are installed."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    names = [match[0] for line in lines if (match := re.match(r"[A-Za-z][\w.-]*", line))]
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


class NotAskedError(Exception):
    """No index of advisories could be asked. The message says why."""


def advisories(command: Sequence[str] = COMMAND) -> list[str]:
    """Return a line for each advisory. `command` is given a file of exact versions, and prints what pip-audit does.

    Raises:
        NotAskedError: no index answers, or it knows none of the packages.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "asked.txt"
        asked.write_text("\n".join(installed(ROOT / "requirements.txt")) + "\n", encoding="utf-8")
        try:
            done = subprocess.run([*command, str(asked)], capture_output=True, encoding="utf-8", check=False, timeout=LIMIT_S)
            answers = json.loads(done.stdout)["dependencies"]
        except (subprocess.TimeoutExpired, ValueError, KeyError):
            raise NotAskedError("no index of advisories can be reached") from None
    known = [answer for answer in answers if "vulns" in answer]
    if not known:
        raise NotAskedError("the index that can be reached has no advisories")
    return [f"{answer['name']} {answer['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no release'}"
            for answer in known for found in answer["vulns"]]


def main(command: Sequence[str] = COMMAND) -> int:
    """Run the check and return its exit status."""
    try:
        lines = advisories(command)
    except NotAskedError as reason:
        print(f"skipped: {reason}")
        return 0
    print("\n".join(lines) or "no advisory is known")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
