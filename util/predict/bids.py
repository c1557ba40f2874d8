"""BIDS: the scans of one kind in a BIDS folder, and outlines as a folder of derivatives beside the other results.

https://bids-specification.readthedocs.io: a scan is `sub-01/anat/sub-01_T1w.nii.gz`, and `T1w` is its suffix.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import qnet
from qnet.dataloaders.finding import Found
from qnet.dataloaders.outlines.name_tables import BIDS
from qnet.dataloaders.reading import is_nifti, scan_name
from qnet.util.base.errors import InputError
from qnet.util.base.files import replacing, write_text
from qnet.util.base.tables import write_rows
from qnet.util.predict.request import Query

VERSION = "1.10.0"          # of BIDS
ABOUT, FOLDER = BIDS, "derivatives"
MAKER = "qnet"
SUFFIX_RULE = "letters and digits, as T1w"


def find_bids(root: Path, suffix: str) -> Found:
    """Return the scans of a BIDS folder that have a suffix, named by their files. Nothing else in it is looked at.

    Raises:
        InputError: it is no BIDS folder, the suffix is none, or no scan has it.
    """
    if not (root / ABOUT).is_file():
        raise InputError(f"{root}: is no BIDS folder, as it has no {ABOUT}")
    if not re.fullmatch("[A-Za-z0-9]+", suffix):
        raise InputError(f"suffix: got {suffix!r}, allowed: {SUFFIX_RULE}")
    images = [path for subject in sorted(root.glob("sub-*")) for path in sorted(subject.rglob("*")) if is_nifti(path)]
    names = {path: name for path in images if (name := scan_name(path)).rpartition("_")[2] == suffix}
    if not names:
        others = sorted({scan_name(path).rpartition("_")[2] for path in images})
        raise InputError(f"{root}: no scan has the suffix {suffix}; its scans have {', '.join(others[:20]) or 'none'}")
    return Found(root, names)


def entity(suffix: str) -> str:
    """Return what tells the outlines of scans of one suffix from those of others."""
    return f"desc-{MAKER}{suffix}"


def label_map_of(query: Query, root: Path, folder: Path, suffix: str) -> Path:
    """Return the path of a query's outlines among the derivatives: as sub-01/anat/sub-01_desc-qnetT1w_dseg.nii.gz.

    Args:
        root: the BIDS folder that the query is in.
        folder: of all results.
    """
    name = f"{query.name.removesuffix(f'_{suffix}')}_{entity(suffix)}_dseg.nii.gz"
    return folder / FOLDER / query.scan.relative_to(root).parent / name


def table_of(label_map: Path) -> Path:
    """Return the path of the table that names the values of a label map."""
    return label_map.with_name(f"{scan_name(label_map)}.tsv")


def files_of(queries: Sequence[Query], root: Path, folder: Path, suffix: str) -> list[Path]:
    """Return every file that `write` writes."""
    maps = [label_map_of(query, root, folder, suffix) for query in queries]
    return [*maps, *map(table_of, maps), folder / FOLDER / ABOUT, folder / FOLDER / f"{entity(suffix)}_dseg.json"]


def write(queries: Sequence[Query], root: Path, folder: Path, suffix: str, names: Mapping[int, str],
          colours: Mapping[int, str]) -> None:
    """Write the outlines of queries, which are on disk, as derivatives that are a BIDS folder of their own.

    Args:
        names, colours: of the labels, by value.
    Raises:
        OSError: a file cannot be read or written.
    """
    about = {"Name": "Outlines", "BIDSVersion": VERSION, "DatasetType": "derivative",
             "GeneratedBy": [{"Name": MAKER, "Version": qnet.__version__}]}
    write_text(json.dumps(about, indent=1) + "\n", folder / FOLDER / ABOUT)
    told = {"Description": f"Outlines by {MAKER} on the voxels of the {suffix} scan", "SpatialReference": "orig"}
    write_text(json.dumps(told, indent=1) + "\n", folder / FOLDER / f"{entity(suffix)}_dseg.json")
    rows = [{"index": value, "name": name, "color": colours[value]} for value, name in names.items()]
    for query in queries:
        label_map = label_map_of(query, root, folder, suffix)
        with replacing(label_map) as partial:
            partial.write_bytes(query.target.read_bytes())
        write_rows(rows, ("index", "name", "color"), table_of(label_map), tabs=True)
