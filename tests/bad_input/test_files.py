"""Every file that the programs read, times the ways it can be wrong: the reader refuses it in one line.

The tables say what a reader answers to each damage of tests/damage.py. FILES says which file has which table.
"""

import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
import torch

from qnet.data.preparation.chaos import read_chaos
from qnet.data.preparation.raw import RawCase, read_nifti_pair
from qnet.dataloaders.datasets import Grid, find_cases
from qnet.dataloaders.episodes import load_training_volumes
from qnet.dataloaders.store import Store
from qnet.dataloaders.volumes import read_volume
from qnet.util.base.errors import InputError
from qnet.util.base.root import ROOT
from qnet.util.options.config import base_config, read_json5
from qnet.util.options.sections import ModelOptions, dataset_spec
from qnet.util.predict.scans import read_scan, read_support
from qnet.util.results.comparison import find_runs
from qnet.util.results.report import write_report
from qnet.util.training.building import build_model
from qnet.util.training.snapshots import load_model, read_snapshot
from qnet.util.training.weights import load_pretrained
from tests import damage as d
from tests.data.raw_downloads import empty_scan, scanned, write_chaos, write_dicom
from tests.programs import TINY
from tests.runs import write_evaluation, write_run
from tests.settings import TRAINING_VOLUMES

SPEC = dataset_spec("CHAOST2", base_config()["datasets"]["CHAOST2"])
GRID = Grid((4.0, 4.0, 8.0), 32, None, None)

# ---- what is wrong, and what is said ----

OPENED = {
    d.missing: "no such file",
    d.a_folder: "is a folder, expected a file",
    d.a_pipe: "is a device or pipe, expected a file",
    d.a_loop: "cannot be read (Too many levels of symbolic links)",
    d.unreadable: "cannot be read (Input/output error)",
}
NIFTI = OPENED | {
    d.empty: "cannot be read as NIfTI (",
    d.truncated: "cannot be read as NIfTI (",
    d.a_text: "cannot be read as NIfTI (",
    d.four_axes: "expected a volume with 3 axes, got shape (",
    d.no_voxels: "expected a volume with 3 axes, got shape (5, 0, 5)",
    d.complex_values: "expected whole or real numbers, got values of type complex64",
    d.colours: "expected whole or real numbers, got values of type RGB",
    d.huge: "expected at most 1073741824 voxels, got shape (32767, 32767, 32767)",
    d.huge_but_packed: "cannot be read as NIfTI (shape (1000, 1000, 1000) takes 2000000352 bytes, the file has",
    d.offset_in_header: "cannot be read as NIfTI (vox offset 100 too low",
    d.flat: "its header gives the voxels no place in space",
    d.nowhere: "its header gives the voxels no place in space",
}
IMAGE = NIFTI | {
    d.nan: "holds 1 values that are NaN or infinite",
    d.infinite: "holds 1 values that are NaN or infinite",
    d.constant: "every voxel has the value 1",
}
LABEL = NIFTI | {
    d.nan: "holds the value nan, allowed for CHAOST2: [0, 1, 2, 3, 4]",
    d.fraction: "holds the value 1.5, allowed for",
    d.negative: "holds the value -1, allowed for",
    d.unknown_label: "holds the value 9, allowed for",
    d.other_shape: "shape (D, H, W) = (7, 64, 64), but",
    d.elsewhere: "its header puts it up to 86.6 mm away from",
}
ALLOWED = "allowed for supervoxels: whole numbers from 0 (outside the body) to 65535"
SUPERVOXELS = NIFTI | {
    d.nan: f"holds the value nan, {ALLOWED}",
    d.fraction: f"holds the value 1.5, {ALLOWED}",
    d.negative: f"holds the value -1, {ALLOWED}",
    d.many: f"holds the value 1e+06, {ALLOWED}",
    d.other_shape: "shape (D, H, W) = (7, 64, 64), but",
}
SCAN = IMAGE | {
    d.a_folder: "no DICOM file in it",
    d.vast: "which is too large for the grid of the model",
}
SUPPORT_IMAGE = IMAGE | {d.a_folder: "no DICOM file in it"}
SUPPORT_LABEL = NIFTI | {
    d.a_folder: "no DICOM file in it",
    d.nan: "holds nan, allowed in labels: whole numbers from 0 to 32767",
    d.fraction: "holds 1.5, allowed in labels",
    d.negative: "holds -1, allowed in labels",
    d.many: "holds 1e+06, allowed in labels",
    d.other_shape: "size (x, y, z) = (64, 64, 7), but",
    d.elsewhere: "lies up to 86.6 mm away from",
    d.background: "holds no label, only background",
}
WEIGHTS = OPENED | {
    d.empty: "cannot be read as weights (",
    d.truncated: "cannot be read as weights (",
    d.a_text: "cannot be read as weights (",
    d.runs_code: "cannot be read as weights (",
    d.runs_code_plain: "cannot be read as weights (",
    d.zip_bomb: "cannot be read as weights (its parts claim",
    d.saved([1]): "holds a list, expected a dictionary of tensors",
}
SNAPSHOT = WEIGHTS | {
    d.saved({"model": {}, "step": 3}): "not a snapshot of a training (KeyError: 'optimizer')",
    d.changed(step=0): "not a snapshot of a training (step is no whole number of at least 1)",
    d.changed(step=True): "not a snapshot of a training (step is no whole number of at least 1)",
    d.changed(history=None): "not a snapshot of a training (history is not the losses of 3 steps)",
    d.changed(history=torch.zeros(2, 2)): "not a snapshot of a training (history is not the losses of 3 steps)",
    d.changed(config="{"): "not a snapshot of a training: options: not valid JSON (Expecting",
    d.changed(config="3"): "not a snapshot of a training: options: holds a int, expected an object",
    d.changed(optimizer=[]): "not a snapshot of a training (optimizer is no dictionary)",
    d.changed(model=d.with_nan): "holds NaN, infinity or no real numbers",
    d.changed(model={"a": torch.zeros(1)}): "weights of another architecture: tensors",
}
PRETRAINED = WEIGHTS | {
    d.nan_weights: "holds NaN, infinity or no real numbers",
    d.saved({"a": torch.zeros(1)}): "of the 1 tensors of",
    d.saved({}): "of the 0 tensors of",
}
JSON = OPENED | {
    d.empty: "not valid JSON",
    d.truncated: "not valid JSON",
    d.a_text: "not valid JSON",
    d.deep: "not valid JSON",
    d.not_utf8: "not valid JSON",
    d.a_list: "holds a list, expected an object",
}
CONFIG_FILE = JSON | {
    d.cell("{", "{seed: 1, seed: 2, "): "not valid JSON5",
}
RUN_CONFIG = JSON | {
    d.json_without("dataset"): "dataset: got nothing, allowed: a non-empty text",
    d.json_with(dataset="MINE"): "missing option MINE",
    d.json_with(datasets=3): "datasets: got 3, allowed: a section",
    d.json_with(n_part=2): "n_part: got 2, allowed: one of 1, 3",
    d.json_with(path={}): "missing option CHAOST2",
}
SUMMARY = JSON | {
    d.json_without("classes"): "classes: got nothing",
    d.json_with(supports=3): "supports: got",
}
SCORES = OPENED | {
    d.empty: "got no whole row",
    d.header_only: "got no whole row",
    d.a_text: "got no whole row",
    d.cell("hd95_mm", "hd"): "lacks the column 'hd95_mm'",
    d.cell("0.5", "half"): "could not convert string to float",
    d.not_utf8: "codec can't decode",
}
PREDICTION = {
    d.truncated: "cannot be read as NIfTI (",
    d.other_shape: "expected uint8 on the grid of",
    d.nan: "expected uint8 on the grid of",
}
COMPARED = JSON | {
    d.json_without("protocol"): "protocol: got nothing, allowed: one of 'published'",
    d.json_with(eval_fold=[0]): "eval_fold: got [0], allowed: a whole number",
}
COMPARED_SCORES = {
    d.empty: "holds no score",
    d.header_only: "holds no score",
    d.cell("support_case", "x"): "KeyError: 'support_case'",
    d.cell("0.5", "half"): "could not convert string to float",
    d.cell("0.5", "7"): "dice: got 7.0, allowed: 0 to 1",
    d.cell("0.5,", "nan,"): "dice: got nan, allowed: 0 to 1",
    d.not_utf8: "codec can't decode",
}
DICOM = dict.fromkeys(OPENED, "slices are not evenly stacked") | {
    d.empty: "cannot be read as DICOM",
    d.a_text: "cannot be read as DICOM",
    d.truncated: "cannot be read as",
    d.unreadable: "cannot be read as DICOM",
    d.wide: "do not fit into",
}
CHAOS_SLICE = {
    d.empty: "cannot be read as DICOM",
    d.a_text: "cannot be read as DICOM",
    d.missing: "do not pair up: number 2",
}
CHAOS_MASK = {
    d.empty: "cannot be read as PNG",
    d.truncated: "cannot be read as PNG",
    d.a_text: "cannot be read as PNG",
    d.a_folder: "cannot be read as PNG",
    d.wrong_checksum: "cannot be read as PNG",
    d.missing: "do not pair up: number 2",
}


def report(folder):
    return write_report(str(folder))


def training_volumes(case, **options):
    with tempfile.TemporaryDirectory() as folder:
        return load_training_volumes([case], SPEC, Store(Path(folder)), **{**TRAINING_VOLUMES, **options})


def found(folder):
    return find_runs([str(folder)])


# file: fixture, the path in it that is spoilt, what reads it, and what is said to each damage
FILES: dict[str, tuple[Any, ...]] = {
    "training image": ("case", lambda case: case.image, lambda case: training_volumes(case), IMAGE),
    "training label": ("case", lambda case: case.label, lambda case: training_volumes(case, use_gt=True), LABEL),
    "supervoxels": ("case", lambda case: case.supervoxels, lambda case: training_volumes(case), SUPERVOXELS),
    "superpixels": ("case", lambda case: case.superpixels,
                    lambda case: training_volumes(case, pseudo_labels="superpixels"), SUPERVOXELS),
    "test image": ("case", lambda case: case.image, lambda case: read_volume(case, SPEC), IMAGE),
    "test label": ("case", lambda case: case.label, lambda case: read_volume(case, SPEC), LABEL),
    "query": ("case", lambda case: case.image, lambda case: read_scan(case.image, GRID), SCAN),
    "support image": ("case", lambda case: case.image, lambda case: read_support(case.image, case.label, GRID), SUPPORT_IMAGE),
    "support label": ("case", lambda case: case.label, lambda case: read_support(case.image, case.label, GRID), SUPPORT_LABEL),
    "own image": ("case", lambda case: case.image,
                  lambda case: read_nifti_pair(RawCase("1", case.image, case.label)), SUPPORT_IMAGE),
    "snapshot": ("snapshot", lambda path: path, lambda path: load_model(small_model(), read_snapshot(path)), SNAPSHOT),
    "pretrained": ("pretrained", lambda path: path,
                   lambda path: load_pretrained(small_model().encoder.backbone, "small", str(path), path.parent), PRETRAINED),
    "config file": ("json5_file", lambda path: path, read_json5, CONFIG_FILE),
    "run's config": ("run_folder", lambda folder: folder / "config.json", report, RUN_CONFIG),
    "run's results": ("run_folder", lambda folder: folder / "results.json", report, SUMMARY),
    "run's scores": ("run_folder", lambda folder: folder / "scores.csv", report, SCORES),
    "run's prediction": ("run_folder", lambda folder: folder / "predictions/2_liver_supp1.nii.gz", report, PREDICTION),
    "compared config": ("scored", lambda folder: folder / "config.json", found, COMPARED),
    "compared scores": ("scored", lambda folder: folder / "scores.csv", found, COMPARED_SCORES),
    "DICOM slice": ("dicom", lambda folder: folder / "2.dcm", lambda folder: read_scan(folder, GRID), DICOM),
    "CHAOS slice": ("chaos", lambda case: case.image / "IMG-0004-00002.dcm", read_chaos, CHAOS_SLICE),
    "CHAOS mask": ("chaos", lambda case: case.label / "IMG-0004-00002.png", read_chaos, CHAOS_MASK),
}

# libraries that print or log beside the line: the fixture, the file in its folder, what is wrong with it
LOUD = [
    ("chaos", "case/Ground/IMG-0004-00002.png", d.wrong_checksum),                                # libpng prints
    ("case", "chaos_MR_T2_normalized/image_1.nii.gz", d.offset_in_header),                       # nibabel logs
    ("case", "chaos_MR_T2_normalized/image_1.nii.gz", d.header_field("srow_x", [2, 9, 0, 0])),   # ITK warns, then raises
]


# ---- sound files ----

@pytest.fixture
def case(toy_data, tmp_path):
    """The files of a sound case."""
    for path in toy_data.glob("*/*_1.nii.gz"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.parent.name)
    return find_cases(SPEC, tmp_path, 5000, 400)[0]


@pytest.fixture
def snapshot(trained, tmp_path):
    return Path(shutil.copy(trained / "snapshots/3.pth", tmp_path / "w.pth"))


@pytest.fixture
def pretrained(tmp_path):
    torch.save(small_model().encoder.backbone.state_dict(), tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.fixture
def json5_file(tmp_path):
    (tmp_path / "x.json5").write_text("{seed: 3}", encoding="utf-8")
    return tmp_path / "x.json5"


@pytest.fixture
def run_folder(tmp_path, toy_data):
    """What report reads of an evaluation, with one prediction."""
    return write_evaluation(tmp_path / "run", toy_data)


@pytest.fixture
def scored(tmp_path):
    """What compare reads of an evaluation."""
    return write_run(tmp_path / "q")


@pytest.fixture
def dicom(tmp_path):
    image = sitk.Cast(scanned(empty_scan((20, 18, 5)))[0], sitk.sitkUInt16)
    (tmp_path / "series").mkdir()
    for z in range(5):
        write_dicom(tmp_path / f"series/{z}.dcm", image, z, z + 1)
    return tmp_path / "series"


@pytest.fixture
def chaos(tmp_path):
    write_chaos(tmp_path / "case", empty_scan((40, 36, 5)), range(5))
    return RawCase("case", tmp_path / "case/DICOM_anon", tmp_path / "case/Ground")


@functools.cache
def small_model():
    return build_model(ModelOptions.of({**base_config(), **TINY}))


# ---- the tests ----

@pytest.mark.parametrize(("fixture", "read"), dict.fromkeys((fixture, read) for fixture, _, read, _ in FILES.values()))
def test_sound_file(fixture, read, request):
    read(request.getfixturevalue(fixture))


@pytest.mark.whole
@pytest.mark.parametrize(("file", "damage", "message"), [
    pytest.param(file, damage, message, id=f"{file}-{message[:50]}") for file, (*_, wrong) in FILES.items()
    for damage, message in wrong.items()])
def test_damaged_file(file, damage, message, request, tmp_path):
    fixture, spoilt, read, _ = FILES[file]
    sound = request.getfixturevalue(fixture)
    path = spoilt(sound)
    damage(path)
    with pytest.raises(InputError) as caught:
        read(sound)
    said = str(caught.value)
    assert message in said and "\n" not in said
    assert path.name in said or path.parent.name in said
    assert not (tmp_path / "canary").exists()


READ_IT = """
import sys
from pathlib import Path
from qnet.data.preparation.chaos import read_chaos
from qnet.data.preparation.raw import RawCase
from qnet.dataloaders.nifti import read_nifti
from qnet.util.base.errors import InputError
try:
    path = Path(sys.argv[1])
    read_chaos(RawCase("case", path / "DICOM_anon", path / "Ground")) if path.is_dir() else read_nifti(path)
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize(("fixture", "spoilt", "damage"), LOUD, ids=lambda value: getattr(value, "__name__", None))
def test_libraries_print_nothing_beside_our_line(fixture, spoilt, damage, request, tmp_path):
    request.getfixturevalue(fixture)
    path = tmp_path / spoilt
    damage(path)
    done = subprocess.run([sys.executable, "-c", READ_IT, str(tmp_path / "case" if fixture == "chaos" else path)], cwd=ROOT,
                          capture_output=True, encoding="utf-8")
    assert done.stderr == "" and path.name in done.stdout and done.stdout.count("\n") == 1, done.stderr
