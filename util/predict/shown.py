"""Shows on a terminal what happens while scans are outlined."""

from __future__ import annotations

from collections.abc import Iterable

from qnet.util.base.progress import progress
from qnet.util.predict.events import Begun, Event, Failed, Finished, Outcome, Outlined, Ready, StoneOutlined, Warned


def shown(events: Iterable[Event]) -> Outcome:
    """Take all events of `qnet.util.predict.outline.outline`, show them, and return the outcome."""
    ready, outcome, scans = None, None, False
    bar = progress(disable=True)
    try:
        for event in events:
            match event:
                case Warned(message):
                    print(f"warning: {message}")
                case Ready():
                    ready = event
                    if ready.n_changed:
                        print(f"{ready.n_changed} of {ready.n_queries} queries were outlined from something else (outlines, "
                              "options, code or scan); they are outlined again")
                    bar = progress(total=ready.n_stones, desc="stepping stones", unit="stone", disable=not ready.n_stones)
                case Begun(query):
                    if not scans:
                        bar.close()
                        bar, scans = progress(total=ready.n_waiting if ready else None, desc="queries", unit="scan"), True
                    bar.set_postfix_str(query.name)
                case StoneOutlined() | Outlined() | Failed():
                    bar.update()
                case Finished():
                    outcome = event.outcome
    finally:
        bar.close()
    assert outcome is not None and ready is not None
    if ready.n_kept:
        print(f"{ready.n_kept} of {ready.n_queries} queries were there already, made from the same files and options")
    return outcome
