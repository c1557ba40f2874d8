"""The fingerprint of code: what changes it, and that text alone gives the tokens and imports that Python's own parsers find."""

import io
import shutil
import tokenize
from pathlib import Path

import pytest

from qnet.scripts.checks.imports import PACKAGE, imports_of
from qnet.util.base.fingerprint import OUTLINES, RUNS, code_sha256, imported, modules_of, said
from qnet.util.base.root import ROOT

PARTS = ("qnet", "models", "dataloaders", "util")
FILES = sorted(path.relative_to(ROOT) for part in (*PARTS, "data", "scripts") for path in (ROOT / part).rglob("*.py"))
WITHOUT_MEANING = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
ODD = '''r"""Of a module."""   # a comment
x = {"a":
     """a text,
     # and no comment""", 'b': '#'}      # a comment
class A:
    """Of a class."""
    b = f"{x['a']} # {1}" 'c' """d"""

    "no more than a text"
def f():
    """Of a "function" with a \\""" and more.
    """
    return """
    kept"""
'''
SAID = r'''r
x = {"a":
     """a text,\n     # and no comment""", 'b': '#'}
class A:
    b = f"{x['a']} # {1}" 'c' """d"""
def f():
    return """\n    kept"""'''


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the code, to change."""
    root = tmp_path_factory.mktemp("checkout")
    for part in PARTS:
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture(scope="module")
def before(checkout):
    """The fingerprints of outlines and of runs, of the copy as it is."""
    return [code_sha256(entries, checkout) for entries in (OUTLINES, RUNS)]


@pytest.fixture
def changed(checkout, before):
    """Change a file of the copy, and return whether the fingerprints of outlines and of runs are others then."""
    kept = {}

    def change(file, old, new):
        path = checkout / file
        kept[path] = text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        return [code_sha256(entries, checkout) != sum for entries, sum in zip((OUTLINES, RUNS), before, strict=True)]

    yield change
    for path, text in kept.items():
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("file", "old", "new"), [
    ("models/guided.py", "\n\n\n", "\n\n# a comment\n\n"), ("models/guided.py", '"""', '"""More of it. '),
    ("util/base/files.py", "\n\n\n", "  # a comment\n\n\n\n"), ("util/predict/outline.py", '"""', '"""More: "it\'s" (so). '),
    ("util/label/gate.py", "\n\n\n", "\n\nx = 1\n\n"), ("util/label/session.py", "STATE, TASK", "STATE, TASKS"),
    ("util/label/page/page.js", "const", "let"), ("util/results/report_page.py", "2**20", "2**21"),
    ("util/results/report_page.js", "function", "async function"), ("util/viewer/niivue.py", "\n\n\n", "\n\nx = 1\n\n")])
def test_what_computes_nothing_changes_nothing(file, old, new, changed):
    assert changed(file, old, new) == [False, False]


@pytest.mark.parametrize(("file", "old", "new", "outlines"), [
    ("models/guided.py", "PRIOR_EPS = 0.01", "PRIOR_EPS = 0.02", True),
    ("models/mind.py", "\n    return ", "\n    return 2 * ", True),
    ("models/registration.py", "import torch\n", "import torch\n\ntorch.manual_seed(0)\n", True),
    ("dataloaders/resampling.py", "sitk.sitkLinear", "sitk.sitkNearestNeighbor", True),
    ("util/predict/predictor.py", "round(3)", "round(2)", True), ("util/base/device.py", "True", "False", True),
    ("qnet/train.py", "history = train(model", "history = train(2 * model", False),
    ("util/training/loop.py", "\n    return ", "\n    return 2 * ", False),
    ("util/results/scores.py", "* 255", "* 254", False)])
def test_what_computes_changes_it(file, old, new, outlines, changed):
    assert changed(file, old, new) == [outlines, True]


def test_a_new_import_counts(changed, checkout):
    (checkout / "models/new.py").write_text("x = 1\n", encoding="utf-8")
    assert not {"models.new"} & set(modules_of(OUTLINES, checkout))
    changed("models/guided.py", "import torch\n", "import torch\n\nfrom qnet.models import new\n")
    assert {"models.new"} <= set(modules_of(OUTLINES, checkout))
    (checkout / "models/new.py").unlink()


def test_a_checkout_and_its_package_have_the_same(checkout, tmp_path):
    package = tmp_path / "qnet"
    shutil.copytree(checkout / "qnet", package)
    for part in PARTS[1:]:
        shutil.copytree(checkout / part, package / part)
    for entries in (OUTLINES, RUNS):
        assert code_sha256(entries, package) == code_sha256(entries, checkout)


def test_a_module_that_is_gone_is_named(checkout):
    with pytest.raises(FileNotFoundError, match=r"has no module util\.predict\.gone"):
        code_sha256(("util.predict.gone",), checkout)


def test_no_tests_and_no_tools_are_part_of_it():
    found = set(modules_of((*OUTLINES, *RUNS)))
    assert {"models.guided", "dataloaders.resampling", "util.base.device", "util", "train", "test"} <= found
    assert not [name for name in found if name.startswith(("tests", "scripts", "data.", "util.label", "util.viewer"))]


def tokens(code):
    """The tokens of code without comments and docstrings, by Python's tokenizer."""
    found = [token for token in tokenize.generate_tokens(io.StringIO(code).readline)
             if token.type not in (tokenize.COMMENT, tokenize.NL)]
    starts = [True, *(token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT) for token in found)]
    return [token.string.replace("\n", r"\n") for token, first, after in zip(found, starts, [*found[1:], found[-1]], strict=False)
            if token.type not in WITHOUT_MEANING
            and not (first and token.type == tokenize.STRING and after.type in (tokenize.NEWLINE, tokenize.ENDMARKER))]


@pytest.mark.parametrize("part", [*PARTS, "data", "scripts"])
def test_python_finds_the_same_tokens_and_imports(part):
    for file in (file for file in FILES if file.parts[0] == part):
        code = (ROOT / file).read_text(encoding="utf-8")
        assert tokens(said(code).replace("\nr\n", "\n")) == tokens(code), file
        by_parser = {one.module.removeprefix(f"{PACKAGE}.") for one in imports_of(ROOT / file, ROOT)
                     if one.module.startswith(f"{PACKAGE}.")}
        assert by_parser <= set(imported(said(code))), file


def test_odd_code():
    compile(ODD, "odd", "exec")
    assert said(ODD) == SAID


def test_files_are_there():
    assert len(FILES) > 150 and Path("models/guided.py") in FILES
