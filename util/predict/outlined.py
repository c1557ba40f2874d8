"""Which scan, and which file of outlines, a command line names with SCAN=LABELS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from qnet.dataloaders.reading import scan_name
from qnet.util.base.errors import InputError, did_you_mean, listed
from qnet.util.base.guard import is_same
from qnet.util.base.inputs import expect_file


def outlined_pair(text: str, scans: Mapping[Path, str], folder: Path, of: str) -> tuple[Path, Path]:
    """Return the scan and the label file that `--outlined` names. Either may have = in its name.

    Args:
        scans: their names, by path.
        folder: where the label file is sought when it is not there as it is named.
        of: what has the scans, for the message, as "--scans".

    Raises:
        InputError: the scan is not among `scans`, or the label file is missing or is the scan itself.
    """
    pieces = text.split("=")
    splits = [("=".join(pieces[:k]), "=".join(pieces[k:])) for k in range(1, len(pieces))]
    pairs = [(scan, labels_at(Path(labels), folder)) for given, labels in splits for scan, name in scans.items()
             if _is_named(scan, name, given)]
    if not splits:
        raise InputError(f"--outlined: got {text!r}, allowed: SCAN=LABELS, a scan of the folder and the file of its outlines")
    if not pairs:
        scan_named("--outlined", splits[0][0], scans, of)
    scan, labels = next((pair for pair in pairs if pair[1].is_file()), pairs[0])
    if is_same(expect_file(labels), scan):
        raise InputError(f"--outlined: {labels} is the scan itself; allowed: the file of its outlines")
    return scan, labels


def labels_at(path: Path, folder: Path) -> Path:
    """Return a path from the working folder; or from `folder`, where only that is there."""
    return folder / path if not path.exists() and (folder / path).exists() else path


def scan_named(option: str, given: str, scans: Mapping[Path, str], of: str) -> Path:
    """Return the scan that an option names: by its name, its file, or its path.

    Args:
        scans: their names, by path.
        of: what has the scans, for the message, as "--scans".

    Raises:
        InputError: there is none.
    """
    if (scan := next((scan for scan, name in scans.items() if _is_named(scan, name, given)), None)) is not None:
        return scan
    near = did_you_mean(given, [*scans.values(), *(scan.name for scan in scans)])
    raise InputError(f"{option}: {given!r} is no scan of {of}{near}; allowed: {listed(list(scans.values()))}")


def _is_named(scan: Path, name: str, given: str) -> bool:
    return given in (name, scan.name, scan_name(scan)) or (bool(given) and is_same(Path(given), scan))
