"""A DICOM series with several images at each place, as a cine or a dynamic series: volumes in the order of time.

Each image is a file, or a frame of one.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from qnet.dataloaders.dicom import Slice, Stack, is_dicom, is_localizer, slices_in, slices_of, stack
from qnet.dataloaders.dicom_frames import said_of_frame
from qnet.util.base.errors import InputError

DAY = 86400.0
TIMES = {"TemporalPositionIdentifier": 0.0, "TemporalPositionTimeOffset": 1.0, "TriggerTime": 1e-3, "FrameReferenceTime": 1e-3,
         "AcquisitionTime": DAY}        # their units, in seconds
ONE_OF_EACH = ("EchoTime", "DiffusionBValue", "DiffusionGradientOrientation", "ImageType")       # else they are no times
READ = [*TIMES, *ONE_OF_EACH, "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
SAME_PLACE_MM = 0.01


def in_time(source: Path) -> tuple[list[Stack], float | None] | None:
    """Return the volumes of a series that has several images at each place, in the order of time; None if it is another one.

    The second result is the time from one to the next in seconds; None if the files do not say it.

    Args:
        source: a folder with one series beside localizers; or a DICOM file of a series.
    Raises:
        InputError: the images do not say their order in time, differ in more than time, or are not equally many at each place.
    """
    series = _series_at(source)
    if len(series) != 1 or any(one.place is None for one in series[0]):
        return None
    at: dict[tuple[float, ...], list[Slice]] = defaultdict(list)
    for one in series[0]:
        if one.place is not None:
            at[tuple((one.place[0] / SAME_PLACE_MM).round())].append(one)
    counts = sorted(map(len, at.values()))
    if counts[-1] == 1:
        return None
    if counts[0] != counts[-1]:
        raise InputError(f"{source}: has {counts[0]} to {counts[-1]} images at one place; allowed: equally many at each")
    order, step_s = _order_in_time(source, at)
    return [stack([of_place[k] for of_place in order], source) for k in range(counts[0])], step_s


def _series_at(source: Path) -> list[list[Slice]]:
    if source.is_dir():
        return [slices for slices in slices_in(source)[0].values() if not is_localizer(slices)]
    return [slices_of(source)] if source.is_file() and is_dicom(source) else []


def _order_in_time(folder: Path, at: Mapping[tuple[float, ...], Sequence[Slice]]) -> tuple[list[list[Slice]], float | None]:
    """Return the slices of each place in the order of time, and the usual time between two, in seconds."""
    said = _said([one for of_place in at.values() for one in of_place])
    for name in ONE_OF_EACH:
        if len(kinds := {str(head.get(name)) for head in said.values()}) > 1:
            raise InputError(f"{folder}: its images at one place differ in {name}, which has {len(kinds)} values; allowed: a "
                             "series that differs in time alone")
    times = {name: np.array([[_seconds(said[one.path, one.frame].get(name), unit) for one in of_place]
                             for of_place in at.values()]) for name, unit in TIMES.items()}
    telling = [name for name, of_name in times.items() if (np.diff(np.sort(of_name, axis=1), axis=1) > 0).all()]     # NaN is not
    if not telling:
        raise InputError(f"{folder}: there are several images at one place, which do not say their order in time; allowed: with "
                         f"one of {', '.join(TIMES)}")
    order = np.argsort(times[telling[0]], axis=1)
    steps = (np.diff(np.take_along_axis(times[name], order, axis=1), axis=1) for name in telling if TIMES[name])
    step_s = next((float(np.median(of_name)) for of_name in steps if (of_name > 0).all()), None)
    return [[of_place[k] for k in of_order] for of_place, of_order in zip(at.values(), order.tolist(), strict=True)], step_s


def _said(slices: Sequence[Slice]) -> dict[tuple[Path, int | None], Mapping[str, Any]]:
    """Return what the header says of each slice, by its file and the number of its frame: `TIMES` and `ONE_OF_EACH`."""
    heads: dict[Path, pydicom.Dataset] = {}
    found: dict[tuple[Path, int | None], Mapping[str, Any]] = {}
    for one in slices:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if one.path not in heads:
                    heads[one.path] = pydicom.dcmread(one.path, stop_before_pixels=True, specific_tags=READ, force=True)
                head = heads[one.path]
                found[one.path, one.frame] = ({name: head.get(name) for name in (*TIMES, *ONE_OF_EACH)} if one.frame is None
                                              else said_of_frame(head, one.frame))
        except Exception as error:      # pydicom raises whatever a damaged file leads to
            raise InputError(f"{one.path}: cannot be read as DICOM ({' '.join(str(error).split())[:200]})") from None
    return found


def _seconds(value: Any, unit: float) -> float:
    """Return a time as a number, NaN if it says none. A time of day, whose unit is DAY, is HHMMSS.F, maybe behind YYYYMMDD."""
    text = str(value if value is not None else "").strip()
    if unit == DAY:
        found = re.fullmatch(r"(\d{8})?(\d\d)(\d\d)(\d\d(?:\.\d+)?)(?:[-+]\d{4})?", text)
        return math.nan if found is None else _day(found[1]) + 3600 * int(found[2]) + 60 * int(found[3]) + float(found[4])
    return float(text) * (unit or 1.0) if re.fullmatch(r"[-+]?\d+(\.\d*)?([eE][-+]?\d+)?", text) else math.nan


def _day(date: str | None) -> float:
    """Return the seconds from the first day of 2000 to a date, NaN if it is none; 0 without a date."""
    try:
        return 0.0 if date is None else DAY * (datetime.strptime(date, "%Y%m%d") - datetime(2000, 1, 1)).days
    except ValueError:
        return math.nan
