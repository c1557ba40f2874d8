"""A fingerprint of the code that computes something: of some modules, of those that they import, and so on.

Comments, docstrings, empty lines and spaces at the end of lines are no part of it, nor are modules that only show what was
computed. It is the same in a checkout and in the package made of it. The code is read as text: to parse it takes half a second.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path

from qnet.util.base.root import ROOT

PACKAGE = "qnet"
OUTLINES, RUNS = ("util.predict.outline",), ("train", "test")     # modules that lead to all that outlines, or runs, depend on
SHOW = ("util.label", "util.viewer", "util.results.figures", "util.results.report", "util.results.report_page",
        "util.results.scan_report", "util.predict.report", "util.predict.shown",
        "util.predict.task_command")     # these only show and ask
TEXT_OR_COMMENT = re.compile(r"""("{3}|'{3})(?:\\.|(?!\1).)*\1|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|#[^\n]*""", re.DOTALL)
FROM = re.compile(rf"^[ \t]*from[ \t]+{PACKAGE}(\.[\w.]+)?[ \t]+import[ \t]*(\([^)]*\)|[^\n]*)", re.MULTILINE)
IMPORT = re.compile(rf"^[ \t]*import[ \t]+{PACKAGE}\.([\w.]+)", re.MULTILINE)


def code_sha256(entries: tuple[str, ...], root: Path = ROOT) -> str:
    """Return a checksum of what some modules say, with all that they import.

    Args:
        entries: names of modules, without the package's: OUTLINES, RUNS.
        root: of a checkout, or the folder of an installed package.
    Raises:
        FileNotFoundError: there is no module of such a name.
    """
    found = modules_of(entries, root)
    return sha256("\n".join(f"{name}:\n{found[name]}" for name in sorted(found)).encode()).hexdigest()


def modules_of(entries: Collection[str], root: Path = ROOT) -> dict[str, str]:
    """Return what some modules say, and all that they import, by name. Those that only show (SHOW) are left out.

    Raises:
        FileNotFoundError: there is no module of a name in `entries`.
    """
    found, looked_for = dict[str, str](), set[str]()
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        if name in looked_for or any(f"{name}.".startswith(f"{shown}.") for shown in SHOW):
            continue
        looked_for.add(name)
        if (file := _file_of(name, root)) is not None:
            found[name] = said(file.read_text(encoding="utf-8"))
            waiting += imported(found[name])
        elif name in entries:
            raise FileNotFoundError(f"{root}: has no module {name}")
    return found


def _file_of(name: str, root: Path) -> Path | None:
    """Return the file of a module. None: it is a name in a module, or a folder without code."""
    path = name.replace(".", "/")
    for file in (f"{place}{path}{end}" for place in (f"{root}/{PACKAGE}/", f"{root}/") for end in (".py", "/__init__.py")):
        if os.path.isfile(file):        # noqa: PTH113 - asked 700 times, and a Path takes ten times as long
            return Path(file)
    return None


@functools.cache
def imported(code: str) -> frozenset[str]:
    """Return all that may be a module of the package in the imports of code, without the package's name: "util", "util.base", ….

    Args:
        code: without comments, as from `said`.
    """
    names = [f"{module}.{name.split()[0]}".lstrip(".") for module, inside in FROM.findall(code)
             for name in inside.strip("()").split(",") if name.strip()]
    parts = [name.split(".") for name in (*names, *IMPORT.findall(code))]
    return frozenset(".".join(one[:n]) for one in parts for n in range(1, len(one) + 1))


@functools.cache       # a process that makes several runs reads the same again
def said(code: str) -> str:
    """Return Python code without comments, docstrings and empty lines. A line break in a text becomes the letters \\n."""
    kept, at, depth = [], 0, 0      # depth: of brackets
    for token in TEXT_OR_COMMENT.finditer(code):
        between = code[at:token.start()]
        kept.append(between)
        depth += sum(map(between.count, "([{")) - sum(map(between.count, ")]}"))
        if token[0][0] != "#" and (depth or not _is_alone(code, token)):
            kept.append(token[0].replace("\n", r"\n"))
        at = token.end()
    lines = map(str.rstrip, "".join((*kept, code[at:])).splitlines())
    return "\n".join(filter(None, lines))


def _is_alone(code: str, text: re.Match[str]) -> bool:
    """Return whether a text has its lines to itself, as docstrings have. Outside of brackets it does nothing then."""
    before = code[code.rfind("\n", 0, text.start()) + 1:text.start()]
    after = re.compile(r"[^\n#]*").match(code, text.end())
    return before.strip() in ("", "r") and after is not None and not after[0].strip()
