"""The task: the unit of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from dataloaders.datasets import Case, DatasetSpec
from dataloaders.volumes import Volume, read_volume
from util.base.progress import progress


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


def read_tasks(cases: Sequence[Case], spec: DatasetSpec, supports_of: Sequence[tuple[int, Sequence[int]]],
               labels: Sequence[int], stones: Sequence[int] = ()) -> list[Task]:
    """Read the volumes of the tasks, each volume once.

    Args:
        supports_of: each query with its supports, as positions in `cases`.
        labels: the classes to segment.
        stones: positions of the stepping stones, whose labels are not read.
    Raises:
        InputError: a file is missing or damaged, or a label map has another shape or place than its image.
    """
    positions = sorted({position for query, supports in supports_of for position in (query, *supports)})
    volumes = {position: read_volume(cases[position], spec)
               for position in progress(positions, desc="reading test volumes", unit="volume")}
    unlabelled = tuple(replace(read_volume(cases[position], spec), label_map=None) for position in stones)
    return [Task(volumes[query], tuple(volumes[support] for support in supports), tuple(labels), unlabelled)
            for query, supports in supports_of]
