"""The state of a labelled folder: what each decision makes of a scan, what is on disk, and what a kill leaves."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest

from qnet.util.base.errors import InputError
from qnet.util.base.files import partial_name
from qnet.util.base.root import ROOT
from qnet.util.label.client import running
from qnet.util.label.export import export
from qnet.util.label.session import ConflictError, MissingError, Session
from tests.labelling import drawing, nifti, write_scans
from tests.toy import toy_case, write

ROWS = [{"label": 1, "label_name": "label 1", "confidence": 0.7}, {"label": 2, "label_name": "label 2", "confidence": 0.4},
        {"label": 3, "label_name": "label 3", "confidence": None}]


@pytest.fixture
def folder(tmp_path):
    return write_scans(tmp_path / "scans", [1, 2, 3])


@pytest.fixture
def session(folder):
    session = Session(folder)
    yield session
    session.close()


def again(session):
    """The session as another server would find it."""
    session.close()
    return Session(session.folder)


def find(session, name, label_map=None, run=1, rows=ROWS):
    """Take in what a run found."""
    target = session.target(name, run)
    write(target, drawing() if label_map is None else label_map)
    session.add_found(name, target, rows)


def read(path):
    return np.asarray(nibabel.load(path).dataobj).T


def states(session):
    return {scan["name"]: scan["state"] for scan in session.overview()["scans"]}


def test_from_nothing_to_an_example_and_back(session):
    assert states(session) == {"a_1": "empty", "a_2": "empty", "a_3": "empty"}
    session.draw("a_1", nifti(drawing()), 0)
    assert states(session)["a_1"] == "drawing" and session.supports() == [] and session.waiting() == ["a_2", "a_3"]
    session.decide("a_1", True)
    assert states(session)["a_1"] == "outlined" and session.supports() == ["a_1"]
    session.draw("a_1", nifti(drawing(slices=slice(2, 5))), 1)
    assert states(session)["a_1"] == "outlined"          # it is an example still, and a better one
    session.decide("a_1", False)
    assert states(session)["a_1"] == "drawing" and session.supports() == []


def test_what_is_found_is_accepted_or_corrected(session):
    find(session, "a_1")
    find(session, "a_2")
    session.decide("a_1", True)
    assert states(session) == {"a_1": "accepted", "a_2": "found", "a_3": "empty"}
    assert session.supports() == [] and session.waiting() == ["a_2", "a_3"]
    session.draw("a_2", nifti(drawing(slices=slice(2, 5))), 0)
    assert states(session)["a_2"] == "correcting" and session.waiting() == ["a_3"]      # no run writes over work by hand
    session.decide("a_2", True)
    assert states(session)["a_2"] == "corrected" and session.supports() == ["a_2"]
    session.draw("a_1", nifti(drawing(slices=slice(2, 5))), 0)
    assert states(session)["a_1"] == "correcting"       # accepted was what is no longer there


def test_undone_to_what_was_found_is_no_work_by_hand(session):
    find(session, "a_1")
    session.draw("a_1", nifti(drawing(slices=slice(2, 5))), 0)
    session.draw("a_1", nifti(drawing()), 1)
    assert states(session)["a_1"] == "found" and not session.hand_file("a_1").exists()
    session.draw("a_2", nifti(drawing()), 0)
    session.decide("a_2", True)
    session.draw("a_2", nifti(np.zeros_like(drawing())), 1)
    assert states(session)["a_2"] == "empty" and session.waiting() == ["a_1", "a_2", "a_3"]
    session.draw("a_2", nifti(drawing()), 2)
    assert states(session)["a_2"] == "drawing"          # not done at once


def test_everything_erased_is_a_correction_and_no_example(session):
    find(session, "a_1")
    session.draw("a_1", nifti(np.zeros_like(drawing())), 0)
    session.decide("a_1", True)
    assert states(again(session))["a_1"] == "corrected" and session.supports() == []


def test_the_least_sure_comes_first(session):
    find(session, "a_1", rows=ROWS[:1])
    find(session, "a_3", rows=ROWS)
    session.draw("a_2", nifti(drawing()), 0)
    found = [(scan["name"], scan["confidence"]) for scan in session.overview()["scans"]]
    assert found == [("a_3", 0.4), ("a_1", 0.7), ("a_2", None)]


def test_a_newer_run_replaces_the_earlier_one(session):
    find(session, "a_1", run=session.next_run())
    find(session, "a_1", drawing(slices=slice(1, 4)), run=session.next_run())
    assert [path.name for path in (session.path / "found").glob("a_1*.gz")] == ["a_1.2.nii.gz"]
    (session.path / "now.nii.gz").write_bytes(session.outlines("a_1"))
    assert (read(session.path / "now.nii.gz") == drawing(slices=slice(1, 4))).all()
    assert session.next_run() == 3


def test_a_drawing_of_another_window_is_not_written_over(session):
    session.draw("a_1", nifti(drawing()), 0)
    with pytest.raises(ConflictError, match="another window"):
        session.draw("a_1", nifti(drawing(slices=slice(1, 4))), 0)
    assert (read(session.hand_file("a_1")) == drawing()).all()


def test_outlines_from_a_file(session, folder):
    session.load("a_1", folder / "truth/a_1.nii.gz")
    assert states(session)["a_1"] == "outlined" and (read(session.hand_file("a_1")) == toy_case(1)[1]).all()
    assert [one["value"] for one in session.classes] == [1, 2, 3, 4]
    assert len({one["colour"] for one in session.classes}) == 4
    with pytest.raises(ConflictError, match="by hand"):
        session.load("a_1", folder / "truth/a_2.nii.gz")
    write(folder / "truth/none.nii.gz", np.zeros_like(drawing()))
    with pytest.raises(InputError, match="largest value is 0"):
        session.load("a_2", folder / "truth/none.nii.gz")
    with pytest.raises(MissingError):
        session.load("a_9", folder / "truth/a_2.nii.gz")


def test_a_file_with_outlines_is_no_scan(folder):
    write(folder / "outlines_1.nii.gz", drawing())
    session = Session(folder)
    session.load("a_1", folder / "outlines_1.nii.gz")
    assert states(session)["outlines_1"] == "left out" and session.waiting() == ["a_2", "a_3"]
    session.close()


def test_left_out_and_taken_back(session):
    session.draw("a_1", nifti(drawing()), 0)
    session.decide("a_1", True)
    session.leave_out("a_1", True)
    session.leave_out("a_2", True)
    assert session.supports() == [] and session.waiting() == ["a_3"] and session.usable() == ["a_3"]
    with pytest.raises(ConflictError, match="left out"):
        session.decide("a_2", True)
    session.leave_out("a_1", False)
    assert states(again(session)) == {"a_1": "outlined", "a_2": "left out", "a_3": "empty"}


def test_classes_are_added_and_renamed_and_one_goes_that_no_outlines_hold(session):
    kidney = {"value": 7, "name": "Niere", "colour": "#00aa00"}
    session.set_classes([{"value": 1, "name": " liver ", "colour": "#AA0000"}, kidney])
    session = again(session)
    assert session.classes == [{"value": 1, "name": "liver", "colour": "#aa0000"}, kidney]
    session.draw("a_1", nifti(drawing(7)), 0)
    find(session, "a_2", drawing(7))
    with pytest.raises(InputError, match="7 is in the outlines of a_1; allowed: to delete a class that no outlines hold"):
        session.set_classes(session.classes[:1])
    session.draw("a_1", nifti(np.zeros_like(drawing())), 1)
    with pytest.raises(InputError, match="7 is in the outlines of a_2"):
        session.set_classes(session.classes[:1])
    session.set_classes([kidney])
    session = again(session)
    assert [one["value"] for one in session.classes] == [7]
    session.close()


def test_the_class_that_may_be_added_next_is_no_other(session):
    session.set_classes([{"value": 1, "name": "label 2", "colour": "#56b4e9"}])
    session.set_classes([*session.classes, session.overview()["next_class"]])
    assert session.classes[1] == {"value": 2, "name": "label 2 (2)", "colour": "#009e73"}
    session.set_classes([*session.classes, {"value": 255, "name": "last", "colour": "#000000"}])
    assert session.overview()["next_class"] is None


def test_a_value_of_a_file_gets_a_name_that_no_class_has(session, folder):
    session.set_classes([{"value": 1, "name": "label 4", "colour": "#aa0000"}])
    session.load("a_1", folder / "truth/a_1.nii.gz")
    assert [one["name"] for one in again(session).classes] == ["label 4", "label 2", "label 3", "label 4 (2)"]


def test_a_session_of_an_earlier_version_with_names_that_are_alike_is_read(session):
    classes = [{"value": 1, "name": "a b", "colour": "#aa0000"}, {"value": 2, "name": "a_b", "colour": "#00aa00"}]
    session.close()
    state = session.path / "session.json"
    state.write_text(json.dumps({"version": 1, "classes": classes}), encoding="utf-8")
    session = Session(session.folder)
    assert session.classes == classes
    with pytest.raises(InputError, match="name: got 'a b' and 'a_b', allowed: names that differ"):
        export(session)
    session.set_classes([classes[0], {**classes[1], "name": "c"}])
    assert export(session).files == ["cases.csv"]
    session.close()


def test_all_of_it_is_there_again(session):
    session.set_classes([{"value": 1, "name": "liver", "colour": "#aa0000"}])
    session.draw("a_1", nifti(drawing()), 0)
    session.decide("a_1", True)
    find(session, "a_2")
    session.decide("a_2", True)
    find(session, "a_3")
    before = session.overview()
    after = again(session).overview()
    assert after == before


def test_the_scans_are_never_written_to(folder):
    def scans():
        return {path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
                for path in folder.glob("*.nii.gz")}

    before = scans()
    session = Session(folder)
    session.draw("a_1", nifti(drawing()), 0)
    session.load("a_2", folder / "truth/a_2.nii.gz")
    find(session, "a_3")
    again(session).close()
    assert scans() == before


def test_what_half_a_run_left_does_not_count(session):
    write(session.path / "found/a_1.1.nii.gz", drawing())               # killed before the scan's entry was written
    (session.path / "found/a_2.json").write_text("{", encoding="utf-8")
    (session.path / "found/a_3.json").write_text('{"map": "gone.nii.gz", "rows": []}', encoding="utf-8")
    partial_name(session.path / "found/a_1.nii.gz").write_bytes(b"half")
    later = again(session)
    assert set(states(later).values()) == {"empty"} and later.next_run() == 2
    assert not list((later.path / "found").glob(".partial-*"))


def test_outlines_that_another_program_changed_are_taken_as_they_are(session):
    session.draw("a_1", nifti(drawing()), 0)
    write(session.hand_file("a_1"), drawing(5))
    assert [one["value"] for one in again(session).classes] == [1, 5]


@pytest.mark.parametrize(("damage", "said"), [
    (lambda path: (path / "session.json").write_text("{", encoding="utf-8"), "session.json: not valid JSON"),
    (lambda path: (path / "session.json").write_text('{"done": 1}', encoding="utf-8"), "json: done: got 1, allowed: a list"),
    (lambda path: (path / "session.json").write_text('{"classes": 1}', encoding="utf-8"), "classes: got 1, allowed: a list"),
    (lambda path: (path / "session.json").unlink(), "was not made by this program"),
])
def test_a_damaged_session_is_named(damage, said, session):
    session.draw("a_1", nifti(drawing()), 0)
    damage(session.path)
    with pytest.raises(InputError, match=said):
        again(session)


def test_a_folder_of_somebody_else_is_not_taken(folder, tmp_path):
    (folder / "label_page").mkdir()
    (folder / "label_page/notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="not made by this program"):
        Session(folder)
    (folder / "label_page/notes.txt").unlink()
    (folder / "label_page").rmdir()
    (folder / "label_page").symlink_to(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        Session(folder)


@pytest.mark.parametrize(("arrange", "said"), [
    (lambda folder: folder / "nothing", "no such folder"), (lambda folder: folder / "truth/a_1.nii.gz", "no such folder"),
    (lambda folder: (folder / "none").mkdir() or folder / "none", "holds no scan"),
])
def test_folders_without_scans(arrange, said, folder):
    with pytest.raises(InputError, match=said):
        Session(arrange(folder))


def test_two_scans_of_one_name(folder):
    write(folder / "a_1.nii", drawing())
    with pytest.raises(InputError, match="two scans have the name a_1"):
        Session(folder)


def test_a_folder_that_is_no_scan_is_listed_and_blocks_nothing(folder):
    for place in ("notes/a.txt", "notes/more/b.md", "labels/a_1.nii.gz"):
        (folder / place).parent.mkdir(exist_ok=True, parents=True)
        (folder / place).write_bytes(b"x")
    session = Session(folder)
    assert states(session)["notes"] == "unreadable" and "labels" not in states(session)      # outlines of the user's own
    assert session.scans["notes"].problem == "holds no scan (a.txt is no scan, by its name)"
    assert session.waiting() == ["a_1", "a_2", "a_3"]
    session.close()


def test_a_scan_that_cannot_be_read_is_named_and_the_others_are_there(folder):
    (folder / "a_2.nii.gz").write_bytes(b"none")
    session = Session(folder)
    assert states(session)["a_2"] == "unreadable" and session.waiting() == ["a_1", "a_3"]
    session.close()


def test_a_pattern_says_what_is_a_scan(folder):
    session = Session(folder, "a_[12]*")
    assert list(session.scans) == ["a_1", "a_2"]
    session.close()
    with pytest.raises(InputError, match="no scan named b_"):
        Session(folder, "b_*")


@pytest.mark.whole
def test_a_second_server_is_refused_and_a_killed_one_is_no_hindrance(warm, folder):
    with running(folder) as (client, first):
        command = [sys.executable, str(ROOT / "scripts/label.py"), str(folder), "--no-browser"]
        second = subprocess.run(command, capture_output=True, encoding="utf-8", env={**os.environ, "PYTHONPATH": str(ROOT)},
                                check=False)
        assert second.returncode == 2 and second.stderr.startswith("error: ") and "another server is at work" in second.stderr
        assert client.state()["scans"]
        first.kill()
        first.wait()
        with running(folder) as (later, _):
            assert later.state()["scans"] and later.address == client.address      # so a page that is open goes on


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path):
    """Strokes, decisions and names, one after the other, and a kill at any moment: what was answered is there, the rest may."""
    folder, rng = write_scans(tmp_path / "scans", [1, 2, 3]), random.Random(1)
    answered: dict[str, np.ndarray] = {}
    done, name, n_killed = set(), "label 1", 0
    while n_killed < 20:
        with running(folder) as (client, process):
            shown = {scan["name"]: scan["state"] for scan in client.state()["scans"]}
            for scan, label_map in answered.items():
                assert (read(folder / f"label_page/hand/{scan}.nii.gz") == label_map).all()
            assert {scan for scan, state in shown.items() if state == "outlined"} == done
            assert client.state()["classes"][0]["name"] == name
            deadline, under_way = time.monotonic() + rng.uniform(0.05, 0.8), None
            killer = subprocess.Popen(["sh", "-c", f"sleep {deadline - time.monotonic()}; kill -9 {process.pid}"])
            try:
                while True:
                    scan, value, under_way = rng.choice(list(shown)), rng.randint(2, 7), None
                    if rng.random() < 0.6:
                        under_way = "stroke", scan, drawing(slices=slice(1, value))
                        client.draw(scan, nifti(under_way[2]))
                        answered[scan] = under_way[2]
                    elif scan in answered:
                        under_way = "done", scan, rng.random() < 0.5
                        client.set_done(scan, under_way[2])
                        done = done | {scan} if under_way[2] else done - {scan}
                    else:
                        under_way = "name", scan, f"name {rng.random()}"
                        client.set_classes([{"value": 1, "name": under_way[2], "colour": "#aa0000"}])
                        name = under_way[2]
            except OSError:
                pass
            killer.wait()
            assert process.wait() == -signal.SIGKILL
            n_killed += 1
        answered, done, name = with_what_was_under_way(folder, answered, done, name, under_way)


def with_what_was_under_way(folder, answered, done, name, under_way):
    """A change that was asked for and not answered may have been made: whole, or not at all."""
    kept = json.loads((folder / "label_page/session.json").read_text(encoding="utf-8"))
    kind, scan, value = under_way
    if kind == "stroke" and (folder / f"label_page/hand/{scan}.nii.gz").exists():
        now = read(folder / f"label_page/hand/{scan}.nii.gz")
        assert any(np.array_equal(now, one) for one in (value, answered.get(scan)))
        answered = {**answered, scan: now}
    elif kind == "done" and (scan in kept["done"]) == value:
        done = done | {scan} if value else done - {scan}
    elif kind == "name":
        assert kept["classes"][0]["name"] in (name, value)
        name = kept["classes"][0]["name"]
    return answered, done, name
