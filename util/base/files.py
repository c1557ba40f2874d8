"""Writes files whole or not at all, and keeps a list of the files that this project wrote."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from util.base.checksums import sha256

PARTIAL = ".partial-"
LIST = ".made.jsonl"      # in every output folder: one line per file with its name and SHA-256


@contextlib.contextmanager
def replacing(path: Path, *, listed: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`. When the block ends, the file written there replaces `path`.

    File and folder are synced, so the file survives a power cut.

    Args:
        listed: add name and checksum to the folder's LIST, so that `util.base.guard.claim` recognises the file. Files that
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
            _list(path, sha256(partial))
        partial.replace(path)
        _sync(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial), str(path.with_name(LIST))):
            error.filename = str(path)
        raise


def partial_name(path: Path) -> Path:
    """Return the temporary path under which this process writes `path`. It has the same ending."""
    return path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")


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


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder."""
    for path in folder.glob(f"{PARTIAL}*"):
        path.unlink(missing_ok=True)


def made_in(folder: Path) -> set[tuple[str, str]]:
    """Return (name, checksum) of every file that this project ever wrote into a folder. Damaged lines of LIST are skipped."""
    try:
        lines = (folder / LIST).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return set()
    entries = set()
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            entry = json.loads(line)
            entries.add((str(entry["name"]), str(entry["sha256"])))
    return entries


def _list(path: Path, checksum: str) -> None:
    """Append a line to the folder's LIST in one write, as several processes may do so.

    The line break comes first, so a line that was cut short does not spoil the next.
    """
    with path.with_name(LIST).open("a", encoding="ascii") as file:
        file.write("\n" + json.dumps({"name": path.name, "sha256": checksum}))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
