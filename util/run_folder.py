"""The folder of a run: made by sacred, taken up again by a run that goes on, and used by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sacred.observers import FileStorageObserver
from sacred.serializer import flatten

from util.errors import InputError
from util.files import replacing


class RunFolder(FileStorageObserver):
    """Sacred's observer, which takes up an earlier run folder again and survives a full disk.

    Args:
        folders: where a new run folder is made, with the next number.
        continued: an earlier run folder to go on in, or None.
    Raises:
        InputError: another process is at work in `continued`.
        OSError: no folder can be made.
    """

    def __init__(self, folders: Path, continued: Path | None):
        super().__init__(folders)
        if continued is None:
            super()._make_run_dir(None)
        else:
            self.dir = str(continued)
        self._lock = lock(Path(self.dir))
        (Path(self.dir) / "metrics.json").unlink(missing_ok=True)    # training logs again what it resumes

    def _make_run_dir(self, _id: str | None) -> None:
        """It is there since `__init__`, where an error is one line still."""

    def save_json(self, obj: Any, filename: str) -> None:
        with _no_loss_to_the_run(), replacing(Path(self.dir) / filename) as partial:
            partial.write_text(json.dumps(flatten(obj), sort_keys=True, indent=2), encoding="utf-8")

    def save_cout(self) -> None:
        with _no_loss_to_the_run():
            super().save_cout()

    def join(self) -> None:
        """Let go of the folder: sacred's last call."""
        self._lock.close()


@contextlib.contextmanager
def _no_loss_to_the_run() -> Iterator[None]:
    """Only warn when a file of sacred's cannot be written: what matters is in the snapshots."""
    try:
        yield
    except OSError as error:
        print(f"warning: {error.filename}: {error.strerror}", file=sys.stderr)


def lock(folder: Path) -> Any:
    """Return an open file that holds the folder for this process until it is closed or the process ends, however it ends.

    Raises:
        InputError: another process holds it.
    """
    file = (folder / ".lock").open("a")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)    # of this process alone: loader workers that outlive it do not keep it
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            raise InputError(f"{folder}: another process is at work on this run (this one is {os.getpid()}); "
                             "resume=never starts another run") from None
    return file
