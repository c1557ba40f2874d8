"""A person on the labelling page, for tables: draws the true outlines, and sees whether a slice is right.

He does what the page's tools and keys do, by its own requests, and knows no more of the truth than he sees in the slice at hand.
What he pays is counted: strokes, looks at slices, and minutes, which are estimated by both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.ndimage import binary_erosion, label

from qnet.util.clients.client import ClientError
from qnet.util.engine.metrics import dice
from qnet.util.label.client import PageClient

NEARLY_RIGHT = 0.9      # Dice of a slice that a person leaves as it is
PX_A_SECOND, SLICE_S = 100.0, 6.0       # estimates: how fast a person draws, and how long looking at a slice takes
STEP = 3                # as in page/slices.js


@dataclass
class Labour:
    """What a person has paid so far.

    Attributes:
        strokes: closed lines that were drawn.
        looks: at a slice for a class.
        seconds: estimated.
    """

    strokes: int = 0
    looks: int = 0
    seconds: float = 0.0

    def look(self) -> None:
        """Count a look at a slice."""
        self.looks += 1
        self.seconds += SLICE_S

    def draw(self, mask: np.ndarray) -> None:
        """Count the strokes round the parts of a (H, W) mask. To empty a slice is one stroke."""
        self.strokes += max(label(mask)[1], 1)
        self.seconds += float((mask & ~binary_erosion(mask)).sum()) / PX_A_SECOND


def is_right(found: np.ndarray, truth: np.ndarray) -> bool:
    """Return whether a person leaves a (H, W) mask as it is: it is nearly the true one."""
    return found.any() == truth.any() and dice(found, truth) >= NEARLY_RIGHT


def next_worth(states: Sequence[str], at: int) -> int | None:
    """Return the slice to which the key J goes from a slice, as `nextWorth` of page/slices.js; None if it goes nowhere.

    Args:
        states: of each slice, "drawn", "looked at", "filled", "found" or "empty".
    """
    used = [number for number, state in enumerate(states) if state != "empty"]
    made = [number for number in used if states[number] in ("drawn", "looked at")]
    if not used:
        return None
    if not made:
        return used[len(used) // 2]
    gaps = [(one, other) for one, other in pairwise(made)
            if other - one > STEP and "drawn" in (states[one], states[other])]
    inner = [(one + other + 1) // 2 for one, other in gaps]
    outer = [*([max(made[0] - STEP, used[0])] if used[0] < made[0] else []),
             *([min(made[-1] + STEP, used[-1])] if used[-1] > made[-1] else [])]
    ends = [*([max(made[0] - STEP, 0)] if states[made[0]] == "drawn" and made[0] > 0 else []),
            *([min(made[-1] + STEP, len(states) - 1)] if states[made[-1]] == "drawn" and made[-1] < len(states) - 1 else [])]
    return min(inner + outer or ends, key=lambda number: abs(number - at), default=None)


class Person:
    """Outlines a scan, or corrects what was found of it, across the first axis.

    Args:
        name: of the scan.
        truth: (D, H, W) uint8, what is drawn.
        labour: counts what is paid.
    """

    def __init__(self, client: PageClient, name: str, truth: np.ndarray, labour: Labour):
        self.client, self.name, self.truth, self.labour = client, name, truth, labour
        self.present, self.slices = client.present(name, truth.shape), dict[int, tuple[set[int], set[int]]]()

    def outline(self) -> None:
        """Draw all classes, or correct them, the least certain one first."""
        rows = {row["label"]: row for row in self.client.scan(self.name)["rows"]}
        values = np.unique(self.truth[self.truth > 0]).tolist()
        for value in sorted(values, key=lambda one: rows.get(one, {}).get("confidence") or 0):
            self.go_through(value, self.first_slice(value, rows.get(value, {})))

    def outline_all(self) -> None:
        """Draw all slices of all classes that are not nearly right, and what was found beyond them."""
        for value in np.unique(self.truth[self.truth > 0]).tolist():
            held, used = (np.flatnonzero((one == value).any(axis=(1, 2))) for one in (self.truth, self.present))
            for number in sorted({*held.tolist(), *used.tolist()}):
                self.make_right(value, number)

    def first_slice(self, value: int, row: Mapping[str, Any]) -> int:
        """Return where a person begins with a class: in the slice that the page opens, or else in the middle of the structure."""
        if row.get("look_at"):
            return int(row["look_at"].split()[2])
        held = np.flatnonzero((self.truth == value).any(axis=(1, 2)))
        return int(held[len(held) // 2])

    def go_through(self, value: int, number: int | None) -> None:
        """Look at a slice and at all to which J goes, draw what is wrong, and let the others follow."""
        while number is not None:
            if self.make_right(value, number):
                self.fill(value)
            number = next_worth(self.states(value), number)
        self.fill(value)

    def make_right(self, value: int, number: int) -> bool:
        """Look at a slice, say that it is right, or draw it; return whether it was drawn."""
        self.labour.look()
        is_wrong = not is_right(self.present[number] == value, self.truth[number] == value)
        if is_wrong:
            self.draw(value, number)
        else:
            self.say_right(value, number)
        return is_wrong

    def states(self, value: int) -> list[str]:
        """Return what each slice of a class is, as the bar of the page shows it."""
        drawn, filled = self.slices.get(value, (set(), set()))
        held = (self.present == value).any(axis=(1, 2)).tolist()
        return [("drawn" if holds else "looked at") if number in drawn else "empty" if not holds
                else "filled" if number in filled else "found" for number, holds in enumerate(held)]

    def say_right(self, value: int, number: int) -> None:
        """Say that a slice is right: the key K."""
        self._change(self.present, value, drawn=[number])

    def draw(self, value: int, number: int) -> None:
        """Draw a class in a slice, or empty it."""
        after, shape = self.present.copy(), self.truth[number] == value
        after[number][after[number] == value] = 0
        after[number][shape] = value
        self.labour.draw(shape)
        self._change(after, value, drawn=[number])

    def fill(self, value: int) -> None:
        """Press I: slices between drawn ones are filled, or follow what was corrected. If there are none, the page says so."""
        drawn, _ = self.slices[value]
        try:
            after, filled = self.client.propose(self.name, self.present, "fill", value=value, slices=sorted(drawn))
        except ClientError:
            return
        self._change(after, value, filled=filled)

    def _change(self, after: np.ndarray, value: int, drawn: Iterable[int] = (), filled: Iterable[int] = ()) -> None:
        before_drawn, before_filled = self.slices.get(value, (set(), set()))
        now = before_drawn | set(drawn)
        self.slices[value] = now, (before_filled | set(filled)) - now
        told = {str(one): {"0": {"drawn": sorted(made), "filled": sorted(between)}}
                for one, (made, between) in self.slices.items()}
        self.client.change(self.name, self.present, after, told)
        self.present = after
