"""Task files: the same bytes every time, the same outlines as from the scans themselves, and nothing hostile gets in."""

import gzip
import io
import json
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from qnet.dataloaders.dicom import read_dicom
from qnet.util.base.checksums import sha256
from qnet.util.base.errors import InputError
from qnet.util.base.root import ROOT
from qnet.util.engine.segmenters import VolumeSegmenter
from qnet.util.options.config import base_config, load_config
from qnet.util.options.sections import ModelOptions
from qnet.util.predict.predictor import Predictor
from qnet.util.predict.task_command import main
from qnet.util.taskfile.archive import EARLIEST, MAX_FILES, sha256_of
from qnet.util.taskfile.manifest import MAX_LABELS, NAME, WEIGHTS, Label, Manifest
from qnet.util.taskfile.task_file import create, manifest_of, opened, options_for
from qnet.util.training.building import build_model
from tests import damage
from tests.data.raw_downloads import write_dicom
from tests.programs import entry_point, predict
from tests.settings import GUIDED, REGISTRATION
from tests.toy import toy_case, write

OPTIONS = load_config("guided")
OPTIONS["registration"] |= {"finest": 2.0, "affine": False, "n_steps": 5}       # a second for a scan
IMAGE, LABELS = "supports/1_image.nii.gz", "supports/1_labels.nii.gz"


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two toy scans and the labels of the first. They have few voxels, so registration takes a moment."""
    folder = tmp_path_factory.mktemp("scans")
    for number in (1, 2):
        image, label_map, _ = toy_case(number)
        write(folder / f"image {number}.nii.gz", image)
        write(folder / f"labels {number}.nii.gz", label_map)
    return folder


def make(path, scans, **changes):
    manifest = Manifest({1: Label("liver", "#0000ff")}, "CC BY-SA 4.0", options_for(OPTIONS, None), 0, {})
    create(path, [(scans / "image 1.nii.gz", scans / "labels 1.nii.gz")], manifest, **changes)
    return path


@pytest.fixture(scope="module")
def made(scans, tmp_path_factory):
    """A task file; read it only."""
    return make(tmp_path_factory.mktemp("task") / "liver.task", scans)


@pytest.fixture
def task(made, tmp_path):
    """A task file to spoil."""
    return shutil.copy(made, tmp_path / "liver.task")


def files_of(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(files, path, compression=zipfile.ZIP_STORED, **attributes):
    """Write (name, content) pairs as an archive, whatever they are."""
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")      # of names that are there twice
        for name, content in files:
            info = zipfile.ZipInfo(name, EARLIEST)
            info.compress_type = compression
            for key, value in attributes.get(name, {}).items():
                setattr(info, key, value)
            archive.writestr(info, content)


def with_manifest(change):
    """Return the damage that changes the manifest."""
    def spoil(path):
        files = files_of(path)
        manifest = json.loads(files[NAME])
        change(manifest)
        pack((files | {NAME: json.dumps(manifest).encode()}).items(), path)
    return spoil


def with_entry(**changes):
    return with_manifest(lambda manifest: manifest.update(changes))


def with_file(name, content):
    """Return the damage that replaces or adds a file, and corrects its check sum."""
    def spoil(path):
        files = files_of(path)
        made = content(files.get(name)) if callable(content) else content
        manifest = json.loads(files[NAME])
        manifest["sha256"][name] = sha256_of(made)
        pack((files | {NAME: json.dumps(manifest).encode(), name: made}).items(), path)
    return spoil


def with_more(*more, **attributes):
    """Return the damage that adds (name, content) pairs, whatever the manifest says."""
    return lambda path: pack([*files_of(path).items(), *more], path, **attributes)


def without(name):
    return lambda path: pack([(key, value) for key, value in files_of(path).items() if key != name], path)


def with_a_zero(path):
    with_more((f"{WEIGHTS}?.exe", b"x"))(path)
    path.write_bytes(path.read_bytes().replace(b"?.exe", b"\0.exe"))


def with_json(content):
    """Return the damage that replaces the manifest."""
    return lambda path: pack((files_of(path) | {NAME: content}).items(), path)


def as_a_link(path):
    pack(files_of(path).items(), path, **{IMAGE: {"external_attr": (stat.S_IFLNK | 0o777) << 16}})


def as_a_pipe(path):
    pack(files_of(path).items(), path, **{IMAGE: {"external_attr": (stat.S_IFIFO | 0o777) << 16}})


def a_bomb(path):
    pack([*files_of(path).items(), (WEIGHTS, bytes(10**7))], path, zipfile.ZIP_DEFLATED)


def overlapping(path):
    """Two entries of the directory lead to the same bytes, as in bombs without compression."""
    files = [*files_of(path).items()]
    pack([*files, (WEIGHTS, files[1][1])], path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        first, last = archive.getinfo(IMAGE).header_offset, archive.getinfo(WEIGHTS).header_offset
    directory = content.rindex(WEIGHTS.encode()) - 46
    content[directory + 42:directory + 46] = first.to_bytes(4, "little")
    del content[last:content.index(b"PK\1\2")]
    end = content.rindex(b"PK\5\6")
    content[end + 16:end + 20] = content.index(b"PK\1\2").to_bytes(4, "little")
    path.write_bytes(content)


def claiming(path):
    """The directory says that a file has more bytes than the archive."""
    content = bytearray(path.read_bytes())
    at = content.rindex(IMAGE.encode()) - 46
    for field in (20, 24):
        content[at + field:at + field + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(content)


def changed_inside(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def saved(value):
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


class Evil:
    def __reduce__(self):
        return (sys.exit, (7,))


def needing_weights(content):
    """Return the damage that makes it the task of a network, whose weights have this content."""
    options = options_for({**base_config(), "encoder": "small"}, None)

    def spoil(path):
        with_entry(options={**options, "datasets": {"CHAOST2": options["datasets"]["CHAOST2"]}})(path)
        with_file(WEIGHTS, content)(path)
    return spoil


def other_labels(content):
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
    array = np.asarray(image.dataobj).copy()
    array[array == 4] = 0
    return gzip.compress(nibabel.Nifti1Image(array, image.affine).to_bytes())


def many_labels(n):
    return {str(value): {"name": f"l{value}", "colour": "#000000"} for value in range(1, n + 1)}


def claiming_weights(_):
    """Weights of the right names and shapes, all of which are one number."""
    model = build_model(ModelOptions.of({**base_config(), "encoder": "small"}))
    return saved({name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in model.state_dict().items()})


HOSTILE = {
    "missing": (damage.missing, r"no such file"),
    "a folder": (damage.a_folder, r"is a folder, expected a file"),
    "empty": (damage.empty, r"cannot be read as a task file"),
    "truncated": (damage.truncated, r"cannot be read as a task file"),
    "a text": (damage.a_text, r"cannot be read as a task file \(File is not a zip file"),
    "a bit": (changed_inside, r"cannot be read as a task file \(Bad CRC-32 for file 'supports/1_image"),
    "a path that escapes": (with_more(("../evil.nii.gz", b"x")),
                            r"its file '../evil.nii.gz' has another name than task files use"),
    "one that escapes later": (with_more(("supports/../../evil", b"x")), r"its file 'supports/../../evil' has another name"),
    "an absolute path": (with_more(("/etc/evil", b"x")), r"its file '/etc/evil' has another name"),
    "a path of Windows": (with_more(("C:\\evil", b"x")), r"its file 'C:.*evil' has another name"),
    "a zero in a name": (with_a_zero, r"its file 'weights.pth' has another name"),
    "a line break in a name": (with_more(("a\nb", b"x")), r"its file 'a\\nb' has another name"),
    "a folder in it": (with_more(("supports/", b"")), r"its file 'supports/' has another name"),
    "a link": (as_a_link, rf"its file '{IMAGE}' is a link, a folder or a device"),
    "a pipe": (as_a_pipe, rf"its file '{IMAGE}' is a link, a folder or a device"),
    "the same name twice": (with_more((IMAGE, b"x")), rf"its file '{IMAGE}' is there twice"),
    "a bomb by ratio": (a_bomb, r"its file 'task.json' is compressed or encrypted"),
    "a bomb by size": (claiming, r"its files claim 2147.* bytes, the archive has"),
    "a bomb by overlap": (overlapping, r"its files claim .* bytes, the archive has|Overlapped entries"),
    "a bomb by count": (with_more(*((f"f{k}", b"") for k in range(MAX_FILES))),
                        rf"holds {MAX_FILES + 3} files, allowed in a task"),
    "a bomb in a scan": (with_file(IMAGE, lambda _: _bytes_of(damage.huge_but_packed)),
                         rf": {IMAGE}: cannot be read as NIfTI \(shape .* takes 2000000352"),
    "no manifest": (without(NAME), r"task.json: is missing"),
    "a huge manifest": (with_entry(licence="x" * 2**21), r"task.json: has more than 1048576 bytes"),
    "no JSON": (with_json(b"{"), r"task.json: not valid JSON"),
    "deep JSON": (with_json(b"[" * 10**5), r"task.json: not valid JSON"),
    "a list": (with_json(b"[]"), r"task.json: format: allowed: 'few-shot"),
    "another format": (with_entry(format="recipe"), r"task.json: format: allowed: 'few-shot segmentation task'"),
    "a later version": (with_entry(version=2), r"task.json: version: got 2, allowed: 1"),
    "a version that is true": (with_entry(version=True), r"task.json: version: got True, allowed: 1"),
    "an unknown key": (with_entry(code="import os"), r"task.json: got the keys \['code'"),
    "no labels": (with_entry(labels={}), r"task.json: labels: got {}, allowed"),
    "a label's name has two lines": (with_entry(labels={"1": {"name": "x\n", "colour": "#000000"}}), r"task.json: labels: got"),
    "a label's colour is code": (with_entry(labels={"1": {"name": "x", "colour": "red;}"}}), r"task.json: labels: got"),
    "a label that no scan has": (with_manifest(lambda m: m["labels"].update({"7": {"name": "x", "colour": "#000000"}})),
                                 r"task.json: names the labels \[1, 2, 3, 4, 7\], but its scans have \[1, 2, 3, 4\]"),
    "a label without a name": (with_file(LABELS, other_labels),
                               r"names the labels \[1, 2, 3, 4\], but its scans have \[1, 2, 3\]"),
    "a licence that is none": (with_entry(licence=7), r"task.json: licence: got 7, allowed: a text"),
    "no method": (with_entry(options={}), r"task.json: options: got {}, allowed"),
    "an unknown method": (with_manifest(lambda m: m["options"].update(model="segnet")), r"task.json: options: got"),
    "a bad option": (with_manifest(lambda m: m["options"].update(smooth_z=-1)), r"smooth_z: got -1, allowed"),
    "a bad option in a section": (with_manifest(lambda m: m["options"]["guided"].update(sure="x")),
                                  r"guided.sure: got 'x', allowed"),
    "no supports": (with_entry(n_supports=0), r"task.json: n_supports: got 0, allowed: a whole number from 1 to 99"),
    "a missing scan": (without(IMAGE), rf"'{IMAGE}' is missing, or too many"),
    "a scan too many": (with_more(("supports/2_image.nii.gz", b"x")), r"'supports/2_image.nii.gz' is missing, or too many"),
    "weights for guided": (with_file(WEIGHTS, b"x"), r"'weights.pth' is missing, or too many"),
    "a wrong check sum": (with_manifest(lambda m: m["sha256"].update({IMAGE: "0" * 64})),
                          rf"{IMAGE}: does not have the check sum"),
    "no check sum": (with_manifest(lambda m: m["sha256"].pop(IMAGE)), rf"'{IMAGE}' is missing, or too many"),
    "a check sum that is none": (with_manifest(lambda m: m["sha256"].update({IMAGE: 7})), r"task.json: sha256: got"),
    "a scan that is none": (with_file(IMAGE, b"x"), rf": {IMAGE}: cannot be read as NIfTI"),
    "labels of another grid": (with_file(LABELS, lambda _: _bytes_of(damage.other_shape)), rf": {LABELS}: size"),
    "a pickle for weights": (needing_weights(saved({"a": Evil()})), rf": {WEIGHTS}: cannot be read as weights"),
    "weights that are a list": (needing_weights(saved([1])), rf": {WEIGHTS}: holds a list"),
    "weights that are text": (needing_weights(saved({"a": "b"})), rf": {WEIGHTS}: holds other than tensors"),
    "weights of another network": (needing_weights(saved({"a": torch.zeros(2)})), rf": {WEIGHTS}: "),
    "weights that claim more than they have": (
        needing_weights(claiming_weights), rf": {WEIGHTS}: its weights claim \d+ bytes, the file has \d+"),
    "labels by the thousand": (with_entry(labels=many_labels(20000)), r"task.json: (labels: got|not valid JSON here|has more)"),
    "labels too many": (with_entry(labels=many_labels(MAX_LABELS + 1)), rf"task.json: labels: got .*, at most {MAX_LABELS}"),
}


def _bytes_of(spoil):
    """The bytes of a toy scan that was spoilt."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.nii.gz"
        write(path, toy_case(1)[1])
        spoil(path)
        return path.read_bytes()


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_in_one_line(case, task, tmp_path, capsys):
    spoil, message = HOSTILE[case]
    spoil(task)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=message) as caught:
        Predictor.load(task, device="cpu")
    assert "\n" not in str(caught.value) and (str(caught.value).startswith(str(task)) or "option" in case)
    assert main(["check", str(task)]) == 1
    assert capsys.readouterr().err == f"error: {caught.value}\n"
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.whole
def test_a_giant_network_costs_nothing_until_its_weights_are_there(warm, task):
    """A name of some 700 million weights in a file of 25 kB."""
    spoilt = options_for({**base_config(), "encoder": "small"}, None)
    with_entry(options={**spoilt, "datasets": {"CHAOST2": spoilt["datasets"]["CHAOST2"]},
                        "encoder": "timm/resnetv2_152x4_bit"})(task)
    with_file(WEIGHTS, saved({"a": torch.zeros(2)}))(task)
    checked = ("from qnet.scripts.tables.organ_sets.worker import peak_mb; from qnet.util.predict.task_command import main\n"
               f"status = main(['check', {str(task)!r}])\n"
               "print(peak_mb()); raise SystemExit(status)")
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", checked], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1 and "weights of another architecture" in done.stderr and done.stderr.count("\n") == 1
    assert float(done.stdout) < 1800        # it would take 2,800 MB for the weights alone
    assert time.monotonic() - begun < 60


def test_more_labels_than_a_task_file_holds_are_told_when_it_is_made(scans, tmp_path, capsys):
    values = np.zeros_like(toy_case(1)[1], dtype=np.int16)
    values.ravel()[:MAX_LABELS + 1] = range(1, MAX_LABELS + 2)
    write(tmp_path / "many.nii.gz", values)
    assert main(["create", str(tmp_path / "x.task"), "--support", str(scans / "image 1.nii.gz"),
                 str(tmp_path / "many.nii.gz")]) == 1
    assert f"hold {MAX_LABELS + 1} labels, allowed in a task file: {MAX_LABELS}" in capsys.readouterr().err


def test_what_it_says_moves_no_cursor(task, capsys):
    with_entry(licence="free\x1b[2J\x1b]0;title\x07\r\nas \u202eair")(task)
    assert main(["show", str(task)]) == 0
    said = capsys.readouterr().out
    assert r"licence: free\x1b[2J\x1b]0;title\x07\r\nas \u202eair" in said and said.replace("\n", "").isprintable()
    with_entry(format="\x1b[2J")(task)
    assert main(["show", str(task)]) == 1 and capsys.readouterr().err.strip().isprintable()


def test_the_same_scans_give_the_same_bytes_and_only_they_are_stored(made, scans, tmp_path):
    again = make(tmp_path / "again.task", scans)
    assert sha256(again) == sha256(made)
    files = files_of(again)
    assert list(files) == [NAME, IMAGE, LABELS]
    assert b"image 1" not in again.read_bytes() and str(scans).encode() not in again.read_bytes()
    stored = nibabel.Nifti1Image.from_bytes(gzip.decompress(files[IMAGE]))
    assert bytes(stored.header["descrip"]).strip(b"\0") == b""
    given = nibabel.load(scans / "image 1.nii.gz")
    np.testing.assert_allclose(stored.affine, given.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(stored.dataobj), given.dataobj)


def test_what_it_says_of_itself(made):
    manifest = manifest_of(made)
    assert manifest.names == {1: "liver", 2: "label 2", 3: "label 3", 4: "label 4"} and manifest.licence == "CC BY-SA 4.0"
    assert manifest.labels[1].colour == "#0000ff" and manifest.options["registration"]["stones"] == 6
    assert manifest.options["model"] == "guided" and "path" not in manifest.options
    with opened(made) as content:
        (image, labels), = content.supports
        assert image.GetSize() == labels.GetSize() == (64, 64, 8) and content.weights is None


def test_a_task_file_of_an_earlier_version_is_read(task, scans, capsys):
    """It holds lengths in mm, which are left out with one line, and lacks what came later. The other options are as they were."""
    def as_before(manifest):
        registration, guided = manifest["options"]["registration"], manifest["options"]["guided"]
        for key in ("zoom", "finest"):
            del registration[key]
        for key in ("blur", "filter"):
            del guided[key]
        registration.update(affine_mm=[8.0, 5.0, 5.0], search_mm=[4.0, 2.5, 2.5], smoothness=0.5)
        guided.update(blur_mm=[4.0, 5.0, 5.0], filter_mm=4.0, prior_weight=1.25)

    with_manifest(as_before)(task)
    predictor = Predictor.load(task, device="cpu")
    said = capsys.readouterr().out
    assert said.startswith("registration.affine_mm, registration.search_mm, guided.blur_mm, guided.filter_mm: left out")
    assert said.count("\n") == 1
    assert isinstance(predictor.segmenter, VolumeSegmenter)
    model: Any = predictor.segmenter.model
    assert (model.settings.finest, model.settings.zoom, model.settings.smoothness) == (REGISTRATION.finest, True, 0.5)
    assert model.guided == replace(GUIDED, prior_weight=1.25) and predictor.n_stones == 6
    with pytest.raises(SystemExit, match=r"^error: query, output: got null"):
        predict(task=task)
    assert capsys.readouterr().out.count(said) == 1
    assert main(["check", str(task)]) == 0


@pytest.mark.whole
def test_the_outlines_are_those_of_the_scans_themselves(made, scans):
    of_task = Predictor.load(made, device="cpu")
    of_scans = Predictor.untrained("guided", device="cpu", registration=OPTIONS["registration"])
    of_scans.add_support(scans / "image 1.nii.gz", scans / "labels 1.nii.gz")
    a, b = (predictor.segment(scans / "image 2.nii.gz") for predictor in (of_task, of_scans))
    np.testing.assert_array_equal(a.label_map, b.label_map)
    assert a.names[1] == "liver" and of_task.n_stones == 6


@pytest.mark.whole
def test_predict_takes_a_task_file_and_the_command_line_comes_before_it(made, scans, tmp_path):
    options = {"task": made, "query": scans / "image 2.nii.gz", "output": tmp_path / "out"}
    predict(**options)
    table = (tmp_path / "out/cases.csv").read_text(encoding="utf-8")
    assert "liver" in table
    expected = Predictor.load(made, device="cpu").segment(scans / "image 2.nii.gz").label_map
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "out/image 2.nii.gz").dataobj).T, expected)
    predict(**options, guided={"clip": 0.0})
    assert (tmp_path / "out/cases.csv").read_text(encoding="utf-8") != table
    with pytest.raises(SystemExit, match=r"^error: support_image: got .*, allowed with a task file, which has its own: null"):
        predict(**options, support_image=scans / "image 1.nii.gz", support_label=scans / "labels 1.nii.gz")


@pytest.mark.whole
def test_a_network_travels_with_its_weights_and_its_grid_and_nothing_else(trained, toy_data, tmp_path, capsys):
    images, path = toy_data / "chaos_MR_T2_normalized", tmp_path / "net.task"
    support = [str(images / "image_1.nii.gz"), str(images / "label_1.nii.gz")]
    words = ["create", str(path), "--support", *support, "--snapshot", str(trained / "snapshots/3.pth"), "--names", "1=lobe"]
    assert main(words) == 0
    assert "grid: 96 × 96 pixels, voxels of 1.5 × 1.5 × 7.7 mm" in capsys.readouterr().out
    first = sha256(path)
    assert main(words) == 0 and sha256(path) == first
    assert str(trained).encode() not in path.read_bytes() and b"optimizer" not in path.read_bytes()
    options = {"device": "cpu", "precision": "float32", "n_iters": 1}
    of_snapshot = Predictor.load(trained / "snapshots/3.pth", **options)
    of_snapshot.add_support(*support)
    of_task = Predictor.load(path, **options)
    a, b = (predictor.segment(images / "image_2.nii.gz") for predictor in (of_task, of_snapshot))
    np.testing.assert_array_equal(a.label_map, b.label_map)
    assert a.names == {1: "lobe", 2: "right kidney", 3: "left kidney", 4: "spleen"}
    predict(task=path, query=images / "image_2.nii.gz", output=tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "out/image_2.nii.gz").dataobj).T, a.label_map)


def test_a_series_becomes_voxels_without_a_name(scans, tmp_path):
    image = sitk.Cast(sitk.ReadImage(scans / "image 1.nii.gz"), sitk.sitkUInt16)
    (tmp_path / "series").mkdir()
    for z in range(image.GetDepth()):
        write_dicom(tmp_path / f"series/{z}", image, z, z + 1)
    labels = sitk.Resample(sitk.ReadImage(scans / "labels 1.nii.gz"), read_dicom(tmp_path / "series"), sitk.Transform(),
                           sitk.sitkNearestNeighbor)
    sitk.WriteImage(labels, tmp_path / "labels.nii.gz")
    assert main(["create", str(tmp_path / "x.task"), "--support", str(tmp_path / "series"), str(tmp_path / "labels.nii.gz")]) == 0
    with opened(tmp_path / "x.task") as content:
        (stored, _), = content.supports
    np.testing.assert_array_equal(sitk.GetArrayFromImage(stored), sitk.GetArrayFromImage(read_dicom(tmp_path / "series")))
    assert b"DICM" not in (tmp_path / "x.task").read_bytes()


@pytest.mark.parametrize(("words", "message"), [
    (["--support", "{scans}/image 1.nii.gz", "{scans}/labels 1.nii.gz", "--names", "9=x"],
     "error: --names, --colours: 9 is in no label file, which hold"),
    (["--support", "{scans}/image 1.nii.gz", "{scans}/labels 1.nii.gz", "--names", "1=x", "2=x"],
     "--names: got 'x' and 'x', allowed: names that differ"),
    (["--support", "{scans}/image 1.nii.gz", "{scans}/image 2.nii.gz"], "image 2.nii.gz: holds"),
    (["--support", "{scans}/nowhere.nii.gz", "{scans}/labels 1.nii.gz"], "nowhere.nii.gz: no such file"),
    (["--support", "{scans}/image 1.nii.gz", "{scans}/labels 1.nii.gz", "--snapshot", "{scans}/image 1.nii.gz"], "as weights"),
])
def test_create_refuses_in_one_line(words, message, scans, tmp_path, capsys):
    assert main(["create", str(tmp_path / "x.task"), *(word.format(scans=scans) for word in words)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1 and not (tmp_path / "x.task").exists()


def test_a_task_file_made_in_python_is_told_of_no_option(scans, tmp_path):
    manifest = Manifest({9: Label("x", "")}, "", options_for(OPTIONS, None), 0, {})
    with pytest.raises(InputError, match=r"^9 is in no label file, which hold"):
        create(tmp_path / "x.task", [(scans / "image 1.nii.gz", scans / "labels 1.nii.gz")], manifest)


def test_create_writes_over_nothing_of_a_users(scans, tmp_path, capsys):
    words = ["--support", str(scans / "image 1.nii.gz"), str(scans / "labels 1.nii.gz")]
    assert main(["create", str(tmp_path / "x.zip"), *words]) == 1 and "a name that ends in .task" in capsys.readouterr().err
    (tmp_path / "x.task").write_text("a user's own", encoding="utf-8")
    assert main(["create", str(tmp_path / "x.task"), *words]) == 1
    assert "was not made by this program" in capsys.readouterr().err
    assert main(["create", str(tmp_path / "x.task"), *words, "--overwrite"]) == 0


@pytest.mark.parametrize("words", [["--names", "0=x"], ["--names", "1=a\nb"], ["--names", "one=x"], ["--colours", "1=red"]])
def test_a_bad_word_is_refused_with_what_is_allowed(words, capsys):
    with pytest.raises(SystemExit):
        main(["create", "x.task", "--support", "a", "b", *words])
    assert "allowed: VALUE=" in capsys.readouterr().err


def test_the_word_task_leads_to_the_command():
    assert entry_point("test").task_command is main
