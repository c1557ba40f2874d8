"""How a scan is corrected that was outlined: where the labelling page of its folder is, and with which command it is opened."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

LABEL_PAGE = "label_page"       # folder of the page's session, in that of the scans
WAY = "open.html"               # in it while a server is at work: leads the browser to the page


@dataclass(frozen=True)
class Correction:
    """How scans of a report are corrected.

    Attributes:
        command: starts the labelling page.
        page: address of the file that leads to it while it runs.
    """

    command: str
    page: str


def correction_of(scans: Path, output: Path | None = None) -> Correction:
    """Return how the scans of a folder are corrected.

    Args:
        output: the folder of what `qnet segment` found for them; None if the page found it.
    """
    found = [] if output is None else ["--found", str(output.absolute())]
    return Correction(shlex.join(["qnet", "label", str(scans.absolute()), *found]), (scans.resolve() / LABEL_PAGE / WAY).as_uri())
