"""Protects the user's files: before any work, every program checks here that it may write its outputs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Set
from contextlib import suppress
from functools import cache
from pathlib import Path

from qnet.util.base.checksums import sha256
from qnet.util.base.errors import InputError
from qnet.util.base.files import made_in, partial_name

OVERWRITE_HELP = "replace files that this program did not make, or that were changed since; none that it reads"
PROBE_BYTES = 2**16
Identity = tuple[int, int]      # device and inode: the same for every spelling, link and hard link of a file


def claim(outputs: Iterable[Path], inputs: Iterable[Path] = (), *, overwrite: bool = False, remedy: str = "--overwrite") -> None:
    """Check that all `outputs` may and can be written. Nothing stays changed.

    Args:
        outputs: every file that will be written.
        inputs: every file that is read, and every folder that is read as a whole, such as a DICOM series or a run folder.
        overwrite: allow replacing files that this project did not make, or that were changed since. Inputs are never replaced.
        remedy: how the user asks for `overwrite`; part of the message.
    Raises:
        InputError: an output is an input or lies in one; or it exists and is not a plain file; or it exists, `overwrite` is
            false, and it is not as this project wrote it; or its folder cannot be written to, or its name is too long.
    """
    outputs = list(outputs)
    expect_apart(outputs, inputs)
    made = cache(made_in)
    for path in outputs:
        if not os.path.lexists(path):
            continue
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is a {'folder' if path.is_dir() else 'device or pipe'}, allowed: a name for a file")
        if not overwrite and not is_made(path, made(path.parent)):
            raise InputError(f"{path}: is there and was not made by this program, or was changed since; allowed: another output, "
                             f"or {remedy}, which replaces it")
    expect_writable(outputs)


def expect_writable(outputs: Iterable[Path]) -> None:
    """Try to write to the folder of each output, and remove what was written.

    Raises:
        InputError: a folder cannot be made or written to, has no space left, or the name of an output is too long for it.
    """
    for folder, names in _by_folder(outputs).items():
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        probe = partial_name(folder / "probe")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            longest = os.pathconf(folder, "PC_NAME_MAX")
            if too_long := next((name for name in names if len(os.fsencode(name)) > longest), None):
                raise InputError(f"{folder / too_long}: its name has {len(os.fsencode(too_long))} bytes, allowed: {longest}")
            probe.unlink(missing_ok=True)
            with probe.open("xb") as file:
                file.write(b"\0" * PROBE_BYTES)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise InputError(f"{folder}: cannot be written to ({error.strerror})") from None
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
            for place in made:
                with suppress(OSError):     # another process uses it now
                    place.rmdir()


def _by_folder(outputs: Iterable[Path]) -> dict[Path, list[str]]:
    names: dict[Path, list[str]] = {}
    for path in outputs:
        names.setdefault(path.parent, []).append(path.name)
    return names


def expect_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise InputError if an output is one of the inputs or lies in one. Links are followed."""
    read = {identity: path for path in inputs if (identity := _identity(path))}
    if not read:
        return
    identity_of = cache(_identity)
    for output in outputs:
        for place in _places(output):
            if (identity := identity_of(place)) and (found := read.get(identity)):
                what = f"lies in {found}, which is read as a whole" if found.is_dir() else f"is read, as {found}"
                raise InputError(f"{output}: {what}; allowed: an output that is none of the inputs")


def is_made(path: Path, made: Set[tuple[str, str]]) -> bool:
    """Return whether a file is as this project wrote it. `made` is the result of `qnet.util.base.files.made_in` for its
    folder.
    """
    return path.is_file() and (path.name, sha256(path)) in made


def lies_in(path: Path, folder: Path) -> bool:
    """Return whether a file is in a folder or below it. Links are followed. A folder lies in itself."""
    return any(is_same(place, folder) for place in _places(path))


def is_same(path: Path, other: Path) -> bool:
    """Return whether both paths exist and are the same file or folder. Links are followed."""
    return (identity := _identity(path)) is not None and identity == _identity(other)


def _places(output: Path) -> list[Path]:
    """Return the file and all folders above it. Of a link, also those of its target."""
    own, final = Path(os.path.realpath(output.parent)) / output.name, Path(os.path.realpath(output))
    return [own, *own.parents, final, *final.parents]


def _identity(path: Path) -> Identity | None:
    """Return device and inode of a file or folder; None if it does not exist."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino)
