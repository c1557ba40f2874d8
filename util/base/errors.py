"""The one error type for mistakes that a user can correct."""

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """A file, a folder or an option that the user gave is wrong.

    The message is one line. It names the file or key, the value, and what is allowed. Entry points print it without a
    traceback and exit with a non-zero status. Line breaks in it, as in a tensor's name in a damaged file, become \\n.
    """

    def __init__(self, message: str):
        super().__init__(str(message).replace("\n", "\\n").replace("\r", "\\r"))


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return what to add to a message about an unknown name: the known one that is most like it, or nothing."""
    near = get_close_matches(given, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
