"""What a report tells of how its outlines were made."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

import qnet
from qnet.util.base.arguments import command_line
from qnet.util.base.errors import listed

if TYPE_CHECKING:       # the labelling page does without PyTorch
    from qnet.util.predict.predictor import Predictor
    from qnet.util.predict.request import Request

SHOWN_NAMES = 8


def provenance(request: Request, predictor: Predictor, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Return facts for a report: the outlined scans, method, settings, expected Dice, version, date and command.

    Args:
        rows: of cases.csv, by the name of the query.
    """
    stones = f", up to {predictor.n_stones} stepping stones" if predictor.n_stones else ""
    expected = expected_dice([row for of_query in rows.values() for row in of_query])
    return {"outlined by hand": outlined_by_hand(request, predictor),
            "method": f"{request.method.model.model}{stones}, computed in {predictor.precision}",
            **({"expected Dice": expected} if expected else {}), **made_now(), "command": command_line()}


def outlined_by_hand(request: Request, predictor: Predictor) -> str:
    """Return the names of the outlined scans. Those of a task file have none."""
    names = [image.name for image, _ in request.supports]
    n_of_task = len(predictor.supports) - len(names)
    of_task = [f"{n_of_task} of {request.task.name}"] if request.task is not None else []
    return ", ".join([*of_task, *([listed(names, SHOWN_NAMES)] if names else [])])


def made_now() -> dict[str, str]:
    """Return the version of this program and the present date."""
    return {"by": f"qnet {qnet.__version__}", "on": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"}


def expected_dice(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return mean and range of the confidences in some rows, in words; None if there is none."""
    known = [float(row["confidence"]) for row in rows if row.get("confidence") not in (None, "")]
    return f"{mean(known):.2f} on average, {min(known):.2f} to {max(known):.2f}" if known else None
