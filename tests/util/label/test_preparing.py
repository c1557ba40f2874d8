"""Scans that are made ready for the page in a process of their own: copies as NIfTI, and small pictures."""

import threading
from contextlib import closing

import cv2
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from qnet.util.base.errors import InputError
from qnet.util.label import apart
from qnet.util.label.preparing import PICTURE_PX, picture_of, prepare_apart
from qnet.util.label.serve import prepare_all
from qnet.util.label.session import Session
from tests.data.raw_downloads import write_dicom
from tests.labelling import drawing, nifti, served, write_scans
from tests.toy import write

pytestmark = pytest.mark.usefixtures("warm")

RED = "#ff0000"


def image(array, spacing_mm, axes="LPS"):
    made = sitk.GetImageFromArray(array)
    made.SetSpacing(spacing_mm)
    made.SetDirection(sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(axes))
    return made


def pixels(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize(("spacing_mm", "shape"), [((1, 1, 5), (32, 64)), ((5, 1, 1), (16, 32)), ((1, 5, 1), (16, 64))])
@pytest.mark.parametrize("axes", ["LPS", "RAI"])
def test_a_picture_is_across_the_thick_slices_upright_and_in_proportion(spacing_mm, shape, axes):
    """16 by 32 by 64 voxels (z, y, x); bright where front, head and the patient's right are."""
    front, head, right = (np.arange(n)[::-1] * 64 / n for n in (32, 16, 64))
    lps = head[::-1, None, None] + front[:, None] + right
    turned = sitk.DICOMOrient(image(lps.astype(np.int16), spacing_mm), axes)
    found = pixels(picture_of(turned)).mean(axis=2)
    assert max(found.shape) == PICTURE_PX and found.shape[0] / found.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.1)
    assert found[0].mean() > found[-1].mean() + 20 and found[:, 0].mean() > found[:, -1].mean() + 20


def test_outlines_are_shown_in_the_slice_that_holds_most_of_them():
    array, labels = np.zeros((8, 32, 32), np.int16), np.zeros((8, 32, 32), np.uint8)
    array[:, :, 16:] = 100
    labels[2, 8:24, 8:24], labels[5, 4:6, 4:6], labels[6] = 1, 1, 7
    found = pixels(picture_of(image(array, (1, 1, 4)), image(labels, (1, 1, 4)), {1: RED})).astype(int)
    is_red = found[..., 2] > found[..., 0] + 50
    assert is_red[20:44, 20:44].all() and is_red.sum() == pytest.approx(32 * 32, rel=0.1)


def series(folder, n=6):
    slices = image(np.arange(n * 16 * 16, dtype=np.uint16).reshape(n, 16, 16), (2, 2, 3))
    folder.mkdir(parents=True)
    for z in range(n):
        write_dicom(folder / f"{z}.dcm", slices, z, z + 1)
    return sitk.GetArrayFromImage(slices)


def test_slices_are_turned_into_a_file_once_in_another_process_and_anew_when_they_change(tmp_path, monkeypatch):
    write_scans(tmp_path / "scans", [1])
    array = series(tmp_path / "scans/series")
    started = []
    monkeypatch.setattr(apart.subprocess, "Popen", lambda *given, **more: started.append(1) or popen(*given, **more))
    monkeypatch.setattr("SimpleITK.ImageSeriesReader", None)       # not in this process
    for n_started in (1, 1):
        with closing(Session(tmp_path / "scans")) as session:
            found = np.asarray(nibabel.load(session.image_file("series")).dataobj).T
            assert np.array_equal(found, array)
        assert len(started) == n_started
    (tmp_path / "scans/series/0.dcm").write_bytes((tmp_path / "scans/series/0.dcm").read_bytes() + bytes(2))
    with closing(Session(tmp_path / "scans")) as session:
        session.image_file("series")
        assert len(started) == 2 and len(list((tmp_path / "scans/label_page/pictures").glob("*.png"))) == 1


popen = apart.subprocess.Popen


def test_the_list_gets_pictures_and_the_word_of_what_cannot_be_read(tmp_path):
    scans = write_scans(tmp_path / "scans", [1, 2])
    whole = (scans / "a_2.nii.gz").read_bytes()
    (scans / "a_2.nii.gz").write_bytes(whole[:len(whole) // 2])
    with served(session := Session(scans)) as client:
        assert client.ask("GET", "/api/v1/scans/a_1/picture")[0] == 204 and client.scan("a_1")["picture"] is None
        prepare_all(session, threading.Event())
        status, content = client.ask("GET", "/api/v1/scans/a_1/picture")
        assert status == 200 and max(pixels(content).shape) == PICTURE_PX and client.scan("a_1")["picture"].startswith("a_1.")
        assert client.scan("a_2")["state"] == "unreadable" and "a_2.nii.gz" in client.scan("a_2")["problem"]


def test_found_outlines_are_in_the_picture_until_they_are_corrected(tmp_path):
    with closing(Session(write_scans(tmp_path, [1]))) as session:
        session.prepare("a_1")
        alone = session.picture("a_1")
        for run in (1, 2):
            target = session.target("a_1", run)
            write(target, drawing())
            target.with_name(f"a_1.{run}.png").write_bytes(b"outlined %d" % run)
            session.add_found("a_1", target, [])
            assert session.picture("a_1") == b"outlined %d" % run
        assert [path.name for path in (tmp_path / "label_page/found").glob("*.png")] == ["a_1.2.png"]
        session.draw("a_1", nifti(drawing(slices=slice(2, 6))), 0)
        assert session.picture("a_1") == alone


def test_a_scan_that_is_none_is_told_in_one_line(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"no scan")
    with pytest.raises(InputError, match=r"^/.*a.nii.gz: [^\n]*$"):
        prepare_apart(tmp_path / "a.nii.gz", None, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
