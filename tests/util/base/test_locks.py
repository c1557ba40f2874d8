"""Processes that change one file at a time lose nothing of each other."""

import json
import multiprocessing
import os
import stat

import pytest

from qnet.util.base.locks import alone, lock


def add(folder, name):
    for number in range(20):
        with alone(folder):
            content = json.loads((folder / "record.json").read_text(encoding="utf-8"))
            (folder / "record.json").write_text(json.dumps([*content, f"{name}{number}"]), encoding="utf-8")


def test_nothing_is_lost_of_what_several_processes_add(tmp_path):
    (tmp_path / "record.json").write_text("[]", encoding="utf-8")
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=add, args=(tmp_path, name)) for name in "abcd"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))) == sorted(
        f"{name}{number}" for name in "abcd" for number in range(20))


@pytest.mark.parametrize(("umask", "mode"), [(0o000, 0o622), (0o002, 0o620), (0o022, 0o600), (0o077, 0o600)])
def test_who_can_read_a_lock_alone_shuts_nobody_out(umask, mode, tmp_path):
    """A shared lock needs a file that can be read, and holds the owner's off."""
    before = os.umask(umask)
    try:
        with lock(tmp_path, "held"):
            assert stat.S_IMODE((tmp_path / ".made.lock").stat().st_mode) == mode
    finally:
        os.umask(before)


def test_a_lock_that_others_could_read_is_closed_to_them(tmp_path):
    (tmp_path / ".made.lock").touch(0o644)
    (tmp_path / ".made.lock").chmod(0o644)
    with alone(tmp_path):
        assert stat.S_IMODE((tmp_path / ".made.lock").stat().st_mode) == 0o600


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / "kept.txt").touch(0o644)
    (tmp_path / ".made.lock").symlink_to(tmp_path / "kept.txt")
    with pytest.raises(OSError, match="symbolic links"), alone(tmp_path):
        pass
