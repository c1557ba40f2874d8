"""Every kind of scan in every program: what comes out is right, or one true line says why not.

A row is a kind of tests/kinds.py, a column a program: `segment.sh`, `predict`, the labelling page, `prepare.py`.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest

from qnet.data import prepare
from qnet.dataloaders.finding import find_scans
from qnet.dataloaders.geometry import affine_of
from qnet.dataloaders.nifti import is_plain, read_nifti, write_like
from qnet.dataloaders.reading import read_image
from qnet.scripts.segment import main as segment
from qnet.util.base.errors import InputError
from qnet.util.base.root import ROOT
from qnet.util.label.session import Session
from qnet.util.predict.scans import read_support
from tests.kinds import (
    KINDS,
    NAME_TOO_LONG,
    SHAPE,
    dice_by_label,
    grid,
    nifti,
    one_bit,
    patient,
    save,
    slices,
    text,
    write_slices,
)
from tests.programs import predict
from tests.settings import COARSE

QUICK = ("sound", "qform mirrored", "turned by 35 degrees", "slices far down", "one flipped bit", "nrrd")
COARSER = {**COARSE, "finest": 1.3, "affine": False}
RIGHT = 0.8         # of patients this small; misplaced ones have 0 to 0.4


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """All kinds in one folder, and an outlined scan."""
    root = tmp_path_factory.mktemp("kinds")
    for name, kind in KINDS.items():
        (root / "scans").mkdir(exist_ok=True)
        kind.write(root / "scans" / name.replace(" ", "_"))
    image, labels = patient(grid(), SHAPE, 0)
    save(image.astype(np.int16), grid(), root / "scans/outlined.nii.gz")
    save(labels, grid(), root / "labels.nii.gz")
    return root


def made_by(folder):
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
        return SimpleNamespace(folder=folder, problems={row["query"]: row["problem"] for row in csv.DictReader(file)})


@pytest.fixture(scope="module")
def predicted(place):
    with pytest.raises(SystemExit, match=r"error: query archive.zip: is an archive"):
        predict(model="guided", reload_model_path=None, registration={"stones": 0}, support_image=place / "scans/outlined.nii.gz",
                support_label=place / "labels.nii.gz", query=place / "scans", output=place / "predicted")
    return made_by(place / "predicted")


def check(kind, made):
    """Check the label map that a program made of a kind, or what it says."""
    file_name = kind.replace(" ", "_")
    if KINDS[kind].says is None:
        dices = list(dice_by_label(made.folder / f"{file_name}.nii.gz"))
        assert min(dices) > RIGHT, dices
    else:
        said = next(problem for name, problem in made.problems.items() if name.partition(".")[0] == file_name)
        assert KINDS[kind].says in said and "\n" not in said
        assert not (made.folder / f"{file_name}.nii.gz").exists()


@pytest.mark.whole
@pytest.mark.parametrize("kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS])
def test_segment(kind, place, tmp_path, capsys):
    """The same, of a folder with the outlined scan and one other: without stepping stones it takes a second."""
    shutil.copytree(place / "scans", tmp_path / "scans", ignore=lambda folder, names: [
        name for name in names if Path(folder) == place / "scans" and name.partition(".")[0] not in (
            "outlined", kind.replace(" ", "_"))])
    words = ["--scans", str(tmp_path / "scans"), "--outlined", f"outlined={place / 'labels.nii.gz'}",
             "--output", str(tmp_path / "out")]
    options: dict[str, Any] = {} if kind == "tipped by 30 degrees" else {"registration": COARSER}    # too far for a coarse one
    if kind in ("unknown", "archive", NAME_TOO_LONG):      # there is no scan at all then
        with pytest.raises(SystemExit, match="holds only scans that are outlined.*" + re.escape(str(KINDS[kind].says))):
            segment(words, **options)
        return
    assert segment(words, **options) == (0 if KINDS[kind].says is None else 1)
    said = capsys.readouterr()
    assert ("1 of 1 scans are outlined" if KINDS[kind].says is None else "0 of 1 scans are outlined\n") in said.out
    check(kind, made_by(tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.timeout(1200)      # some 40 scans are registered for the first of them
@pytest.mark.parametrize("kind", KINDS)
def test_predict(kind, predicted):
    check(kind, predicted)


@pytest.fixture(scope="module")
def session(place):
    folder = place / "page"
    shutil.copytree(place / "scans", folder)
    with_session = Session(folder)
    with_session.set_classes([{"value": k, "name": f"organ {k}", "colour": f"#00000{k}"} for k in (1, 2, 3, 4)])
    yield with_session
    with_session.close()


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("kind", KINDS)
def test_page(kind, session):
    """What the page shows lies where segmenting puts it, and is saved; what is refused is refused before a stroke."""
    name = next(name for name in session.scans if name.partition(".")[0] == kind.replace(" ", "_"))
    if KINDS[kind].says is None:
        shown = session.image_file(name)
        assert session.state_of(name) == "empty" and (is_plain(shown) or "sheared" in kind or "tilted" in kind)
        affine = nibabel.load(shown).affine
        original = read_image(session.scan_file(name))
        truth = patient(affine, nibabel.load(shown).shape, 1)[1]
        content = nibabel.Nifti1Image(truth, affine).to_bytes()
        assert session.draw(name, content, 0) == 1
        assert min(dice_by_label(session.hand_file(name))) > 0.99
        assert nibabel.load(shown).shape == original.GetSize()
        return
    if KINDS[kind].page is not None:
        assert session.state_of(name) == "unreadable" and KINDS[kind].says in session.scans[name].problem
    if kind != "outlines":        # a person may mean it
        with pytest.raises(InputError):
            session.image_file(name)
        assert session.state_of(name) == "unreadable"


def test_the_page_shows_one_kind_where_nibabel_and_this_program_agree(session):
    for name in session.scans:
        if session.state_of(name) not in ("unreadable",) and session.scans[name].path.exists():
            shown = session.image_file(name)
            header = nibabel.load(shown).header
            assert np.allclose(nibabel.load(shown).affine, affine_of(header, name), atol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("outlines", "unknown", "archive", NAME_TOO_LONG)])
def test_prepare(kind, place, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    path = KINDS[kind].write(source / "scan_1")
    ending = path.name.removeprefix("scan_1")
    if KINDS[kind].says is None:
        image = read_image(path)
        affine = np.diag([-1, -1, 1, 1]) @ _matrix(image)
        save(patient(affine, image.GetSize(), 1)[1], affine, source / "label_1.nii.gz")
    target = tmp_path / "OWN"
    status = prepare.main(["nifti", "--source", str(source), "--target", str(target), "--spacing", "6", "6", "9", "--size", "48",
                           "--image", f"scan_{{case}}{ending}", "--jobs", "1"], make_maps=lambda *arguments: True)
    said = capsys.readouterr().err
    if KINDS[kind].says is not None:
        assert status == 1 and KINDS[kind].says in said and "Traceback" not in said
        return
    assert status == 0
    assert min(dice_by_label(target / "images/label_1.nii.gz")) > 0.85
    file = nibabel.load(target / "images/image_1.nii.gz")
    truth = patient(file.affine, file.shape, 1)[0]
    assert np.corrcoef(np.asanyarray(file.dataobj).ravel(), truth.ravel())[0, 1] > 0.6      # where it is padded, the truth is not


def _matrix(image):
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return matrix


# ---- one geometry: every pair of codes ----

@pytest.mark.parametrize("qcode", range(5))
@pytest.mark.parametrize("scode", range(5))
@pytest.mark.parametrize("other", ["mirrored", "moved", "turned", "sheared"])
def test_every_pair_of_codes_is_placed_as_nibabel_does(scode, qcode, other, tmp_path):
    affine, rest = grid(), grid() * [[1], [1], [1], [1]]
    rest = {"mirrored": np.diag([-1.0, 1, 1, 1]) @ rest, "moved": rest + np.eye(4)[:, 3:] @ [[0, 0, 0, 0]],
            "turned": rest, "sheared": rest}[other].copy()
    if other == "moved":
        rest[:3, 3] += 50
    if other in ("turned", "sheared"):
        rest[:2, 0] += [0, 2]
        rest[:2, 1] += [-2 if other == "turned" else 0, 0]

    def change(header):
        header.set_qform(affine, qcode)
        header.set_sform(rest, scode)
    path = save(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), affine, tmp_path / "a.nii", change)
    image = read_nifti(path)
    wanted = nibabel.load(path).affine
    assert np.allclose(np.diag([-1, -1, 1, 1]) @ _matrix(image), wanted, atol=1e-3)
    write_like(path, np.ones(SHAPE[::-1], np.uint8), tmp_path / "b.nii")
    written, given = nibabel.load(tmp_path / "b.nii").header, nibabel.load(path).header
    for key in ("qform_code", "sform_code", "srow_x", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "pixdim"):
        assert np.array_equal(written[key], given[key])


# ---- outlines ----

def outlined(tmp_path, labels, image=None):
    path = tmp_path / "scan.nii.gz"
    if image is None:
        image = path if path.exists() else save(patient(grid(), SHAPE, 0)[0], grid(), path)
    scan, label_map, gaps, _ = read_support(image, labels, None)
    truth = patient(np.diag([-1, -1, 1, 1]) @ _matrix(scan.on_grid), scan.on_grid.GetSize(), 0)[1].T
    return (label_map == truth)[truth > 0].mean(), gaps


def canonical(tmp_path):
    turned = nibabel.as_closest_canonical(nibabel.Nifti1Image(patient(grid(), SHAPE, 0)[1], grid()))
    return save(np.asanyarray(turned.dataobj), turned.affine, tmp_path / "labels.nii.gz")


def permuted(tmp_path):
    labels = patient(grid(), SHAPE, 0)[1]
    return save(labels.transpose(2, 0, 1), grid()[:, [2, 0, 1, 3]], tmp_path / "labels.nii.gz")


def nearly_whole(tmp_path):
    return save(patient(grid(), SHAPE, 0)[1] * np.float32(0.99999994), grid(), tmp_path / "labels.nii.gz")


def by_slope(tmp_path):
    def slope(header):
        header["scl_slope"], header["scl_inter"] = 1 / 51, 0
    return save(patient(grid(), SHAPE, 0)[1].astype(np.int16) * 51, grid(), tmp_path / "labels.nii.gz", slope)


@pytest.mark.parametrize("write", [canonical, permuted, nearly_whole, by_slope])
def test_outlines_that_lie_right_are_brought_to_the_scan(write, tmp_path):
    assert outlined(tmp_path, write(tmp_path)) == (1, None)


def test_outlines_made_on_a_converted_series(tmp_path):
    affine = grid(axes="LPS")
    image, labels = patient(affine, SHAPE, 0)
    write_slices(tmp_path / "series", image, affine)
    converted = affine.copy()
    converted[:3, 1] *= -1
    converted[:3, 3] += affine[:3, 1] * (SHAPE[1] - 1)
    path = save(labels[:, ::-1], converted, tmp_path / "labels.nii.gz")
    assert outlined(tmp_path, path, tmp_path / "series") == (1, None)


@pytest.mark.parametrize(("move", "message"), [
    (lambda affine: affine + np.array([[0, 0, 0, 20]] + [[0] * 4] * 3), "lies up to 20.0 mm away from"),
    (lambda affine: np.diag([-1, 1, 1, 1]) @ affine + np.array([[0, 0, 0, 11]] + [[0] * 4] * 3), "lies up to 11.0 mm away from")])
def test_outlines_that_lie_elsewhere_are_refused_by_their_true_distance(move, message, tmp_path):
    path = save(patient(grid(), SHAPE, 0)[1], move(grid()), tmp_path / "labels.nii.gz")
    with pytest.raises(InputError, match=message) as caught:
        outlined(tmp_path, path)
    assert "--" not in str(caught.value)


@pytest.mark.parametrize("trust", [False, True])
def test_prepare_with_outlines_in_another_order(trust, tmp_path, capsys):
    save(patient(grid(), SHAPE, 0)[0], grid(), tmp_path / "image_1.nii.gz")
    canonical(tmp_path).rename(tmp_path / "label_1.nii.gz")
    status = prepare.main(["nifti", "--source", str(tmp_path), "--target", str(tmp_path / "OWN"), "--spacing", "6", "6", "9",
                           "--size", "48", "--jobs", "1", *["--trust-image-geometry"] * trust], make_maps=lambda *arguments: True)
    if trust:
        assert status == 1 and "leave out --trust-image-geometry" in capsys.readouterr().err
    else:
        assert status == 0 and min(dice_by_label(tmp_path / "OWN/images/label_1.nii.gz", 0)) > 0.9


def every_third(tmp_path):
    labels = patient(grid((6, 6, 4), (44, 36, 30)), (44, 36, 30), 0)[1]
    labels[:, :, [z for z in range(30) if z % 3]] = 0
    return save(labels, grid((6, 6, 4), (44, 36, 30)), tmp_path / "labels.nii.gz")


def test_gaps_between_outlined_slices_are_told_and_filled(tmp_path):
    affine, shape = grid((6, 6, 4), (44, 36, 30)), (44, 36, 30)
    image = save(patient(affine, shape, 0)[0], affine, tmp_path / "scan.nii.gz")
    truth, path = patient(affine, shape, 0)[1].T, every_third(tmp_path)
    _, label_map, gaps, _ = read_support(image, path, None)
    assert "labels 1, 2, 3, 4: not outlined in the slices" in gaps and label_map.sum() < 0.4 * truth.sum()
    _, filled, told, _ = read_support(image, path, None, fill_gaps=True)
    assert told is None
    for label in (1, 2, 3, 4):
        both = ((filled == label) & (truth == label)).sum()
        assert 2 * both / ((filled == label).sum() + (truth == label).sum()) > 0.9
    assert np.array_equal(filled[label_map > 0], label_map[label_map > 0])      # what was outlined stays


@pytest.mark.parametrize("turn", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_gaps_across_any_axis(turn, tmp_path):
    from qnet.dataloaders.gaps import fill, gaps_of
    labels = np.asanyarray(nibabel.load(every_third(tmp_path)).dataobj).T
    axis, gaps = gaps_of(labels.transpose(turn))
    assert turn[axis] == 0 and set(gaps) == {1, 2, 3, 4}
    spacing = np.array([4.0, 6.0, 6.0])
    assert np.array_equal(fill(labels.transpose(turn), spacing[list(turn)]), fill(labels, spacing).transpose(turn))


def test_organs_apart_are_no_gaps():
    from qnet.dataloaders.gaps import gaps_of
    labels = patient(grid(), SHAPE, 0)[1].T
    assert gaps_of(labels) == (0, {}) and gaps_of(np.where(np.isin(labels, (2, 3)), 1, 0)) == (0, {})


@pytest.mark.parametrize("brightest", [1000, 50])      # also a scan of few values
def test_image_and_outlines_swapped_is_told(brightest, tmp_path):
    values = patient(grid(), SHAPE, 0)[0]
    values = ((values - values.min()) * brightest / np.ptp(values)).astype(np.int16)
    image = save(values, grid(), tmp_path / "scan.nii.gz")
    labels = save(patient(grid(), SHAPE, 0)[1], grid(), tmp_path / "labels.nii.gz")
    with pytest.raises(InputError, match=r"scan.nii.gz: holds .* different values, and .*labels.nii.gz 5: .* swapped"):
        read_support(labels, image, None)


# ---- folders ----

def test_nothing_in_a_folder_is_left_out_without_a_word(place):
    found = find_scans(place / "scans")
    told = set(found.names) | {one.path for one in found.left_out}
    for path in (place / "scans").rglob("*"):
        if path.is_file():
            partner = path.with_name(path.name.replace(".hdr", ".img").replace(".raw", ".mhd"))
            assert {path, partner, path.parent, path.with_name(path.name.replace(".img", ".hdr"))} & told, path


def test_several_series_in_one_folder_are_told_apart(tmp_path):
    slices()(tmp_path / "scans/patient")
    image = patient(grid(axes="LPS"), SHAPE, 2)[0]
    write_slices(tmp_path / "scans/patient", image, grid(axes="LPS"), series="9", name="B{}.dcm")
    found = find_scans(tmp_path / "scans")
    assert sorted(found.names.values()) == ["patient_B1", "patient_IM0001"] and found.left_out == []
    one, other = (read_image(path) for path in sorted(found.names))
    assert one.GetSize() == other.GetSize() == SHAPE
    with pytest.raises(InputError, match="found 2 series"):
        read_image(tmp_path / "scans/patient")


def test_a_flipped_bit_is_found_in_labels_too(tmp_path):
    image = nifti()(tmp_path / "scan")
    with pytest.raises(InputError, match="check sum is wrong"):
        read_support(image, one_bit(tmp_path / "labels"), None)


def test_a_page_shows_files_whose_names_no_result_can_have(tmp_path):
    nifti()(tmp_path / "a")
    text(".zip")(tmp_path / ("x" * 250))
    (tmp_path / ("y" * 200) / ("z" * 200)).mkdir(parents=True)
    text(".vtk")(tmp_path / ("y" * 200) / ("z" * 200) / "b")
    with closing(Session(tmp_path)) as session:
        assert [session.state_of(name) for name in session.scans] == ["empty", "unreadable", "unreadable"]
        for name in list(session.scans)[1:]:
            with pytest.raises(InputError):
                session.image_file(name)


# ---- python path ----

@pytest.mark.whole
@pytest.mark.parametrize("program", ["scripts/segment.py", "scripts/label.py", "data/prepare.py", "data/check.py"])
def test_packages_of_the_same_names_elsewhere_do_not_matter(program, tmp_path):
    for name in ("util", "models", "data", "dataloaders"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit(9)", encoding="utf-8")
    done = subprocess.run([sys.executable, ROOT / program, "--help"], cwd=tmp_path, capture_output=True, encoding="utf-8",
                          env={**os.environ, "PYTHONPATH": str(tmp_path)}, check=False)
    assert done.returncode == 0 and "usage:" in done.stdout


@pytest.mark.whole
def test_the_summary_says_what_is_left_out(tmp_path, capsys):
    for name, case in (("outlined", 0), ("a", 1)):
        save(patient(grid(), SHAPE, case)[0].astype(np.int16), grid(), tmp_path / f"scans/{name}.nii.gz")
    save(patient(grid(), SHAPE, 0)[1], grid(), tmp_path / "labels.nii.gz")
    for name in ("b.vtk", "notes.txt", "deep/er/c.zip"):
        (tmp_path / "scans" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scans" / name).touch()
    assert segment(["--scans", str(tmp_path / "scans"), "--outlined", f"outlined={tmp_path / 'labels.nii.gz'}",
                    "--output", str(tmp_path / "out"), "--json", str(tmp_path / "all.json")], registration=COARSER) == 1
    said = capsys.readouterr()
    assert "1 of 1 scans are outlined" in said.out and "2 files or folders could not be used" in said.out
    assert "left out: notes.txt: is no scan, by its name" in said.out
    assert "error: b.vtk: is of no kind that can be read" in said.err and "error: deep/er/c.zip: is an archive" in said.err
    assert made_by(tmp_path / "out").problems.keys() == {"a", "b.vtk", "deep/er/c.zip"}
    assert len(json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))["left_out"]) == 3
