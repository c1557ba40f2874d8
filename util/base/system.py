"""What systems do: locks on open files, flags of `os.open` and priorities that Windows lacks, and a reader who leaves."""

from __future__ import annotations

import errno
import os
import sys
from typing import IO

try:
    import fcntl
except ImportError:     # Windows
    fcntl = None        # type: ignore[assignment]

# 0 where a system has no such flag
NOFOLLOW, NONBLOCK = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)
CLOEXEC, DIRECTORY = getattr(os, "O_CLOEXEC", 0), getattr(os, "O_DIRECTORY", 0)
HOLDS_FOLDERS = os.open in os.supports_dir_fd       # whether files can be opened from the descriptor of their folder


def lock_file(file: IO, *, wait: bool) -> bool:
    """Lock an open file for this process until it is closed or the process ends. Return whether it could be had.

    Args:
        wait: until no other process has it.
    Raises:
        OSError: the file system has no locks.
    """
    if fcntl is None:
        from filelock import lock_descriptor
        return lock_descriptor(file.fileno(), blocking=wait)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))   # not held by children that outlive this process
    except OSError as error:
        if wait or error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    return True


def print_help(text: str) -> None:
    """Print a text for a reader that may leave before its end, as `head` does. Then nothing is said about it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())      # what is flushed at the end of the process


def yield_to_others(niceness: int) -> None:
    """Let other processes go first, where a process may say so.

    Args:
        niceness: how much, from 1 to 19.
    """
    if hasattr(os, "nice"):
        os.nice(niceness)


def make_mode(descriptor: int, mode: int) -> None:
    """Give an open file or folder a mode, where files have one.

    Raises:
        OSError: it is somebody else's, or of a file system without modes.
    """
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, mode)
