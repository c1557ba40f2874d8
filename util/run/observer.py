"""The run folder: made for a new run or taken from the run that is continued, and locked by one process."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sacred.dependencies import get_digest
from sacred.observers import FileStorageObserver
from sacred.serializer import flatten

from qnet.util.base.files import PARTIAL, is_partial, partial_name, replacing
from qnet.util.base.locks import lock
from qnet.util.options.record import Record
from qnet.util.run.folders import numbered_runs

CONFIG = "config.json"
STALE_S = 3600      # an unfinished folder older than this was left by a killed process


class RunFolder(FileStorageObserver):
    """Sacred's observer. It can continue an earlier run folder, and a full disk does not stop the run.

    Args:
        folders: a new run folder is made in this one, with the next number.
        continued: the run folder to continue, or None for a new one.
        record: the options of the run.
    Raises:
        InputError: another process works in `continued`.
        OSError: the folder cannot be made.
    """

    def __init__(self, folders: Path, continued: Path | None, record: Record):
        super().__init__(folders)
        self.folder = continued or new_run_folder(folders, record)
        self.dir = str(self.folder)     # as sacred needs it
        self._lock = lock(self.folder, f"another process is at work on this run (this one is {os.getpid()}); "
                                       "resume=never starts another run")
        (self.folder / "metrics.json").unlink(missing_ok=True)    # a resumed training logs its earlier steps again

    def _make_run_dir(self, _id: str | None) -> None:
        """Do nothing: `__init__` made the folder, at a time when an error is still one line."""

    def find_or_save(self, filename: str, store_dir: Path) -> Path:
        """Keep a copy of a source file beside the run folders, whole or not at all. A failure is only a warning."""
        source = Path(filename)
        with _warn_only():
            kept = Path(store_dir) / f"{source.stem}_{get_digest(filename)}{source.suffix}"
            if not kept.exists():
                with replacing(kept, listed=False) as partial:
                    shutil.copyfile(source, partial)
            return kept
        return source

    def save_json(self, obj: Any, filename: str) -> None:
        """Write a JSON file into the run folder, whole or not at all. A failure is only a warning."""
        with _warn_only(), replacing(self.folder / filename, listed=False) as partial:
            partial.write_text(json.dumps(flatten(obj), sort_keys=True, indent=2), encoding="utf-8")

    def save_cout(self) -> None:
        """Write what the run has printed. A failure is only a warning."""
        with _warn_only():
            super().save_cout()

    def join(self) -> None:
        """Unlock the run folder. Sacred calls this last."""
        self._lock.close()


def new_run_folder(folders: Path, record: Record) -> Path:
    """Make the run folder with the next number. It appears with its config.json, by which a rerun finds it.

    Raises:
        OSError: the folder cannot be made.
    """
    folders.mkdir(parents=True, exist_ok=True)
    for killed in folders.glob(f"{PARTIAL}*"):
        is_old = is_partial(killed.name) and time.time() - killed.stat().st_mtime > STALE_S
        if is_old and {path.name for path in killed.glob("*")} <= {CONFIG}:
            shutil.rmtree(killed, ignore_errors=True)
    partial = partial_name(folders / f"run-{secrets.token_hex(4)}")
    partial.mkdir()
    (partial / CONFIG).write_text(json.dumps(flatten(record.options), sort_keys=True, indent=2), encoding="utf-8")
    number = max((int(path.name) for path in numbered_runs(folders)), default=0)
    while True:
        number += 1
        try:
            return partial.rename(folders / str(number))
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):      # another process took the number
                raise


@contextlib.contextmanager
def _warn_only() -> Iterator[None]:
    """Print a warning where sacred cannot write a file. The results are in other files."""
    try:
        yield
    except OSError as error:
        print(f"warning: {error.filename}: {error.strerror}", file=sys.stderr)
