"""Locks on a folder, which end with the process however that ends."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from qnet.util.base.errors import InputError
from qnet.util.base.system import CLOEXEC, NOFOLLOW, lock_file, make_mode

LOCK = ".made.lock"     # the file that is locked, in the folder; it is empty
EARLIER_LOCK = ".lock"  # the same, of earlier versions
MODE = 0o622            # of it, less the umask: the owner, and others only if they may write it


def lock(folder: Path, refusal: str) -> BinaryIO:
    """Lock a folder for this process. The lock lasts until the returned file is closed or the process ends.

    Args:
        refusal: what the error says after the folder's name.
    Raises:
        InputError: another process has locked it.
        OSError: it cannot be locked, as when a link has the name of the lock.
    """
    return held(_opened(folder), folder, refusal)


def held(file: BinaryIO, folder: Path, refusal: str) -> BinaryIO:
    """Lock the open lock file of a folder, and return it. The rest is as `lock`."""
    with contextlib.suppress(OSError):      # a file system without locks
        if not lock_file(file, wait=False):
            file.close()
            raise InputError(f"{folder}: {refusal}")
    return file


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a folder's lock within the block. This waits for other processes that are in such a block, also on other machines.

    On a file system without locks it does not wait.
    """
    with _opened(folder) as file:
        with contextlib.suppress(OSError):
            lock_file(file, wait=True)
        yield


def unlock(folder: Path) -> None:
    """Remove the empty file that `alone` left in a folder, when no process uses it any more."""
    path = folder / LOCK
    with contextlib.suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()


def _opened(folder: Path) -> BinaryIO:
    """Open a folder's lock file. Only people who may write it may read it, since everybody who can read a file can lock it.

    A link in its place is refused.
    """
    descriptor = os.open(folder / LOCK, os.O_WRONLY | os.O_APPEND | os.O_CREAT | NOFOLLOW | CLOEXEC, MODE)
    with contextlib.suppress(OSError):      # of somebody else, or a file system without modes
        make_mode(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & MODE)
    return os.fdopen(descriptor, "ab")
