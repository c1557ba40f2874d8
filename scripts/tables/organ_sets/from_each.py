"""How well the cases of a set are outlined from each single one of them, and from two together: Dice, kept on disk.

From a single one the outlines are carried as `model=registration` carries them, wide and zoomed: without stepping stones, and
without the registration back, which takes as long and tells the confidence alone. Two are taken together by `guided`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from msgspec import Struct

from qnet.dataloaders.volumes import Volume
from qnet.models.registration import PreparedScan
from qnet.models.sampling import grid_mm
from qnet.models.volume import Outlines, Route, box_of, outlines_of
from qnet.scripts.tables.organ_sets.cases import Case
from qnet.scripts.tables.outlined_scans import scores
from qnet.util.base.checksums import digest, sha256
from qnet.util.base.errors import InputError
from qnet.util.base.files import write_text
from qnet.util.base.fingerprint import OUTLINES, code_sha256
from qnet.util.base.inputs import LIMITS, parse_json
from qnet.util.base.progress import progress
from qnet.util.engine.segmenters import VolumeSegmenter
from qnet.util.engine.task import Task, label_map_of
from qnet.util.options.config import load_config
from qnet.util.predict.predictor import Predictor
from qnet.util.predict.request import untrained_method

MADE_BY = (*OUTLINES, "scripts.tables.organ_sets.from_each")
S = TypeVar("S", bound="Kept")


class Kept(Struct):
    """The content of a file about a query. `made_from` is the checksum of what it depends on."""

    made_from: str


class Alone(Kept):
    """By the outlined case, the Dice of a query over the whole volume, mean of its classes."""

    dice: dict[str, float]


class Together(Kept):
    """The same of `guided`, from one case alone, and from two ("FIRST SECOND", in the order of the set).

    Attributes:
        confidence: by the case that is alone, the expected Dice of the least certain class.
    """

    dice: dict[str, float]
    confidence: dict[str, float]
    pairs: dict[str, float]


def alone(cases: Sequence[Case], folder: Path) -> dict[str, dict[str, float]]:
    """Return of each case (query), by name, the Dice from each other one. What is in the folder, made of the same, is kept.

    Raises:
        InputError: a case cannot be read.
        OSError: a file cannot be written.
    """
    settings = untrained_method("registration", registration={**load_config("registration")["registration"], "stones": 0})
    scans, outlines = dict[str, PreparedScan](), dict[str, Outlines]()

    def scored(volumes: Sequence[Volume], labels: Sequence[int], k: int, made_from: str) -> Alone:
        for case, volume in zip(cases, volumes, strict=True):
            if case.name not in scans:
                image = torch.from_numpy(np.ascontiguousarray(volume.image))
                scans[case.name] = PreparedScan(image, volume.spacing_mm, settings.model.registration)
                masks = torch.from_numpy(np.stack([label_map_of(volume) == label for label in _held(volume)]))
                outlines[case.name] = outlines_of(scans[case.name], masks)
        query = scans[cases[k].name]
        found = {case.name: _dice(dict(zip(_held(volume), carried(query, outlines[case.name]), strict=True)), volumes[k], labels)
                 for case, volume in zip(cases, volumes, strict=True) if case is not cases[k]}
        query.release()
        return Alone(made_from, found)

    return {name: of_query.dice for name, of_query in _of_each(cases, folder / "alone", Alone, scored).items()}


def together(cases: Sequence[Case], folder: Path) -> dict[str, Together]:
    """Return the same of `guided`, from each one and each two. Each zoomed registration looks where any of them leads.

    Raises:
        InputError, OSError: as `alone`.
    """
    segmenter = Predictor.untrained("guided").segmenter
    assert isinstance(segmenter, VolumeSegmenter)

    def scored(volumes: Sequence[Volume], labels: Sequence[int], k: int, made_from: str) -> Together:
        names = {volume: case.name for volume, case in zip(volumes, cases, strict=True)}
        query, others = volumes[k], [volume for volume in volumes if volume is not volumes[k]]
        task = Task(query, tuple(others), tuple(labels))
        found = {names[member.support]: member for member in segmenter.members(task)}
        pairs = {f"{names[one]} {names[other]}": segmenter.joint(task, (one, other)) for one, other in combinations(others, 2)}
        segmenter.release(query)
        return Together(made_from, {name: _dice(member.probs, query, labels) for name, member in found.items()},
                        {name: min(member.confidence.values(), default=0.0) for name, member in found.items()},
                        {pair: _dice(member.probs, query, labels) for pair, member in pairs.items() if member is not None})

    return _of_each(cases, folder / "together", Together, scored)


@torch.no_grad()
def carried(query: PreparedScan, outlines: Outlines) -> np.ndarray:
    """Return the (K, D, H, W) maps of 0 to 1 that are carried to a query from an outlined scan."""
    wide = query.register(outlines.scan)
    box = box_of(query, [Route(outlines, wide)], 0.0)
    found = wide if box is None else query.zoom(outlines.scan, wide, box)
    return outlines.at(found.places(grid_mm(query.image.shape, query.spacing_mm))).numpy()


def _of_each(cases: Sequence[Case], folder: Path, kind: type[S],
             scored: Callable[[Sequence[Volume], Sequence[int], int, str], S]) -> dict[str, S]:
    """Return what is known of each query: from its file, or made now."""
    made_from = digest([code_sha256(MADE_BY), *(sha256(path) for case in cases for path in (case.image, case.labels))])
    predictor, found = Predictor.untrained("guided"), dict[str, S]()
    for k, case in enumerate(progress(cases, desc=f"{folder.parent.name}, {folder.name}", unit="scan")):
        path = folder / f"{case.name}.json"
        if (kept := _kept(path, made_from, kind)) is None:
            if not predictor.supports:
                for one in cases:
                    predictor.add_support(one.image, one.labels)
            kept = scored([support.volume for support in predictor.supports], list(predictor.names), k, made_from)
            write_text(json.dumps({name: getattr(kept, name) for name in kind.__struct_fields__}), path)
        found[case.name] = kept
    return found


def _kept(path: Path, made_from: str, kind: type[S]) -> S | None:
    """Return what is in a file, if that was made of the same."""
    try:
        found: S = parse_json(path.read_bytes(), str(path), kind, limits=LIMITS, plain=True)
    except (InputError, OSError):
        return None
    return found if found.made_from == made_from else None


def _held(volume: Volume) -> list[int]:
    return [label for label in np.unique(label_map_of(volume)).tolist() if label]


def _dice(probs: Mapping[int, np.ndarray], query: Volume, labels: Sequence[int]) -> float:
    """Return the Dice over the whole volume, mean of the classes that the query has. One that was not found counts 0."""
    truth = label_map_of(query)
    empty = {label: np.zeros(truth.shape, np.float32) for label in labels}
    return float(np.nanmean(scores({**empty, **probs}, truth, labels)[:, 1])) / 100
