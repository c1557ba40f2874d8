"""How far a segmentation can be trusted: agreement of its members, and distance of the anomaly score from the threshold.

Members are segmentations of one query from different supports and of altered copies of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from scipy import ndimage

from util.segment.metrics import dice
from util.segment.whole_volume import to_label_map

PROBABILITY_EPS = 1e-6


@dataclass(frozen=True)
class Augmentation:
    """An alteration of a volume that leaves its organs what they are: contrast, and a turn within the slice."""

    gamma: float = 1.0
    angle_deg: float = 0.0

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Alter a (D, H, W) image; its range stays."""
        if self.gamma != 1:
            low, span = image.min(), np.ptp(image)
            image = (low + span * ((image - low) / span) ** self.gamma).astype(np.float32)
        return self._turn(image, self.angle_deg)

    def undo(self, probs: np.ndarray) -> np.ndarray:
        """Bring (D, H, W) probabilities of the altered image back to the image's pixels."""
        return self._turn(probs, -self.angle_deg)

    @staticmethod
    def _turn(volume: np.ndarray, angle_deg: float) -> np.ndarray:
        return ndimage.rotate(volume, angle_deg, axes=(1, 2), reshape=False, order=1, mode="nearest") if angle_deg else volume


AUGMENTATIONS = (Augmentation(), Augmentation(gamma=0.7), Augmentation(gamma=1.4), Augmentation(angle_deg=6),
                 Augmentation(angle_deg=-6))   # the first changes nothing


@dataclass
class Agreement:
    """Collects the members of one query."""

    label_maps: list[np.ndarray] = field(default_factory=list)
    totals: dict[int, np.ndarray] = field(default_factory=dict)   # label: summed probabilities
    counts: dict[int, int] = field(default_factory=dict)
    confidences: dict[int, list[float]] = field(default_factory=dict)

    def add(self, member: Mapping[int, np.ndarray], confidence: Mapping[int, float] | None = None) -> None:
        """Take in a member: (D, H, W) probabilities by label, and where the method has one its confidence by label, 0…1."""
        for label, value in (confidence or {}).items():
            self.confidences.setdefault(label, []).append(value)
        self.label_maps.append(to_label_map(member.items(), next(iter(member.values())).shape).astype(np.int16))
        for label, probs in member.items():
            self.totals[label] = self.totals.get(label, 0) + probs
            self.counts[label] = self.counts.get(label, 0) + 1

    def mean_probabilities(self) -> dict[int, np.ndarray]:
        """Return each label's mean over the members that have it."""
        return {label: total / self.counts[label] for label, total in self.totals.items()}

    def disagreement(self) -> np.ndarray:
        """Return the (D, H, W) map of uncertainty, 0 (sure) to 1: the highest of 1 − |2p − 1| over the labels.

        p is the mean probability over the members: near 1/2 where they differ, or where each is near its threshold.
        """
        return np.max([1 - np.abs(2 * probs - 1) for probs in self.mean_probabilities().values()], axis=0)

    def agreement(self, label: int) -> float | None:
        """Return the mean Dice between all pairs of members, 0 to 1; None with fewer than two members."""
        masks = [label_map == label for label_map in self.label_maps]
        scores = [dice(*pair) for pair in combinations(masks, 2)]
        return float(np.mean(scores)) if scores else None

    def numbers(self, label: int, probs: np.ndarray | None) -> dict[str, float | None]:
        """Return a label's mean confidence, its agreement, and `mean_margin` of its (D, H, W) probabilities.

        Args:
            probs: None: the label was not segmented.
        """
        confidence = float(np.mean(self.confidences[label])) if label in self.confidences else None
        margin = None if probs is None else mean_margin(probs)
        numbers = {"confidence": confidence, "agreement": self.agreement(label), "margin": margin}
        return {name: None if value is None else round(value, 4) for name, value in numbers.items()}


def mean_margin(probs: np.ndarray) -> float | None:
    """Return the mean distance |s − T| of the anomaly score from the threshold over the voxels called foreground.

    P = 1 − sigmoid(0.5·(s − T)), so the distance is 2·|log(P/(1 − P))|. None where nothing is foreground.
    """
    inside = probs[probs > 0.5].clip(PROBABILITY_EPS, 1 - PROBABILITY_EPS)
    return float(np.mean(2 * np.log(inside / (1 - inside)))) if inside.size else None
