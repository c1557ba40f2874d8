"""The parser of command lines."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any, NoReturn

from qnet.util.base.errors import printable
from qnet.util.base.system import print_help


def command_line() -> str:
    """Return the command that runs, as a person types it."""
    program, *given = sys.argv
    if not program.startswith("qnet "):
        return shlex.join(["python", program, *given])
    name = program.split()[1]       # `qnet` gives its programs other words than the person typed
    typed = sys.orig_argv[sys.orig_argv.index(name) + 1:] if name in sys.orig_argv else given
    return shlex.join(["qnet", name, *typed])


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and whose help shows the description as it stands.

    Args:
        description: the docstring of the program.
    """

    def __init__(self, description: str | None = None, **options: Any):
        super().__init__(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def print_help(self, file: Any = None) -> None:
        """Print the help, by default to a reader who may leave before its end."""
        if file is None:
            print_help(self.format_help().rstrip("\n"))
        else:
            super().print_help(file)

    def error(self, message: str) -> NoReturn:
        """End the program with exit status 2."""
        print(printable(f"error: {message}; {self.prog} --help explains"), file=sys.stderr)
        raise SystemExit(2)
