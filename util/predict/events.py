"""What happens while scans are outlined, and what came out in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qnet.dataloaders.finding import LeftOut
from qnet.util.base.errors import in_utf8
from qnet.util.predict.request import Query
from qnet.util.results.scan_report import empty_classes, is_empty


@dataclass(frozen=True)
class Reading:
    """The model is made and the outlined scans are read; `n_supports` are asked for beside those of a task file."""

    n_supports: int


@dataclass(frozen=True)
class Warned:
    """Something is odd and stops nothing: `message`, one line."""

    message: str


@dataclass(frozen=True)
class Ready:
    """Everything is read and planned.

    Attributes:
        n_stones: of the stepping stones, which are outlined first.
        n_waiting: of the scans that this process outlines.
        n_kept: of those that are there already, made of the same.
        n_changed: of those that are there, and were made of something else, so that they are outlined again.
        n_queries: of all scans.
    """

    n_stones: int
    n_waiting: int
    n_kept: int
    n_changed: int
    n_queries: int


@dataclass(frozen=True)
class StoneOutlined:
    """The stepping stone at a path is outlined, in one of the processes."""

    stone: Path


@dataclass(frozen=True)
class Begun:
    """A scan is begun."""

    query: Query


@dataclass(frozen=True)
class Outlined:
    """A scan is outlined and on disk, with its rows of cases.csv, or of `Segmentation.numbers` where there is no table."""

    query: Query
    rows: list[dict]


@dataclass(frozen=True)
class Failed:
    """A scan could not be outlined: `message`, one line. The others go on."""

    query: Query
    message: str

    @property
    def reason(self) -> str:
        """The message without the path of the scan."""
        return self.message.removeprefix(f"{self.query.scan}: ").replace(f"{self.query.scan}/", "")


@dataclass(frozen=True)
class Outcome:
    """What was made, and what was there already.

    Attributes:
        queries: all of them.
        rows: the rows of cases.csv, by the query's name.
        failures: one line for each query that failed, by its name.
        root: the scan or the folder that was asked for; None if the queries were given one by one.
        left_out: the files and folders beside the queries that are none, with the reasons.
        lacking: the formats that were asked for and that a query's scan cannot have, by the query's name.
    """

    queries: Sequence[Query]
    rows: Mapping[str, Sequence[Mapping]]
    failures: Mapping[str, str]
    root: Path | None = None
    left_out: Sequence[LeftOut] = ()
    lacking: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """A line for each query that failed or lacks a format, and for what might hold a scan and was not read."""
        return [*(f"{self.shown(query.scan)}: {self.failures[query.name]}" for query in self._failed),
                *(f"{self.shown(query.scan)}: is no DICOM series, so {' and '.join(self.lacking[query.name])} cannot be written"
                  for query in self.queries if query.name in self.lacking),
                *(f"{self.shown(one.path)}: {one.reason}" for one in self.left_out if one.may_be_scan)]

    @property
    def notes(self) -> list[str]:
        """A line for each file or folder that is no scan."""
        return [f"{self.shown(one.path)}: {one.reason}" for one in self.left_out if not one.may_be_scan]

    @property
    def _failed(self) -> list[Query]:
        return [query for query in self.queries if query.name in self.failures]

    def shown(self, path: Path) -> str:
        """Return a path below the folder of the queries as messages name it."""
        return in_utf8(path.name if self.root in (None, path) else str(path.relative_to(self.root)))

    @property
    def empty(self) -> dict[str, list[str]]:
        """The names of the classes of which nothing, or nearly nothing, was found, by the name of the query; see `is_empty`."""
        of_queries = {query.name: [str(row["label_name"]) for row in self.rows.get(query.name, ()) if is_empty(row)]
                      for query in self.queries if query.name not in self.failures}
        return {name: classes for name, classes in of_queries.items() if classes}

    @property
    def problem_rows(self) -> list[dict]:
        """A row of cases.csv for each of the problems."""
        return [*({"query": query.name, "problem": self.failures[query.name]} for query in self._failed),
                *({"query": self.shown(one.path), "problem": one.reason} for one in self.left_out if one.may_be_scan)]

    def summary(self) -> str:
        """Return how many queries are outlined. Those with an empty class are counted apart, and named.

        So is what might hold a scan and could not be read.
        """
        n_whole = len(self.queries) - len(self.failures) - len(self.empty)
        n_unread = sum(one.may_be_scan for one in self.left_out)
        return "; ".join([f"{n_whole} of {len(self.queries)} scans are outlined",
                          *([empty_classes(self.empty)] if self.empty else []),
                          *([f"{n_unread} files or folders could not be used"] if n_unread else [])])


@dataclass(frozen=True)
class Finished:
    """All is done, with the outcome of all processes in the main one. In the others it lacks what failed."""

    outcome: Outcome


Event = Reading | Warned | Ready | StoneOutlined | Begun | Outlined | Failed | Finished
