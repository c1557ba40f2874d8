"""The fixtures that tests of several modules share."""

from __future__ import annotations

import contextlib
import multiprocessing.spawn
import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qnet.util.base.signals import STOPPING
from tests.programs import run
from tests.toy import write_toy_data
from tests.warm import WarmPython

if TYPE_CHECKING:
    from selenium import webdriver


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the toy data; read it only."""
    return write_toy_data(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def thin_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the toy data with every second row and column, for what is registered; read it only."""
    return write_toy_data(tmp_path_factory.mktemp("thin"), 2)


@pytest.fixture(scope="session")
def trained(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a finished training on the toy data; read it only."""
    return run("train", tmp_path_factory.mktemp("trained"), toy_data, save_snapshot_every=2)


@pytest.fixture(scope="session", autouse=True)
def programs_do_not_warn_of_encodings() -> None:
    """What scripts/run_tests.sh sets is for the tests' own process; a program that a test starts would print the warnings."""
    os.environ.pop("PYTHONWARNDEFAULTENCODING", None)


@pytest.fixture(scope="session", autouse=True)
def disks_are_not_waited_for() -> None:
    """A run syncs some thirty files, a tenth of a test's time. Tests of what is synced put a function of their own here."""
    os.fsync = lambda descriptor: None


@pytest.fixture(scope="session")
def warm_python() -> Iterator[str]:
    """The file of a Python that has PyTorch loaded, on Linux. Elsewhere it is the usual Python."""
    with WarmPython() if hasattr(os, "pidfd_open") else contextlib.nullcontext() as python:
        yield str(python.path) if python else sys.executable


@pytest.fixture(scope="session")
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser, for tests that open windows of their own in it."""
    from qnet.scripts.tables.report_pictures import WEBGL, open_browser
    from tests.browser import DRAWN_ONCE, SIZE_PX
    browser = open_browser(*SIZE_PX, (*WEBGL, *DRAWN_ONCE))
    yield browser
    browser.quit()


@pytest.fixture
def warm(warm_python: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes that a test starts, pools too, begin in a tenth of a second. No test of how they begin takes it."""
    before = multiprocessing.spawn.get_executable()
    monkeypatch.setattr(sys, "executable", warm_python)
    monkeypatch.setenv("WARM_PYTHON", warm_python)
    multiprocessing.set_executable(warm_python)
    yield
    multiprocessing.set_executable(before)


@pytest.fixture
def full_disk() -> contextlib.AbstractContextManager[None]:
    """A block in which no file can grow, as on a full disk."""
    @contextlib.contextmanager
    def block() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return block()


@pytest.fixture
def handlers_stay() -> Iterator[None]:
    """The command line sets handlers of signals; the tests' own process gets its own back."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


LONGEST = ("test_qnet_goldens.py", "test_page.py")
SLOW_LIMIT_S = 3600     # of a test marked slow; the others' is `timeout` in pyproject.toml


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest, so that no process is left alone with one at the end; and give slow tests time."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT_S))
