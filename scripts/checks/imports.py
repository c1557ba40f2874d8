"""Check the imports of every file against the rooms that it may use, and draw them in docs/architecture.md.

    python scripts/checks/imports.py            # names every wrong arrow; exit status 1 if there is one
    python scripts/checks/imports.py --draw     # also draws the diagram of docs/architecture.md again

`ARROWS` is the architecture: a room may import itself and the rooms in its line, and nothing else of the project. A room is named
as its folder is; imports name it in the package, as `qnet.util.base`.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from qnet.util.base.arguments import Parser
from qnet.util.base.files import replacing
from qnet.util.base.root import ROOT

BASE = {"util.base"}
DATA_AND_MODELS = BASE | {"util.options", "dataloaders", "models"}
UTIL = DATA_AND_MODELS | {"util.training", "util.taskfile", "util.engine", "util.results", "util.predict", "util.run",
                          "util.viewer", "util.clients", "util.label"}
ARROWS: Mapping[str, set[str]] = {
    "util.base": set(),
    "models": BASE,
    "dataloaders": BASE,
    "util.viewer": BASE,
    "util.clients": BASE,
    "util.options": BASE | {"dataloaders", "models"},
    "util.training": DATA_AND_MODELS,
    "util.engine": DATA_AND_MODELS,
    "util.taskfile": DATA_AND_MODELS | {"util.training"},
    "util.run": DATA_AND_MODELS | {"util.training", "util.taskfile"},
    "util.results": DATA_AND_MODELS | {"util.engine", "util.viewer"},
    "util.predict": DATA_AND_MODELS | {"util.training", "util.taskfile", "util.engine", "util.results"},
    "util.label": DATA_AND_MODELS | {"util.taskfile", "util.predict", "util.viewer", "util.clients"},
    "data": BASE | {"util.options", "dataloaders"},
    "entry points": UTIL,
    "scripts": UTIL,
    "scripts.tables": UTIL | {"data", "scripts"},
    "scripts.checks": UTIL | {"data", "scripts", "scripts.tables", "tests"},       # measures with the data of the tests
    "tests": UTIL | {"data", "scripts", "scripts.tables", "scripts.checks", "entry points"},
}
PACKAGE = "qnet"
ENTRY_POINTS = {"train", "test", PACKAGE}       # files, and a folder
OUTSIDE = {"tests"}             # of the package
DRAWN = [room for room in ARROWS if room not in ("tests", "scripts.checks", "scripts.tables")]
PAGE, BEGIN, END = ROOT / "docs/architecture.md", "<!-- imports: begin -->", "<!-- imports: end -->"


class Import(NamedTuple):
    """`file` (relative to the root) imports `module`, a dotted name, at a line."""

    file: Path
    line: int
    module: str


def room_of(module: str) -> str | None:
    """Return the room of a dotted name, as imports say it. None if it is not of the project."""
    top, _, rest = module.partition(".")
    return _room(module) if top in OUTSIDE else _room(rest) if top == PACKAGE else None


def _room(name: str) -> str | None:
    """Return the room of a dotted name without the package."""
    if name.partition(".")[0] in ENTRY_POINTS:
        return "entry points"
    return max((room for room in ARROWS if f"{name}.".startswith(f"{room}.")), key=len, default=None)


def _is_bare(module: str) -> bool:
    """Return whether an import names a room without the package, which would load its files a second time."""
    top = module.partition(".")[0]
    return top not in OUTSIDE and top not in sys.stdlib_module_names and _room(module) is not None and top != PACKAGE


def imports_of(path: Path, root: Path) -> Iterator[Import]:
    """Yield the imports in a file, including those in functions and those for type checkers."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (Import(path.relative_to(root), node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:      # `from qnet.util import base` also names a room
                module = node.module if room_of(f"{node.module}.{alias.name}") == room_of(node.module) \
                    else f"{node.module}.{alias.name}"
                yield Import(path.relative_to(root), node.lineno, module)


@cache
def all_imports(root: Path) -> list[Import]:
    """Return the imports in every Python file of the project, except those of other packages. They are read once a process."""
    tops = {PACKAGE, *(room.partition(".")[0] for room in ARROWS)}
    folders = sorted(top for top in tops if (root / top).is_dir())
    files = [*root.glob("*.py"), *(path for folder in folders for path in sorted((root / folder).rglob("*.py")))]
    return list(dict.fromkeys(found for path in files for found in imports_of(path, root)
                              if room_of(found.module) or _is_bare(found.module)))


def own_room(file: Path) -> str:
    """Return the room of a file. Its path is relative to the root.

    Raises:
        ValueError: it is in no room.
    """
    room = _room(".".join(file.with_suffix("").parts))
    if room is None:
        raise ValueError(f"{file}: is in no room of ARROWS")
    return room


def wrong_arrows(root: Path) -> list[str]:
    """Return a line for each import that the architecture does not allow, with file and line."""
    lines = []
    for file, line, module in all_imports(root):
        room, used = own_room(file), room_of(module)
        if used is None:
            lines.append(f"{file}:{line}: {room} imports {module}, allowed: {PACKAGE}.{module}")
        elif used != room and used not in ARROWS[room]:
            lines.append(f"{file}:{line}: {room} imports {module}, allowed: {', '.join(sorted(ARROWS[room])) or 'nothing'}")
    return lines


def diagram(root: Path) -> str:
    """Return a Mermaid diagram of the rooms. A number counts the files of one room that import the other."""
    pairs = {(own_room(file), str(room_of(module)), file) for file, _, module in all_imports(root)
             if room_of(module)}
    counts = Counter((room, used) for room, used, _ in pairs if room != used and {room, used} <= set(DRAWN))
    names = {room: f"r{k}" for k, room in enumerate(DRAWN)}
    nodes = [f'    {name}["{room}"]' for room, name in names.items()]
    arrows = [f"    {names[room]} -->|{n}| {names[used]}" for (room, used), n in sorted(counts.items())]
    return "\n".join(["```mermaid", "flowchart TD", *nodes, *arrows, "```"])


def drawn_page(text: str, root: Path) -> str:
    """Return the text of docs/architecture.md with its diagram drawn again."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{diagram(root)}\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = Parser(__doc__)
    parser.add_argument("--draw", action="store_true", help="draw the diagram of docs/architecture.md again")
    options = parser.parse_args(arguments)
    if options.draw:
        page = drawn_page(PAGE.read_text(encoding="utf-8"), ROOT)
        with replacing(PAGE) as partial:
            partial.write_text(page, encoding="utf-8")
    lines = wrong_arrows(ROOT)
    print("\n".join(lines) or "every import is one that the architecture allows")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
