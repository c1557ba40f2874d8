"""Several sequences of one patient, as `p1_T1.nii.gz` and `p1_T2.nii.gz`, or `p1/T1/` and `p1/T2/`: one scan with channels.

The first channel stands for the patient: results lie on its voxels and are named after the patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qnet.dataloaders.finding import Found, LeftOut, find_scans
from qnet.dataloaders.reading import ending_of, is_slice, scan_name
from qnet.util.base.errors import InputError
from qnet.util.predict.bids import find_bids

SEPARATORS = "_-. "         # between the name of a patient and that of a channel
VALUES = (".img", ".img.gz")        # of a header beside them


def scans_below(root: Path, output: Path | None = None, suffix: str | None = None, channels: Sequence[str] = ()) -> Found:
    """Return the scans below a folder; those with a suffix of a BIDS folder; with channels, the first one of each patient.

    A patient who lacks a channel is left out and might be a scan. So is a scan that is none of the channels, unless it is another
    sequence of a patient who has them all.

    Raises:
        InputError: as `find_bids`; the suffix is not the first channel; or `root` is a scan that lacks a channel.
    """
    if suffix is not None and channels and suffix != channels[0]:
        raise InputError(f"suffix: got {suffix!r}, allowed with these channels: the first of them, {channels[0]!r}")
    found = find_scans(root, output) if suffix is None else find_bids(root, suffix)
    return _patients(found, channels) if channels else found


def channels_of(scan: Path, channels: Sequence[str]) -> tuple[Path, ...]:
    """Return the paths of a patient's channels; without channels, the scan alone.

    Args:
        scan: the first channel. The others lie beside it, under the same name but for the channel's.
        channels: their names.
    Raises:
        InputError: the scan is not named as the first channel, or another one is missing or there twice.
    """
    if not channels:
        return (scan,)
    stem = _stem(scan, channels[0])
    if stem is None:
        raise InputError(f"{scan}: is not the channel {channels[0]}; allowed: a name that is {channels[0]} or ends in "
                         f"_{channels[0]}, before the ending")
    return scan, *(_beside(scan, stem, channel) for channel in channels[1:])


def _beside(scan: Path, stem: str, channel: str) -> Path:
    found = [path for path in sorted(scan.parent.iterdir()) if scan_name(path) == stem + channel
             and (path.is_dir() or is_slice(path) or ending_of(path) not in ("", *VALUES))]
    if not found:
        raise InputError(f"{scan}: has no {channel} beside it; allowed: {stem}{channel}, a file or a folder of DICOM slices")
    if len(found) > 1:
        raise InputError(f"{scan}: has two {channel} beside it, {found[0].name} and {found[1].name}; allowed: one")
    return found[0]


def patient_of(scan: Path, channel: str) -> str:
    """Return what is left of the name of a scan without that of a channel; if nothing is, the name of its folder."""
    return scan_name(scan).removesuffix(channel).rstrip(SEPARATORS) or scan.resolve().parent.name


def _stem(path: Path, channel: str) -> str | None:
    """Return what comes before the name of a channel in that of a scan, with its separator; None if it is no such channel."""
    name = scan_name(path)
    stem = name.removesuffix(channel)
    return stem if name != stem and stem[-1:] in ("", *SEPARATORS) else None


def _patients(found: Found, channels: Sequence[str]) -> Found:
    names, whole, left_out = dict[Path, str](), set[Path](), list(found.left_out)
    for path, name in found.names.items():
        if _stem(path, channels[0]) is None:
            continue
        try:
            whole.update(channels_of(path, channels))
            names[path] = name.removesuffix(channels[0]).rstrip(SEPARATORS) or patient_of(path, channels[0])
        except InputError as error:
            if found.root_is_scan:
                raise
            left_out.append(LeftOut(path, str(error).removeprefix(f"{path}: "), True))
    known = {one.path for one in left_out} | whole
    left_out += [LeftOut(path, _why(path, channels), not _is_of(path, list(names), channels[0]))
                 for path in found.names if path not in known]
    return Found(found.root, names, left_out)


def _why(path: Path, channels: Sequence[str]) -> str:
    """Return why a scan is no patient's first channel, and no other one of a patient who has them all."""
    for channel in channels[1:]:
        if (stem := _stem(path, channel)) is not None:
            try:
                _beside(path, stem, channels[0])
            except InputError as error:
                return str(error).removeprefix(f"{path}: ")
            return f"is the {channel} of a patient who is left out"
    return f"is none of the channels {', '.join(channels)}, by its name"


def _is_of(path: Path, patients: Sequence[Path], first: str) -> bool:
    """Return whether a scan lies where a patient's channels lie, and is named as they are."""
    return any(path.parent == one.parent and path.name.startswith(str(_stem(one, first))) for one in patients)
