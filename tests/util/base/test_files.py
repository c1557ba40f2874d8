"""Whole files, the list of what was written, and what may be written over."""

import errno
import os
import re
import stat

import pytest

from qnet.util.base.checksums import sha256
from qnet.util.base.errors import InputError
from qnet.util.base.files import LIST, PARTIAL, made_in, partial_name, remove_partial_files, replacing, write_text
from qnet.util.base.guard import claim, expect_apart, is_made, lies_in

REFUSED = "is there and was not made by this program, or was changed since"


def refused(message, *arguments, **options):
    with pytest.raises(InputError, match=re.escape(message)):
        claim(*arguments, **options)


def test_a_file_is_whole_and_listed_or_as_it_was(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text("one", path)
    assert is_made(path, made_in(path.parent)) and {entry.name for entry in path.parent.iterdir()} == {"a.txt", LIST}

    def stopped_half_way():
        with replacing(path) as partial:
            partial.write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped_half_way()
    assert path.read_text(encoding="utf-8") == "one" and {entry.name for entry in path.parent.iterdir()} == {"a.txt", LIST}


@pytest.mark.parametrize("full", [partial_name, lambda path: path.with_name(LIST)])
def test_a_full_disk_names_the_file(full, tmp_path):
    full(tmp_path / "a.txt").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_text("x" * 100_000, tmp_path / "a.txt")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path / "a.txt")
    assert not (tmp_path / "a.txt").exists()


def test_what_was_made_may_be_replaced_and_nothing_else(tmp_path):
    made, other = tmp_path / "made.txt", tmp_path / "other.txt"
    claim([made, other])        # neither is there
    for text in ("first", "second"):
        write_text(text, made)
        claim([made])
    other.write_text("a user's", encoding="utf-8")
    refused(f"{other}: {REFUSED}; allowed: another output, or --overwrite", [made, other])
    refused("overwrite=true, which replaces it", [other], remedy="overwrite=true")
    claim([made, other], overwrite=True)
    made.write_text("corrected by hand", encoding="utf-8")
    refused(f"{made}: {REFUSED}", [made])
    made.write_text("first", encoding="utf-8")        # what it was before is as well this project's
    claim([made])
    made.rename(tmp_path / "kept.txt")      # under a new name it is the user's
    refused(REFUSED, [tmp_path / "kept.txt"])


@pytest.mark.parametrize("spoilt", [b"", b"\xff\xfe", b"[]", b'{"name": 3}', b'{"na'])
def test_a_damaged_list_loses_no_more_than_it_held(spoilt, tmp_path):
    write_text("one", tmp_path / "a")
    (tmp_path / LIST).write_bytes(spoilt)
    refused(REFUSED, [tmp_path / "a"])
    write_text("two", tmp_path / "b")
    claim([tmp_path / "b"])


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link", "device"])
def test_only_plain_files_are_written_over(kind, tmp_path):
    path = tmp_path / "x"
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "dangling link": lambda: path.symlink_to("nowhere"),
     "device": lambda: path.symlink_to("/dev/null")}[kind]()
    refused(f"{path}: is ", [path])
    if kind != "dangling link":
        refused(f"{path}: is a {'folder' if kind == 'folder' else 'device or pipe'}", [path], overwrite=True)


def spellings(scan, folder):
    """Other names of a scan, each in a way of its own."""
    os.link(scan, folder / "hard.nii.gz")
    (folder / "soft.nii.gz").symlink_to(scan)
    (folder / "again.nii.gz").symlink_to(folder / "soft.nii.gz")
    (folder / "linked").symlink_to(scan.parent, target_is_directory=True)
    return [scan, folder / "hard.nii.gz", folder / "soft.nii.gz", folder / "again.nii.gz", folder / "linked" / scan.name,
            scan.parent / ".." / scan.parent.name / scan.name, folder / "linked" / ".." / scan.parent.name / scan.name,
            type(scan)(os.path.relpath(scan))]


def test_no_input_is_written_over_under_any_name(tmp_path):
    scan = tmp_path / "scans" / "a.nii.gz"
    scan.parent.mkdir()
    write_text("a scan", scan)
    names = spellings(scan, tmp_path)
    for name in names:
        for overwrite in (False, True):
            refused(f"{name}: is read, as {scan}", [name], [scan], overwrite=overwrite)
            refused(f"{scan}: is read, as {name}", [scan], [name], overwrite=overwrite)
    claim([scan.with_name("b.nii.gz")], [scan, tmp_path / "missing"])


def test_nothing_is_written_into_a_folder_that_is_read_as_a_whole(tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    (tmp_path / "linked").symlink_to(series)
    (series / "elsewhere").symlink_to(tmp_path)
    for output in (series / "x", series / "new/deep/x", tmp_path / "linked/x", tmp_path / "linked/new/x"):
        refused(f"{output}: lies in {series}, which is read as a whole", [output], [series], overwrite=True)
    with pytest.raises(InputError):
        expect_apart([series], [tmp_path])
    expect_apart([tmp_path / "series.nii.gz", tmp_path / "series2/x"], [series])
    assert lies_in(series / "x", series) and not lies_in(tmp_path / "x", series)


def test_two_processes_list_in_one_file(tmp_path):
    pids = []
    for k in range(2):
        if (pid := os.fork()) == 0:
            for n in range(50):
                write_text(f"{k} {n}", tmp_path / f"{k}_{n}")
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    claim(tmp_path.glob("[01]_*"))
    assert made_in(tmp_path) == {(path.name, sha256(path)) for path in tmp_path.glob("[01]_*")}


def test_partial_files_and_folders_are_removed_by_their_age(tmp_path):
    paths = [partial_name(tmp_path / name) for name in ("1-old.nii", "2-young.nii", "3-old", "4-young")]
    for path in paths[:2]:
        path.write_bytes(b"half")
    for path in paths[2:]:
        path.mkdir()
        (path / "half.npy").write_bytes(b"half")
    (tmp_path / "5.nii").write_bytes(b"whole")
    for path in (paths[0], paths[2], tmp_path / "5.nii"):
        os.utime(path, (0, 0))
    remove_partial_files(tmp_path, 60)
    assert {path.name for path in tmp_path.iterdir()} == {paths[1].name, paths[3].name, "5.nii"}
    remove_partial_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["5.nii"]


def test_a_users_own_files_are_not_taken_for_ours(tmp_path):
    (tmp_path / ".partial-notes").write_text("mine", encoding="utf-8")
    (tmp_path / f"{PARTIAL}1-a.nii.gz").write_text("mine", encoding="utf-8")
    remove_partial_files(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["a.nii.gz", "腹" * 80 + ".nii.gz", "x" * 248 + ".nii.gz"])
def test_the_temporary_name_is_never_too_long(tmp_path, name):
    assert partial_name(tmp_path / name).name.endswith(".nii.gz")
    write_text("x", tmp_path / name)
    assert (tmp_path / name).exists()


def test_a_file_system_that_cannot_sync_folders_keeps_the_files(tmp_path, monkeypatch):
    sync = os.fsync

    def no_folder(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", no_folder)
    write_text("kept", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "kept"


@pytest.mark.parametrize(("path", "message"), [
    ("/proc/x/a.txt", "^/proc/x: cannot be written to"), ("file/a.txt", "file: cannot be written to"),
    ("out/" + "x" * 256, "its name has 256 bytes, allowed: 255")])
def test_what_cannot_be_written_is_told_before_any_work(tmp_path, path, message):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=message):
        claim([tmp_path / path])
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_told_before_any_work(tmp_path):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device"):
            claim([tmp_path / "out/a.txt"])
    assert list(tmp_path.iterdir()) == []
