"""Several sequences of a patient as one scan: which files go together, what is refused, and a whole run."""

import csv
import gzip
import re

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from qnet.scripts.segment import main, parse_arguments, request_of
from qnet.util.base.errors import InputError
from qnet.util.options.config import base_config
from qnet.util.predict.channels import channels_of, scans_below
from qnet.util.predict.predictor import Predictor
from qnet.util.predict.request import Request
from tests.data.raw_downloads import write_dicom
from tests.settings import COARSE
from tests.two_channels import patient, save

BOTH = ("T1", "T2")
FAST = {**COARSE, "zoom": False, "n_steps": 2, "stones": 0, "finest": 1.5}


def named(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"a scan, by its name")
    return scans_below(folder, channels=BOTH)


def told(found):
    return {str(one.path.relative_to(found.root)): (one.reason, one.may_be_scan) for one in found.left_out}


def test_files_and_folders_of_a_patient_go_together(tmp_path):
    found = named(tmp_path, "ann_T1.nii.gz", "ann_T2.nrrd", "bob/T2.nii.gz", "bob/T1.nii.gz", "two words T1.mha",
                  "two words T2.mha", "more/c-T1.nii", "more/c-T2.nii", "more/d.T1.nii", "more/d.T2.nii")
    assert not found.left_out
    assert {str(path.relative_to(tmp_path)): name for path, name in found.names.items()} == {
        "ann_T1.nii.gz": "ann", "bob/T1.nii.gz": "bob", "two words T1.mha": "two words", "more/c-T1.nii": "more_c",
        "more/d.T1.nii": "more_d"}
    assert channels_of(tmp_path / "ann_T1.nii.gz", BOTH) == (tmp_path / "ann_T1.nii.gz", tmp_path / "ann_T2.nrrd")
    assert channels_of(tmp_path / "ann_T1.nii.gz", ()) == (tmp_path / "ann_T1.nii.gz",)


def test_series_of_dicom_in_folders_of_their_own(tmp_path):
    (first, second), _ = patient()
    for name, array in zip(BOTH, (first, second), strict=True):
        (tmp_path / "ann" / name).mkdir(parents=True)
        image = sitk.GetImageFromArray(array.astype(np.uint16))
        for z in range(3):
            write_dicom(tmp_path / "ann" / name / f"slice {z}", image, z, z + 1)
    found = scans_below(tmp_path, channels=BOTH)
    assert found.names == {tmp_path / "ann/T1": "ann"} and not found.left_out
    assert channels_of(tmp_path / "ann/T1", BOTH)[1] == tmp_path / "ann/T2"


def test_who_lacks_a_channel_is_named_and_so_is_a_scan_that_is_none(tmp_path):
    found = named(tmp_path, "a_T1.nii.gz", "a_T2.nii.gz", "a_FLAIR.nii.gz", "b_T1.nii.gz", "c_T2.nii.gz", "d/T1.nii.gz",
                  "e.nii.gz", "f_t1.nii.gz", "fT1.nii.gz", "g_T1.nii.gz", "g_T2.nii.gz", "g_T2.mha")
    assert found.names == {tmp_path / "a_T1.nii.gz": "a"}
    none = "is none of the channels T1, T2, by its name"
    assert told(found) == {
        "a_FLAIR.nii.gz": (none, False),        # another sequence of a patient who is outlined
        "b_T1.nii.gz": ("has no T2 beside it; allowed: b_T2, a file or a folder of DICOM slices", True),
        "c_T2.nii.gz": ("has no T1 beside it; allowed: c_T1, a file or a folder of DICOM slices", True),
        "d/T1.nii.gz": ("has no T2 beside it; allowed: T2, a file or a folder of DICOM slices", True),
        "e.nii.gz": (none, True), "f_t1.nii.gz": (none, True), "fT1.nii.gz": (none, True),
        "g_T1.nii.gz": ("has two T2 beside it, g_T2.mha and g_T2.nii.gz; allowed: one", True),
        **dict.fromkeys(("g_T2.nii.gz", "g_T2.mha"), ("is the T2 of a patient who is left out", True))}


def test_channels_of_a_bids_folder_follow_its_suffix(tmp_path):
    names = [f"sub-01/anat/sub-01_{kind}.nii.gz" for kind in ("T1w", "T2w", "FLAIR")]
    named(tmp_path, "dataset_description.json", *names)
    found = scans_below(tmp_path, suffix="T1w", channels=("T1w", "T2w"))
    assert found.names == {tmp_path / names[0]: "sub-01"} and not found.left_out
    with pytest.raises(InputError, match="suffix: got 'T2w', allowed with these channels: the first of them, 'T1w'"):
        scans_below(tmp_path, suffix="T2w", channels=("T1w", "T2w"))


# ---- a whole run ----

@pytest.fixture
def place(tmp_path):
    for name, down in (("a", 0.0), ("b", 2.0), ("c", -2.0)):
        images, _ = patient(down)
        for channel, image in zip(BOTH, images, strict=True):
            save(image, tmp_path / f"scans/{name}_{channel}.nii.gz")
    save(patient()[1], tmp_path / "labels.nii.gz")
    return tmp_path


def words(place, *more, output="out", channels=BOTH):
    return ["--scans", str(place / "scans"), "--outlined", f"a={place / 'labels.nii.gz'}", "--output", str(place / output),
            *(["--channels", *channels] if channels else []), *more]


def run(place, *more, **options):
    return main(words(place, *more, **options), registration=FAST, device="cpu")


def rows_of(place):
    with (place / "out/cases.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.whole
def test_a_folder_of_patients_with_two_channels(place, capsys):
    (place / "scans/d_T1.nii.gz").write_bytes((place / "scans/c_T1.nii.gz").read_bytes())
    assert run(place) == 1
    said = capsys.readouterr()
    assert "error: d_T1.nii.gz: has no T2 beside it; allowed: d_T2, a file or a folder of DICOM slices" in said.err
    assert said.out.splitlines()[-1] == "2 of 2 scans are outlined; 1 files or folders could not be used"
    assert {row["query"] for row in rows_of(place)} == {"b", "c", "d_T1.nii.gz"}
    found, given = nibabel.load(place / "out/b.nii.gz"), nibabel.load(place / "scans/b_T1.nii.gz")
    assert set(np.unique(found.dataobj)) == {0, 1, 2} and (found.affine == given.affine).all()
    assert "T1, T2" in (place / "out/report.html").read_text(encoding="utf-8")
    save(patient(-2.0, seed=5)[0][1], place / "scans/c_T2.nii.gz")
    (place / "scans/d_T1.nii.gz").unlink()
    before = (place / "out/b.nii.gz").stat().st_mtime_ns
    assert run(place) == 0
    assert "1 of 2 queries were outlined from something else" in capsys.readouterr().out
    assert (place / "out/b.nii.gz").stat().st_mtime_ns == before


@pytest.mark.whole
def test_one_channel_gives_what_the_scans_alone_give(place):
    assert run(place, channels=["T2"], output="channel") == 0
    for path in (place / "scans").glob("*_T1.nii.gz"):
        path.unlink()
    outlined = f"a_T2={place / 'labels.nii.gz'}"
    assert main([*words(place, channels=(), output="alone")[:3], outlined, *words(place, channels=(), output="alone")[4:]],
                registration=FAST, device="cpu") == 0
    for name in "bc":
        assert (place / f"channel/{name}.nii.gz").read_bytes() == (place / f"alone/{name}_T2.nii.gz").read_bytes()


# ---- what is refused before any work ----

@pytest.mark.parametrize(("more", "message"), [
    (["--channels", "T1", "T3"], "--scans: no scan in .*; a_T1.nii.gz has no T3 beside it; allowed: a_T3, a file or a folder"),
    (["--channels", "T3", "T1"], "--scans: no scan in .*; a_T1.nii.gz has no T3 beside it; allowed: a_T3, a file or a folder"),
    (["--outlined", "d=x"], "--outlined: .*d_T1.nii.gz has no T2 beside it; allowed: d_T2, a file or a folder"),
    (["--channels", "T1", "T1"], r"channels: got \['T1', 'T1'\], allowed: .*a non-empty list without repeats"),
    (["--outlined", "a_T2=x"], "--outlined: 'a_T2' is no scan of --scans"),
    (["--output", "{scans}/b_T2.nii.gz"], "--output: got .*b_T2.nii.gz, allowed: a folder"),
])
def test_options_that_do_not_fit(more, message, place):
    save(patient()[0][0], place / "scans/d_T1.nii.gz")
    with pytest.raises(InputError, match=message):
        request_of(parse_arguments([*words(place), *(word.replace("{scans}", str(place / "scans")) for word in more)]))


def test_channels_and_a_4d_file_or_a_task_file(place):
    save(patient()[0][0], place / "cine.nii.gz")
    image = nibabel.load(place / "cine.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.stack([np.asanyarray(image.dataobj)] * 2, 3), image.affine), place / "cine.nii.gz")
    with pytest.raises(InputError, match="--channels: is of the scans of a folder, and the phases of a 4D file have one"):
        request_of(parse_arguments(["--scans", str(place / "cine.nii.gz"), "--outlined", f"1={place / 'labels.nii.gz'}",
                                    "--output", str(place / "out"), "--channels", "T1", "T2"]))
    with pytest.raises(InputError, match=r"channels: got \['T1', 'T2'\], allowed with a task file, whose scans have one: null"):
        Request.of({**base_config(), "task": "liver.task", "channels": list(BOTH), "query": "scans", "output": "out"})


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outlined")
    (first, second), labels = patient()
    predictor = Predictor.untrained("registration", registration=FAST, device="cpu")
    predictor.add_support([save(first, folder / "a_T1.nii.gz"), save(second, folder / "a_T2.nii.gz")],
                          save(labels, folder / "labels.nii.gz"))
    return predictor


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def packed(path):
    path.write_bytes(gzip.compress(b"\0" * 400))


def link(path):
    path.unlink()
    path.symlink_to(path.with_name("nowhere.nii.gz"))


HOSTILE = {
    "another size": (lambda path: save(patient()[0][1][1:], path), r"size \(x, y, z\) = \(44, 40, 13\), but .*b_T1.nii.gz has"),
    "elsewhere": (lambda path: save(patient()[0][1], path, shift_mm=9.0), "lies up to 9.0 mm away from .*b_T1.nii.gz"),
    "outlines": (lambda path: save(patient()[1], path), "these are outlines, not a scan"),
    "constant": (lambda path: save(np.full((14, 40, 44), 3.0, np.float32), path), "every voxel has the value 3"),
    "not finite": (lambda path: save(np.full((14, 40, 44), np.nan, np.float32), path), "values that are NaN or infinite"),
    "cut": (cut, "cannot be read as NIfTI|ends too early"),
    "empty": (lambda path: path.write_bytes(b""), ""),
    "no image": (packed, ""),
    "text": (lambda path: path.write_text("a scan", encoding="utf-8"), ""),
    "four axes": (lambda path: nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4, 2)), np.eye(4)), path), "3 axes"),
    "a broken link": (link, "no such file"),
    "vast": (lambda path: path.write_bytes(gzip.compress(vast())), "at most|bytes"),
}


def vast():
    header = nibabel.Nifti1Header()
    header.set_data_shape((30000, 30000, 30000))
    return header.binaryblock + b"\0" * 400


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_bad_channel_is_refused_in_one_line_that_names_its_file(kind, predictor, tmp_path):
    change, message = HOSTILE[kind]
    first, second = (save(image, tmp_path / f"b_{name}.nii.gz") for name, image in zip(BOTH, patient()[0], strict=True))
    change(second)
    with pytest.raises(InputError, match=f"{re.escape(str(second))}: .*({message})") as caught:
        predictor.segment([first, second])
    assert "\n" not in str(caught.value)


def test_a_channel_that_is_stored_in_another_order_is_the_same(predictor, tmp_path):
    first, second = (save(image, tmp_path / f"b_{name}.nii.gz") for name, image in zip(BOTH, patient(2.0)[0], strict=True))
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(second), "PIR"), tmp_path / "turned.nii.gz")
    as_stored, turned = (predictor.segment([first, other]).label_map for other in (second, tmp_path / "turned.nii.gz"))
    np.testing.assert_array_equal(as_stored, turned)


def test_other_channels_than_the_outlined_scan_has(predictor, tmp_path):
    first = save(patient()[0][0], tmp_path / "b.nii.gz")
    with pytest.raises(InputError, match=r"b\.nii\.gz: got 1 channels, allowed: 2, as the first outlined scan has"):
        predictor.segment(first)
    with pytest.raises(InputError, match=r"b\.nii\.gz: has 2 channels; allowed: one, as this method registers no scans"):
        Predictor.untrained("unet", device="cpu").add_support([first, first], save(patient()[1], tmp_path / "labels.nii.gz"))
    with pytest.raises(InputError, match=r"c\.nii\.gz: is read, as "):
        predictor.segment([first, save(patient()[0][1], tmp_path / "c.nii.gz")]).save(tmp_path / "c.nii.gz", overwrite=True)
