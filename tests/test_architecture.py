"""The house stands as docs/architecture.md says: imports go one way, and the diagram is that of the imports."""

import ast
import re
import tomllib
from graphlib import TopologicalSorter

import pytest

from qnet.scripts.checks.imports import ARROWS, PAGE, drawn_page, main, own_room, room_of, wrong_arrows
from qnet.util.base.root import ROOT


def test_every_import_is_allowed():
    assert wrong_arrows(ROOT) == []
    assert main([]) == 0


def test_rooms_are_in_an_order():
    order = list(TopologicalSorter({room: used for room, used in ARROWS.items() if room != "tests"}).static_order())
    assert order.index("util.base") < order.index("dataloaders") < order.index("util.options") < order.index("util.run")


@pytest.mark.parametrize(("file", "text", "said"), [
    ("models/new.py", "import torch\n\nfrom qnet.util.options import table\n",
     "models/new.py:3: models imports qnet.util.options"),
    ("dataloaders/new.py", "import qnet.models.qnet\n", "dataloaders/new.py:1: dataloaders imports qnet.models.qnet"),
    ("util/base/new.py", "def f():\n    from qnet.dataloaders import volumes\n",
     "util/base/new.py:2: util.base imports qnet.dataloaders"),
    ("util/engine/new.py", "from qnet.util import run\n", "util/engine/new.py:1: util.engine imports qnet.util.run"),
    ("data/new.py", "import qnet.train\n", "data/new.py:1: data imports qnet.train"),
    ("scripts/new.py", "from tests.damage import empty\n", "scripts/new.py:1: scripts imports tests.damage"),
    ("util/run/new.py", "from util.base import errors\n",
     "util/run/new.py:1: util.run imports util.base, allowed: qnet.util.base"),
])
def test_a_wrong_arrow_is_named_with_its_line(file, text, said, tmp_path):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text, encoding="utf-8")
    (line,) = wrong_arrows(tmp_path)
    assert line.startswith(said)


def test_allowed_and_foreign_imports_are_none_of_it(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/new.py").write_text(
        "import torch\nimport utilities\nfrom qnet.util.base import errors\nfrom qnet.models import qnet\n", encoding="utf-8")
    assert wrong_arrows(tmp_path) == []


def test_every_python_file_is_in_a_room(tmp_path):
    files = [path.relative_to(ROOT) for folder in ("data", "dataloaders", "models", "qnet", "scripts", "tests", "util")
             for path in (ROOT / folder).rglob("*.py") if path != ROOT / "util/__init__.py"]     # a corridor: no code but set-up
    assert len(files) > 100
    for file in files:
        own_room(file)
    assert room_of("qnet.util.base.files") == "util.base" and room_of("numpy.data") is None and room_of("util.base.files") is None
    with pytest.raises(ValueError, match=r"attic/old.py: is in no room"):
        own_room(tmp_path.relative_to(tmp_path) / "attic/old.py")


WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]


def test_the_wheel_has_every_room():
    tops = {room.partition(".")[0] for room in ARROWS} - {"entry points", "tests"}
    assert set(WHEEL["only-include"]) == {"qnet", "configs", *tops}
    assert WHEEL["sources"] == {top: f"qnet/{top}" for top in ("configs", *tops)}


LACKING = re.compile(r"\b(train|test)\.py\b|\bbash scripts/\w|\bpython data/|(docs|data)/\w+\.md(?! of the repository)")


def texts_of(path):
    """Yield what a file may say to a user: its strings, and its docstrings where they are helps."""
    tree = ast.parse(source := path.read_text(encoding="utf-8"))
    firsts = [node.body[0] for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    firsts += [] if "__doc__" in source else tree.body[:1]
    docstrings = {id(node.value) for node in firsts if isinstance(node, ast.Expr)}
    yield from (node.value for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings)


def test_what_the_wheel_says_names_no_file_that_it_lacks():
    left_out = tuple(str(ROOT / name) for name in (*WHEEL["exclude"], "scripts/options.py"))      # of the bash scripts
    files = [path for top in WHEEL["only-include"] for path in (ROOT / top).rglob("*.py") if not str(path).startswith(left_out)]
    said = [(path.name, text) for path in files for text in texts_of(path)]
    assert len(said) > 1000
    for path in (ROOT / "configs").glob("*.json5"):
        head, brace, rest = path.read_text(encoding="utf-8").partition("{\n")
        # at its head, base.json5 says for all of it where the pages are
        said.append((path.name, rest.replace(".md", "") if path.name == "base.json5" else head + brace + rest))
    assert [(name, found[0]) for name, text in said if (found := LACKING.search(text))] == []


def test_the_diagram_is_that_of_the_imports():
    text = PAGE.read_text(encoding="utf-8")
    assert drawn_page(text, ROOT) == text, "python scripts/checks/imports.py --draw makes it anew"


# where a raw config is read, checked, completed, logged, and made into sections
WITH_CONFIG = {"qnet/train.py", "qnet/test.py", "util/options/config.py", "util/options/sections.py",
               "util/predict/request.py", "util/run/experiment.py", "util/run/trackers.py", "util/training/as_trained.py"}


def functions_with_a_config(root):
    """Yield file:line of every function that takes a config."""
    files = [*root.glob("*.py"), *(path for folder in ("data", "dataloaders", "models", "qnet", "scripts", "util")
                                   for path in (root / folder).rglob("*.py"))]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                types = {ast.unparse(argument.annotation) for argument in taken if argument.annotation}
                if "Config" in types or any("config" in argument.arg.split("_") for argument in taken):
                    yield f"{path.relative_to(root).as_posix()}:{node.lineno}"


def test_below_the_entry_points_nothing_takes_a_raw_config():
    found = list(functions_with_a_config(ROOT))
    assert [place for place in found if place.partition(":")[0] not in WITH_CONFIG] == []
    assert {place.partition(":")[0] for place in found} == WITH_CONFIG     # none is listed in vain


def test_a_function_that_takes_a_config_is_found(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/new.py").write_text(
        "def f(x):\n    pass\n\n\ndef g(base_config):\n    pass\n\n\ndef h(a: Config):\n    pass\n", encoding="utf-8")
    assert list(functions_with_a_config(tmp_path)) == ["models/new.py:5", "models/new.py:9"]
