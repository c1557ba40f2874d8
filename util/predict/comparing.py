"""Compares scans with each other, by coarse registrations of each to each (`qnet.models.likeness`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from qnet.models.likeness import coarse, unlikeness
from qnet.models.registration import PreparedScan
from qnet.util.base.errors import InputError
from qnet.util.predict.first_scan import Comparison
from qnet.util.predict.predictor import others_of
from qnet.util.predict.request import untrained_method
from qnet.util.predict.scans import frame_of, read_scan


def compared(scans: Sequence[tuple[str, Sequence[Path]]], n_scans: int, *, made_from: str = "",
             tell: Callable[[], object] = lambda: None) -> Comparison:
    """Compare scans, each with each other one. One that cannot be read is left out, and named.

    Args:
        scans: name, and the paths of the channels, of each.
        n_scans: in the folder.
        made_from: checksum of what is compared, for the comparison.
        tell: is called after each pair.
    """
    prepared, problems = prepared_scans(scans)
    names = list(prepared)
    unlike = np.zeros((len(names), len(names)))
    for one, other in combinations(range(len(names)), 2):
        unlike[one, other] = unlike[other, one] = unlikeness(prepared[names[one]], prepared[names[other]])
        tell()
    return Comparison(names, unlike.round(5).tolist(), n_scans, made_from, problems)


def prepared_scans(scans: Sequence[tuple[str, Sequence[Path]]]) -> tuple[dict[str, PreparedScan], dict[str, str]]:
    """Return scans that can be registered coarsely, by name, and why the others could not be read."""
    settings = coarse(untrained_method().model.registration)
    prepared, problems, frame = dict[str, PreparedScan](), dict[str, str](), None
    for name, paths in scans:
        try:
            scan = read_scan(paths, None, frame)
        except InputError as error:
            problems[name] = str(error).removeprefix(f"{paths[0]}: ")
            continue
        frame = frame_of(scan.on_grid) if frame is None else frame
        prepared[name] = PreparedScan(torch.from_numpy(np.stack([scan.image, *others_of(scan)])), scan.spacing_mm, settings)
    return prepared, problems
