"""The folder in which libraries read and write while a session is open, and from which whole files are taken."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from qnet.util.base.errors import InputError
from qnet.util.base.own_folder import OwnFolder


class Workplace:
    """A folder of the session that nobody else knows.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lent = count()

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Yield a new, empty folder for other programs' files, which is gone after the block."""
        path = self.path / str(next(self._lent))
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def told(self, text: str) -> str:
        """Return what another program said, with the names of files in the place of their paths in work folders."""
        return re.sub(rf"{re.escape(str(self.path))}/[^/\s]+/", "", text)

    @contextmanager
    def lend(self, folder: OwnFolder, name: str) -> Iterator[Path]:
        """Yield a path of a file of the session, for a library. What it says of it is told of the file itself."""
        with self.folder() as work:
            try:
                yield folder.lend(name, work / name)
            except InputError as error:
                raise type(error)(str(error).replace(str(work), str(folder.path))) from None
