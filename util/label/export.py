"""What the person takes away from the labelling page: label maps as NIfTI, a table, and the examples as a task file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qnet.dataloaders.geometry import voxel_ml
from qnet.dataloaders.nifti import read_affine, read_array
from qnet.util.base.errors import InputError
from qnet.util.base.guard import claim
from qnet.util.base.root import module_command, module_environment
from qnet.util.base.tables import write_rows
from qnet.util.label.session import TASK, Session
from qnet.util.label.stored import expect_unlike
from qnet.util.label.teaching import example, lend_examples
from qnet.util.predict.cases import PAGE_COLUMNS, TABLE, measured


def export(session: Session) -> list[Path]:
    """Write the present outlines of every scan, accepted or not, cases.csv, and, if there is an example, a task file.

    Returns:
        The paths of the files.
    Raises:
        InputError: a file of an earlier export was changed since, or two classes have names that are the same in names
            of files.
        OSError: a file cannot be written.
    """
    folder = session.export_folder
    expect_unlike(session.classes)
    with session.work_folder() as work:
        maps = {name: work / f"{name}.nii.gz" for name in session.usable()
                if _copy(session.outlines(name), work / f"{name}.nii.gz")}
        files = [*(path.name for path in maps.values()), TABLE]
        claim([folder.path / file for file in (*files, TASK)], remedy=f"moving {folder.path} away")
        write_rows([row for name, path in maps.items() for row in rows_of(session, name, path)], PAGE_COLUMNS, work / TABLE)
        for file in files:
            folder.take(work / file, file)
        if any(example(session, name)[0].any() for name in session.supports()):
            write_task(session, work)
            folder.take(work / TASK, TASK)
            files.append(TASK)
    return [folder.path / file for file in files]


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
    done = subprocess.run(command, env=module_environment(), capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise InputError(f"{path.name}: {lines[-1].removeprefix('error: ')}")


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
        yield {"scan": name, "state": overview["state"], "label": one["value"], "label_name": one["name"],
               **measured(mask, ml), "confidence": confidence.get(one["value"])}
