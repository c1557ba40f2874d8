"""Writes files whole or not at all, and keeps a list of the files that this project wrote."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qnet.util.base.checksums import sha256
from qnet.util.base.system import lock_file

PARTIAL = ".partial-"
NAME_BYTES = 255          # of a file name, on nearly all file systems
SUM_LETTERS = 8
NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}
LIST = ".made.jsonl"      # in every output folder: one line per file with its name and SHA-256
STALE_S = 3600.0          # no program writes one file or prepared volume for so long


@contextlib.contextmanager
def replacing(path: Path, *, listed: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`. When the block ends, the file written there replaces `path`.

    File and folder are synced, so the file survives a power cut.

    Args:
        listed: add name and checksum to the folder's LIST, so that `qnet.util.base.guard.claim` recognises the file. Files that
            only the run itself reads, in its own folder, need no entry.
    Raises:
        OSError: the file cannot be written, as on a full disk. The error names `path`. After this or any other error, the
            temporary file is gone and `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        yield partial
        _sync(partial)
        if listed:      # before the rename, so that a kill in between leaves no unlisted file
            append_json(path.with_name(LIST), {"name": path.name, "sha256": sha256(partial)})
        partial.replace(path)
        _sync(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial), str(path.with_name(LIST))):
            error.filename = str(path)
        raise


def partial_name(path: Path) -> Path:
    """Return the temporary path under which this process writes `path`. It has the same ending, and no name of a user's.

    It is no longer than NAME_BYTES: of a longer name, it has the end.
    """
    end, told = path.name, f"{os.getpid()}-{_short_sum(path.name)}"
    while len(os.fsencode(f"{PARTIAL}{told}{'0' * SUM_LETTERS}-{end}")) > NAME_BYTES:
        end = end[1:]
    return path.with_name(f"{PARTIAL}{told}{_short_sum(f'{told}-{end}')}-{end}")


def _short_sum(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:SUM_LETTERS]


def is_partial(name: str) -> bool:
    """Return whether `partial_name` made a name. It carries a check sum, so that nobody's own file is taken for one."""
    found = re.fullmatch(rf"{re.escape(PARTIAL)}(\d+-[0-9a-f]{{{SUM_LETTERS}}})([0-9a-f]{{{SUM_LETTERS}}})-(.*)", name, re.DOTALL)
    return found is not None and _short_sum(f"{found[1]}-{found[3]}") == found[2]


def write_text(text: str, path: Path) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_synced(path: Path, content: bytes | memoryview) -> None:
    """Write a file into a folder that `partial_name` gave, and sync it. The caller renames the folder when it is whole.

    Raises:
        OSError: the file cannot be written. The error names `path`.
    """
    try:
        path.write_bytes(content)
        _sync(path)
    except OSError as error:
        error.filename = str(path)
        raise


def remove_partial_files(folder: Path, older_s: float = 0) -> None:
    """Remove the temporary files and folders that killed processes left in a folder.

    Args:
        older_s: only those that did not change for so many seconds. 0: all, where no other process writes into the folder.
    """
    for path in folder.glob(f"{PARTIAL}*"):
        if not is_partial(path.name):       # somebody's own
            continue
        with contextlib.suppress(FileNotFoundError):       # another process was faster
            if time.time() - path.lstat().st_mtime < older_s:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def made_in(folder: Path) -> set[tuple[str, str]]:
    """Return (name, checksum) of every file that this project ever wrote into a folder. Damaged lines of LIST are skipped."""
    entries = set()
    for entry in json_lines(folder / LIST):
        with contextlib.suppress(TypeError, KeyError):
            entries.add((str(entry["name"]), str(entry["sha256"])))
    return entries


def append_json(path: Path, *entries: object) -> None:
    """Append entries to a file that has one per line, in one write and under a lock, as several processes may do so.

    The line break comes first, so a line that was cut short does not spoil the next.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("a", encoding="ascii") as file:
        with contextlib.suppress(OSError):      # without a lock, network drives may lose a line of two machines
            lock_file(file, wait=True)
        file.write("".join("\n" + json.dumps(entry) for entry in entries))


def json_lines(path: Path) -> Iterator[Any]:
    """Yield the entries of such a file. Damaged lines are skipped, and a file that cannot be read has none."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            yield json.loads(line)


def _sync(path: Path) -> None:
    """Sync a file or a folder. Some network file systems cannot sync folders; there the file is renamed without that."""
    try:
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)      # Windows syncs what can be written
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in NO_SYNC):
            raise
