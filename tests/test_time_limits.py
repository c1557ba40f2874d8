"""A test that hangs fails with its name, and slow tests have more time."""

import os
import subprocess
import sys

import pytest

from qnet.util.base.root import ROOT

TESTS = """
import time, pytest

def test_hangs():
    time.sleep(30)

@pytest.fixture
def slow_to_make():
    time.sleep(30)

def test_hangs_in_a_fixture(slow_to_make):
    pass

@pytest.mark.slow
def test_slow():
    time.sleep(0.7)
"""


@pytest.mark.whole
def test_a_hanging_test_fails_with_its_name(tmp_path):
    (tmp_path / "test_hanging.py").write_text(TESTS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "tests.conftest", "-m", "", "-rA",
               "-o", "timeout=0.5", tmp_path / "test_hanging.py"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and "1 failed, 1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    for name in ("test_hangs", "test_hangs_in_a_fixture"):
        assert f"::{name} - Failed: Timeout (>0.5s)" in done.stdout


def test_every_test_has_a_limit(pytestconfig):
    assert 0 < float(pytestconfig.getini("timeout")) <= 300
