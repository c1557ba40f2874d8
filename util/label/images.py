"""The scans of a labelled folder as the page gets them: checked, as NIfTI files, and as small pictures."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from qnet.dataloaders.finding import name_problem
from qnet.dataloaders.itk import check_image
from qnet.dataloaders.nifti import is_plain
from qnet.dataloaders.reading import read_image
from qnet.util.base.errors import InputError
from qnet.util.base.inputs import expect_file, expect_utf8
from qnet.util.base.own_folder import OwnFolder
from qnet.util.label.listing import Scan, expect_inside
from qnet.util.label.preparing import prepare_apart, stamp_of
from qnet.util.label.workplace import Workplace


class MissingError(InputError):
    """What a request names is not there."""


class Images:
    """The scans, by several threads.

    Args:
        folder: of the scans.
        scans: by name. One that turns out to be unusable gets its problem.
        copies, pictures: folders of the session for both.
        place: where they are made.
    """

    def __init__(self, folder: Path, scans: dict[str, Scan], copies: OwnFolder, pictures: OwnFolder, place: Workplace):
        self.folder, self.scans, self._scan_folder, self._picture_folder, self._place = folder, scans, copies, pictures, place
        self._checked: set[str] = set()     # scans whose values were read
        self._pictures: dict[str, str] = {}     # names of the files that are of the scans as they are
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def scan_file(self, name: str) -> Path:
        """Return the path of a scan as it lies in the folder: what segmenting reads.

        Raises:
            MissingError: there is no such scan.
            InputError: it leads out of the folder.
        """
        if name not in self.scans:
            raise MissingError(f"scan: got {name!r}, allowed: a scan of {self.folder}")
        return expect_utf8(expect_inside(self.scans[name].path, self.folder))

    def image_file(self, name: str) -> Path:
        """Return the path of a scan as a NIfTI file that the page places as this program does; others are written so once.

        The scan is checked as segmenting checks it. One that is refused is unreadable from then on.

        Raises:
            MissingError: there is no such scan.
            InputError: it cannot be read, leads out of the folder, or has too long a name.
        """
        path = self._named_file(name)
        copy = self._place.path / "scans" / file_name(name)
        with self._locks[name]:
            if name not in self._checked:
                with self._told_of(name, path):
                    if is_plain(path):
                        if not self._is_prepared(name, path):
                            check_image(read_image(path), path)
                    else:
                        self._prepare(name, path)
                        copy.parent.mkdir(exist_ok=True)
                        self._scan_folder.lend(copy.name, copy)
                self.scans[name] = replace(self.scans[name], problem=None)
                self._checked.add(name)
        return expect_file(path if is_plain(path) else copy)

    def _named_file(self, name: str) -> Path:
        path = self.scan_file(name)
        if problem := name_problem(name):
            raise InputError(f"{path}: {problem}")
        if not path.exists():
            raise InputError(f"{path}: no such file")
        return path

    @contextmanager
    def _told_of(self, name: str, path: Path) -> Iterator[None]:
        """Keep why a scan could not be used."""
        try:
            yield
        except InputError as error:
            if path.exists():       # else it may come back
                self.scans[name] = replace(self.scans[name], problem=str(error))
            raise

    def prepare(self, name: str) -> None:
        """Make a scan ready for the page, if it is not yet: its picture for the list, and a copy if it is no plain NIfTI.

        Raises:
            MissingError: there is no such scan.
            InputError: as `image_file`.
            OSError: a file cannot be written.
        """
        path = self._named_file(name)
        with self._told_of(name, path):
            self._prepare(name, path)

    def _prepare(self, name: str, path: Path) -> None:
        """Make copy and picture in a process of its own, unless those that are there are of the same files."""
        with self._locks[f"{name}/picture"]:      # not that of the image: one that is plain is given meanwhile
            self._prepare_alone(name, path)

    def _is_prepared(self, name: str, path: Path) -> bool:
        """Return whether picture and copy are there, which are made of a checked scan, and of the same files."""
        return self._picture_folder.has(_picture_of(name, path)) and (is_plain(path) or self._scan_folder.has(file_name(name)))

    def _prepare_alone(self, name: str, path: Path) -> None:
        picture, is_copied = _picture_of(name, path), not is_plain(path)
        if not self._is_prepared(name, path):
            with self._place.folder() as work:
                prepare_apart(path, work / file_name(name) if is_copied else None, work / picture)
                if is_copied:
                    self._scan_folder.take(work / file_name(name), file_name(name))
                for earlier in self._picture_folder.names():
                    if re.fullmatch(rf"{re.escape(name)}\.[0-9a-f]{{16}}\.png", earlier):
                        self._picture_folder.remove(earlier)
                self._picture_folder.take(work / picture, picture)
        self._pictures[name] = picture

    def picture_place(self, name: str) -> tuple[OwnFolder, str] | None:
        """Return the folder and the name of the small picture of a scan, without outlines; None if there is none yet."""
        return (self._picture_folder, self._pictures[name]) if name in self._pictures else None


def file_name(scan: str) -> str:
    """Return the name of a file about a scan, in a folder of such files."""
    return f"{scan}.nii.gz"


def _picture_of(scan: str, path: Path) -> str:
    return f"{scan}.{stamp_of(path)}.png"
