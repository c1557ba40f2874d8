"""What the person takes away from the labelling page: label maps as NIfTI, a table, and the examples as a task file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.geometry import voxel_ml
from dataloaders.nifti import read_affine, read_array
from util.base.errors import InputError
from util.base.files import replacing
from util.base.guard import claim
from util.base.root import ROOT
from util.base.tables import write_rows
from util.label.session import Session

COLUMNS = ("scan", "state", "label", "label_name", "volume_ml", "slices", "confidence")


def export(session: Session) -> list[Path]:
    """Write the present outlines of every scan, accepted or not, cases.csv, and, if there is an example, a task file.

    Returns:
        The paths of the files.
    Raises:
        InputError: a file of an earlier export was changed since, or a class has a name that a task file cannot hold.
        OSError: a file cannot be written.
    """
    folder = session.path / "export"
    maps = {name: outlines for name in session.usable() if (outlines := session.outlines_file(name))}
    files = {name: folder / f"{name}.nii.gz" for name in maps}
    table = folder / "cases.csv"
    claim([*files.values(), table], maps.values(), remedy=f"moving {folder} away")
    for name, outlines in maps.items():
        with replacing(files[name]) as partial:
            shutil.copyfile(outlines, partial)
    write_rows([row for name in maps for row in rows_of(session, name, files[name])], COLUMNS, table)
    return [*files.values(), table, *write_task(session, folder / "examples.task")]


def write_task(session: Session, path: Path) -> list[Path]:
    """Write the examples as a task file, in a process of its own, which loads PyTorch. Return its path; nothing if there is none.

    Raises:
        InputError: what the command `task create` says.
    """
    supports = session.supports()
    if not supports:
        return []
    held = {int(value) for _, labels in supports for value in np.unique(read_array(labels))}
    classes = [one for one in session.classes if one["value"] in held]
    pairs = [text for name, labels in supports for text in ("--support", str(session.scan_file(name)), str(labels))]
    command = [sys.executable, "-m", "util.predict.task_command", "create", *pairs,
               "--names", *(f"{one['value']}={one['name']}" for one in classes),
               "--colours", *(f"{one['value']}={one['colour']}" for one in classes), "--", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise InputError(f"{path.name}: {lines[-1].removeprefix('error: ')}")
    return [path]


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
               "volume_ml": round(mask.sum() * ml, 2), "slices": int(mask.any(axis=(1, 2)).sum()),
               "confidence": confidence.get(one["value"])}
