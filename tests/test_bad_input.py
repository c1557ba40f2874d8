"""Every file and option that the programs read, times the ways it can be wrong: one line, and the exit status.

FILES says what the readers of each file answer to each damage of tests/damage.py. The tests below it run the programs themselves
for what they print and exit with. WRONG_OPTIONS has every option of configs/base.json5.
"""

import functools
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch

from data import check, prepare
from data.preparation.chaos import read_chaos
from data.preparation.raw import RawCase, read_nifti_pair
from data.supervoxels import generate_supervoxels
from dataloaders.datasets import DatasetSpec, Grid, find_cases
from dataloaders.episodes import load_training_volumes
from dataloaders.volumes import read_volume
from scripts import compare, val
from tests import damage as d
from tests.data.raw_downloads import empty_scan, scanned, write_chaos, write_dicom
from tests.programs import TINY, entry_point, run
from tests.runs import write_evaluation, write_run
from util.base.errors import InputError
from util.base.root import ROOT
from util.options import config as config_module
from util.options.config import base_config, check_config, read_json5
from util.options.sections import ModelOptions
from util.options.table import RULES
from util.predict.scans import read_scan, read_support
from util.results.report import write_report
from util.run.experiment import make_experiment, run_commandline
from util.training.building import build_model
from util.training.snapshots import load_model, read_snapshot
from util.training.weights import load_pretrained

SPEC = DatasetSpec.from_config("CHAOST2", base_config()["datasets"]["CHAOST2"])
GRID = Grid((4.0, 4.0, 8.0), 32, None, None)

# ---- files: what is wrong, and what is said ----

NAN, INFINITE, FRACTION, NEGATIVE, UNKNOWN, MANY = (d.one_voxel(value) for value in (float("nan"), float("inf"), 1.5, -1, 9, 1e6))
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
    NAN: "holds 1 values that are NaN or infinite",
    INFINITE: "holds 1 values that are NaN or infinite",
    d.constant: "every voxel has the value 1",
}
LABEL = NIFTI | {
    NAN: "holds the value nan, allowed for CHAOST2: [0, 1, 2, 3, 4]",
    FRACTION: "holds the value 1.5, allowed for",
    NEGATIVE: "holds the value -1, allowed for",
    UNKNOWN: "holds the value 9, allowed for",
    d.other_shape: "shape (D, H, W) = (7, 64, 64), but",
    d.elsewhere: "its header puts it up to 86.6 mm away from",
}
ALLOWED = "allowed for supervoxels: whole numbers from 0 (outside the body) to 65535"
SUPERVOXELS = NIFTI | {
    NAN: f"holds the value nan, {ALLOWED}",
    FRACTION: f"holds the value 1.5, {ALLOWED}",
    NEGATIVE: f"holds the value -1, {ALLOWED}",
    MANY: f"holds the value 1e+06, {ALLOWED}",
    d.other_shape: "shape (D, H, W) = (7, 64, 64), but",
}
SCAN = IMAGE | {
    d.a_folder: "no DICOM file in it",
    d.vast: "which is too large for the grid of the model",
}
SUPPORT_IMAGE = IMAGE | {d.a_folder: "no DICOM file in it"}
SUPPORT_LABEL = NIFTI | {
    d.a_folder: "no DICOM file in it",
    NAN: "holds nan, allowed in labels: whole numbers from 0 to 32767",
    FRACTION: "holds 1.5, allowed in labels",
    NEGATIVE: "holds -1, allowed in labels",
    MANY: "holds 1e+06, allowed in labels",
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
    d.saved({"model": {}, "step": 3}): "not a snapshot of train.py (KeyError: 'optimizer')",
    d.changed(step=0): "not a snapshot of train.py (step is no whole number of at least 1)",
    d.changed(step=True): "not a snapshot of train.py (step is no whole number of at least 1)",
    d.changed(history=None): "not a snapshot of train.py (history is not the losses of 3 steps)",
    d.changed(history=torch.zeros(2, 2)): "not a snapshot of train.py (history is not the losses of 3 steps)",
    d.changed(config="{"): "not a snapshot of train.py (JSONDecodeError",
    d.changed(config="3"): "not a snapshot of train.py (config is no dictionary)",
    d.changed(optimizer=[]): "not a snapshot of train.py (optimizer is no dictionary)",
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
    NAN: "expected uint8 on the grid of",
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


@pytest.fixture
def case(toy_data, tmp_path):
    """The files of a sound case."""
    for path in toy_data.glob("*/*_1.nii.gz"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.parent.name)
    return find_cases(SPEC, tmp_path, 5000)[0]


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


def report(folder):
    return write_report(str(folder))


def find_runs(folder):
    return compare.find_runs([str(folder)])


# file: fixture, the path in it that is spoilt, what reads it, and what is said to each damage
FILES = {
    "training image": ("case", lambda case: case.image, lambda case: load_training_volumes([case], SPEC), IMAGE),
    "training label": ("case", lambda case: case.label, lambda case: load_training_volumes([case], SPEC, use_gt=True), LABEL),
    "supervoxels": ("case", lambda case: case.supervoxels, lambda case: load_training_volumes([case], SPEC), SUPERVOXELS),
    "superpixels": ("case", lambda case: case.superpixels,
                    lambda case: load_training_volumes([case], SPEC, pseudo_labels="superpixels"), SUPERVOXELS),
    "test image": ("case", lambda case: case.image, lambda case: read_volume(case, SPEC), IMAGE),
    "test label": ("case", lambda case: case.label, lambda case: read_volume(case, SPEC), LABEL),
    "query": ("case", lambda case: case.image, lambda case: read_scan(case.image, GRID), SCAN),
    "support image": ("case", lambda case: case.image, lambda case: read_support(case.image, case.label, GRID), SUPPORT_IMAGE),
    "support label": ("case", lambda case: case.label, lambda case: read_support(case.image, case.label, GRID), SUPPORT_LABEL),
    "own image": ("case", lambda case: case.image, lambda case: read_nifti_pair(RawCase("1", case.image, case.label)), IMAGE),
    "snapshot": ("snapshot", lambda path: path, lambda path: load_model(small_model(), read_snapshot(path)), SNAPSHOT),
    "pretrained": ("pretrained", lambda path: path,
                   lambda path: load_pretrained(small_model().encoder.backbone, "small", str(path), path.parent), PRETRAINED),
    "config file": ("json5_file", lambda path: path, read_json5, CONFIG_FILE),
    "run's config": ("run_folder", lambda folder: folder / "config.json", report, RUN_CONFIG),
    "run's results": ("run_folder", lambda folder: folder / "results.json", report, SUMMARY),
    "run's scores": ("run_folder", lambda folder: folder / "scores.csv", report, SCORES),
    "run's prediction": ("run_folder", lambda folder: folder / "predictions/2_liver_supp1.nii.gz",
                         report, PREDICTION),
    "compared config": ("scored", lambda folder: folder / "config.json", find_runs, COMPARED),
    "compared scores": ("scored", lambda folder: folder / "scores.csv", find_runs,
                        COMPARED_SCORES),
    "DICOM slice": ("dicom", lambda folder: folder / "2.dcm", lambda folder: read_scan(folder, GRID), DICOM),
    "CHAOS slice": ("chaos", lambda case: case.image / "IMG-0004-00002.dcm", read_chaos, CHAOS_SLICE),
    "CHAOS mask": ("chaos", lambda case: case.label / "IMG-0004-00002.png", read_chaos, CHAOS_MASK),
}


@pytest.mark.parametrize(("fixture", "read"), dict.fromkeys((fixture, read) for fixture, _, read, _ in FILES.values()))
def test_sound_file(fixture, read, request):
    read(request.getfixturevalue(fixture))


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
from data.preparation.chaos import read_chaos
from data.preparation.raw import RawCase
from dataloaders.nifti import read_nifti
from util.base.errors import InputError
try:
    path = Path(sys.argv[1])
    read_chaos(RawCase("case", path / "DICOM_anon", path / "Ground")) if path.is_dir() else read_nifti(path)
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize(("fixture", "spoilt", "damage"), [
    ("chaos", "Ground/IMG-0004-00002.png", d.wrong_checksum),      # libpng prints
    ("case", "chaos_MR_T2_normalized/image_1.nii.gz", d.offset_in_header),     # nibabel logs
    ("case", "chaos_MR_T2_normalized/image_1.nii.gz", d.header_field("srow_x", [2, 9, 0, 0])),      # ITK warns, then raises
], ids=lambda value: getattr(value, "__name__", None))
def test_libraries_print_nothing_beside_our_line(fixture, spoilt, damage, request, tmp_path):
    request.getfixturevalue(fixture)
    path = tmp_path / "case" / spoilt if fixture == "chaos" else tmp_path / spoilt
    damage(path)
    done = subprocess.run([sys.executable, "-c", READ_IT, str(tmp_path / "case") if fixture == "chaos" else str(path)], cwd=ROOT,
                          capture_output=True, encoding="utf-8")
    assert done.stderr == "" and path.name in done.stdout and done.stdout.count("\n") == 1, done.stderr


# ---- programs: what they exit with ----

DATA = "chaos_MR_T2_normalized"


@pytest.fixture
def data(toy_data, trained, tmp_path):
    """A copy of the toy data, with a snapshot beside it."""
    shutil.copytree(toy_data, tmp_path / "data")
    shutil.copy(trained / "snapshots/3.pth", tmp_path / "data/w.pth")
    return tmp_path / "data"


def two_of_one_name(path):
    for name in ("2.nii", "2.nii.gz"):
        (path / "queries").mkdir(exist_ok=True)
        shutil.copy(path.parent / "data" / DATA / "image_2.nii.gz", path / "queries" / name)


SCORING = {"reload_model_path": "@w.pth", "supp_idx": 0}
PREDICTING = {"reload_model_path": "@w.pth", "support_image": f"@{DATA}/image_1.nii.gz",
              "support_label": f"@{DATA}/label_1.nii.gz", "query": f"@{DATA}/image_2.nii.gz", "output": "@out"}


def nothing(path):
    pass


@pytest.mark.parametrize(("program", "options", "spoilt", "damage", "message"), [
    ("train", {}, f"{DATA}/image_12.nii.gz", d.huge, "image_12.nii.gz: expected at most 1073741824 voxels"),
    ("train", {}, f"{DATA}/image_12.nii.gz", d.truncated, "image_12.nii.gz: cannot be read as NIfTI"),
    ("train", {}, "supervoxels_5000", shutil.rmtree, "supervoxels_5000/superpix-MIDDLE_3.nii.gz: no such file"),
    ("train", {}, "supervoxels_5000/superpix-MIDDLE_12.nii.gz", NEGATIVE, "superpix-MIDDLE_12.nii.gz: holds the value -1"),
    ("train", {"pseudo_labels": "superpixels"}, "superpixels_400/superpix-MIDDLE_12.nii.gz", d.a_folder, "is a folder"),
    ("train", {"use_gt": True, "test_label": [1]}, f"{DATA}/label_12.nii.gz", NAN, "label_12.nii.gz: holds the value nan"),
    ("train", {"exclude_label": [1]}, f"{DATA}/label_12.nii.gz", d.elsewhere, "label_12.nii.gz: its header puts it up to 86"),
    ("train", {"exclude_label": [1, 2, 3, 4]}, "", nothing, "no training volume (of 3) has a supervoxel"),
    ("train", {"path.CHAOST2.data_dir": "@nowhere"}, "", nothing, "path.CHAOST2.data_dir: no folder"),
    ("train", {"resume": "@w.pth"}, "w.pth", d.truncated, "w.pth: cannot be read as weights"),
    ("train", {"reload_model_path": "@w.pth"}, "w.pth", d.changed(model=d.with_nan), "holds NaN, infinity or no real numbers"),
    ("train", {"resume": "@w.pth", "seed": 5}, "", nothing, "was trained with seed=2021, now it is 5"),
    ("train", {"reload_model_path": "@w.pth"}, "w.pth", d.runs_code, "w.pth: cannot be read as weights"),
    ("train", {"pretrained": "@w.pth"}, "w.pth", d.a_folder, "w.pth: is a folder, expected a file"),
    ("train", {"pretrained": "coco"}, "", nothing, "pretrained: got 'coco', allowed for encoder 'small': 'none'"),
    ("train", {"eval_fold": 5}, "", nothing, "eval_fold: got 5, allowed: 0 to 4"),
    ("train", {"device": "cuda:9"}, "", nothing, "device: got 'cuda:9'"),
    ("test", SCORING, f"{DATA}/image_1.nii.gz", d.constant, "image_1.nii.gz: every voxel has the value 1"),
    ("test", SCORING, f"{DATA}/label_1.nii.gz", d.missing, "label_1.nii.gz: no such file"),
    ("test", SCORING, f"{DATA}/label_2.nii.gz", d.elsewhere, "label_2.nii.gz: its header puts it up to 86.6 mm away"),
    ("test", SCORING, f"{DATA}/label_2.nii.gz", d.background, "test_label: fold 0 has no support and query that both"),
    ("test", SCORING, "w.pth", d.zip_bomb, "w.pth: cannot be read as weights"),
    ("test", {**SCORING, "reload_model_path": None}, "", nothing, "reload_model_path: got null"),
    ("test", {**SCORING, "supp_idx": 2}, "", nothing, "supp_idx: got 2, allowed for fold 0: 0 to 1, or 'all'"),
    ("test", {**SCORING, "encoder": "resnet50"}, "", nothing, "it was trained with model=qnet, encoder=small"),
    ("predict", PREDICTING, f"{DATA}/image_1.nii.gz", d.a_loop, "image_1.nii.gz: cannot be read (Too many levels of"),
    ("predict", PREDICTING, f"{DATA}/label_1.nii.gz", d.elsewhere, "label_1.nii.gz: lies up to 86.6 mm away from"),
    ("predict", PREDICTING, "w.pth", d.changed(config='{"model": "unet"}'), "model: got 'unet', allowed: one of"),
    ("predict", {**PREDICTING, "query": "@queries"}, "", two_of_one_name, "2.nii, 2.nii.gz would all be written to"),
    ("predict", {**PREDICTING, "query": None}, "", nothing, "query, output: got null"),
    ("predict", {**PREDICTING, "support_image": []}, "", nothing, "support_image: got [], allowed: null or"),
    ("report", {}, "", nothing, "run: got null, allowed: the run folder of an evaluation"),
    ("report", {"run": "@nowhere"}, "", nothing, "run: "),
])
def test_sacred_programs(program, options, spoilt, damage, message, data, tmp_path):
    damage(data / spoilt)
    options = {key: value.replace("@", f"{data}/") if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(SystemExit) as caught:
        if program in ("train", "test"):
            root = options.pop("path.CHAOST2.data_dir", data)
            run(program, tmp_path / "runs", root, **options)
        else:
            entry_point("test").experiment.run(program, config_updates={"device": "cpu", "n_iters": 0, **options})
    said = caught.value.code      # a text: python prints it and exits with 1
    assert said.startswith("error: ") and message in said and "\n" not in said
    assert not (data / "canary").exists()


@pytest.mark.parametrize(("words", "message"), [
    (["nosuchconfig"], "with nosuchconfig: neither key=value nor a named config; known: adnet, alpnet, "),
    (["other.json5"], "with other.json5: neither key=value nor a named config"),
    (["evil.pickle"], "with evil.pickle: neither key=value nor a named config"),
    (["exclude_rule={1,2}"], "exclude_rule: got {1,2}, allowed: text, a number, true"),
    (["query=b'x'"], "query: got b'x', allowed: text"),
    (["alpha=[0.9"], "alpha: got '[0.9', allowed: two numbers"),
    (["seed="], "seed: got '', allowed: a whole number"),
    (["chaost2_setting1", "optim.lrr=1"], "unknown option optim.lrr; allowed here: lr, momentum, weight_decay"),
    (["path.log_dir=/dev/null/x"], "path.log_dir: /dev/null/x/QNet_train_CHAOST2_cv0 cannot be made (Not a directory)"),
])
def test_command_line(words, message, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "with", *words])
    with pytest.raises(SystemExit) as caught:
        run_commandline(entry_point("train").experiment)
    assert caught.value.code.startswith(f"error: {message}") and "\n" not in caught.value.code


@pytest.mark.parametrize("damage", [d.a_folder, d.truncated, d.not_utf8, d.a_list], ids=lambda damage: damage.__name__)
def test_a_damaged_named_config_stops_every_program(damage, tmp_path, monkeypatch):
    for name in ("base", "panet"):
        shutil.copy(config_module.CONFIG_DIR / f"{name}.json5", tmp_path)
    monkeypatch.setattr(config_module, "CONFIG_DIR", tmp_path)
    damage(tmp_path / "panet.json5")
    with pytest.raises(SystemExit, match=r"^error: .*panet.json5: [^\n]*$"):
        make_experiment("train", "")


@pytest.fixture
def quick(monkeypatch):
    """No contact sheet and no supervoxels, which have tests of their own, and threads in place of processes."""
    monkeypatch.setattr(check, "draw_contact_sheet", lambda *_: None)
    monkeypatch.setattr(prepare, "generate_maps", lambda *_: True)
    monkeypatch.setattr(generate_supervoxels, "ProcessPoolExecutor", lambda n, _: ThreadPoolExecutor(n))
    monkeypatch.setattr(val, "call", lambda *_: None)


CHECK = (check.main, ["CHAOST2", "--data-dir", "{data}", "--sheet", "{data}/sheet.png"])
CUT = (generate_supervoxels.main, ["CHAOST2", "--data-dir", "{data}", "--min-size", "77", "--jobs", "1"])
PREPARE = (prepare.main, ["nifti", "--source", f"{{data}}/{DATA}", "--target", "{data}/MINE", "--spacing", "4", "4", "8",
                          "--size", "32", "--jobs", "1"])
COMPARE = (compare.main, ["{data}/runs", "--output", "{data}/comparison"])


@pytest.mark.parametrize(("program", "spoilt", "damage", "status", "message"), [
    (CHECK, f"{DATA}/image_2.nii.gz", d.truncated, 1, "image_2.nii.gz: cannot be read as NIfTI"),
    (CHECK, f"{DATA}/label_2.nii.gz", d.elsewhere, 1, "label_2.nii.gz: geometry differs from"),
    (CHECK, "supervoxels_5000/superpix-MIDDLE_2.nii.gz", MANY, 1, "holds the value 1e+06, allowed for supervoxels"),
    (CHECK, DATA, shutil.rmtree, 2, "path.CHAOST2.data_dir: no file chaos_MR_T2_normalized/image_*.nii.gz below"),
    (CUT, f"{DATA}/image_2.nii.gz", d.huge_but_packed, 1, "error: case 2: "),
    (CUT, f"{DATA}/image_2.nii.gz", NAN, 1, "error: case 2: "),
    (CUT, DATA, shutil.rmtree, 2, "path.CHAOST2.data_dir: no file"),
    (PREPARE, f"{DATA}/image_2.nii.gz", d.a_folder, 1, "error: case 2: "),
    (PREPARE, f"{DATA}/label_2.nii.gz", d.elsewhere, 1, "error: case 2: "),
    (PREPARE, f"{DATA}/label_2.nii.gz", MANY, 1, "label_2.nii.gz: holds 1e+06, allowed in labels"),
    (PREPARE, DATA, shutil.rmtree, 2, "--source: no folder"),
    (COMPARE, "runs/q/config.json", d.truncated, 2, "config.json: not valid JSON"),
    (COMPARE, "runs/q/scores.csv", d.missing, 2, "no finished run of test.py (no scores.csv) in it"),
    (COMPARE, "comparison", lambda path: path.touch(), 2, "File exists"),
])
def test_programs_with_arguments(program, spoilt, damage, status, message, data, quick, capfd):
    write_run(data / "runs/q")
    if program in (CUT, PREPARE):
        for number in (1, 3, 10, 12):
            (data / f"{DATA}/image_{number}.nii.gz").unlink()
    damage(data / spoilt)
    main, words = program
    assert main([word.format(data=data) for word in words]) == status
    out, err = capfd.readouterr()
    assert [line for line in (out + err).splitlines() if message in line], out + err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(("options", "damage", "message"), [
    ([], shutil.rmtree, "no snapshot of chaost2_setting1, fold 0; train it first"),
    (["model=unet"], nothing, "model: got 'unet', allowed: one of 'qnet'"),
    (["unet"], nothing, "config 'unet': no file configs/unet.json5"),
    ([], lambda folder: d.truncated(folder / "1/snapshots/3.pth"), "3.pth: cannot be read as weights"),
    ([], lambda folder: d.a_list(folder.parent / "QNet_test_CHAOST2_cv0/1/results.json"), "results.json: holds a list"),
    ([], lambda folder: d.json_without("classes")(folder.parent / "QNet_test_CHAOST2_cv0/1/results.json"), "KeyError: 'classes'"),
])
def test_val(options, damage, message, trained, run_folder, quick, tmp_path):
    training = tmp_path / "runs/QNet_train_CHAOST2_cv0"
    (training / "1/snapshots").mkdir(parents=True)
    shutil.copy(trained / "snapshots/3.pth", training / "1/snapshots")
    shutil.copytree(run_folder, tmp_path / "runs/QNet_test_CHAOST2_cv0/1")
    damage(training)
    with pytest.raises(SystemExit) as caught:
        val.main(["CHAOST2", "1", "--folds", "0", "--options", f"path.log_dir={tmp_path / 'runs'}", *options])
    assert caught.value.code.startswith("error: ") and message in caught.value.code and "\n" not in caught.value.code


# ---- options: every key of configs/base.json5, with values that are not allowed ----

WHOLE, NUMBER, SWITCH, TEXT = ([-1, 1.5, "1", True, [1], 2**31], [-1, "1", True, [1.0], float("nan"), float("inf")],
                               [0, 1, "true", []], ["", 3, ["a"], "a\nb"])
WRONG_OPTIONS = {
    "dataset": [*TEXT, "chaos"],
    "eval_fold": WHOLE,
    "test_label": [[], 1, [0], [255], [1, 1], ["1"], [1.0], [True]],
    "exclude_label": [[], 1, [0], [255], [2, 2], ["1"]],
    "exclude_rule": ["both", "Any", ["any"], 1],
    "use_gt": SWITCH,
    "pseudo_labels": ["voxels", 3, ""],
    "n_sv": [0, *WHOLE],
    "n_sp": [0, *WHOLE],
    "min_size": WHOLE,
    "n_way": [0, 2, 1.0, True],
    "n_shot": [0, *WHOLE],
    "n_query": [0, 2, "1"],
    "batch_size": [0, *WHOLE],
    "num_workers": [1025, *WHOLE],
    "model": ["unet", "QNet", 1],
    "encoder": ["vgg", 18, ""],
    "pretrained": TEXT,
    "paths": ["none", ["both"], 1],
    "alpha": [0.9, [0.9], [0.9, 0.1, 0], [0, 0], [0.9, -0.1], ["0.9", 0.1], [float("nan"), 1], [0.9, True]],
    "n_iters": WHOLE,
    "threshold": ["fixed", 0.5],
    "coordinates": SWITCH,
    "t_loss_scaler": NUMBER,
    "prototype_windows": [4, [4], [4, 0], [4, 2.0], [4, 2, 1]],
    "device": ["gpu", "cuda:", "cuda:-1", "cuda:128", "cuda:01", "cuda:٣", 0],
    "precision": ["fp16", 32, ""],
    "seed": [-1, 1.5, "1", True, 2**32],
    "n_steps": [0, 10**8 + 1, *WHOLE],
    "optim.lr": [0, *NUMBER],
    "optim.momentum": [1.1, *NUMBER],
    "optim.weight_decay": NUMBER,
    "lr_step_gamma": [0, 1.1, *NUMBER],
    "max_iters_per_load": [0, *WHOLE],
    "bg_wt": [0, *NUMBER],
    "ignore_label": [1, 256, *WHOLE],
    "print_interval": [0, *WHOLE],
    "save_snapshot_every": [0, *WHOLE],
    "keep_snapshots": [0, "some", *WHOLE],
    "max_refused_steps": [-1, *WHOLE],
    "deterministic": SWITCH,
    "sync_batchnorm": SWITCH,
    "resume": TEXT,
    "reload_model_path": TEXT,
    "protocol": ["ep3", 1, ""],
    "supp_idx": [-1, "some", [], [0, 0], [-1], 1.5, True],
    "n_part": [0, 2, "3"],
    "eval_batch_size": [0, *WHOLE],
    "whole_volume": SWITCH,
    "surface_tolerance_mm": [0, *NUMBER],
    "slice_margin": WHOLE,
    "location_mm": NUMBER,
    "smooth_z": [1001, *NUMBER],
    "largest_component": SWITCH,
    "support_image": [*TEXT[:2], [], [3], ["a", "a"]],
    "support_label": [*TEXT[:2], [], [3], ["a", "a"]],
    "query": TEXT,
    "output": TEXT,
    "overwrite": SWITCH,
    "save_probs": SWITCH,
    "augment": SWITCH,
    "run": TEXT,
    "path.log_dir": TEXT,
    "path.weights_dir": TEXT,
    "path.CHAOST2.data_dir": TEXT,
    "datasets.CMR.image": [3, "scan.nii.gz", "{case}/scan.nii.gz", "{case}_{case}", "{case}*", "{case}{x}", "{case}[1]"],
    "datasets.CMR.label": [3, "", "{case", "{0}{case}"], "datasets.CMR.supervoxels": [3, "", "{case!r}{case}"],
    "datasets.CMR.labels": [3, {}, {"0": "background"}, {"255": "a"}, {"1": ""}, {"1": "a/b"}, {"1": "a", "2": "a"},
                            {"1": "a b", "2": "a_b"}, {"1": 3}, {"one": "a"}, {"01": "a"}],
    "datasets.CMR.file_values": [3, {"200": 0}, {"0": 1}, {"x": 1}, {"200": "1"}, {"1.5": 1}, {"200": 255}],
    "datasets.CMR.n_folds": [0, *WHOLE],
    "datasets.CMR.grid": [3, {}, *({**base_config()["datasets"]["CMR"]["grid"], **wrong} for wrong in (
        {"spacing_mm": [1, 1]}, {"spacing_mm": [1, 1, 0]}, {"spacing_mm": [1, 1, 1e9]}, {"size_px": 0}, {"size_px": 10**5},
        {"size_px": 2.5}, {"orientation": "LRS"}, {"orientation": "las"}, {"window": [5, 5]}, {"window": [5]}, {"colour": 1}))],
}
MAY_BE_NULL = {"exclude_label", "reload_model_path", "support_image", "support_label", "query", "output", "run",
               "datasets.CMR.grid"}
BASE = base_config()


def with_option(key, value):
    """Return the base config with one option changed, and nothing but the sections on the way to it copied."""
    config = section = dict(BASE)
    *way, last = key.split(".")
    for name in way:
        section[name] = dict(section[name])
        section = section[name]
    section[last] = value
    return config


def refusal(config):
    with pytest.raises(InputError) as caught:
        check_config(config)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500
    return str(caught.value)


def test_every_option_is_in_the_table():
    leaves = {f"{key}.{inner}" if isinstance(rule, dict) else key for key, rule in RULES.items()
              for inner in (rule if isinstance(rule, dict) else [""])}
    sections = {f"datasets.CMR.{key}" for key in config_module.DATASET_RULES} | {"path.log_dir", "path.weights_dir",
                                                                                "path.CHAOST2.data_dir"}
    assert set(WRONG_OPTIONS) == leaves | sections


@pytest.mark.parametrize("key", WRONG_OPTIONS)
def test_wrong_option(key):
    wrong = [*WRONG_OPTIONS[key], {"a": 1}, *([] if key in MAY_BE_NULL else [None])]
    for value in wrong:
        assert refusal(with_option(key, value)).startswith(f"{key}: got {value!r}, allowed: "), value
    if key in MAY_BE_NULL:
        check_config(with_option(key, None))


@pytest.mark.parametrize("section", ["", "optim.", "path.", "path.CHAOST2.", "datasets.CMR."])
def test_unknown_missing_and_replaced_options(section):
    assert refusal(with_option(f"{section}lerning_rate", 1)).startswith(f"unknown option {section}lerning_rate; allowed here: ")
    assert refusal(with_option(f"{section}a\nb", 1)).startswith(f"unknown option {f'{section}a'[:-1]}'")
    if section:
        for value in (3, None, "x", []):
            assert refusal(with_option(section.rstrip("."), value)).startswith(f"{section.rstrip('.')}: got {value!r}, allowed: ")
        key = {"optim.": "lr", "path.": "log_dir", "path.CHAOST2.": "data_dir", "datasets.CMR.": "n_folds"}[section]
        config = with_option(f"{section}{key}", 1)
        inner = config
        for name in section.split(".")[:-1]:
            inner = inner[name]
        del inner[key]
        assert refusal(config).startswith(f"missing option {section}{key}; allowed here: ")


@pytest.mark.parametrize(("changes", "message"), [
    ({"test_label": [5]}, "test_label: got 5, allowed for CHAOST2: {1: 'liver', 2: 'right kidney'"),
    ({"exclude_label": [7]}, "exclude_label: got 7, allowed for CHAOST2"),
    ({"dataset": "CMR", "test_label": [4]}, "test_label: got 4, allowed for CMR"),
    ({"protocol": "ep2"}, "n_part: got 3, allowed with protocol 'ep2': 1"),
    ({"datasets.CMR.file_values": {"200": 9}, "dataset": "CMR", "test_label": [1]}, "datasets.CMR.file_values: got label"),
    ({"datasets.a/b": {}}, "datasets: got the name 'a/b', allowed: a text fit for a file name"),
    ({"path.MRI": {"data_dir": "x"}}, "unknown option path.MRI; allowed here: "),
])
def test_options_that_do_not_go_together(changes, message):
    config = BASE
    for key, value in changes.items():
        *way, last = key.split(".")
        config = {**config, way[0]: with_option(key, value)[way[0]]} if way else {**config, last: value}
    assert refusal(config).startswith(message)
