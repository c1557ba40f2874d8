"""The scans of a folder that is labelled, and the rule that nothing outside of it is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from dataloaders.nifti import read_header
from util.base.errors import InputError, in_utf8
from util.base.inputs import expect_utf8
from util.predict.scans import ENDINGS, find_scans, scan_name


@dataclass(frozen=True)
class Scan:
    """A scan of the folder.

    Attributes:
        name: of the file without its ending, or of the folder.
        path: of a NIfTI file or a folder of DICOM slices.
        problem: why it cannot be used; None if nothing is known against it.
    """

    name: str
    path: Path
    problem: str | None


def list_scans(folder: Path, session: Path, pattern: str = "*") -> dict[str, Scan]:
    """Return the scans of a folder by name.

    Args:
        folder: with NIfTI files or folders of DICOM slices.
        session: a folder in it that holds no scans.
        pattern: of the file names that are scans, as "image_*".
    Raises:
        InputError: there is no such folder, no scan in it, or two have the same name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; allowed: a folder of scans")
    found = [path for path in _found(folder, session) if fnmatch(path.name, pattern)]
    if not found:
        raise InputError(f"{folder}: holds no scan named {pattern}; allowed: NIfTI files, or folders of DICOM slices")
    if twice := [name for name, count in Counter(map(scan_name, found)).items() if count > 1]:
        raise InputError(f"{folder}: two scans have the name {twice[0]}; allowed: names that differ before the ending")
    return {scan_name(path): Scan(scan_name(path), path, _problem(path, folder)) for path in found}


def _found(folder: Path, session: Path) -> list[Path]:
    try:
        found = find_scans(folder, session)
    except InputError:      # its message is about an option of another command
        return []
    return [path for path in found if path != folder and not _holds_nifti(path)]


def _holds_nifti(path: Path) -> bool:
    """Return whether a path is a folder of NIfTI files, as of outlines, and so no series of DICOM slices."""
    return path.is_dir() and any(item.name.endswith(ENDINGS) for item in path.iterdir())


def _problem(path: Path, folder: Path) -> str | None:
    try:
        for place in (path, *(path.iterdir() if path.is_dir() else ())):
            expect_utf8(place)
        expect_inside(path, folder)
        if path.is_file():
            read_header(path)
    except InputError as error:
        return str(error)
    return None


def expect_inside(path: Path, folder: Path) -> Path:
    """Return a path.

    Raises:
        InputError: it, or a file below it, lies outside of the folder, as by a link.
    """
    root = folder.resolve()
    for place in (path, *(path.rglob("*") if path.is_dir() else ())):
        if not place.resolve().is_relative_to(root):
            raise InputError(f"{place}: leads out of {folder}; allowed: files of the folder itself")
    return path


def label_files(folder: Path, session: Path) -> dict[str, Path]:
    """Return the NIfTI files of a folder and its sub-folders that may hold outlines, by their path in the folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.name.endswith(ENDINGS) and path.is_file()
             and not path.name.startswith(".") and session not in path.parents)
    inside = (path for path in files if path.resolve().is_relative_to(folder.resolve()))
    return {in_utf8(path.relative_to(folder).as_posix()): path for path in inside}
