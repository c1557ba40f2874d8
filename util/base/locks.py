"""Locks on a folder, which end with the process however that ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from util.base.errors import InputError

LOCK = ".made.lock"     # the file that is locked, in the folder; it is empty


def lock(folder: Path, refusal: str) -> TextIO:
    """Lock a folder for this process. The lock lasts until the returned file is closed or the process ends.

    Args:
        refusal: what the error says after the folder's name.
    Raises:
        InputError: another process has locked it.
    """
    file = (folder / LOCK).open("a", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)    # not held by children that outlive this process
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            raise InputError(f"{folder}: {refusal}") from None
    return file


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a folder's lock within the block. This waits for other processes that are in such a block, also on other machines.

    On a file system without locks it does not wait.
    """
    with (folder / LOCK).open("a", encoding="utf-8") as file:
        with contextlib.suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def unlock(folder: Path) -> None:
    """Remove the empty file that `alone` left in a folder, when no process uses it any more."""
    path = folder / LOCK
    with contextlib.suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()
