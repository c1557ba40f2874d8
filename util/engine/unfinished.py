"""Keeps what is left of finished queries until the evaluation is complete, so that it can be continued."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qnet.util.base.files import replacing

FOLDER = "unfinished"     # in the run folder; removed once the evaluation is complete


class Unfinished:
    """A cache of JSON objects in a folder, one for each query. Its key is the task, from `TaskReader.key`.

    The owner of the folder must empty it when anything else changes that results depend on.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what was written for a task, or None if nothing was. A damaged file gives a warning and None."""
        path = self._path(key)
        try:
            with gzip.open(path, "rt", encoding="utf-8") as file:
                content = json.load(file)
            return content["result"] if content["task"] == key else None
        except FileNotFoundError:
            return None
        except Exception as error:      # gzip, zlib and json each raise their own
            print(f"warning: {path}: is damaged ({type(error).__name__}); this query is evaluated again")
            return None

    def write(self, key: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Write the result of a task. `read` returns the same values.

        Raises:
            OSError: the file cannot be written.
        """
        with replacing(self._path(key), listed=False) as partial, gzip.open(partial, "wt", encoding="utf-8") as file:
            json.dump({"task": key, "result": result}, file)

    def _path(self, key: Mapping[str, Any]) -> Path:
        return self.folder / f"{key['query']}.gz"
