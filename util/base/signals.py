"""SIGTERM and Ctrl-C: the current step is finished first, and the exit status names the signal."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised after SIGTERM or Ctrl-C. Sacred gives the run the status INTERRUPTED."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_status(self) -> int:
        """128 + the signal's number, as in a shell: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


def raise_on_signals() -> None:
    """Make SIGTERM and Ctrl-C raise Interrupted from now on."""
    def handle(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    for number in STOPPING:
        signal.signal(number, handle)


def ignore_signals(_worker: int = 0) -> None:
    """Ignore SIGTERM and Ctrl-C from now on.

    Workers of data loaders call this with their number. They get the signals of their process group, but the main process
    stops them.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


class StopRequest:
    """The signal that came in the block of `deferred_signals`.

    Attributes:
        number: of the signal; None if there was none.
    """

    number: int | None = None

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Note the first signal. A second one ends the process at once, with 128 + its number."""
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        # no print(): the signal may come within one
        os.write(2, f"\n{signal.Signals(number).name}: finishing this step and saving it; once more exits at once\n".encode())


@contextlib.contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Only note SIGTERM and Ctrl-C within the block. The second signal ends the process at once."""
    request = StopRequest()
    before = {number: signal.signal(number, request.handle) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
