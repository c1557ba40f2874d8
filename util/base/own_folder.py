"""A folder of this project beside files of others: private to this person, and never left by a link.

Whoever hands a folder on, or may write into the one above, can put links in the place of our files and folders. So everything
is opened from the folder's descriptor, by one plain name, and a link is refused. Libraries that ask for a path get one in a work
folder, whose name nobody else can know.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from qnet.util.base.errors import InputError
from qnet.util.base.files import LIST, NO_SYNC, PARTIAL
from qnet.util.base.locks import EARLIER_LOCK, LOCK, held
from qnet.util.base.system import CLOEXEC, DIRECTORY, HOLDS_FOLDERS, NOFOLLOW, NONBLOCK, make_mode

PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
WORK = ".work-"         # how the names of work folders begin
_PLAIN = NOFOLLOW | NONBLOCK | CLOEXEC      # no link, and no waiting for the other end of a pipe
_FOLDER = os.O_RDONLY | DIRECTORY | NOFOLLOW | CLOEXEC


class OwnFolder:
    """An open folder. It is made 0700 and what is written into it 0600, whatever the umask.

    Its methods take names, not paths.

    Args:
        path: of the folder, for messages and for paths in a work folder.
        parent: the open folder that it lies in; None if anything may lie there.
    Raises:
        InputError: a link or a file has its name, or it belongs to somebody else; or the system opens no files from a folder.
        OSError: it cannot be made or opened.
    """

    def __init__(self, path: Path, parent: OwnFolder | None = None):
        if not HOLDS_FOLDERS:
            raise InputError(f"{path}: cannot be kept private on {sys.platform}, allowed: Linux and macOS (qnet segment needs "
                             "no such folder)")
        self.path = path
        self.descriptor: int
        within = None if parent is None else parent.descriptor
        name = path if parent is None else path.name
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, PRIVATE_FOLDER, dir_fd=within)
        try:
            self.descriptor = os.open(name, _FOLDER, dir_fd=within)
        except OSError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=within, follow_symlinks=False).st_mode):
                raise InputError(f"{path}: is there and is no folder; allowed: to move it away") from None
            raise
        if os.geteuid() not in (os.fstat(self.descriptor).st_uid, 0):
            self.close()
            raise InputError(f"{path}: belongs to another user; allowed: to move it away")

    def make_private(self) -> None:
        """Make an earlier folder and its files private, too."""
        with contextlib.suppress(PermissionError):      # a file system without modes
            make_mode(self.descriptor, PRIVATE_FOLDER)
        for name in self.names():
            with contextlib.suppress(OSError):
                os.close(self._open(name, os.O_RDONLY))

    def inner(self, name: str) -> OwnFolder:
        """Return a folder in this one. It is made if need be, and made private."""
        folder = OwnFolder(self.path / _plain(name), self)
        folder.make_private()
        return folder

    def close(self) -> None:
        """Close it."""
        os.close(self.descriptor)

    def names(self) -> list[str]:
        """Return the names of its files, without links, folders and devices."""
        return sorted(entry.name for entry in self._entries() if entry.is_file(follow_symlinks=False))

    def _entries(self) -> list[os.DirEntry[str]]:
        with os.scandir(self.descriptor) as entries:
            return list(entries)

    def is_empty(self) -> bool:
        """Return whether nothing but a lock is in it."""
        return all(entry.name in (LOCK, EARLIER_LOCK) for entry in self._entries())

    def has(self, name: str) -> bool:
        """Return whether it has a file.

        Raises:
            InputError: a link, a folder or a device has that name.
        """
        try:
            status = os.stat(_plain(name), dir_fd=self.descriptor, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
                return False
            raise
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{self.path / name}: is a link, a folder or a device; allowed: a plain file")
        return True

    def _open(self, name: str, flags: int) -> int:
        """Return a descriptor of a plain file, which is private from here on."""
        try:
            descriptor = os.open(_plain(name), flags | _PLAIN, PRIVATE_FILE, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno != errno.ENOENT:
                self.has(name)
            error.filename = str(self.path / name)
            raise
        status, writes = os.fstat(descriptor), flags & (os.O_WRONLY | os.O_RDWR)
        if not stat.S_ISREG(status.st_mode) or (writes and status.st_nlink > 1):
            os.close(descriptor)
            raise InputError(f"{self.path / name}: is a link, a folder or a device; allowed: a plain file")
        with contextlib.suppress(PermissionError):
            make_mode(descriptor, PRIVATE_FILE)
        return descriptor

    def read(self, name: str, limit: int | None = None) -> bytes:
        """Return the content of a file.

        Raises:
            InputError: there is none, it is a link, a folder or a device, or it has more than `limit` bytes.
        """
        try:
            with os.fdopen(self._open(name, os.O_RDONLY), "rb") as file:
                content = file.read(-1 if limit is None else limit + 1)
        except FileNotFoundError:
            raise InputError(f"{self.path / name}: no such file") from None
        if limit is not None and len(content) > limit:
            raise InputError(f"{self.path / name}: has more than {limit} bytes, which is the most that such a file may have")
        return content

    def lock(self, refusal: str) -> BinaryIO:
        """Lock it for this process, as `qnet.util.base.locks.lock`."""
        return held(os.fdopen(self._open(LOCK, os.O_RDWR | os.O_CREAT), "r+b"), self.path, refusal)

    def fresh(self, name: str) -> BinaryIO:
        """Return a new, empty file to write to, in the place of one that may be there."""
        self.remove(name)
        return os.fdopen(self._open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            OSError: it cannot be written, as on a full disk. The error names it; what was there is unchanged.
        """
        partial = f"{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}"
        try:
            with self.fresh(partial) as file:
                file.write(content)
            self._take(partial, self.descriptor, name)
        except OSError as error:
            self.remove(partial)
            error.filename = str(self.path / name)
            raise

    def take(self, made: Path, name: str) -> None:
        """Move a file of a work folder of this file system here, under a name.

        Raises:
            OSError: it cannot be moved. The error names its place here.
        """
        source = os.open(made.parent, _FOLDER)
        try:
            self._take(made.name, source, name)
        except OSError as error:
            error.filename = str(self.path / name)
            raise
        finally:
            os.close(source)

    def _take(self, made: str, source: int, name: str) -> None:
        """Sync a file, list it, and give it its name here."""
        descriptor = os.open(made, os.O_RDONLY | _PLAIN, dir_fd=source)
        with os.fdopen(descriptor, "rb") as file:
            with contextlib.suppress(PermissionError):
                make_mode(descriptor, PRIVATE_FILE)
            os.fsync(descriptor)
            entry = {"name": name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        # listed before it has its name, so that a kill in between leaves no unlisted file
        with os.fdopen(self._open(LIST, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as listed:
            listed.write(b"\n" + json.dumps(entry).encode())
        os.rename(made, _plain(name), src_dir_fd=source, dst_dir_fd=self.descriptor)
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            if error.errno not in NO_SYNC:      # a file system that syncs no folders
                raise

    def lend(self, name: str, to: Path) -> Path:
        """Give a file a second name in a work folder, for a library that reads paths, and return that path.

        Raises:
            InputError: as `read`.
        """
        to.unlink(missing_ok=True)
        if not self.has(name):
            raise InputError(f"{self.path / name}: no such file")
        try:
            os.link(name, to, src_dir_fd=self.descriptor, follow_symlinks=False)
        except OSError:      # a file system without hard links
            with to.open("xb") as file:
                file.write(self.read(name))
        if not stat.S_ISREG(to.lstat().st_mode):      # a link that came in between
            to.unlink()
            raise InputError(f"{self.path / name}: is a link, a folder or a device; allowed: a plain file")
        return to

    def remove(self, name: str) -> None:
        """Remove a file, or a link itself, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_plain(name), dir_fd=self.descriptor)

    def remove_leftovers(self) -> None:
        """Remove the work folders and temporary files that killed processes left. No other may be at work here."""
        for name in [entry.name for entry in self._entries()]:
            if name.startswith(WORK):
                shutil.rmtree(name, ignore_errors=True, dir_fd=self.descriptor)
            elif name.startswith(PARTIAL):
                with contextlib.suppress(OSError):
                    self.remove(name)

    @contextlib.contextmanager
    def work(self) -> Iterator[Path]:
        """Yield the path of a new, empty folder in this one. It is gone after the block.

        Should somebody exchange this folder meanwhile, the path leads nowhere.
        """
        name = f"{WORK}{secrets.token_hex(16)}"
        os.mkdir(name, PRIVATE_FOLDER, dir_fd=self.descriptor)
        try:
            yield self.path / name
        finally:
            shutil.rmtree(name, ignore_errors=True, dir_fd=self.descriptor)


def _plain(name: str) -> str:
    """Return the name of a file in a folder.

    Raises:
        InputError: it leads elsewhere.
    """
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise InputError(f"{name!r}: leads to another folder, allowed: the name of a file")
    return name
