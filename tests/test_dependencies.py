"""pyproject.toml has what the code imports, in ranges; requirements*.txt have exact versions within them."""

import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from qnet.util.base.root import ROOT


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
FILES = ("requirements.txt", "requirements-dev.txt")
PROGRAMS, DEVELOPERS = map(requirements, FILES)


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


OF_NAPARI = {"napari", "qtpy"}      # 500 MB with a Qt: its tests are skipped without it (CONTRIBUTING.md)


def test_what_is_said_of_the_package_agrees():
    versions = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.fullmatch(r".* :: 3\.\d+", line)]
    matrices = re.findall(r"python: \[(.*)\]", (ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    assert versions[0] == PROJECT["requires-python"].removeprefix(">=") and len(versions) > 1
    assert all({*versions} <= {*re.findall(r"[\d.]+", matrix)} for matrix in matrices) and len(matrices) == 2
    # several licences in CITATION.cff would be a choice, and these are of different parts
    (licence,) = re.findall(r"^license: (\S+)", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert licence == PROJECT["license"].partition(" AND ")[0]


def test_extras_are_installed_for_the_tests():
    assert not set(EXTRAS) & set(RANGES) and set(EXTRAS) > OF_NAPARI
    for name, extra in EXTRAS.items():
        assert name in OF_NAPARI or extra.specifier.contains(str(DEVELOPERS[name].specifier).removeprefix("=="))


@pytest.mark.parametrize(("name", "version"), [("torch", "2.11.0"), ("torch", "2.11.0+cpu"), ("torchvision", "0.26.0")])
def test_older_versions_that_the_code_runs_with_are_in_the_ranges(name, version):
    assert RANGES[name].specifier.contains(version)


def deptry(*words):
    done = subprocess.run([sys.executable, "-m", "deptry", "--no-ansi", *map(str, words)], cwd=ROOT, capture_output=True,
                          encoding="utf-8", check=False)
    return done.returncode, done.stderr


def test_each_import_is_a_declared_dependency_and_each_dependency_is_imported():
    status, said = deptry(".")
    assert status == 0, said


def test_developers_may_import_their_own_tools_too(tmp_path):
    """deptry takes requirements*.txt where a pyproject.toml has no dependencies."""
    (tmp_path / "pyproject.toml").write_text('[tool.deptry]\nknown_first_party = ["qnet", "tests"]\nexclude = []\n'
                                             f"requirements_files = {[str(ROOT / name) for name in FILES]}\n"
                                             'ignore = ["DEP002"]\n', encoding="utf-8")
    status, said = deptry("scripts/checks", "scripts/tables", "tests", "--config", tmp_path / "pyproject.toml")
    assert status == 0, said


def test_what_is_not_declared_is_named_with_its_line(tmp_path):
    (tmp_path / "new.py").write_text("import torch\nimport no_such_package\n", encoding="utf-8")
    status, said = deptry(tmp_path, "--config", ROOT / "pyproject.toml")
    assert status == 1 and "new.py:2:8: DEP001 'no_such_package' imported but missing from the dependency definitions" in said
    assert "'torch' imported" not in said


@pytest.mark.parametrize(("name", "too_old"), [("setuptools", "78.1.0"), ("jsonpickle", "3.4.2"), ("h11", "0.14.0")])
def test_releases_that_are_known_to_be_unsafe_are_below_the_floors(name, too_old):
    assert not RANGES[name].specifier.contains(too_old)
