""".ci/run: the type checker, the wheel, a browser for the report's tests where one can be had, and the tests in any case."""

import pathlib
import shutil
import subprocess

import pytest

from qnet.util.base.root import ROOT
from tests.scripts.test_common import program


@pytest.fixture
def ci(tmp_path):
    """Run a copy of .ci/run with none but a few programs; returns what it printed."""
    for tool in ("bash", "dirname", "timeout", "env"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        pathlib.Path(tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    program(tmp_path / "scripts/run_tests.sh", 'echo "tests $*"')
    (tmp_path / "scripts/common.sh").write_text("use_environment() { :; }\n", encoding="utf-8")
    program(tmp_path / "bin/python", '[[ $1 == scripts/checks/check_types.py ]] && echo types || echo "${1##*/}"')
    program(tmp_path / "bin/id", "echo 0")

    def call(**programs):
        for name, lines in programs.items():
            program(tmp_path / "bin" / name.replace("_", "-"), lines)
        done = subprocess.run(["bash", ".ci/run"], cwd=tmp_path, env={"PATH": str(tmp_path / "bin")}, capture_output=True,
                              encoding="utf-8", check=True)
        calls, lines = tmp_path / "calls", done.stdout.splitlines()
        lines[-3:-1] = sorted(lines[-3:-1])     # types and wheel, at the same time
        return lines, calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []

    return call


def test_a_missing_browser_is_installed(ci):
    assert ci(apt_get='echo "$*" >> calls') == (["installing Chromium and chromedriver", "types", "wheel.py", "tests -rs"], [
        "-qq update", "-qq install --yes --no-install-recommends chromium chromium-driver"])


def test_a_failed_installation_stops_nothing(ci):
    printed, _ = ci(apt_get="exit 100")
    assert printed[1:] == ["they could not be installed", "types", "wheel.py", "tests -rs"]


@pytest.mark.parametrize("programs", [{}, {"apt_get": 'echo "$*" >> calls', "id": "echo 1000"}])
def test_who_may_not_install_goes_on(programs, ci):
    assert ci(**programs) == (
        ["no Chromium with chromedriver, and no right to install them", "types", "wheel.py", "tests -rs"], [])


@pytest.mark.parametrize("failing", ["check_types.py", "wheel.py"])
def test_without_types_or_wheel_no_test_is_run(failing, ci, tmp_path):
    program(tmp_path / "bin/python", f"[[ $1 != scripts/checks/{failing} ]]")
    with pytest.raises(subprocess.CalledProcessError) as ended:
        ci(chromium="", chromedriver="")
    assert "tests" not in ended.value.stdout


def test_a_browser_that_is_there_stays(ci):
    assert ci(chromium="", chromedriver="", apt_get='echo "$*" >> calls') == (["types", "wheel.py", "tests -rs"], [])
