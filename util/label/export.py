"""What the person takes away from the labelling page: label maps as NIfTI, and a table."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dataloaders.nifti import read_array, read_spacing_mm
from util.base.files import replacing
from util.base.guard import claim
from util.base.tables import write_rows
from util.label.session import Session

COLUMNS = ("scan", "state", "label", "label_name", "volume_ml", "slices", "confidence")


def export(session: Session) -> list[Path]:
    """Write the present outlines of every scan, accepted or not, and cases.csv. Return the paths of the files.

    Raises:
        InputError: a file of an earlier export was changed since.
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
    return [*files.values(), table]


def rows_of(session: Session, name: str, outlines: Path) -> Iterator[Mapping[str, Any]]:
    """Yield a scan's rows of cases.csv, one for each class. Outlines by hand have no confidence.

    Args:
        outlines: its label map.
    """
    label_map, voxel_ml = read_array(outlines), float(np.prod(read_spacing_mm(outlines))) / 1000
    overview = next(scan for scan in session.overview()["scans"] if scan["name"] == name)
    by_computer = overview["state"] in ("found", "accepted")
    confidence = {row["label"]: row.get("confidence") for row in overview["rows"]} if by_computer else {}
    for one in session.classes:
        mask = label_map == one["value"]
        yield {"scan": name, "state": overview["state"], "label": one["value"], "label_name": one["name"],
               "volume_ml": round(mask.sum() * voxel_ml, 2), "slices": int(mask.any(axis=(1, 2)).sum()),
               "confidence": confidence.get(one["value"])}
