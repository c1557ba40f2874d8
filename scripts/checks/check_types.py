"""Run the type checker on the whole project, or on what is named.

    python scripts/checks/check_types.py
    python scripts/checks/check_types.py util/engine qnet/train.py

mypy looks for a package in a folder of its name. So this shows it the repository as a folder `qnet` of links, in `.mypy_cache`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:     # run as a file: before packages of the same names elsewhere
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from qnet.util.base.root import ROOT

LINKS = Path(".mypy_cache/links")
PARTS = ("data", "dataloaders", "models", "scripts", "util")


def link(root: Path) -> None:
    """Make the folder of links anew where one is missing."""
    package = root / LINKS / "qnet"
    package.mkdir(parents=True, exist_ok=True)
    for target in (*(root / part for part in PARTS), *(root / "qnet").glob("*.py")):
        path = package / target.name
        if not (path.is_symlink() and path.exists() and path.samefile(target)):
            path.unlink(missing_ok=True)
            path.symlink_to(os.path.relpath(target, package))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status of mypy."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    link(ROOT)
    named = [name if name.startswith("tests") else str(LINKS / "qnet" / name.removeprefix("qnet/")) for name in given]
    done = subprocess.run([sys.executable, "-m", "mypy", *(named or [str(LINKS / "qnet"), "tests"])], cwd=ROOT,
                          env={**os.environ, "MYPYPATH": str(LINKS)}, capture_output=True, encoding="utf-8", check=False)
    print(done.stdout.replace(f"{LINKS}/qnet/", ""), end="")
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
