"""SIGTERM and Ctrl-C: what is under way is finished first, and the exit status tells."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """SIGTERM or Ctrl-C; sacred gives the run the status INTERRUPTED."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_status(self) -> int:
        """128 + the signal's number, as a shell has it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


def raise_on_signals() -> None:
    """From now on SIGTERM and Ctrl-C raise Interrupted."""
    def handle(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    for number in STOPPING:
        signal.signal(number, handle)


def ignore_signals(worker: int = 0) -> None:
    """For loader workers, which get the signals of their process group too and are told to stop by the main process."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


class StopRequest:
    """Holds the signal that came in the block of `deferred_signals`, or None."""

    number: int | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        # no print: a signal may come while one is under way
        os.write(2, f"\n{signal.Signals(number).name}: finishing this step and saving it; once more exits at once\n".encode())


@contextlib.contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Within the block SIGTERM and Ctrl-C are only noted; the second one ends the process at once."""
    request = StopRequest()
    before = {number: signal.signal(number, request.handle) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
