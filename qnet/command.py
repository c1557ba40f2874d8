"""The command `qnet`: names a program of this project, which gets the rest of the line.

    qnet segment --scans scans/ --outlined "case 1=case_1_labels.nii.gz" --output outlined/
    qnet segment --help
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from qnet.util.base.errors import did_you_mean, printable
from qnet.util.base.system import print_help


class Program(NamedTuple):
    """What a sub-command runs: a function of a module, which is imported only then.

    Attributes:
        does: a line for the list of sub-commands.
        function: and its module before it, without "qnet.".
        words: what Sacred's experiment gets of the arguments; None: it takes them as they are.
    """

    does: str
    function: str
    words: Callable[[list[str]], list[str]] | None = None


def with_words(given: list[str], command: Sequence[str] = ()) -> list[str]:
    """Return the arguments of a Sacred experiment. `with` may be left out: ``qnet train demo seed=1``."""
    if not given or given[0].startswith("-") or given[0] in SACREDS:
        return [*command, *given]
    return [*command, *(given if given[0] == "with" else ["with", *given])]


def report_words(given: list[str]) -> list[str]:
    """Return the arguments of the experiment's `report`. A word that is no option is the run folder."""
    return with_words([word if word == "with" or "=" in word or word.startswith("-") else f"run={word}" for word in given],
                      ["report"])


SACREDS = ("print_config", "print_dependencies", "save_config", "print_named_configs", "help")
PROGRAMS = {
    "segment": Program("outline an organ in one scan of a folder, and get it outlined in the others", "scripts.segment.run"),
    "label": Program("the same in the browser: outline, look, correct, export", "scripts.label.main"),
    "task": Program("put outlined scans and a method into one file for others", "util.predict.task_command.main"),
    "predict": Program("segment scans with any method and option, also with a trained network", "test.run",
                       lambda given: with_words(given, ["predict"])),
    "prepare": Program("make the folder that training reads from a downloaded or your own data set", "data.prepare.main"),
    "check": Program("check a prepared data set, and name what is wrong with it", "data.check.main"),
    "train": Program("train a network on a prepared data set", "train.run", with_words),
    "test": Program("score a trained network, or a method without training, on held-out cases", "test.run", with_words),
    "report": Program("show an evaluation as a page: tables, plots, every case", "test.run", report_words),
    "compare": Program("collect evaluations in one table", "scripts.compare.main"),
}


def help_text() -> str:
    """Return the help of the command itself."""
    width = max(map(len, PROGRAMS))
    lines = [f"    {name:<{width}}  {program.does}" for name, program in PROGRAMS.items()]
    return "\n".join([
        "Few-shot medical image segmentation: outline an organ in one scan, get it in the others.", "",
        "    qnet segment --scans FOLDER --outlined SCAN=LABELS --output OUT", "    qnet label FOLDER", "",
        "Commands; each explains itself with  qnet COMMAND --help:", "", *lines, "", "    qnet --version prints the version."])


def main(given: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    name, *rest = (sys.argv[1:] if given is None else given) or ["--help"]
    if name in ("-h", "--help", "help"):
        print_help(help_text())
        return 0
    if name in ("-V", "--version", "version"):
        from qnet import __version__
        print(f"qnet {__version__}")
        return 0
    if name not in PROGRAMS:
        near = did_you_mean(name, PROGRAMS)
        print(printable(f"error: qnet: got {name!r}{near}; allowed: {', '.join(PROGRAMS)}"), file=sys.stderr)
        return 2
    program = PROGRAMS[name]
    sys.argv = [f"qnet {name}", *(rest if program.words is None else program.words(rest))]
    module, _, function = program.function.rpartition(".")
    return getattr(importlib.import_module(f"qnet.{module}"), function)() or 0
