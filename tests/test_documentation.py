"""What the documents say is there: links, headings, commands, and the lines of errors that the README explains."""

import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from qnet.command import PROGRAMS
from qnet.scripts.segment import main
from qnet.util.base.root import ROOT

DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")]
DOCUMENTS += sorted((ROOT / "docs").glob("*.md"))
AFFINE = np.diag([5.0, 5.0, 12.8, 1.0])
EXPLAINED = "## When something goes wrong"


def anchors(document: Path) -> set[str]:
    """Return what GitHub calls the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_that_are_there(document):
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", document.read_text(encoding="utf-8"))
    for link in links:
        path, _, heading = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def test_every_document_is_in_the_index():
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "docs").glob("*.md") if f"({path.name})" not in index] == ["README.md"]


@pytest.mark.parametrize("document", [one for one in DOCUMENTS if one.name != "CHANGELOG.md"], ids=lambda path: path.name)
def test_files_of_the_repository_that_are_named_are_there(document):
    rooms = "dataloaders|docs|qnet|scripts|tests|util"      # a reader's own may lie in the others
    named = re.findall(rf"`((?:{rooms})/[\w/.-]+\.(?:py|sh|md|json5))`", document.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_of_qnet_that_are_named_are_there(document):
    named = re.findall(r"(?:`|^|    )qnet ([a-z]+)", document.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= set(PROGRAMS)


# ---- the table of errors in the README ----

def write(name: str, array: np.ndarray, shift_mm: float = 0.0) -> None:
    affine = AFFINE.copy()
    affine[:3, 3] = shift_mm
    nibabel.Nifti1Image(array, affine).to_filename(name)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the files that the README's lines name."""
    monkeypatch.chdir(tmp_path)
    Path("scans").mkdir()
    scan = np.random.default_rng(0).uniform(1, 900, (64, 64, 12)).astype(np.float32)
    labels = np.zeros((64, 64, 12), np.uint8)
    labels[20:40, 20:40, 2:9] = 1
    gaps = labels.copy()
    gaps[..., 3:9:2] = 0
    for name in ("case 1", "case 2"):
        write(f"scans/{name}.nii.gz", scan)
    write("labels.nii.gz", labels)
    write("cropped.nii.gz", labels[..., 1:])
    write("elsewhere.nii.gz", labels, 40.0)
    write("gaps.nii.gz", gaps)
    return tmp_path


def in_the_way(place):
    Path("outlined").mkdir()
    shutil.copy("labels.nii.gz", "outlined/case 2.nii.gz")


def a_broken_scan(place):
    Path("scans/case 2.nii.gz").unlink()
    Path("scans/broken.nii.gz").write_bytes(Path("scans/case 1.nii.gz").read_bytes()[:3000])


LINES = {       # of the README's table, in its order: what is outlined, and what is done to the folder before
    "no scan": ("case1=labels.nii.gz", None),
    "a crop": ("case 1=cropped.nii.gz", None),
    "elsewhere": ("case 1=elsewhere.nii.gz", None),
    "a scan": ("case 1=scans/case 2.nii.gz", None),
    "broken": ("case 1=labels.nii.gz", a_broken_scan),
    "in the way": ("case 1=labels.nii.gz", in_the_way),
    "gaps": ("case 1=gaps.nii.gz", in_the_way),        # a warning, so something else has to end the program
}


def test_the_readme_explains_these_lines():
    assert len(explained()) == len(LINES)


def explained() -> list[str]:
    """Return the lines that the README explains."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(EXPLAINED)[1].split("\n## ")[0]
    return re.findall(r"^\| `(.*?)`", section, re.MULTILINE)


@pytest.mark.parametrize("case", LINES)
def test_errors_say_what_the_readme_explains(case, place, capsys):
    outlined, before = LINES[case]
    if before is not None:
        before(place)
    try:
        status = str(main(["--scans", "scans", "--outlined", outlined, "--output", "outlined"]))
    except SystemExit as error:
        status = str(error.code)
    assert status != "0"
    assert explained()[list(LINES).index(case)] in " ".join([status, *capsys.readouterr()])
