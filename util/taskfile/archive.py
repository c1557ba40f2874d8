"""Zip archives of a few known files: written with the same bytes every time, and read with suspicion.

Files are stored, never compressed, so an archive cannot unpack to more than its own size.
"""

from __future__ import annotations

import hashlib
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

from qnet.util.base.errors import InputError
from qnet.util.base.files import replacing
from qnet.util.base.inputs import expect_file

MAX_FILES = 256
MAX_MANIFEST_BYTES = 2**20
EARLIEST = (1980, 1, 1, 0, 0, 0)      # the time of every file: zip knows none before


def write_archive(files: Mapping[str, bytes], path: Path) -> None:
    """Write files into an archive, whole or not at all. The same files in the same order give the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, EARLIEST)
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16      # on Windows as on Linux
            archive.writestr(info, content)


def read_archive(path: Path, allowed: re.Pattern[str]) -> dict[str, bytes]:
    """Return the files of an archive by name. Nothing is written to the disk.

    Args:
        allowed: what a name must match as a whole.
    Raises:
        InputError: the file is missing, no zip, damaged, or holds anything but plain, stored files with allowed, distinct names.
    """
    expect_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            _expect_harmless(infos, path, allowed)
            return {info.filename: archive.read(info) for info in infos}
    except InputError:
        raise
    except Exception as error:      # a damaged zip can raise any error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: cannot be read as a task file ({reason})") from None


def _expect_harmless(infos: list[zipfile.ZipInfo], path: Path, allowed: re.Pattern[str]) -> None:
    if len(infos) > MAX_FILES:
        raise InputError(f"{path}: holds {len(infos)} files, allowed in a task file: {MAX_FILES}")
    names = [info.filename for info in infos]
    for info in infos:
        if (wrong := _wrong(info, allowed)) or names.count(info.filename) > 1:
            raise InputError(f"{path}: its file {info.filename!r} {wrong or 'is there twice'}; allowed: plain files that are not "
                             f"compressed, each once, named {allowed.pattern}")
    if (claimed := sum(info.file_size for info in infos)) > path.stat().st_size:
        raise InputError(f"{path}: its files claim {claimed} bytes, the archive has {path.stat().st_size}")


def _wrong(info: zipfile.ZipInfo, allowed: re.Pattern[str]) -> str | None:
    """Return what is wrong with a file, or None."""
    mode = info.external_attr >> 16
    if not allowed.fullmatch(info.orig_filename):      # what zipfile made of it may lack what follows a zero
        return "has another name than task files use"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "is a link, a folder or a device"
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        return "is compressed or encrypted"
    return None


def sha256_of(content: bytes) -> str:
    """Return the checksum of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
