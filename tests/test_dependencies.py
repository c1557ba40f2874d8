"""pyproject.toml has what the code imports, in ranges; requirements*.txt have exact versions within them."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from qnet.util.base.root import ROOT

FOLDERS = ("data", "dataloaders", "models", "qnet", "scripts", "util")
TYPES_ONLY = {"_typeshed"}       # known to type checkers alone
OWN = {"qnet", "tests"}
DEVELOPERS_SCRIPTS = ("scripts/checks/", "scripts/tables/")     # may use requirements-dev.txt


def requirements(file):
    """Return the requirements that a file has itself, by name."""
    lines = [line.split(" #")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
    return by_name(line for line in lines if line and not line.startswith(("#", "--")))


def by_name(lines):
    found = [Requirement(line) for line in lines]
    assert len({canonicalize_name(one.name) for one in found}) == len(found)
    return {canonicalize_name(one.name): one for one in found}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RANGES = by_name(PROJECT["dependencies"])
EXTRAS = by_name(line for lines in PROJECT["optional-dependencies"].values() for line in lines)
PROGRAMS, DEVELOPERS = requirements("requirements.txt"), requirements("requirements-dev.txt")


def test_the_files_have_the_same_names_and_exact_versions_in_the_ranges():
    assert set(PROGRAMS) == set(RANGES)
    assert not set(DEVELOPERS) & set(RANGES)
    assert (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").startswith("--requirement requirements.txt\n")
    for name, requirement in (PROGRAMS | DEVELOPERS).items():
        exact = re.fullmatch(r"==([\w.]+)", str(requirement.specifier))
        if name == "setuptools":        # a range everywhere: pip brings one of its own
            assert requirement.specifier == RANGES[name].specifier
        elif name in RANGES:
            assert exact and RANGES[name].specifier.contains(exact[1]), f"{requirement} is not in {RANGES[name]}"
        else:
            assert exact, f"{requirement} is no exact version"


def test_extras_are_installed_for_the_tests():
    assert not set(EXTRAS) & set(RANGES)
    for name, extra in EXTRAS.items():
        assert extra.specifier.contains(str(DEVELOPERS[name].specifier).removeprefix("=="))


@pytest.mark.parametrize(("name", "version"), [("torch", "2.11.0"), ("torch", "2.11.0+cpu"), ("torchvision", "0.26.0")])
def test_older_versions_that_the_code_runs_with_are_in_the_ranges(name, version):
    assert RANGES[name].specifier.contains(version)


def third_party_imports():
    """Yield (file, line, top-level module) of the code, without Python's own and the project's."""
    files = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))]
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
                [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in {name.partition(".")[0] for name in names} - OWN - sys.stdlib_module_names - TYPES_ONLY:
                yield path.relative_to(ROOT).as_posix(), node.lineno, module


@pytest.fixture(scope="module")
def distributions():
    """The distributions that each top-level module comes from."""
    return {module: set(map(canonicalize_name, names)) for module, names in packages_distributions().items()}


def test_each_import_is_a_declared_dependency(distributions):
    imports = list(third_party_imports())
    assert {"torch", "cv2", "docopt", "skimage"} <= {module for _, _, module in imports}
    for file, line, module in imports:
        declared = set(RANGES) | set(EXTRAS) | (set(DEVELOPERS) if file.startswith(DEVELOPERS_SCRIPTS) else set())
        providers = distributions.get(module, set())
        assert providers & declared, f"{file}:{line}: {module} is of {providers or 'nothing installed'}, which is not declared"


def test_each_declared_dependency_is_imported(distributions):
    imported = {name for _, _, module in third_party_imports() for name in distributions.get(module, ())}
    assert set(RANGES) - imported == {"setuptools", "jsonpickle", "h11"}      # of sacred and uvicorn: here for their floors


@pytest.mark.parametrize(("name", "too_old"), [("setuptools", "78.1.0"), ("jsonpickle", "3.4.2"), ("h11", "0.14.0")])
def test_releases_that_are_known_to_be_unsafe_are_below_the_floors(name, too_old):
    assert not RANGES[name].specifier.contains(too_old)
