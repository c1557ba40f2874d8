"""What was found out about files, kept on disk: a file that did not change is not read again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qnet.util.base.files import append_json, json_lines


class Kept:
    """A fact about each of many files, kept in a list on disk, which can be removed at any time.

    A file counts as unchanged while its size and its times of change, in nanoseconds, are the same. Several processes may add to
    one list.

    Args:
        path: of the list. Its folder is made if need be.
        find_out: returns the fact about a file, which JSON can hold.
        settings: what else the fact depends on, as JSON.
    """

    def __init__(self, path: Path, find_out: Callable[[Path], Any], settings: Any = None):
        self.path, self.find_out, self.settings = path, find_out, settings
        self._known: dict[str, tuple[list[int], Any]] = {}
        self._new: list[str] = []       # keys of what is not in the list yet
        self.read()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pool's process needs, which is without the facts: there may be many."""
        return {**self.__dict__, "_known": {}, "_new": []}

    def read(self) -> None:
        """Read the list, to which other processes may have added."""
        for entry in json_lines(self.path):
            with contextlib.suppress(TypeError, KeyError):
                if entry["settings"] == self.settings:
                    self._known[str(entry["file"])] = entry["state"], entry["fact"]

    def knows(self, path: Path) -> bool:
        """Return whether the fact about a file is known. Raises OSError if the file is missing."""
        return self._known.get(str(path.absolute()), (None,))[0] == _state(path)

    def of(self, path: Path) -> Any:
        """Return the fact about a file. It is kept after `save`.

        Raises:
            OSError: the file cannot be read; and what `find_out` raises.
        """
        key, state = str(path.absolute()), _state(path)        # before it is read
        if self._known.get(key, (None,))[0] != state:
            self._known[key] = state, self.find_out(path)
            self._new.append(key)
        return self._known[key][1]

    def save(self) -> None:
        """Add what is new to the list. Where it cannot be written, nothing is kept."""
        entries = [{"file": key, "settings": self.settings, "state": self._known[key][0], "fact": self._known[key][1]}
                   for key in self._new]
        self._new.clear()
        with contextlib.suppress(OSError):
            if entries:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                append_json(self.path, *entries)


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
