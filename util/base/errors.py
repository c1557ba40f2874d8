"""The one error type for mistakes that a user can correct, and how text of others is shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class InputError(ValueError):
    """A file, a folder or an option that the user gave is wrong.

    The message is one line. It names the file or key, the value, and what is allowed. Entry points print it without a
    traceback and exit with a non-zero status. It is `printable`: what it quotes from a file moves no cursor.
    """

    def __init__(self, message: str):
        super().__init__(printable(str(message)))


def printable(text: str) -> str:
    """Return a text on one line that a terminal only shows: line breaks and escapes become letters, as \\n and \\x1b."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names as a message lists them: of many the first, as "a, b, c, d, e and 3 more"."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def in_utf8(text: str) -> str:
    """Return a text that files and pages can hold: of a path, bytes that are no UTF-8 become letters."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return what to add to a message about an unknown name: the known one that is most like it, or nothing."""
    near = get_close_matches(given, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
