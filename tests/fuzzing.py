"""Damaged and hostile inputs by the thousand: each must be read, or refused in one line.

    python -c "from tests.fuzzing import fuzz_nifti; print(fuzz_nifti(5000, seed=1))"
    python -m tests.fuzzing     # 5,000 of each kind of JSON: sessions, found results, configs, options of snapshots, manifests

Input i of a seed is always the same. A failure is: any exception but InputError, a message of several lines, more than TIME_S
seconds, more than MEMORY_MB of new memory, a value that the reader promises not to return, or code run by a pickle.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import logging
import os
import pickle
import resource
import signal
import subprocess
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import SimpleITK as sitk
import torch
from starlette.responses import JSONResponse

from qnet.data.preparation.raw import RawCase, read_nifti_pair
from qnet.dataloaders.datasets import Grid, find_cases
from qnet.dataloaders.dicom import read_dicom
from qnet.dataloaders.finding import find_scans
from qnet.dataloaders.folds import supports_and_queries
from qnet.dataloaders.nifti import read_array, read_spacing_mm, write_like
from qnet.dataloaders.outlines.formats import FORMATS
from qnet.dataloaders.outlines.name_tables import read_table
from qnet.dataloaders.outlines.reading import stored_outlines
from qnet.dataloaders.outlines.writing import write_formats
from qnet.dataloaders.reading import affine_at, check_header
from qnet.dataloaders.reading import read_image as read_any
from qnet.dataloaders.volumes import MAX_SUPERVOXEL, normalise, read_image, read_label, read_supervoxels
from qnet.util.base.classes import is_name
from qnet.util.base.device import resolve_device
from qnet.util.base.errors import InputError
from qnet.util.base.progress import progress
from qnet.util.label.session import Session
from qnet.util.options.config import (
    CONFIG_DIR,
    base_config,
    check_config,
    load_config,
    merge,
    named_configs,
    of_today,
    read_config_file,
)
from qnet.util.options.record import Record
from qnet.util.options.sections import (
    DataOptions,
    EpisodeOptions,
    EvaluationOptions,
    ModelOptions,
    PredictOptions,
    PredictorOptions,
    RunPlace,
    TrainOptions,
    WholeVolumeOptions,
    dataset_spec,
    section,
)
from qnet.util.predict.scans import read_scan
from qnet.util.run.experiment import check_update, plain
from qnet.util.taskfile.manifest import Label, Manifest, read_manifest, stored_options
from qnet.util.training.as_trained import as_trained, complete, scored_config
from qnet.util.training.snapshots import Snapshot, load_model, read_snapshot, save_snapshot
from qnet.util.training.weights import load_pretrained
from tests import kinds
from tests.labelling import drawing, write_scans
from tests.toy import write

TIME_S, MEMORY_MB = 20, 300
BASE = base_config()
SPEC = dataset_spec("CHAOST2", BASE["datasets"]["CHAOST2"])
GRID = Grid((3.0, 3.0, 6.0), 16, "LAS", None)
Attempt = Callable[[np.random.Generator, Path], None]


def fuzz_config(n: int, seed: int) -> list[str]:
    """Try n configs, as values and as text; return a line per failure."""
    texts = [(CONFIG_DIR / f"{name}.json5").read_bytes() for name in sorted(named_configs())]

    def attempt(rng: np.random.Generator, folder: Path) -> None:
        if rng.random() < 0.5:
            config = _alter_config(rng, copy.deepcopy(BASE))
        else:
            ending = rng.choice(["json5", "json"])
            content = texts[rng.integers(len(texts))] if ending == "json5" else json.dumps(BASE).encode()
            (folder / f"x.{ending}").write_bytes(_alter_bytes(rng, content))
            config = copy.deepcopy(BASE)
            merge(config, of_today(read_config_file(str(folder / f"x.{ending}"))))
        check_update(f"{rng.choice(list(BASE))}={_odd_value(rng)!r}", [])
        check_config(config)
        _use_config(config, folder)

    return _run("configs", n, seed, attempt)


def fuzz_session(n: int, seed: int) -> list[str]:
    """Try n contents of session.json; return a line per failure."""
    sound = {"version": 1, "done": ["a_1"], "left_out": ["a_2"], "classes": [
        {"value": 1, "name": "liver", "colour": "#e69f00"}, {"value": 2, "name": "label 2", "colour": "#56b4e9"}]}
    return _fuzz_session_file("session.json", sound, n, seed)


def fuzz_found(n: int, seed: int) -> list[str]:
    """Try n contents of found/<scan>.json; return a line per failure."""
    row = {"query": "a_1", "label": 1, "label_name": "liver", "volume_ml": 12.5, "slices": 3, "confidence": 0.7,
           "agreement": None,
           "margin": 2.25}
    return _fuzz_session_file("found/a_1.json", {"map": "a_1.1.nii.gz", "rows": [row, {**row, "label": 2}]}, n, seed)


def _fuzz_session_file(name: str, sound: dict, n: int, seed: int) -> list[str]:
    with tempfile.TemporaryDirectory() as root:
        scans = write_scans(Path(root) / "scans", [1, 2])
        secret = Path(root) / "secret.txt"
        secret.write_bytes(b"secret")
        Session(scans).close()
        session_json = (scans / "label_page/session.json").read_bytes()
        found = drawing()

        def attempt(rng: np.random.Generator, folder: Path) -> None:
            (scans / "label_page/session.json").write_bytes(session_json)
            write(scans / "label_page/found/a_1.1.nii.gz", found)
            (scans / f"label_page/{name}").write_bytes(_altered_json(rng, sound))
            with closing(Session(scans)) as session:
                _use_session(session)
            _hold(secret.read_bytes() == b"secret" and (scans / "a_2.nii.gz").exists(), "file outside")

        return _run(name, n, seed, attempt)


def _use_session(session: Session) -> None:
    """Do what the page does."""
    before = JSONResponse(session.overview()).body
    session.supports(), session.waiting(), session.usable(), session.next_run(), session.outlines("a_1")
    session.leave_out("a_1", True)
    session.leave_out("a_1", False)
    session.close()
    with closing(Session(session.folder)) as again:
        left_out = [scan["name"] for scan in json.loads(bytes(before))["scans"] if scan["state"] == "left out"]
        _hold("a_1" in left_out or JSONResponse(again.overview()).body == before, "state read back")


def fuzz_options(n: int, seed: int) -> list[str]:
    """Try n options that a snapshot stores, as predict and evaluation use them; return a line per failure."""
    model = _small_model()
    state = {"model": model.state_dict(), "step": 1, "optimizer": {}, "scheduler": {}, "history": torch.zeros(1, 2)}

    def attempt(rng: np.random.Generator, folder: Path) -> None:
        content = _altered_json(rng, BASE)
        odd = rng.random() < 0.05
        torch.save({**state, "config": content if odd else content.decode("utf-8", "replace")}, folder / "w.pth")
        trained = read_snapshot(folder / "w.pth").config
        for command in ("main", "predict"):
            with _refused(), redirect_stdout(io.StringIO()):
                scored_config({**copy.deepcopy(BASE), "reload_model_path": str(folder / "w.pth")}, {}, command)
        PredictorOptions.of(complete(as_trained(copy.deepcopy(BASE), trained)))

    return _run("options of snapshots", n, seed, attempt)


def fuzz_manifest(n: int, seed: int) -> list[str]:
    """Try n manifests of task files; return a line per failure."""
    guided = load_config("guided")
    options = {key: guided[key] for key in stored_options("guided")}
    sound = json.loads(Manifest({1: Label("liver", "#e6194b")}, "none", options, 1,
                                {"supports/1_image.nii.gz": "0" * 64}).to_json())

    def attempt(rng: np.random.Generator, folder: Path) -> None:
        manifest = read_manifest(_altered_json(rng, sound), "x.task: task.json")
        _hold(bool(manifest.names and manifest.files) and read_manifest(manifest.to_json(), "again") == manifest, "manifest")
        stored = manifest.options
        PredictorOptions.of(complete(as_trained(copy.deepcopy(BASE), stored, tuple(stored))))

    return _run("manifests", n, seed, attempt)


def fuzz_nifti(n: int, seed: int, readers: Sequence[Callable[[Path], object]] | None = None) -> list[str]:
    """Try n NIfTI files as image, label, supervoxels, reference and scan, or with `readers`; return a line per failure."""
    sound = _sound_niftis()

    def attempt(rng: np.random.Generator, folder: Path) -> None:
        name = rng.choice(list(sound))
        path = folder / f"scan{''.join(Path(name).suffixes)}"
        path.write_bytes(_alter_nifti(rng, sound[name], path.suffix == ".gz"))
        for reader in readers or (_use_image, _use_label, _use_supervoxels, _use_pair, _use_scan):
            with _refused():
                reader(path)

    return _run("NIfTI files", n, seed, attempt)


def fuzz_places(n: int, seed: int) -> list[str]:
    """Try n NIfTI headers with odd values in the fields that say where voxels lie; return a line per failure."""
    content = _sound_niftis()["label.nii"]

    def attempt(rng: np.random.Generator, folder: Path) -> None:
        header = nibabel.Nifti1Header(content[:348])
        for field in rng.choice(PLACE_FIELDS, rng.integers(1, 5)):
            value = rng.choice(PLACE_VALUES) if rng.random() < 0.7 else rng.normal(0, 10)
            if field in ("sform_code", "qform_code", "xyzt_units"):
                header[field] = rng.integers(-1, 7)
            elif header[field].ndim:
                header[field][rng.integers(len(header[field]))] = value
            else:
                header[field] = value
        path = folder / "scan.nii"
        path.write_bytes(header.binaryblock + content[348:])
        for reader in (_use_image, _use_pair, _use_scan):
            with _refused():
                reader(path)

    return _run("places", n, seed, attempt)


def fuzz_dicom(n: int, seed: int) -> list[str]:
    """Try n folders of DICOM slices of which one is altered, by bytes or by values of its header; return a line per failure."""
    with tempfile.TemporaryDirectory() as folder:
        affine = kinds.grid((3, 3, 5), (12, 10, 4), "LPS")
        kinds.write_slices(Path(folder), kinds.patient(affine, (12, 10, 4))[0], affine)
        plain_files = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
        for path in Path(folder).iterdir():
            head = pydicom.dcmread(path)
            kinds.deflated(head)
            head.save_as(path)
        deflated = [path.read_bytes() for path in sorted(Path(folder).iterdir())]

    def attempt(rng: np.random.Generator, folder: Path) -> None:
        sound = plain_files if rng.random() < 0.8 else deflated
        for number, content in enumerate(sound):
            (folder / f"{number}.dcm").write_bytes(content)
        path = folder / f"{rng.integers(len(sound))}.dcm"
        if rng.random() < 0.5:
            path.write_bytes(_alter_bytes(rng, path.read_bytes(), 0, 1000 if rng.random() < 0.8 else None))
        else:
            head = pydicom.dcmread(path)
            for _ in range(rng.integers(1, 4)):
                _alter_header(rng, head)
            with suppress(Exception):       # pydicom writes not all that a file may hold
                head.save_as(path)
        for reader in (_use_series, find_scans, check_header):
            with _refused():
                reader(folder)

    return _run("DICOM folders", n, seed, attempt)


def _alter_header(rng: np.random.Generator, head: pydicom.Dataset) -> None:
    name = rng.choice(["Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
                       "NumberOfFrames", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope",
                       "SeriesInstanceUID", "ImageType", "SeriesNumber", "PixelData", "SOPClassUID", "TransferSyntaxUID"])
    odd = (0, 1, -1, 30000, 65535, 3, 1e30, float("nan"), "", "x", None, [1, 2], [0.0] * 3, [0.0] * 6, [1e300] * 3)
    with suppress(Exception):       # pydicom refuses some values
        if name == "TransferSyntaxUID":
            syntaxes = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50",
                        "1.2.840.10008.1.2.1.99", "1.2.3")
            head.file_meta.TransferSyntaxUID = syntaxes[rng.integers(len(syntaxes))]
        elif rng.random() < 0.2:
            delattr(head, name)
        else:
            setattr(head, name, odd[rng.integers(len(odd))])


def _use_series(folder: Path) -> None:
    image = read_dicom(folder)
    _hold(np.isfinite([*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()]).all(), "place of a series")
    _hold(min(image.GetSpacing()) > 0, "spacing of a series")


def fuzz_other(n: int, seed: int) -> list[str]:
    """Try n altered NRRD, MetaImage and MGH files; return a line per failure."""
    with tempfile.TemporaryDirectory() as folder:
        image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 99, (5, 6, 7)).astype(np.int16))
        sound = {}
        for name, packed in (("a.nrrd", True), ("b.nrrd", False), ("a.mha", True), ("b.mha", False)):
            sitk.WriteImage(image, Path(folder) / name, packed)
            sound[name] = (Path(folder) / name).read_bytes()
        whole = nibabel.MGHImage(sitk.GetArrayFromImage(image).T, np.diag([2.0, 3.0, 4.0, 1.0])).to_bytes()
        sound |= {"a.mgh": whole, "a.mgz": gzip.compress(whole)}

    def attempt(rng: np.random.Generator, folder: Path) -> None:
        name = rng.choice(list(sound))
        path = folder / name
        path.write_bytes(_alter_bytes(rng, sound[name], 0, 400 if rng.random() < 0.8 else None))
        for reader in (_use_any, check_header, affine_at):
            with _refused():
                reader(path)

    return _run("NRRD, MetaImage and MGH files", n, seed, attempt)


def fuzz_outlines(n: int, seed: int) -> list[str]:
    """Try n altered files of segments, structures and tables of names; return a line per failure."""
    with tempfile.TemporaryDirectory() as folder:
        affine, shape = kinds.grid((3, 3, 5), (12, 10, 4), "LPS"), (12, 10, 4)
        scan = kinds.write_slices(Path(folder) / "series", kinds.patient(affine, shape)[0], affine)
        image = read_any(scan)
        labels = np.zeros(shape[::-1], np.uint8)
        labels[1:3, 2:6, 2:6], labels[2:4, 7:9, 3:9] = 1, 2
        names, colours = {1: "liver", 2: "spleen"}, {1: "#e69f00", 2: "#56b4e9"}
        write_formats(FORMATS[:4], labels, image, scan, names, colours, Path(folder) / "a.nii.gz")
        sound = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.suffix in (".nrrd", ".dcm")}
        sound["a.ctbl"] = b"# a table\n0 Background 0 0 0 0\n1 liver 230 159 0 255\n2 spleen 86 180 233 255\n"

    def attempt(rng: np.random.Generator, folder: Path) -> None:
        name = rng.choice(list(sound))
        path = folder / name
        path.write_bytes(_alter_bytes(rng, sound[name], 0, 3000 if rng.random() < 0.5 else None))
        with _refused():
            if name == "a.ctbl":
                read_table(path)
            else:
                found = stored_outlines(path, image, scan)
                _hold(found.labels.GetSize() == image.GetSize(), "size of outlines")
                _hold(all(map(is_name, found.names.values())), "names of outlines")

    return _run("outlines", n, seed, attempt)


def _use_any(path: Path) -> None:
    image = read_any(path)
    _hold(np.isfinite([*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()]).all(), "place of an image")


def fuzz_checkpoint(n: int, seed: int, read: Callable[[Path], Snapshot] = read_snapshot) -> list[str]:
    """Try n checkpoints, damaged ones and pickles that would run code, with `read`; return a line per failure."""
    sound = _sound_checkpoints()

    def attempt(rng: np.random.Generator, folder: Path) -> None:
        canary, path = folder / "canary", folder / "w.pth"
        path.write_bytes(_hostile_checkpoint(rng, canary) if rng.random() < 0.3
                         else _alter_checkpoint(rng, sound[rng.integers(len(sound))]))
        model = _small_model()
        for reader in (partial(_use_snapshot, read=read), _use_pretrained):
            with _refused():
                reader(path, model)
            if canary.exists():
                raise AssertionError("a pickle ran code")
        if not all(torch.isfinite(value).all() for value in model.state_dict().values()):
            raise AssertionError("the model holds NaN or infinity")

    return _run("checkpoints", n, seed, attempt)


# ---- running and watching ----

def _run(name: str, n: int, seed: int, attempt: Attempt) -> list[str]:
    failures = []
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in progress(range(n), desc=f"fuzzing {name}", unit="input", disable=n < 1000):
            folder = Path(root) / str(i)
            folder.mkdir()
            try:
                with _limits():
                    attempt(np.random.default_rng([seed, i]), folder)
            except InputError as error:
                if "\n" in str(error):
                    failures.append(f"{name}, seed {seed}, input {i}: several lines: {error!s:.300}")
            except Exception as error:
                failures.append(f"{name}, seed {seed}, input {i}: {type(error).__name__}: {' '.join(str(error).split()):.300}")
            _empty(folder)
    return failures


@contextmanager
def _refused() -> Iterator[None]:
    """Let an InputError of one line pass, so that the other readers have their turn."""
    try:
        yield
    except InputError as error:
        if "\n" in str(error):
            raise


@contextmanager
def _limits() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise AssertionError(f"took more than {TIME_S} s")

    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, TIME_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
        if (grown_mb := (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024) > MEMORY_MB:
            raise AssertionError(f"took {grown_mb:.0f} MB of memory")


def _empty(folder: Path) -> None:
    for path in folder.rglob("*"):
        if not path.is_dir():
            path.unlink()


# ---- configs ----

ODD_VALUES = (
    None, True, False, 0, -1, 1, 2, 3, 7, 255, 256, 2**31, 2**63, 2**64, 10**400, -10**30, 0.0, -0.5, 0.5, 1.5, 1e-320, 1e308,
    float("nan"), float("inf"), "", " ", "all", "any", "x\ny", "\0", "a" * 5000, "../..", "/", "none", "null", "\ud800",
    "{case}", "{", "{0}", "{case!r}", "*", "**{case}", "[{case}", "cuda:0", "cuda:99", "cuda:٣", "cuda:-1",
    [], {}, [[]], [{}], [1, 1], [1, "1"], [1, 2], [None], [0.9, 0.1], [float("nan"), 1], b"x", (1, 2),
    {"1": "a"}, {"1": 1}, {"٣": "a"}, {"01": "a", "1": "b"}, {"200": 9}, {1: "liver"}, {"": ""}, {"lr": 1},
    {"spacing_mm": [1, 1, 1], "size_px": 2**40})


def _odd_value(rng: np.random.Generator) -> Any:
    return copy.deepcopy(ODD_VALUES[rng.integers(len(ODD_VALUES))])


def _alter_config(rng: np.random.Generator, config: dict) -> dict:
    for _ in range(rng.integers(1, 3)):
        section = config
        while True:
            key = list(section)[rng.integers(len(section))] if section else "x"
            deeper = section.get(key)
            if not isinstance(deeper, dict) or rng.random() < 0.15:
                break
            section = deeper
        kind = rng.integers(8)
        if kind == 0:
            section.pop(key, None)
        elif kind == 1:
            section[str(_odd_value(rng))[:40]] = _odd_value(rng)
        else:
            section[key] = _odd_value(rng)
    return config


def _use_config(config: dict, folder: Path) -> None:
    """Do with a config that was accepted what the programs do with it before there is any data."""
    config = plain(config)
    str(RunPlace.of(config).folders("train")).encode()
    for cls in (WholeVolumeOptions, EvaluationOptions, EpisodeOptions, PredictOptions):
        section(cls, config)
    for part in (ModelOptions, TrainOptions):
        part.of(config)
    spec = DataOptions.of(config).spec
    torch.manual_seed(config["seed"])
    for use in (lambda: resolve_device(config["device"]), lambda: find_cases(spec, folder, config["n_sv"], config["n_sp"]),
                lambda: supports_and_queries(20, spec.n_folds, config["eval_fold"], config["protocol"], config["supp_idx"])):
        with _refused():
            use()


# ---- JSON ----

TAGS: tuple[Any, ...] = (
    {"py/reduce": [{"py/function": "posix.system"}, {"py/tuple": ["exit 1"]}]}, {"py/object": "x"}, "../../a_2.nii.gz",
    "/etc/passwd", "a_1.2.nii.gz", "\x1b[2J", "\u202e", 10**4000, -1, 256, 99, [7], [{}], {"a": {"a": {}}})


def _altered_json(rng: np.random.Generator, sound: Any) -> bytes:
    """Alter values, the text, or both."""
    content, kind = copy.deepcopy(sound), rng.random()
    if kind < 0.7:
        for _ in range(rng.integers(1, 4)):
            content = _alter_value(rng, content)
    text = json.dumps(content, default=str, ensure_ascii=bool(rng.integers(2))).encode("utf-8", "surrogatepass")
    return text if kind < 0.6 else _alter_bytes(rng, text)


def _alter_value(rng: np.random.Generator, content: Any) -> Any:
    """Replace, remove or add something somewhere in parsed JSON."""
    if isinstance(content, (dict, list)) and content and rng.random() < 0.85:
        key = list(content)[rng.integers(len(content))] if isinstance(content, dict) else int(rng.integers(len(content)))
        kind = rng.random()
        if kind < 0.1:
            del content[key]
        elif kind < 0.2 and isinstance(content, dict):
            content[str(_odd_value(rng))[:20]] = copy.deepcopy(content[key])
        elif kind < 0.2 and isinstance(content, list):
            content.append(copy.deepcopy(content[key]))
        else:
            content[key] = _alter_value(rng, content[key])
        return content
    of_all = (*ODD_VALUES, *TAGS)
    return copy.deepcopy(of_all[rng.integers(len(of_all))])


# ---- bytes ----

PATTERNS = [
    b"\0" * 2, b"\xff" * 2, b"\xff\x7f", b"\x7f\xff", b"\0\x80", b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\xc0\x7f",
    b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\x01\0\0\0", b"\xff" * 8, b"\0" * 8, np.float32(1e30).tobytes(),
    np.float32(-1).tobytes(), np.float64("nan").tobytes(), b"{", b"}", b"[" * 3000, b'"', b"null", b"1e999", b"0x" + b"f" * 5000,
    b"//", b"\n"]


def _alter_bytes(rng: np.random.Generator, content: bytes, first: int = 0, last: int | None = None) -> bytes:
    """Overwrite, insert, delete, repeat, cut off or append, once to thrice, between two positions."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        end = max(first + 1, min(last or len(data), len(data)))
        at, kind = int(rng.integers(first, end)), rng.integers(12)
        length = int(rng.integers(1, 65))
        if kind < 3:
            pattern = PATTERNS[rng.integers(len(PATTERNS))]
            data[at:at + len(pattern)] = pattern
        elif kind < 6:
            data[at:at + 1] = bytes([rng.integers(256)])
        elif kind == 6:
            data[at:at] = rng.bytes(length)
        elif kind == 7:
            data[at:at] = PATTERNS[rng.integers(len(PATTERNS))]
        elif kind == 8:
            del data[at:at + length]
        elif kind == 9:
            data[at:at] = data[at:at + 20 * length]
        elif kind == 10:
            del data[at:]
        else:
            data += rng.bytes(length)
    return bytes(data)


# ---- NIfTI ----

PLACE_FIELDS = ("sform_code", "qform_code", "xyzt_units", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d",
                "qoffset_x", "qoffset_y", "qoffset_z", "pixdim")
PLACE_VALUES = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, 1e38, float("nan"), float("inf"), -2.0, 0.7071, 1e-3, 1e3)


def _sound_niftis() -> dict[str, bytes]:
    """Small volumes of several types; the gzipped ones not yet compressed."""
    rng = np.random.default_rng(0)
    affine = np.diag([-2.0, 2.0, 5.0, 1.0])
    labels = rng.integers(0, 5, (7, 6, 5))
    scaled = nibabel.Nifti1Image(labels.astype(np.int16), affine)
    scaled.header.set_slope_inter(0.5, 3)
    commented = nibabel.Nifti1Image(rng.normal(size=(7, 6, 5)).astype(np.float32), affine)
    commented.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"made up"))
    images = {
        "label.nii": nibabel.Nifti1Image(labels.astype(np.uint8), affine), "scaled.nii": scaled, "commented.nii.gz": commented,
        "float.nii.gz": nibabel.Nifti1Image(labels.astype(np.float64), affine),
        "two.nii": nibabel.Nifti2Image(labels.astype(np.int32), affine),
        "swapped.nii": nibabel.Nifti1Image(labels.astype(">i2"), affine, nibabel.Nifti1Header(endianness=">"))}
    return {name: image.to_bytes() for name, image in images.items()}


def _alter_nifti(rng: np.random.Generator, content: bytes, compressed: bool) -> bytes:
    where = rng.random()
    if where < 0.75 or not compressed:
        content = _alter_bytes(rng, content, 0, 356 if where < 0.6 else None)
        where = 0
    if not compressed:
        return content
    packed = gzip.compress(content, 1)
    return _alter_bytes(rng, packed) if where else packed


def _use_image(path: Path) -> None:
    image = read_image(path)
    _hold(image.dtype == np.float32 and image.ndim == 3 and np.isfinite(image).all(), "image")
    _hold(np.isfinite(normalise(image)).all(), "normalised image")
    _hold(all(0 < s < np.inf for s in read_spacing_mm(path)), "spacing")
    written = path.parent / "out.nii.gz"
    write_like(path, np.ones(image.shape, np.uint8), written)
    _hold((read_array(written) == 1).all() and read_spacing_mm(written) == read_spacing_mm(path), "written file")


def _use_label(path: Path) -> None:
    label_map = read_label(path, SPEC)
    _hold(label_map.dtype == np.uint8 and set(np.unique(label_map)) <= {0, *SPEC.labels}, "label map")


def _use_supervoxels(path: Path) -> None:
    supervoxels = read_supervoxels(path)
    _hold(supervoxels.dtype == np.int32 and supervoxels.min() >= 0 and supervoxels.max() <= MAX_SUPERVOXEL, "supervoxels")


def _use_pair(path: Path) -> None:
    image, labels = read_nifti_pair(RawCase("x", path, path))
    _hold(image.GetSize() == labels.GetSize(), "pair")


def _use_scan(path: Path) -> None:
    _hold(np.isfinite(read_scan(path, GRID).image).all(), "scan on the grid")


def _hold(promise: bool, what: str) -> None:
    if not promise:
        raise AssertionError(f"{what}: not what the reader promises")


# ---- checkpoints ----

def _small_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def _sound_checkpoints() -> list[bytes]:
    """A snapshot and a plain state_dict, in torch's format of today and of old."""
    model = _small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1.pth"
        save_snapshot(path, record=Record(BASE), model=model.state_dict(), step=1, optimizer=optimizer.state_dict(),
                      scheduler=scheduler.state_dict(), history=torch.zeros(1, 2), log=[], refused=[])
        contents = torch.load(path, weights_only=True), model.state_dict()
    return [_saved(content, zipped) for content in contents for zipped in (True, False)]


def _saved(content: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _alter_checkpoint(rng: np.random.Generator, content: bytes) -> bytes:
    """Alter the file, or one part of the zip so that its checksum is right, or the values."""
    kind = rng.random()
    if kind < 0.3:
        return _saved(_alter_values(rng, torch.load(io.BytesIO(content), weights_only=True)))
    if kind < 0.65 and content[:2] == b"PK":
        return _with_part(content, "data.pkl", lambda part: _alter_bytes(rng, part),
                          zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED)
    return _alter_bytes(rng, content)


def _with_part(content: bytes, ending: str, alter: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(file, "w", compression) as target:
        for name in source.namelist():
            part = source.read(name)
            target.writestr(name, alter(part) if name.endswith(ending) else part)
    return file.getvalue()


def _alter_values(rng: np.random.Generator, content: Any) -> Any:
    section = content
    while isinstance(section[key := list(section)[rng.integers(len(section))]], dict) and section[key] and rng.random() < 0.6:
        section = section[key]
    tensors = (torch.zeros(0), torch.full((4, 3), torch.nan), torch.zeros(4, 3, dtype=torch.complex64),
               torch.ones(4, 3).to_sparse(),
               torch.zeros(4, 3, device="meta"), torch.zeros(1).expand(10**6, 10**6), torch.zeros(4, 3, dtype=torch.bool),
               torch.full((4,), torch.inf), torch.zeros(4, 3, dtype=torch.float64),
               torch.quantize_per_tensor(torch.zeros(4, 3), 1, 0, torch.qint8))
    odd = [value for value in ODD_VALUES if not isinstance(value, str) or value.isprintable()]
    section[key] = tensors[rng.integers(len(tensors))] if rng.random() < 0.5 else copy.deepcopy(odd[rng.integers(len(odd))])
    return content


class Hostile:
    """Unpickled the ordinary way, it makes the canary file."""

    def __init__(self, canary: Path, kind: int):
        command = f"touch {canary}"
        self.call = ((os.system, (command,)), (eval, (f"open({str(canary)!r}, 'w')",)), (exec, (f"open({str(canary)!r}, 'w')",)),
                     (open, (str(canary), "w")), (subprocess.check_output, (["touch", str(canary)],)), (Path.touch, (canary,)),
                     (os.mkdir, (str(canary),)))[kind]

    def __reduce__(self) -> tuple:
        return self.call


def _hostile_checkpoint(rng: np.random.Generator, canary: Path) -> bytes:
    """Put code to run somewhere into a checkpoint of any format."""
    hostile: Any = Hostile(canary, int(rng.integers(7)))
    for _ in range(rng.integers(0, 4)):
        hostile = ([hostile], (1, hostile), {"weight": hostile}, OrderedDict(a=torch.zeros(2), b=hostile),
                   {"model": {"0.weight": hostile}, "step": 1})[rng.integers(5)]
    kind = rng.integers(6)
    if kind == 0:
        return pickle.dumps(hostile, protocol=int(rng.integers(0, 6)))
    if kind == 1:
        raw = (b"cos\nsystem\n(Vtouch %s\ntR.", b"(cos\nsystem\nVtouch %s\no.", b"(Vtouch %s\nios\nsystem\n.",
               b"cposix\nsystem\n(Vtouch %s\ntR.", b"\x80\x02cbuiltins\neval\n(X\x04\0\0\0 1+1Vtouch %s\ntR.")
        return raw[rng.integers(len(raw))] % str(canary).encode()
    if kind == 2:
        payload = pickle.dumps(hostile, protocol=2)
        return _with_part(_saved({"a": torch.zeros(2)}), "data.pkl", lambda _: payload)
    whole = _saved({"model": hostile, "step": 1} if rng.random() < 0.5 else hostile, zipped=bool(rng.integers(2)))
    return _alter_bytes(rng, whole) if kind == 5 else whole


def _use_snapshot(path: Path, model: torch.nn.Module, read: Callable[[Path], Snapshot]) -> None:
    snapshot = read(path)
    if snapshot.step is not None:
        check_config(as_trained(copy.deepcopy(BASE), snapshot.config))
    load_model(model, snapshot)


def _use_pretrained(path: Path, model: torch.nn.Module) -> None:
    load_pretrained(model, "small", str(path), path.parent)


OF_JSON = (fuzz_session, fuzz_found, fuzz_config, fuzz_options, fuzz_manifest)

if __name__ == "__main__":
    import sys

    number, first = (int(text) for text in (*sys.argv[1:], "5000", "1")[:2])
    failed = [line for fuzz in OF_JSON for line in fuzz(number, first)]
    print("\n".join(failed) or f"{number} inputs of each of {', '.join(fuzz.__name__ for fuzz in OF_JSON)}: no failure")
    sys.exit(bool(failed))
