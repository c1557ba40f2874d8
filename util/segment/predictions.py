"""What a query's segmentation gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dataloaders.folds import Part
from dataloaders.volumes import Volume
from util.segment.metrics import dice, iou


@dataclass(frozen=True)
class Prediction:
    """One class of one query volume, segmented from one support volume by the protocol.

    `mask` is (D, H, W) and False in slices that were not segmented; the scores are those of the segmented slices, stacked.
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
        """Return a prediction with the scores of the slices of its parts."""
        segmented = [z for part in parts for z in part.query_slices]
        found, truth = mask[segmented], query.label_map[segmented] == label
        return cls(label, support, query, tuple(parts), mask, dice(found, truth), iou(found, truth))


@dataclass(frozen=True)
class WholePrediction:
    """One class of one query volume, segmented from one support volume without a look at the query's labels."""

    label: int
    support: Volume
    query: Volume
    probs: np.ndarray     # (D, H, W)
    mask: np.ndarray      # (D, H, W) bool
    confidence: float | None = None      # 0…1, of methods that have one


class QueryResult(NamedTuple):
    """What a task gives: by the protocol, and over the whole volume where that is asked for."""

    by_protocol: list[Prediction]
    whole: list[WholePrediction]
