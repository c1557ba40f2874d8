"""Which scan of a folder to outline first: the one that looks most like the others. And which next, after a run.

`qnet.util.predict.comparing` compares the scans. Nothing here needs PyTorch. docs/guided_notes.md says what it is worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
from msgspec import Meta, Struct

from qnet.dataloaders.folds import stepping_stones
from qnet.util.base.errors import InputError
from qnet.util.base.inputs import SMALL, parse_json

FEWEST = 3          # scans among which one can stand for the others
MOST = 10           # scans that are compared; of more, these are spread evenly
ODD, ODD_AT_LEAST = 1.5, 0.1        # an odd one out is so many times as unlike the others as the median scan, and so much more


class Advice(NamedTuple):
    """The name of a scan, and why it is the one."""

    name: str
    why: str


class Standing(NamedTuple):
    """How a scan stands among others.

    Attributes:
        name: of the scan.
        unlike: how unlike the others it is, on average (`qnet.models.likeness.unlikeness`); 0 is the same.
        is_odd: whether it is much less like them than most are.
    """

    name: str
    unlike: float
    is_odd: bool


class _Stored(Struct):
    names: list[str]
    unlike: list[list[Annotated[float, Meta(ge=0)]]]
    n_scans: int
    made_from: str = ""
    problems: dict[str, str] = {}


@dataclass(frozen=True)
class Comparison:
    """How unlike each other some scans of a folder are.

    Attributes:
        names: of the scans that were compared.
        unlike: of each scan (row) to each other one (`qnet.models.likeness.unlikeness`); 0 on the diagonal.
        n_scans: in the folder.
        made_from: checksum of what was compared, or empty.
        problems: why scans could not be compared, by name.
    """

    names: Sequence[str]
    unlike: Sequence[Sequence[float]]
    n_scans: int
    made_from: str = ""
    problems: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, content: bytes, origin: str) -> Comparison:
        """Return the comparison that JSON holds. Raises InputError if it holds none."""
        found: _Stored = parse_json(content, origin, _Stored, limits=SMALL, plain=True)
        if [len(row) for row in found.unlike] != [len(found.names)] * len(found.names):
            raise InputError(f"{origin}: unlike: allowed: a number for each pair of names")
        return cls(found.names, found.unlike, found.n_scans, found.made_from, found.problems)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)

    @property
    def is_sample(self) -> bool:
        """Whether the folder has more scans than were compared."""
        return len(self.names) + len(self.problems) < self.n_scans

    def standings(self, usable: Iterable[str] | None = None) -> list[Standing]:
        """Return the scans, those that look most like the others in front.

        Args:
            usable: names; others are left out.
        """
        allowed = set(self.names if usable is None else usable)
        kept = [k for k, name in enumerate(self.names) if name in allowed]
        if len(kept) < FEWEST:
            return []
        both = np.array(self.unlike)[np.ix_(kept, kept)]
        mean = (both + both.T).sum(axis=1) / (2 * (len(kept) - 1))
        median = np.median(mean)
        bound = max(ODD * median, median + ODD_AT_LEAST)
        found = [Standing(self.names[k], float(of_one), bool(of_one > bound)) for k, of_one in zip(kept, mean, strict=True)]
        return sorted(found, key=lambda one: one.unlike)

    def lines(self) -> list[str]:
        """Return the scans as lines for people, those that look most like the others in front, and which to outline first."""
        standings, advice = self.standings(), first_of(self)
        if advice is None:
            return [f"fewer than {FEWEST} scans could be compared"]
        sample = f", a sample of {self.n_scans}" if self.is_sample else ""
        return [f"how unlike the others each of {len(standings)} scans is{sample}:",
                *(f"{one.unlike:8.3f}  {one.name}{'  (an odd one out)' if one.is_odd else ''}" for one in standings),
                f"outline {advice.name} first: {advice.why}"]


def sample_of(names: Sequence[str]) -> list[str]:
    """Return the scans that are compared: all, or MOST of them, spread evenly; none where there are too few to choose among."""
    return [names[k] for k in stepping_stones(len(names), (), MOST)] if len(names) >= FEWEST else []


def first_of(comparison: Comparison, usable: Iterable[str] | None = None) -> Advice | None:
    """Return the scan to outline first; None among one or two."""
    standings = comparison.standings(usable)
    if not standings:
        return None
    others = f"the {len(standings) - 1} others" + (f" of a sample of {comparison.n_scans} scans" if comparison.is_sample else "")
    return Advice(standings[0].name, f"it looks most like {others}")


def next_of(found: Mapping[str, Sequence[Mapping[str, Any]]], comparison: Comparison | None = None) -> Advice | None:
    """Return the scan to outline next, after a run: the least certain one that is no odd one out.

    Args:
        found: rows of `Segmentation.numbers` of the scans that the computer outlined, by name.
        comparison: of the scans, if they were compared.
    """
    odd = {one.name for one in comparison.standings() if one.is_odd} if comparison else set()
    expected = {name: min(known) for name, rows in found.items()
                if (known := [float(row["confidence"]) for row in rows if row.get("confidence") not in (None, "")])}
    if not (candidates := [name for name in expected if name not in odd] or list(expected)):
        return None
    worst = min(candidates, key=lambda name: expected[name])
    return Advice(worst, f"its expected Dice is the lowest, {expected[worst]:.2f}"
                         + (" among scans that look like the others" if odd else ""))

