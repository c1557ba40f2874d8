"""Writing files so that a name always stands for a whole file, and so that it is known which ones this project wrote."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from util.base.checksums import sha256

PARTIAL = ".partial-"
LIST = ".made.jsonl"      # in every folder written to: a line for each file, with its name and its SHA-256


@contextlib.contextmanager
def replacing(path: Path, *, listed: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path`; what was written there takes the place of `path` when the block ends.

    File and folder are synced, so that the file outlasts a power cut. When the block fails, for one because the disk is full,
    nothing of it stays and an earlier `path` is as it was; an OSError that names no file gets the name `path`.

    Args:
        listed: note name and check sum in the folder's LIST, by which `util.base.guard.claim` knows the file again. Files
            that only a run reads and writes, in its own folder, need none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        yield partial
        _sync(partial)
        if listed:      # before the file has its name: after a kill in between it is known all the same
            _list(path, sha256(partial))
        partial.replace(path)
        _sync(path.parent)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(partial), str(path.with_name(LIST))):
            error.filename = str(path)
        raise


def partial_name(path: Path) -> Path:
    """Return the name under which this process writes what is to become `path`, with the same ending."""
    return path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")


def write_text(text: str, path: Path) -> None:
    """Write a text file (UTF-8)."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_partial_files(folder: Path) -> None:
    """Remove what a process that was killed in `replacing` left in a folder."""
    for path in folder.glob(f"{PARTIAL}*"):
        path.unlink(missing_ok=True)


def made_in(folder: Path) -> set[tuple[str, str]]:
    """Return (name, check sum) of every file that this project ever wrote into a folder; lines that are damaged do not count."""
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
    """Append to the folder's LIST, in one call: several processes may. A line begins anew after one that was cut short."""
    with path.with_name(LIST).open("a", encoding="ascii") as file:
        file.write("\n" + json.dumps({"name": path.name, "sha256": checksum}))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
