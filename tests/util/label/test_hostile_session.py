"""A folder of scans that somebody else made, with a session in it: what it says is data, and no link in it is followed."""

import json
import os
import re
import shutil
from contextlib import closing
from urllib.parse import quote

import numpy as np
import pytest

from qnet.util.base.errors import InputError
from qnet.util.label.export import export
from qnet.util.label.session import ConflictError, Session
from tests.labelling import drawing, nifti, refusal, served, write_scans
from tests.toy import write

SECRET = b"what nobody may read"
ROWS = [{"label": 1, "label_name": "label 1", "confidence": 0.5, "volume_ml": 1.0, "slices": 2}]


@pytest.fixture
def folder(tmp_path):
    """Scans with a session, and files outside of it."""
    scans = write_scans(tmp_path / "scans", [1, 2])
    Session(scans).close()
    (tmp_path / "secret.txt").write_bytes(SECRET)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept.txt").write_bytes(SECRET)
    return scans


@pytest.fixture(autouse=True)
def nothing_outside_changes(folder, tmp_path):
    def outside():
        places = tmp_path / "secret.txt", *(tmp_path / "elsewhere").rglob("*"), *folder.rglob("*")
        return {path: path.read_bytes() for path in places
                if path.is_file() and not path.is_symlink() and "label_page" not in path.parts}

    before = outside()
    yield
    assert outside() == before


def own(folder, name):
    return folder / "label_page" / name


def found_by(session, name="a_1", run=5):
    """A run's work."""
    write(session.target(name, run), drawing())
    session.add_found(name, session.target(name, run), ROWS)


def write_found(folder, content, name="a_1"):
    own(folder, f"found/{name}.json").write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("place", [
    "{tmp}/secret.txt", "../../../secret.txt", "../../a_1.nii.gz", "../hand/a_1.nii.gz", "../session.json", ".", "..", "",
    "a_2.1.nii.gz",
    "a_1.1.nii.gz/../../../a_1.nii.gz", "a_1.nii.gz", "a_1.-1.nii.gz", "a_1.x.nii.gz", "a_1.1.nii.gz\0", "a_1.1.nii.gz\n"])
def test_a_found_map_is_a_name_of_that_scan_alone(place, folder, tmp_path):
    filled = place.replace("{tmp}", str(tmp_path))
    write_found(folder, {"map": filled, "rows": ROWS})
    write(own(folder, "found/a_2.1.nii.gz"), drawing())
    session = Session(folder)
    assert session.outlines("a_1") is None and session.state_of("a_1") == "empty"
    found_by(session)       # the next run removes what was found before
    assert session.outlines("a_1") and session.state_of("a_1") == "found" and own(folder, "found/a_2.1.nii.gz").exists()
    session.close()


@pytest.mark.parametrize("content", [
    "{", "[]", "7", '{"map": 7, "rows": []}', {"map": "a_1.1.nii.gz"}, {"map": "a_1.1.nii.gz", "rows": {}},
    {"map": "a_1.1.nii.gz", "rows": [7]}, {"map": "a_1.1.nii.gz", "rows": [[]]}, {"map": "a_1.1.nii.gz", "rows": [{}]},
    {"map": "a_1.1.nii.gz", "rows": [{**ROWS[0], "confidence": "high"}]},
    {"map": "a_1.1.nii.gz", "rows": [{**ROWS[0], "label": 0}]},
    {"map": "a_1.1.nii.gz", "rows": [{**ROWS[0], "label_name": "\ud800"}]}, {"map": "a_1.1.nii.gz", "rows": 300 * ROWS},
    '{"map": "a_1.1.nii.gz", "rows": [{"label": 1, "label_name": "x", "confidence": NaN}]}',
    '{"map": "a_1.1.nii.gz", "rows": [{"label": 1, "label_name": "x", "volume_ml": 1e999}]}', "[" * 10**5], ids=range(16))
def test_a_found_result_that_is_none_is_found_again(content, folder):
    write_found(folder, content)
    write(own(folder, "found/a_1.1.nii.gz"), drawing())
    with served(Session(folder)) as client:
        assert client.scan("a_1")["state"] == "empty"


@pytest.mark.parametrize(("content", "said"), [
    ({"version": 99}, "version: got 99, allowed"), ({"version": "1"}, "version: got '1', allowed"),
    ({"version": True}, "version: got True"),
    ({"version": 1, "done": [{}]}, r"done\[0\]: got {}, allowed: a text"),
    ({"version": 1, "left_out": "a_1"}, "left_out: got 'a_1', allowed"),
    ({"version": 1, "classes": [7]}, "classes: "),
    ({"version": 1, "classes": [{"value": 1, "name": 5, "colour": "#000000"}]}, "classes: "),
    ({"version": 1, "classes": [{"value": 1, "name": "\x1b[31m", "colour": "#000000"}]}, "classes: name: got"),
    ([], "session.json: got"), ("\ud800", "session.json")], ids=range(10))
def test_a_session_that_is_none_is_refused_and_left_as_it_is(content, said, folder):
    path = own(folder, "session.json")
    path.write_text(json.dumps(content), encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(InputError, match=said) as caught:
        Session(folder)
    assert str(path) in str(caught.value) and str(caught.value).isprintable() and path.read_bytes() == before


@pytest.mark.parametrize("name", ["hand", "found", "scans", "export"])
@pytest.mark.parametrize("target", ["..", "../..", "{tmp}/elsewhere", "../../elsewhere", "found_"])
def test_a_folder_that_is_a_link_is_refused(name, target, folder, tmp_path):
    shutil.rmtree(own(folder, name))
    own(folder, name).symlink_to(target.replace("{tmp}", str(tmp_path)))
    with pytest.raises(InputError, match=f"label_page/{name}: is there and is no folder; allowed: to move it away"):
        Session(folder)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("name", ["session.json", ".made.lock", ".made.jsonl"])
def test_a_file_that_is_a_link_is_refused(name, kind, folder, tmp_path):
    own(folder, name).unlink()
    in_place_of(own(folder, name), kind, tmp_path)

    def leave_out():
        with closing(Session(folder)) as session:
            session.leave_out("a_1", True)

    with pytest.raises(InputError, match=f"{re.escape(name)}: is a link, a folder or a device; allowed: a plain file"):
        leave_out()


def in_place_of(path, kind, tmp_path):
    if kind == "link":
        path.symlink_to(tmp_path / "secret.txt")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_other_links_in_it_serve_and_change_nothing(kind, folder, tmp_path):
    for name in ("run.log", "open.html", "hand/a_1.nii.gz", "found/a_2.json", "found/a_2.1.nii.gz", "export/a_2.nii.gz",
                 "export/cases.csv",
                 "hand/.made.jsonl", "examples.task", ".partial-1-session.json", "hand/.partial-1-a_2.nii.gz"):
        if not (kind == "folder" and name in ("run.log", "hand/.made.jsonl")):
            own(folder, name).unlink(missing_ok=True)
            in_place_of(own(folder, name), kind, tmp_path)
    with served(Session(folder), {"n_steps": -1}) as client:
        scan = client.scan("a_1")
        assert scan["state"] == "unreadable" and "hand/a_1.nii.gz: is a link, a folder or a device" in scan["problem"]
        assert client.scan("a_2")["state"] == "empty"
        for path in ("/api/v1/scans/a_1/outlines", "/api/v1/scans/a_2/outlines"):
            assert SECRET not in client.ask("GET", path)[1]
        assert "examples.task: is a link" in refusal(*client.ask("POST", "/api/v1/run", {"careful": False}))
        for method, path, body in (("PUT", "/api/v1/scans/a_1/outlines?drawn=0", nifti(drawing())),
                                   ("POST", "/api/v1/export", {"formats": []})):
            assert client.ask(method, path, body)[0] in (400, 409)


def test_links_that_come_while_it_runs_are_not_followed(folder, tmp_path):
    session = Session(folder)
    session.draw("a_1", nifti(drawing()), 0)
    own(folder, "hand/a_1.nii.gz").unlink()
    own(folder, "hand/a_1.nii.gz").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(InputError, match="is a link"):
        session.outlines("a_1")
    session.draw("a_1", nifti(drawing(slices=slice(1, 3))), 1)      # the link itself is replaced
    assert not own(folder, "hand/a_1.nii.gz").is_symlink() and session.outlines("a_1") != SECRET
    own(folder, "session.json").unlink()
    own(folder, "session.json").symlink_to(tmp_path / "secret.txt")
    session.decide("a_1", True)
    assert not own(folder, "session.json").is_symlink()
    session.close()


def test_the_whole_folder_exchanged_while_it_runs_changes_nothing_there(folder, tmp_path):
    session = Session(folder)
    (folder / "label_page").rename(tmp_path / "label_page_aside")
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "victim")
    for name in ("hand", "found", "export"):
        (tmp_path / "victim" / name).mkdir()
    (folder / "label_page").symlink_to(tmp_path / "victim")
    before = sorted((tmp_path / "victim").rglob("*"))
    session.leave_out("a_1", True)
    with pytest.raises(OSError, match="No such file"):      # a library's path leads nowhere
        session.draw("a_2", nifti(drawing()), session.saved("a_2"))
    assert sorted((tmp_path / "victim").rglob("*")) == before
    assert json.loads((tmp_path / "label_page_aside/session.json").read_text(encoding="utf-8"))["left_out"] == ["a_1"]
    session.close()
    (folder / "label_page").unlink()
    shutil.rmtree(tmp_path / "victim")


@pytest.mark.parametrize(("spoil", "said"), [
    (lambda path: path.write_bytes(b"none"), "hand/a_1.nii.gz: cannot be read"),
    (lambda path: write(path, drawing()[:4]), "hand/a_1.nii.gz: size"),
    (lambda path: write(path, drawing().astype(np.int16) * 300), "hand/a_1.nii.gz: holds the values 0 to 300, allowed: 0 to 255"),
    (lambda path: write(path, drawing().astype(np.int16) * -1), "hand/a_1.nii.gz: "),
])
def test_one_bad_drawing_is_named_and_kept_and_shuts_nobody_out(spoil, said, folder):
    path = own(folder, "hand/a_1.nii.gz")
    spoil(path)
    before = path.read_bytes()
    for _ in range(2):      # nor is the next start any worse
        session = Session(folder)
        session.draw("a_2", nifti(drawing()), session.saved("a_2"))
        (first,) = [scan for scan in session.overview()["scans"] if scan["name"] == "a_1"]
        assert first["state"] == "unreadable" and said in first["problem"] and ".work-" not in first["problem"]
        with pytest.raises(ConflictError, match="allowed: to move the file away"):
            session.draw("a_1", nifti(drawing()), 0)
        with pytest.raises(ConflictError):
            session.load("a_1", folder / "truth/a_1.nii.gz")
        assert path.read_bytes() == before and session.waiting() == []
        assert export(session).files == ["a_2.nii.gz", "cases.csv"]
        session.close()


def test_a_sound_session_of_before_is_read(tmp_path):
    scans = write_scans(tmp_path / "old", [1, 2, 3])
    path = scans / "label_page"
    for name in ("hand", "found"):
        (path / name).mkdir(parents=True)
    classes = [{"value": 1, "name": "liver", "colour": "#e69f00"}]
    (path / "session.json").write_text(json.dumps({"version": 1, "classes": classes, "done": ["a_1", "a_2"],
                                                   "left_out": ["a_3"]}),
                                       encoding="utf-8")
    write(path / "hand/a_1.nii.gz", drawing())
    write(path / "found/a_2.3.nii.gz", drawing())
    row = {"query": "a_2", "label": 1, "label_name": "label 1", "volume_ml": 3.14, "slices": 2, "confidence": 0.71,
           "agreement": None,
           "margin": 2.5}
    (path / "found/a_2.json").write_text(json.dumps({"map": "a_2.3.nii.gz", "rows": [row]}), encoding="utf-8")
    session = Session(scans)
    shown = {scan["name"]: scan for scan in session.overview()["scans"]}
    assert {name: scan["state"] for name, scan in shown.items()} == {"a_1": "outlined", "a_2": "accepted", "a_3": "left out"}
    assert shown["a_2"]["rows"] == [row] and session.classes == classes and session.next_run() == 4
    session.close()


def test_names_that_are_no_utf8_are_told_and_crash_nothing(folder):
    """A library that reads images ends the program when it is given one."""
    path = folder / os.fsdecode(b"b_\xff.nii.gz")
    shutil.copy(folder / "a_2.nii.gz", path)
    with served(Session(folder)) as client:
        scan = client.scan("b_\\udcff")
        assert scan["state"] == "unreadable" and scan["problem"].endswith("its name is no UTF-8; allowed: another name")
        assert "its name is no UTF-8" in refusal(*client.ask("GET", f"/api/v1/scans/{quote(scan['name'])}/image"))
        files = client.tell("GET", "/api/v1/files")["files"]
        (strange,) = [file for file in files if "udcff" in file]
        assert "its name is no UTF-8" in refusal(*client.ask("POST", "/api/v1/scans/a_1/load", {"labels": strange}))
    path.unlink()
