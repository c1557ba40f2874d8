"""The scans of a folder that is labelled, and the rule that nothing outside of it is read."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from qnet.dataloaders.finding import Found, find_scans, name_problem, same_names
from qnet.dataloaders.reading import check_header, ending_of
from qnet.util.base.errors import InputError, in_utf8
from qnet.util.base.inputs import expect_utf8

NO_OUTLINES = ("", ".img", ".img.gz")        # endings; the header of a pair stands for both files


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
    """Return the scans of a folder by name. What might be one and cannot be read is among them, with its problem.

    Args:
        folder: with image files, and DICOM slices at any depth. Image files in sub-folders, as of outlines, are no scans.
        session: a folder in it that holds no scans.
        pattern: of the file names that are scans, as "image_*".
    Raises:
        InputError: there is no such folder, no scan in it, or two have the same name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; allowed: a folder of scans")
    found = find_scans(folder, session, deep=False)
    names = {path: name for path, name in found.names.items() if not found.root_is_scan and fnmatch(path.name, pattern)}
    if not names:
        raise InputError(f"{folder}: holds no scan named {pattern}; allowed: NIfTI files, or folders of DICOM slices")
    if twice := same_names(names):
        raise InputError(f"{folder}: two scans have the name {names[twice[0]]}; allowed: names that differ before the ending")
    scans = {name: Scan(name, path, name_problem(name) or problem_at(path, folder)) for path, name in names.items()}
    odd = [one for one in found.left_out if one.may_be_scan and one.path != folder and fnmatch(one.path.name, pattern)]
    left_out = {in_utf8(one.path.relative_to(folder).as_posix()).replace("/", "_"): one for one in odd}
    listed = scans | {name: Scan(name, one.path, _leads_out(one.path, folder) or one.reason) for name, one in left_out.items()
                      if name not in scans}
    return listed | {name: scan for name, scan in _folders_of_notes(found, folder).items()
                     if name not in listed and fnmatch(name, pattern)}


def _folders_of_notes(found: Found, folder: Path) -> dict[str, Scan]:
    """Return the sub-folders that hold files, but nothing that is or may be an image, each as a scan that cannot be read."""
    notes, others = dict[str, str](), {path.relative_to(folder).parts[0] for path in found.names if path != folder}
    for one in found.left_out:
        top, *below = one.path.relative_to(folder).parts or ("",)
        if one.may_be_scan or ending_of(one.path):
            others.add(top)
        elif below:
            notes.setdefault(top, f"holds no scan ({'/'.join(below)} {one.reason})")
    return {in_utf8(top): Scan(in_utf8(top), folder / top, why) for top, why in notes.items() if top not in others}


def _leads_out(path: Path, folder: Path) -> str | None:
    try:
        expect_inside(path, folder)
    except InputError as error:
        return str(error)
    return None


def problem_at(path: Path, folder: Path) -> str | None:
    """Return why a scan cannot be used, as far as that shows without its values; None if nothing is known against it."""
    try:
        check_header(expect_inside(expect_utf8(path), folder))
    except (InputError, OSError) as error:
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
    """Return the files of a folder and its sub-folders that may hold outlines, but for DICOM, by their path in the folder."""
    files = (path for path in sorted(folder.rglob("*")) if ending_of(path) not in NO_OUTLINES and path.is_file()
             and not path.name.startswith(".") and session not in path.parents)
    inside = (path for path in files if path.resolve().is_relative_to(folder.resolve()))
    return {in_utf8(path.relative_to(folder).as_posix()): path for path in inside}
