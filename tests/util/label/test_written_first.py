"""On a full disk nothing is answered as done that is not: what was refused is neither in memory nor, after a restart, on disk."""

import os
import stat

import numpy as np
import pytest
import SimpleITK as sitk

from qnet.util.label.session import Session
from tests.data.raw_downloads import write_dicom
from tests.labelling import drawing, nifti, served, write_scans
from tests.toy import write

CLASSES = [{"value": 1, "name": "liver", "colour": "#aa0000"}]
ROWS = [{"label": 1, "label_name": "label 1", "confidence": 0.5}]


@pytest.fixture
def folder(tmp_path):
    return write_scans(tmp_path / "scans", [1, 2, 3])


def prepared(folder):
    """a_1 is drawn, a_2 found and accepted, a_3 empty."""
    session = Session(folder)
    session.draw("a_1", nifti(drawing()), 0)
    write(session.target("a_2", 1), drawing())
    session.add_found("a_2", session.target("a_2", 1), ROWS)
    session.decide("a_2", True)
    return session


def shown(session):
    return {scan["name"]: (scan["state"], scan["rows"]) for scan in session.overview()["scans"]}, session.classes


CHANGES = {
    "done": lambda session: session.decide("a_1", True),
    "not done": lambda session: session.decide("a_2", False),
    "left out": lambda session: session.leave_out("a_3", True),
    "classes": lambda session: session.set_classes(CLASSES),
    "a stroke": lambda session: session.draw("a_3", nifti(drawing()), 0),
    "a stroke on what was accepted": lambda session: session.draw("a_2", nifti(drawing(slices=slice(1, 3))), 0),
    "loaded": lambda session: session.load("a_3", session.folder / "truth/a_3.nii.gz"),
    "found": lambda session: session.add_found("a_3", session.target("a_3", 2), ROWS),
    "a task file": lambda session: session.set_task(session.folder / "a_1.nii.gz", {1: ("spleen", "#00aa00")}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_full_disk_changes_nothing_and_the_same_again_does(change, folder, full_disk):
    session = prepared(folder)
    write(session.target("a_3", 2), drawing())
    before = shown(session)
    with full_disk, pytest.raises(OSError, match="File too large"):
        CHANGES[change](session)
    assert shown(session) == before
    session.close()
    again = Session(folder)
    assert shown(again) == before
    write(again.target("a_3", 2), drawing())
    CHANGES[change](again)
    after = shown(again)
    assert after != before
    again.close()
    last = Session(folder)
    assert shown(last) == after
    last.close()


def test_the_page_answers_507_until_it_is_on_disk(folder, full_disk):
    with served(prepared(folder)) as client:
        with full_disk:
            for _ in range(2):      # the second try finds nothing done either
                assert client.ask("POST", "/api/v1/scans/a_1/done", {"done": True})[0] == 507
                assert client.ask("PUT", "/api/v1/classes", {"classes": CLASSES})[0] == 507
                assert client.ask("PUT", "/api/v1/scans/a_3/outlines?drawn=0", nifti(drawing()))[0] == 507
            assert client.scan("a_1")["state"] == "drawing" and client.state()["classes"][0]["name"] == "label 1"
        client.set_done("a_1")
        client.draw("a_3", nifti(drawing()))
    again = Session(folder)
    assert again.state_of("a_1") == "outlined" and again.state_of("a_3") == "drawing"
    again.close()


def test_a_session_is_private_and_so_is_what_it_makes_of_slices_that_others_may_not_read(tmp_path):
    scans, umask = write_scans(tmp_path / "scans", [1]), os.umask(0)
    try:
        image = sitk.GetImageFromArray(np.arange(6 * 16 * 16, dtype=np.uint16).reshape(6, 16, 16))
        (scans / "series").mkdir()
        for z in range(6):
            write_dicom(scans / f"series/{z}.dcm", image, z, z + 1)
            (scans / f"series/{z}.dcm").chmod(0o600)
        with served(Session(scans)) as client:
            assert client.ask("GET", "/api/v1/scans/series/image")[0] == 200
            client.draw("a_1", nifti(drawing()))
            client.export()
            own = scans / "label_page"
            found = {path: stat.S_IMODE(path.lstat().st_mode) for path in (own, *own.rglob("*"))
                     if ".work-" not in str(path.parent)}
        assert {path.name for path in found} >= {
            "series.nii.gz", "a_1.nii.gz", "session.json", "cases.csv", ".made.lock", "export"}
        for path, mode in found.items():
            assert mode == (0o700 if path.is_dir() or ".work-" in path.name else 0o600), path
    finally:
        os.umask(umask)
