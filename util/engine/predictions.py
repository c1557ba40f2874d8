"""Predictions: the results of segmenting a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from qnet.dataloaders.folds import Part
from qnet.dataloaders.volumes import Volume
from qnet.util.engine.metrics import dice, iou
from qnet.util.engine.task import label_map_of

WARPED = "warped_supports"      # the folder of the supports' images, registered to the queries


@dataclass(frozen=True)
class Prediction:
    """One class of one query volume, segmented from one support volume by the protocol.

    Attributes:
        mask: (D, H, W) bool, False in slices that were not segmented.
        dice: over all segmented slices together, 0 to 1.
        iou: over all segmented slices together, 0 to 1.
    """

    label: int
    support: Volume
    query: Volume
    parts: tuple[Part, ...]
    mask: np.ndarray
    dice: float
    iou: float

    @classmethod
    def scored(cls, label: int, support: Volume, query: Volume, parts: Sequence[Part], mask: np.ndarray) -> Prediction:
        """Return a prediction, scored over the query slices of its parts. `mask` is (D, H, W) bool."""
        segmented = [z for part in parts for z in part.query_slices]
        found, truth = mask[segmented], label_map_of(query)[segmented] == label
        return cls(label, support, query, tuple(parts), mask, dice(found, truth), iou(found, truth))


@dataclass(frozen=True)
class WholePrediction:
    """One class of one query volume, segmented from one support volume without the query's labels.

    Attributes:
        probs: (D, H, W) foreground probability, 0 to 1.
        mask: (D, H, W) bool.
        confidence: 0 to 1; None if the model has none.
    """

    label: int
    support: Volume
    query: Volume
    probs: np.ndarray
    mask: np.ndarray
    confidence: float | None = None


class QueryResult(NamedTuple):
    """The result of a task.

    Attributes:
        query: the query volume.
        by_protocol: the protocol's predictions.
        whole: those over the whole volume; empty without the option `whole_volume`.
        warped: by name of the support, its (D, H, W) uint8 image registered to the query; empty if nothing was registered.
    """

    query: Volume
    by_protocol: list[Prediction]
    whole: list[WholePrediction]
    warped: Mapping[str, np.ndarray]
