"""Build the wheel, install it in an empty folder, and outline phantom scans there with the command `qnet`.

    python scripts/checks/wheel.py

The environment of the wheel is a new one. It sees the libraries of the environment that runs this, and not the checkout. What is
made lies in a temporary folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

from qnet.dataloaders.reading import scan_name
from qnet.util.base.arguments import Parser
from qnet.util.base.fingerprint import OUTLINES, RUNS, code_sha256
from qnet.util.base.root import ROOT
from qnet.util.base.system import HOLDS_FOLDERS
from qnet.util.label.client import running
from qnet.util.options.config import named_configs

N_CASES = 2
# Folders of the package on sys.path would put its data, models and test before everyone's.
ALL_COMMANDS = """
import importlib, sys
import pkg_resources        # of sacred's: puts setuptools' own libraries on the path
before = list(sys.path)
from qnet.command import PROGRAMS
functions = [program.function for program in PROGRAMS.values()]
for name in (*functions, "data.phantom.main", "data.supervoxels.generate_supervoxels.main"):
    module, _, function = name.rpartition(".")
    assert callable(getattr(importlib.import_module(f"qnet.{module}"), function))
if added := [place for place in sys.path if sys.path.count(place) > before.count(place)]:
    sys.exit(f"error: to import the commands puts {added[0]} on sys.path, allowed: nothing")
"""
FINGERPRINTS = "from qnet.util.base.fingerprint import *; print(code_sha256(OUTLINES), code_sha256(RUNS))"
CLIENTS = ("util/clients/client.py", "util/clients/napari/napari.yaml", "util/clients/slicer/QNet/QNet.py")
# nothing of what this prints is of the checkout
WHERE = "import qnet, sys, qnet.util.base.root as r; print(r.ROOT); print(*sys.path, sep='\\n'); print(qnet.__version__)"


class Installed:
    """The wheel in an environment of its own.

    Args:
        folder: empty; programs run in it.
    Raises:
        SystemExit: a program failed; what it said stands above.
    """

    def __init__(self, folder: Path):
        self.folder = folder / "work"
        self.folder.mkdir()
        self.environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        self.call(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheel", ROOT)
        (self.wheel,) = (folder / "wheel").iterdir()
        venv.create(folder / "venv", symlinks=os.name == "posix")
        self.scripts = folder / "venv" / ("bin" if os.name == "posix" else "Scripts")
        place = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
        site = Path(sysconfig.get_path("purelib", "venv", place))
        # the folders of a path file are searched, but path files in them are not read: an editable install stays unseen
        libraries = [place for place in sys.path if Path(place).name == "site-packages"]
        (site / "libraries.pth").write_text("\n".join(libraries) + "\n", encoding="utf-8")
        self.call(*pip, "--python", self.scripts / "python", "install", "--quiet", "--no-deps", "--ignore-installed", self.wheel)

    def call(self, *command: object) -> str:
        """Run a program in the folder, and return what it printed."""
        done = subprocess.run(list(map(str, command)), cwd=self.folder, env=self.environment, stdout=subprocess.PIPE,
                              encoding="utf-8", check=False)
        if done.returncode:
            raise SystemExit(f"error: {' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}")
        return done.stdout

    def qnet(self, *arguments: object) -> str:
        """Run the command `qnet`, and return what it printed."""
        return self.call(self.scripts / "qnet", *arguments)


def check_place(installed: Installed) -> str:
    """Return the version, after a look at where the package and its configs lie.

    Raises:
        SystemExit: a path of the checkout is seen, a config or a client is missing, or the fingerprints of the code are others.
    """
    package, *path, version = installed.call(installed.scripts / "python", "-c", WHERE).splitlines()
    if seen := [place for place in (package, *path) if Path(place) in (ROOT, ROOT / "qnet")]:
        raise SystemExit(f"error: the installed package sees {seen[0]}, allowed: nothing of the checkout")
    files = [*(f"configs/{name}.json5" for name in named_configs()), *CLIENTS]
    if missing := [name for name in files if not (Path(package) / name).is_file()]:
        raise SystemExit(f"error: the wheel has no {missing[0]}")
    if installed.call(installed.scripts / "python", "-c", FINGERPRINTS).split() != [code_sha256(OUTLINES), code_sha256(RUNS)]:
        raise SystemExit("error: the installed package has another fingerprint of its code than the checkout")
    return version


def outline(installed: Installed) -> None:
    """Make phantom scans, and get one outlined from another: by the command, and by the labelling page.

    Raises:
        SystemExit: a scan is not outlined.
    """
    data = installed.folder / "data/PHANTOM"
    installed.call(installed.scripts / "python", "-m", "qnet.data.phantom", "--cases", N_CASES, "--size", 64, "--slices", 12)
    scans, (first, *others) = data.parent / "scans", sorted(data.rglob("image_*.nii.gz"))
    scans.mkdir()
    for image in (first, *others):
        (scans / image.name).write_bytes(image.read_bytes())
    labels = next(data.rglob(first.name.replace("image", "label")))
    outlined = f"{first.name}={labels}"
    print(installed.qnet("segment", "--scans", "data/scans", "--outlined", outlined, "--output", "outlined"), end="")
    expected = {*(image.name for image in others), "cases.csv", "report.html"}
    if missing := expected - {path.name for path in (installed.folder / "outlined").iterdir()}:
        raise SystemExit(f"error: qnet segment wrote no {', '.join(sorted(missing))}")
    if not HOLDS_FOLDERS:
        print(f"the labelling page is left out: {sys.platform} cannot have it")
        return
    with running(scans, ["--outlined", outlined], [installed.scripts / "qnet", "label"],
                 environment=installed.environment) as (client, _):
        if client.ask("GET", "/")[0] != 200:
            raise SystemExit("error: qnet label has no page")
        client.set_done(scan_name(first))
        print(client.run()["message"])
        client.export()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    Parser(__doc__).parse_args(arguments)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        installed = Installed(Path(folder))
        version = check_place(installed)
        installed.call(installed.scripts / "python", "-c", ALL_COMMANDS)
        installed.qnet("segment", "--help")
        outline(installed)
        megabytes = installed.wheel.stat().st_size / 1e6
        print(f"{installed.wheel.name} ({megabytes:.1f} MB): qnet {version} outlines scans from an empty folder; "
              f"{time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
