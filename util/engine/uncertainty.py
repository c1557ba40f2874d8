"""Uncertainty of a segmentation: agreement of its members, and distance of the anomaly score from the threshold.

Members are segmentations of one query from different supports, and of augmented copies of the query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from scipy import ndimage

from qnet.util.engine.metrics import dice
from qnet.util.engine.whole_volume import to_label_map

PROBABILITY_EPS = 1e-6


@dataclass(frozen=True)
class Augmentation:
    """A test-time augmentation of a volume: contrast, and rotation within the slices.

    Attributes:
        gamma: exponent of the contrast; 1 changes nothing.
        angle_deg: angle of the rotation in degrees; 0 changes nothing.
    """

    gamma: float = 1.0
    angle_deg: float = 0.0

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return the augmented (D, H, W) image. The contrast keeps its range."""
        if self.gamma != 1:
            low, span = image.min(), np.ptp(image)
            image = (low + span * ((image - low) / span) ** self.gamma).astype(np.float32)
        return self._turn(image, self.angle_deg)

    def undo(self, probs: np.ndarray) -> np.ndarray:
        """Map (D, H, W) probabilities of the augmented image back to the pixels of the original."""
        return self._turn(probs, -self.angle_deg)

    @staticmethod
    def _turn(volume: np.ndarray, angle_deg: float) -> np.ndarray:
        return ndimage.rotate(volume, angle_deg, axes=(1, 2), reshape=False, order=1, mode="nearest") if angle_deg else volume


AUGMENTATIONS = (Augmentation(), Augmentation(gamma=0.7), Augmentation(gamma=1.4), Augmentation(angle_deg=6),
                 Augmentation(angle_deg=-6))   # the first changes nothing


@dataclass
class Agreement:
    """The members of one query.

    Attributes:
        label_maps: the (D, H, W) int16 label map of each member.
        totals: by label, the (D, H, W) sum of the probabilities.
        counts: by label, the number of members that have it.
        confidences: by label, the confidence of each member that has one, 0 to 1.
    """

    label_maps: list[np.ndarray] = field(default_factory=list)
    totals: dict[int, np.ndarray] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    confidences: dict[int, list[float]] = field(default_factory=dict)

    def add(self, member: Mapping[int, np.ndarray], confidence: Mapping[int, float] | None = None) -> None:
        """Add a member: (D, H, W) probabilities by label, and confidences (0 to 1) by label if the model has them."""
        self.compare(member)
        self.count(member, confidence)

    def compare(self, member: Mapping[int, np.ndarray]) -> None:
        """Add a member to those that are compared, and not to the mean."""
        self.label_maps.append(to_label_map(member.items(), next(iter(member.values())).shape).astype(np.int16))

    def count(self, member: Mapping[int, np.ndarray], confidence: Mapping[int, float] | None = None) -> None:
        """Add a member to the mean, and not to those that are compared. The arguments are those of `add`."""
        for label, value in (confidence or {}).items():
            self.confidences.setdefault(label, []).append(value)
        for label, probs in member.items():
            self.totals[label] = self.totals.get(label, 0) + probs
            self.counts[label] = self.counts.get(label, 0) + 1

    def mean_probabilities(self) -> dict[int, np.ndarray]:
        """Return each label's (D, H, W) probability: the mean over the members that have the label."""
        return {label: total / self.counts[label] for label, total in self.totals.items()}

    def disagreement(self) -> np.ndarray:
        """Return the (D, H, W) uncertainty, 0 (certain) to 1: the maximum over the labels of 1 − |2p − 1|.

        p is the mean probability. It is near 1/2 where members differ, or where each is near its threshold.
        """
        return np.max([1 - np.abs(2 * probs - 1) for probs in self.mean_probabilities().values()], axis=0)

    def agreement(self, label: int) -> float | None:
        """Return the mean Dice over all pairs of members, 0 to 1; None with fewer than two members."""
        masks = [label_map == label for label_map in self.label_maps]
        scores = [dice(*pair) for pair in combinations(masks, 2)]
        return float(np.mean(scores)) if scores else None

    def numbers(self, label: int, probs: np.ndarray | None) -> dict[str, float | None]:
        """Return mean "confidence", "agreement" and "margin" (`mean_margin`) of a label, rounded to 4 digits.

        Args:
            probs: (D, H, W) probability of the label; None if it was not segmented.
        """
        confidence = float(np.mean(self.confidences[label])) if label in self.confidences else None
        margin = None if probs is None else mean_margin(probs)
        numbers = {"confidence": confidence, "agreement": self.agreement(label), "margin": margin}
        return {name: None if value is None else round(value, 4) for name, value in numbers.items()}


def most_doubtful(probs: np.ndarray) -> tuple[int, int, int] | None:
    """Return the voxel (z, y, x) in which the three slices meet, one across each axis, of which most is in doubt.

    That is the sum of p(1 − p) over the slice. In outlines of `guided` on CHAOS-T2 more voxels are wrong in such a slice than in
    the one with most of the class, and than in the one about which the registrations disagree the most.

    Args:
        probs: (D, H, W), 0 to 1.
    Returns:
        None if p is 0 or 1 everywhere.
    """
    spread = probs * (1 - probs)
    across = [spread.sum(axis=others, dtype=np.float64) for others in ((1, 2), (0, 2), (0, 1))]
    z, y, x = (int(of_axis.argmax()) for of_axis in across)
    return (z, y, x) if across[0][z] > 0 else None


def mean_margin(probs: np.ndarray) -> float | None:
    """Return the mean distance |s − T| of the anomaly score s from the threshold T over the foreground voxels.

    As P = 1 − sigmoid(0.5·(s − T)), the distance is 2·|log(P/(1 − P))|.

    Args:
        probs: (D, H, W) probability P. Foreground is where P > 1/2.
    Returns:
        None if no voxel is foreground.
    """
    inside = probs[probs > 0.5].clip(PROBABILITY_EPS, 1 - PROBABILITY_EPS)
    return float(np.mean(2 * np.log(inside / (1 - inside)))) if inside.size else None
