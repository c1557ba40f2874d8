"""The unit of an evaluation: one query volume with the supports that it is segmented from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dataloaders.datasets import Case, DatasetSpec
from dataloaders.volumes import Volume, read_volume
from util.base.progress import progress


@dataclass(frozen=True)
class Task:
    """One query volume, to be segmented from each of its supports, one after the other, for each of the labels."""

    query: Volume
    supports: tuple[Volume, ...]
    labels: tuple[int, ...]


def read_tasks(cases: Sequence[Case], spec: DatasetSpec, supports_of: Sequence[tuple[int, Sequence[int]]],
               labels: Sequence[int]) -> list[Task]:
    """Read the volumes of (query, its supports), given as positions in `cases`, each volume once.

    Raises:
        InputError: names the first file that is missing, broken, or whose label is of another shape or place.
    """
    positions = sorted({position for query, supports in supports_of for position in (query, *supports)})
    volumes = {position: read_volume(cases[position], spec)
               for position in progress(positions, desc="reading test volumes", unit="volume")}
    return [Task(volumes[query], tuple(volumes[support] for support in supports), tuple(labels))
            for query, supports in supports_of]
