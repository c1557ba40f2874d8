"""Folders of our own: private, by descriptor, and by plain names."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from qnet.util.base.errors import InputError
from qnet.util.base.own_folder import OwnFolder


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def folder(tmp_path):
    folder = OwnFolder(tmp_path / "own")
    yield folder
    folder.close()


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def test_everything_in_it_is_private_whatever_the_umask(umask, tmp_path):
    folder = OwnFolder(tmp_path / "own")
    folder.write("a", b"1")
    folder.fresh("b").close()
    with folder.work() as work:
        (work / "c").write_bytes(b"2")
        folder.inner("in").take(work / "c", "c")
        assert mode(work) == 0o700
    with folder.lock("held"):
        assert {path.name: mode(path) for path in (tmp_path / "own").rglob("*")} == {
            "a": 0o600, "b": 0o600, ".made.jsonl": 0o600, ".made.lock": 0o600, "in": 0o700, "c": 0o600}
    assert mode(tmp_path / "own") == 0o700 and (tmp_path / "own/in/c").read_bytes() == b"2"


def test_what_was_open_to_others_is_made_private(tmp_path):
    (tmp_path / "own").mkdir(mode=0o755)
    (tmp_path / "own/a").write_bytes(b"1")
    (tmp_path / "own/a").chmod(0o644)
    folder = OwnFolder(tmp_path / "own")
    folder.make_private()
    assert mode(tmp_path / "own") == 0o700 and mode(tmp_path / "own/a") == 0o600


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "/etc/passwd", "in/a", "a\0b"])
def test_names_lead_nowhere_else(name, folder, tmp_path):
    (tmp_path / "a").write_bytes(b"outside")
    for use in (folder.has, folder.read, folder.remove, folder.fresh, folder.inner, lambda name: folder.write(name, b"x"),
                lambda name: folder.lend(name, tmp_path / "lent")):
        with pytest.raises(InputError, match=r"leads to another folder|is there and is no folder"):
            use(name)
    assert (tmp_path / "a").read_bytes() == b"outside" and not (tmp_path / "lent").exists()


def test_a_link_is_replaced_and_never_followed(folder, tmp_path):
    (tmp_path / "a").write_bytes(b"outside")
    for write in (lambda: folder.write("a", b"new"), lambda: folder.fresh("a").close(), lambda: folder.remove("a")):
        folder.remove("a")
        (folder.path / "a").symlink_to(tmp_path / "a")
        with pytest.raises(InputError, match="is a link"):
            folder.read("a")
        with pytest.raises(InputError, match="is a link"):
            folder.lend("a", tmp_path / "lent")
        write()
        assert not (folder.path / "a").is_symlink() and (tmp_path / "a").read_bytes() == b"outside"
    (folder.path / "b").symlink_to(tmp_path)
    with pytest.raises(InputError, match="b: is there and is no folder"):
        folder.inner("b")


@pytest.mark.parametrize(("name", "write"), [(".made.jsonl", lambda folder: folder.write("a", b"x")),
                                             (".made.lock", lambda folder: folder.lock("held"))])
def test_another_name_of_a_file_elsewhere_is_not_written_to(name, write, folder, tmp_path):
    (tmp_path / "outside").write_bytes(b"outside")
    (folder.path / name).hardlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="is a link"):
        write(folder)
    assert (tmp_path / "outside").read_bytes() == b"outside"


def test_a_file_is_whole_or_as_it_was(folder, full_disk):
    folder.write("a", b"before")
    with full_disk, pytest.raises(OSError, match="File too large") as caught:
        folder.write("a", b"after")
    assert caught.value.filename == str(folder.path / "a")
    assert folder.read("a") == b"before" and folder.names() == [".made.jsonl", "a"]


def test_a_large_file_is_refused(folder):
    folder.write("a", b"12345")
    assert folder.read("a", 5) == b"12345"
    with pytest.raises(InputError, match="a: has more than 4 bytes"):
        folder.read("a", 4)


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(folder):
    with folder.work():
        for name in (".work-abc/deep", ".partial-1-a"):
            path = folder.path / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"half")
        (folder.path / ".work-link").symlink_to(folder.path.parent)
        (folder.path / "kept").write_bytes(b"x")
    folder.remove_leftovers()
    assert sorted(path.name for path in folder.path.iterdir()) == [".work-link", "kept"] and folder.path.parent.is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_a_folder_of_somebody_else_is_refused():
    with tempfile.TemporaryDirectory() as root:
        Path(root).chmod(0o755)
        (Path(root) / "own").mkdir(mode=0o755)
        os.chown(Path(root) / "own", 12345, 12345)
        child = os.fork()
        if child == 0:
            try:
                os.setuid(23456)
                OwnFolder(Path(root) / "own")
            except InputError as error:
                os._exit(0 if "belongs to another user" in str(error) else 1)
            except BaseException:
                os._exit(2)
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
