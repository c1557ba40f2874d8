"""What the person takes away from the labelling page: label maps, in some formats, a table, and the examples as a task file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qnet.dataloaders.geometry import voxel_ml
from qnet.dataloaders.nifti import read_affine, read_array
from qnet.dataloaders.outlines.formats import FORMATS, NIFTI
from qnet.dataloaders.outlines.writing import expect_formats, files_in, formats_of, write_formats
from qnet.dataloaders.reading import read_image
from qnet.util.base.errors import InputError
from qnet.util.base.guard import claim
from qnet.util.base.root import module_command
from qnet.util.base.tables import write_rows
from qnet.util.label.apart import failure_of
from qnet.util.label.session import TASK, Session
from qnet.util.label.stored import expect_unlike
from qnet.util.label.teaching import example, lend_examples
from qnet.util.predict.cases import PAGE_COLUMNS, TABLE, measured


class Written(NamedTuple):
    """What an export wrote.

    Attributes:
        folder, files: names of files in a folder.
        problems: a line for each scan that a format cannot hold, and for each file of an earlier export that was not written
            anew.
    """

    folder: Path
    files: list[str]
    problems: list[str]


def export(session: Session, formats: Sequence[str] = ()) -> Written:
    """Write the present outlines of every scan, accepted or not, cases.csv, and, if there is an example, a task file.

    Args:
        formats: of `qnet.dataloaders.outlines.formats`: what outlines are written as too, beside the label maps.
    Raises:
        InputError: a file of an earlier export was changed since, two classes have names that are the same in names of files, or
            a format is not allowed for these scans.
        OSError: a file cannot be written.
    """
    folder = session.export_folder
    expect_unlike(session.classes)
    with session.work_folder() as work:
        maps = {name: work / f"{name}.nii.gz" for name in session.usable()
                if _copy(session.outlines(name), work / f"{name}.nii.gz")}
        labels = [one["name"] for one in session.classes]
        expect_formats(formats, [session.scan_file(name) for name in maps], labels, "formats")
        of_scan = {name: formats_of(formats, session.scan_file(name)) for name in maps}
        names = [file.name for name, path in maps.items() for file in (path, *files_in(of_scan[name], path, labels))]
        _expect_once(names, folder.path)
        claim([folder.path / name for name in (*names, TABLE, TASK)], remedy=f"moving {folder.path} away")
        problems = [f"{name}: is no DICOM series, so {one} cannot be written" for name in maps for one in formats
                    if one not in of_scan[name]]
        problems += [line for name, path in maps.items() for line in _write_formats(session, of_scan[name], name, path)]
        write_rows([row for name, path in maps.items() for row in rows_of(session, name, path)], PAGE_COLUMNS, work / TABLE)
        files = [name for name in (*names, TABLE) if (work / name).exists()]
        earlier = {file.name for path in maps.values() for file in files_in(FORMATS, path, labels)} - {*files}
        problems += [f"{name}: is of an earlier export" for name in sorted(earlier) if folder.has(name)]
        for name in files:
            folder.take(work / name, name)
        if any(example(session, name)[0].any() for name in session.supports()):
            write_task(session, work)
            folder.take(work / TASK, TASK)
            files.append(TASK)
    return Written(folder.path, files, problems)


def _expect_once(names: Sequence[str], folder: Path) -> None:
    """Raise InputError if two scans would be written to one file, as a_b of class c and a of class b_c."""
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise InputError(f"{folder / twice[0]}: two scans would be written to this file; allowed: another name of a class")


def _write_formats(session: Session, formats: Sequence[str], name: str, label_map: Path) -> Iterator[str]:
    """Write a scan's outlines beside its label map in other formats. Yield a line for each that cannot hold them."""
    scan = session.scan_file(name)
    names, colours = ({one["value"]: one[key] for one in session.classes} for key in ("name", "colour"))
    for one in (one for one in formats if one != NIFTI):
        try:
            write_formats([one], read_array(label_map), read_image(scan), scan, names, colours, label_map)
        except InputError as error:
            yield session.told(f"{name}: {one}: {error}")


def _copy(content: bytes | None, path: Path) -> bool:
    """Write the content of a file, if there is one, and return whether there is."""
    if content is not None:
        path.write_bytes(content)
    return content is not None


def write_task(session: Session, folder: Path) -> None:
    """Write the examples as a task file into a work folder, in a process of its own, which loads PyTorch.

    Raises:
        InputError: what the command `task create` says.
    """
    with session.work_folder() as lent:
        _write_task(session, folder / TASK, lend_examples(session, lent))


def _write_task(session: Session, path: Path, supports: Sequence[tuple[str, Path]]) -> None:
    held = {int(value) for _, labels in supports for value in np.unique(read_array(labels))}
    classes = [one for one in session.classes if one["value"] in held]
    pairs = [text for name, labels in supports for text in ("--support", str(session.scan_file(name)), str(labels))]
    command = [*module_command("qnet.util.predict.task_command"), "create", *pairs,
               "--names", *(f"{one['value']}={one['name']}" for one in classes),
               "--colours", *(f"{one['value']}={one['colour']}" for one in classes), "--", str(path)]
    if (why := failure_of(command)) is not None:
        raise InputError(f"{path.name}: {why}")


def rows_of(session: Session, name: str, outlines: Path) -> Iterator[Mapping[str, Any]]:
    """Yield a scan's rows of cases.csv, one for each class. Outlines by hand have no confidence.

    Args:
        outlines: its label map.
    """
    label_map, ml = read_array(outlines), voxel_ml(read_affine(outlines))
    overview = next(scan for scan in session.overview()["scans"] if scan["name"] == name)
    by_computer = overview["state"] in ("found", "accepted")
    confidence = {row["label"]: row.get("confidence") for row in overview["rows"]} if by_computer else {}
    for one in session.classes:
        mask = label_map == one["value"]
        yield {"scan": name, "state": overview["state"],
               "flagged": "yes" if overview["flagged"] else None, "label": one["value"], "label_name": one["name"],
               **measured(mask, ml), "confidence": confidence.get(one["value"])}
