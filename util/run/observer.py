"""The folder of a run: made by sacred, taken up again by a run that goes on, and used by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sacred.observers import FileStorageObserver
from sacred.serializer import flatten

from util.base.errors import InputError
from util.base.files import PARTIAL, replacing
from util.run.folders import numbered_runs

CONFIG = "config.json"
STALE_S = 3600      # a folder that is still being made after that is left from a process that was killed


class RunFolder(FileStorageObserver):
    """Sacred's observer, which takes up an earlier run folder again and survives a full disk.

    Args:
        folders: where a new run folder is made, with the next number.
        continued: an earlier run folder to go on in, or None.
        config: of the run.
    Raises:
        InputError: another process is at work in `continued`.
        OSError: no folder can be made.
    """

    def __init__(self, folders: Path, continued: Path | None, config: Mapping[str, Any]):
        super().__init__(folders)
        self.dir = str(continued or new_run_folder(folders, config))
        self._lock = lock(Path(self.dir))
        (Path(self.dir) / "metrics.json").unlink(missing_ok=True)    # training logs again what it resumes

    def _make_run_dir(self, _id: str | None) -> None:
        """It is there since `__init__`, where an error is one line still."""

    def save_json(self, obj: Any, filename: str) -> None:
        with _no_loss_to_the_run(), replacing(Path(self.dir) / filename, listed=False) as partial:
            partial.write_text(json.dumps(flatten(obj), sort_keys=True, indent=2), encoding="utf-8")

    def save_cout(self) -> None:
        with _no_loss_to_the_run():
            super().save_cout()

    def join(self) -> None:
        """Let go of the folder: sacred's last call."""
        self._lock.close()


def new_run_folder(folders: Path, config: Mapping[str, Any]) -> Path:
    """Make the next run folder, which has its config.json from the first moment, so that a rerun knows whose it is."""
    folders.mkdir(parents=True, exist_ok=True)
    for killed in folders.glob(f"{PARTIAL}*"):
        if time.time() - killed.stat().st_mtime > STALE_S and {path.name for path in killed.glob("*")} <= {CONFIG}:
            shutil.rmtree(killed, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folders))
    partial.chmod(0o755)
    (partial / CONFIG).write_text(json.dumps(flatten(config), sort_keys=True, indent=2), encoding="utf-8")
    number = max((int(path.name) for path in numbered_runs(folders)), default=0)
    while True:
        number += 1
        try:
            return partial.rename(folders / str(number))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):      # another process took the number
                raise


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
    file = (folder / ".lock").open("a", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)    # of this process alone: loader workers that outlive it do not keep it
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            raise InputError(f"{folder}: another process is at work on this run (this one is {os.getpid()}); "
                             "resume=never starts another run") from None
    return file
