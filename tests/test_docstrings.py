"""Every public module, class, function, method and property of the project has a docstring."""

import ast
from pathlib import Path

from qnet.util.base.root import ROOT

FOLDERS = ("data", "dataloaders", "models", "qnet", "scripts", "util")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
EXAMPLE = '''
class Public:
    def __init__(self):
        pass
    @property
    def bare(self):
        pass
    class Inner:
        """Has one."""
        async def method(self):
            pass
    def _private(self):
        pass
class _Private:
    def method(self):
        pass
if True:
    def guarded():
        def within():
            pass
'''


def lacking(path: Path) -> list[str]:
    """Return "file:line name" for each public definition of a file without a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [] if ast.get_docstring(tree) else [(1, "the module")]
    found += [(node.lineno, node.name) for node in public(tree) if not ast.get_docstring(node)]
    return [f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}:{line} {name}" for line, name in found]


def public(node: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Return the public definitions within a node; what a function defines for itself is not public."""
    found = []
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (*FUNCTIONS, ast.ClassDef)):
            found += public(child)
        elif not child.name.startswith("_"):
            found += [child, *(public(child) if isinstance(child, ast.ClassDef) else [])]
    return found


def test_everything_public_has_a_docstring():
    files = [ROOT / "train.py", ROOT / "test.py", *(path for name in FOLDERS for path in sorted((ROOT / name).rglob("*.py")))]
    assert len(files) > 80
    without = [line for path in files for line in lacking(path)]
    assert not without, "no docstring:\n" + "\n".join(without)


def test_what_lacks_one_is_named_with_its_line(tmp_path):
    (tmp_path / "bare.py").write_text(EXAMPLE, encoding="utf-8")
    assert lacking(tmp_path / "bare.py") == ["bare.py:1 the module", "bare.py:2 Public", "bare.py:6 bare", "bare.py:10 method",
                                             "bare.py:18 guarded"]
