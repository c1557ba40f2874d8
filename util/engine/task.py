"""The task: the unit of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qnet.dataloaders.datasets import Case, DatasetSpec
from qnet.dataloaders.volumes import Volume, expect_same_place, read_volume
from qnet.util.base.progress import progress


@dataclass(frozen=True)
class Task:
    """One query volume, which is segmented from each support in turn, for each label.

    Attributes:
        stones: unlabelled volumes, which methods that register scans may use as stepping stones.
    """

    query: Volume
    supports: tuple[Volume, ...]
    labels: tuple[int, ...]
    stones: tuple[Volume, ...] = ()


def label_map_of(volume: Volume) -> np.ndarray:
    """Return the (D, H, W) label map of a volume.

    Raises:
        ValueError: the volume has none.
    """
    if volume.label_map is None:
        raise ValueError(f"{volume.name}: expected a volume with a label map")
    return volume.label_map


class TaskReader:
    """Reads the tasks of an evaluation, one when its turn comes, so that memory does not grow with their number.

    Supports and stepping stones are read at once and stay, and so does what a segmenter keeps of a support. A query that is none
    is read in its turn. With `supp_idx=all` every query is a support. Then memory does grow with the fold: by each case's image,
    and by the features of its support slices, or of all its slices if whole volumes are segmented.

    Args:
        cases: of the data set.
        supports_of: each query with its supports, as positions in `cases`.
        labels: the classes to segment.
        stones: positions of the stepping stones, whose labels are not read.
    Attributes:
        supports, stones: their volumes.
        queries: the names of the queries.
    Raises:
        InputError: a file of a support or stone is missing or damaged, or a label map has another shape or place than its image.
            Of the queries, the headers are checked.
    """

    def __init__(self, cases: Sequence[Case], spec: DatasetSpec, supports_of: Sequence[tuple[int, Sequence[int]]],
                 labels: Sequence[int], stones: Sequence[int] = ()):
        positions = sorted({support for _, supports in supports_of for support in supports})
        kept = {position: read_volume(cases[position], spec)
                for position in progress(positions, desc="reading supports", unit="volume")}
        self.supports, self.labels, self._spec = tuple(kept.values()), tuple(labels), spec
        self.stones = tuple(read_volume(cases[position], spec, labels=False) for position in stones)
        self._cases = {cases[query].name: cases[query] for query, _ in supports_of}
        self._supports_of = {cases[query].name: tuple(kept[support] for support in supports) for query, supports in supports_of}
        self.queries = list(self._cases)
        for query in self._cases.values():
            expect_same_place(query)

    def key(self, query: str) -> dict[str, Any]:
        """Return what a task is, as JSON: the names of its query, supports and stones, and its labels."""
        return {"query": query, "supports": [support.name for support in self._supports_of[query]],
                "labels": list(self.labels), "stones": [stone.name for stone in self.stones]}

    def read(self, query: str) -> Task:
        """Return the task of a query, which is read now unless it is a support.

        Raises:
            InputError: a file is missing or damaged, or the label map has another shape or place than its image.
        """
        return Task(self.volume(query), self._supports_of[query], self.labels, self.stones)

    def volume(self, name: str) -> Volume:
        """Return a support, or a query, which is read now. InputError as `read`."""
        support = next((support for support in self.supports if support.name == name), None)
        return read_volume(self._cases[name], self._spec) if support is None else support
