"""A 4D file: one phase is outlined, all come out, with the header of the file and volumes over time."""

import json
import re
from dataclasses import replace

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from qnet.dataloaders.dicom import read_stack, read_stacks
from qnet.dataloaders.dicom_times import in_time
from qnet.scripts.segment import main, parse_arguments, request_of
from qnet.util.base.checksums import sha256
from qnet.util.base.errors import InputError
from qnet.util.base.tables import read_rows
from qnet.util.options.config import base_config
from qnet.util.predict.events import Outlined
from qnet.util.predict.outline import outline
from qnet.util.predict.request import untrained_method
from qnet.util.predict.series import of_dicom
from tests.kinds import SPACING, grid, in_one_file, patient, rotation, save, write_slices

SHAPE, N = (24, 20, 9), 4
AFFINE = grid(shape=SHAPE, turn=rotation(0, 20))
FACTORS = (1.0, 0.95, 0.9, 0.95)      # of the sizes of all


@pytest.fixture
def cine(tmp_path):
    """A 4D file of a patient whose organs shrink and grow, and the outlines of its phases (T, x, y, z)."""
    images, labels = zip(*(patient(np.diag([1 / f, 1 / f, 1 / f, 1]) @ AFFINE, SHAPE) for f in FACTORS), strict=True)
    image = nibabel.Nifti1Image(np.stack(images, 3).round().astype(np.int16), AFFINE)
    image.set_sform(AFFINE, 2)
    image.set_qform(AFFINE, 1)
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4] = 40.0
    image.header["descrip"] = b"a cine"
    nibabel.save(image, tmp_path / "cine.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels[0], AFFINE), tmp_path / "first.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.stack([labels[0], *[0 * labels[0]] * (N - 1)], 3), AFFINE), tmp_path / "all.nii.gz")
    (tmp_path / "first.tsv").write_text("index\tname\n1\tcavity\n", encoding="utf-8")
    return tmp_path, np.array(labels)


def words(folder, *more, labels="first.nii.gz"):
    return ["--scans", str(folder / "cine.nii.gz"), "--outlined", f"1={folder / labels}", "--output", str(folder / "out"), *more]


def outlined(folder, *more):
    """Ask as the command does, but for a coarser registration."""
    quick = {**base_config()["registration"], "finest": 2.0, "n_steps": 5, "zoom": False}
    request = replace(request_of(parse_arguments(words(folder, *more))),
                      method=untrained_method("registration", device="cpu", registration=quick))
    *events, finished = outline(request)
    assert not finished.outcome.problems
    return [event for event in events if isinstance(event, Outlined)]


@pytest.mark.whole
def test_all_phases_come_out_of_one(cine):
    folder, truth = cine
    assert len(outlined(folder, "--ejection", "1", "3", "--format", "seg.nrrd")) == 3
    source, joined = nibabel.load(folder / "cine.nii.gz"), nibabel.load(folder / "out/cine_outlines.nii.gz")
    for key in ("pixdim", "xyzt_units", "descrip", "sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "dim"):
        np.testing.assert_array_equal(joined.header[key], source.header[key])
    found = np.moveaxis(np.asanyarray(joined.dataobj), 3, 0)
    np.testing.assert_array_equal(found[0], truth[0])
    for k in range(1, N):
        both = ((found[k] == 1) & (truth[k] == 1)).sum()
        assert 2 * both / ((found[k] == 1).sum() + (truth[k] == 1).sum()) > 0.6
        np.testing.assert_array_equal(found[k], np.asanyarray(nibabel.load(folder / f"out/phase {k + 1:02d}.nii.gz").dataobj))
    columns, rows = read_rows(folder / "out/volumes.csv")
    assert columns == ("phase", "seconds", "label", "label_name", "volume_ml") and len(rows) == N * 4
    of_cavity = {int(row["phase"]): float(row["volume_ml"]) for row in rows if row["label"] == "1"}
    ml = np.prod(SPACING) / 1000
    assert of_cavity == {k + 1: pytest.approx((found[k] == 1).sum() * ml, rel=1e-3) for k in range(N)}
    assert [row["seconds"] for row in rows if row["label_name"] == "cavity"] == ["0.0", "0.04", "0.08", "0.12"]
    content = json.loads((folder / "out/report.html").read_text(encoding="utf-8").split('id="content">')[1].split("</script>")[0])
    told = dict(content["facts"])["stroke volume and ejection fraction, phase 01 to phase 03"]
    full, empty = of_cavity[1], of_cavity[3]
    assert f"cavity: {full:.4g} − {empty:.4g} = {full - empty:.4g} ml, {(full - empty) / full:.0%}" in told
    assert len(content["plots"]) == 1 and (folder / "out/phase 02.seg.nrrd").exists()
    before = {path.name: sha256(path) for path in (folder / "out").glob("*.nii.gz")}
    assert outlined(folder) == []
    assert before == {path.name: sha256(path) for path in (folder / "out").glob("*.nii.gz")}


def test_outlines_may_be_in_a_file_of_all_phases(cine):
    folder, truth = cine
    request = request_of(parse_arguments(words(folder, labels="all.nii.gz")))
    [(scan, labels)] = request.supports
    np.testing.assert_array_equal(np.asanyarray(nibabel.load(labels).dataobj), truth[0])
    np.testing.assert_array_equal(np.asanyarray(nibabel.load(scan).dataobj),
                                  np.asanyarray(nibabel.load(folder / "cine.nii.gz").dataobj)[..., 0])
    assert next(iter(outline(request))).n_supports == 1


@pytest.mark.parametrize(("change", "says"), [
    (["--outlined", "5=first.nii.gz"], "--outlined: got '5=first.nii.gz', allowed for a 4D file: PHASE=LABELS, PHASE from 1"),
    (["--outlined", "phase 2=first.nii.gz"], "allowed for a 4D file: PHASE=LABELS"),
    (["--outlined", "1=first.nii.gz"], "--outlined: a phase is given twice"),
    (["--outlined", "2=missing.nii.gz"], "missing.nii.gz: no such file"),
    (["--ejection", "1", "9"], "--ejection: got 9, allowed: a number of a phase, from 1 to 4"),
    (["--scans", "folder", "--ejection", "1", "2"], "--ejection: needs the phases of a 4D file, but --scans is folder"),
])
def test_what_does_not_fit_is_refused_in_one_line(change, says, cine, monkeypatch):
    folder, _ = cine
    monkeypatch.chdir(folder)
    (folder / "folder").mkdir()
    with pytest.raises(SystemExit, match=re.escape(says)):
        main([*words(folder), *change])


def test_another_number_of_phases_and_somebodys_files_are_refused(cine):
    folder, truth = cine
    nibabel.save(nibabel.Nifti1Image(np.stack([truth[0]] * 3, 3), AFFINE), folder / "all.nii.gz")
    with pytest.raises(SystemExit, match=r"holds 3 phases, but .*cine.nii.gz has 4"):
        main(words(folder, labels="all.nii.gz"))
    (folder / "out/phases/phase 02.nii.gz").write_bytes(b"somebody's")
    with pytest.raises(SystemExit, match=r"phase 02.nii.gz: is there and was not made by this program"):
        main(words(folder))
    assert (folder / "out/phases/phase 02.nii.gz").read_bytes() == b"somebody's"


# ---- DICOM ----

def write_cine(folder, times=("TriggerTime", lambda t, k: 40 * t + k), **more):
    """A series whose images at one place were taken at several times, of which each place has its own. Names are in no order."""
    affine = grid(shape=SHAPE, axes="LPS", turn=rotation(0, 20))
    images = [patient(affine, SHAPE, case)[0] for case in range(N)]
    name, time = times
    for t, image in enumerate(images):
        number = (t * 7 + 3) % N
        write_slices(folder, image, affine, name=f"{number}_{{:03d}}.dcm", each=lambda k, t=t: {
            "tags": {**({name: time(t, k)} if name else {}), **{key: of_time(t) for key, of_time in more.items()}}})
    return np.array(images), affine


def test_a_dicom_series_of_several_times_becomes_a_4d_file(tmp_path):
    images, affine = write_cine(tmp_path / "cine")
    path = of_dicom(tmp_path / "cine", tmp_path / "out", overwrite=False, remedy="")
    written = nibabel.load(path)
    assert path == tmp_path / "out/cine.nii.gz" and written.header["pixdim"][4] == pytest.approx(0.04)
    assert written.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_allclose(written.affine, affine, atol=1e-4)
    np.testing.assert_array_equal(np.moveaxis(np.asanyarray(written.dataobj), 3, 0), images.round())
    save(patient(affine, SHAPE, 0)[1], affine, tmp_path / "first.nii.gz")
    request = request_of(parse_arguments(["--scans", str(tmp_path / "cine"), "--outlined", f"2={tmp_path / 'first.nii.gz'}",
                                          "--output", str(tmp_path / "out")]))
    assert request.series.n_phases == N and request.series.step_s == pytest.approx(0.04)
    assert [image.name for image, _ in request.supports] == ["phase 02.nii.gz"]


@pytest.mark.parametrize(("times", "step_s"), [
    (("TemporalPositionIdentifier", lambda t, k: t + 1), None),
    (("AcquisitionTime", lambda t, k: f"0959{56 + t:02d}.5" if t < 4 else ""), 1.0),
])
def test_other_ways_to_say_the_time(times, step_s, tmp_path):
    images, _ = write_cine(tmp_path / "cine", times)
    stacks, found_s = in_time(tmp_path / "cine")
    assert found_s == step_s
    for image, one in zip(images, stacks, strict=True):
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read_stack(one)).T, image.round())


@pytest.mark.parametrize(("options", "says"), [
    ({"times": (None, None)}, "do not say their order in time; allowed: with one of TemporalPositionIdentifier, Temporal"),
    ({"times": ("TriggerTime", lambda t, k: 5)}, "do not say their order in time"),
    ({"EchoTime": lambda t: 10 + t}, "its images at one place differ in EchoTime, which has 4 values"),
    ({"DiffusionBValue": lambda t: 100.0 * t}, "differ in DiffusionBValue"),
])
def test_images_at_one_place_that_are_no_times_are_refused(options, says, tmp_path):
    write_cine(tmp_path / "cine", **options)
    with pytest.raises(InputError, match=says):
        in_time(tmp_path / "cine")


# ---- all images in one file ----

def group(name, value):
    """Say something of each frame in the group of a name. `value` gets the number of the time and of the place."""
    def change(one, t, k):
        sequence, keyword = name.split(".")
        if sequence not in one:
            setattr(one, sequence, [pydicom.Dataset()])
        setattr(one[sequence][0], keyword, value(t, k))
    return change


def write_frames(folder, *changes):
    """The series of several times in one enhanced file, whose frames say their time as the changes do, and their images."""
    images, _ = write_cine(folder)
    (path,) = in_one_file(folder).iterdir()
    head = pydicom.dcmread(path)
    for one in head.PerFrameFunctionalGroupsSequence:
        said = one.UnassignedPerFrameConvertedAttributesSequence[0].TriggerTime      # 40 t + k, in ms
        if changes:
            del one.UnassignedPerFrameConvertedAttributesSequence
            one.FrameContentSequence[0].pop("FrameAcquisitionDateTime", None)
        for change in changes:
            change(one, int(said) // 40, int(said) % 40)
    head.save_as(path)
    return images, path


TIMES_OF_FRAMES = {
    "converted from slices": ([], 0.04),
    "position": ([group("FrameContentSequence.TemporalPositionIndex", lambda t, k: t + 1)], None),
    "position and trigger delay": ([group("FrameContentSequence.TemporalPositionIndex", lambda t, k: t + 1),
                                    group("CardiacSynchronizationSequence.NominalCardiacTriggerDelayTime",
                                          lambda t, k: 50.0 * t)], 0.05),
    "offset": ([group("TemporalPositionSequence.TemporalPositionTimeOffset", lambda t, k: 1.5 * t)], 1.5),
    "time over midnight": ([group("FrameContentSequence.FrameAcquisitionDateTime", lambda t, k: (
        f"2020022823595{8 + t}.5+0100" if t < 2 else f"2020022900000{t - 2}.5+0100"))], 1.0),
}


@pytest.mark.parametrize("kind", TIMES_OF_FRAMES)
def test_an_enhanced_file_of_several_times(kind, tmp_path):
    changes, step_s = TIMES_OF_FRAMES[kind]
    images, path = write_frames(tmp_path / "cine", *changes)
    for source in (tmp_path / "cine", path):
        stacks, found_s = in_time(source)
        assert found_s == pytest.approx(step_s)
        for image, of_time in zip(images, read_stacks(stacks), strict=True):
            np.testing.assert_array_equal(sitk.GetArrayFromImage(of_time).T, image.round())


def test_an_enhanced_file_is_a_folder_of_phases(tmp_path):
    images, path = write_frames(tmp_path / "cine")
    save(np.ones(SHAPE, np.uint8), AFFINE, tmp_path / "labels.nii.gz")
    for scans, name in ((tmp_path / "cine", "cine"), (path, "frames")):
        request = request_of(parse_arguments(["--scans", str(scans), "--outlined", f"2={tmp_path / 'labels.nii.gz'}",
                                              "--output", str(tmp_path / f"out of {name}")]))
        assert (request.series.n_phases, request.series.step_s) == (N, pytest.approx(0.04))
        written = nibabel.load(tmp_path / f"out of {name}/{name}.nii.gz")
        np.testing.assert_array_equal(np.moveaxis(np.asanyarray(written.dataobj), 3, 0), images.round())


@pytest.mark.parametrize(("changes", "says"), [
    ([group("MREchoSequence.EffectiveEchoTime", lambda t, k: 10.0 + t)], "differ in EchoTime, which has 4 values"),
    ([group("MRDiffusionSequence.DiffusionBValue", lambda t, k: 100.0 * t)], "differ in DiffusionBValue, which has 4 values"),
    ([group("MRImageFrameTypeSequence.FrameType", lambda t, k: ["ORIGINAL", "PRIMARY", "WATER" if t else "FAT", "NONE"])],
     "differ in ImageType, which has 2 values"),
    ([group("FrameContentSequence.TemporalPositionIndex", lambda t, k: 1)], "do not say their order in time"),
    ([group("FrameContentSequence.FrameAcquisitionDateTime", lambda t, k: f"2020133200000{t}")], "do not say their order"),
    ([group("PlanePositionSequence.ImagePositionPatient", lambda t, k: [0, 0, k if t else 9 * k])],
     "has 1 to [34] images at one place; allowed: equally many at each"),
])
def test_frames_at_one_place_that_are_no_times_are_refused(changes, says, tmp_path):
    write_frames(tmp_path / "cine", *changes)
    with pytest.raises(InputError, match=says):
        in_time(tmp_path / "cine")


def test_missing_images_and_other_folders(tmp_path):
    write_cine(tmp_path / "cine")
    (tmp_path / "cine/3_004.dcm").unlink()
    with pytest.raises(InputError, match="has 3 to 4 images at one place; allowed: equally many at each"):
        in_time(tmp_path / "cine")
    affine = grid(shape=SHAPE, axes="LPS")
    write_slices(tmp_path / "plain", patient(affine, SHAPE)[0], affine)
    assert in_time(tmp_path / "plain") is None and in_time(tmp_path) is None and in_time(tmp_path / "none") is None
