"""Which scan the page says to outline first, and which to correct next."""

import threading
from contextlib import closing

import pytest

from qnet.util.label import apart
from qnet.util.label.advice import Advisor
from qnet.util.label.serve import prepare_all
from qnet.util.label.session import Session
from tests.labelling import drawing, nifti, served, write_scans
from tests.toy import toy_case, write

popen = apart.subprocess.Popen
NONE = {"first": None, "next": None}


def add_found(session, name, confidence):
    target = session.target(name, session.next_run())
    write(target, drawing())
    session.add_found(name, target, [{"label": 1, "label_name": "label 1", "query": name, "confidence": confidence}])


def test_after_a_run_the_least_certain_scan_is_next(tmp_path):
    with served(session := Session(write_scans(tmp_path / "scans", [1, 2, 3]))) as client:
        assert client.state()["advice"] == NONE
        for name, confidence in (("a_2", 0.8), ("a_3", 0.6)):
            add_found(session, name, confidence)
        why = "its expected Dice is the lowest, 0.60"
        assert client.state()["advice"] == {"first": None, "next": {"scan": "a_3", "why": why}}
        client.set_done("a_3")
        assert client.state()["advice"]["next"]["scan"] == "a_2"


@pytest.mark.parametrize("n", [1, 2])
def test_of_one_or_two_scans_nothing_is_compared(n, tmp_path, monkeypatch):
    with closing(Session(write_scans(tmp_path, range(1, n + 1)))) as session:
        monkeypatch.setattr(apart.subprocess, "Popen", None)
        advisor = Advisor(session)
        advisor.compare(threading.Event())
        assert advisor.comparison is None and advisor.as_json(session.overview()["scans"]) == NONE


@pytest.mark.whole
@pytest.mark.usefixtures("warm")
def test_the_scans_are_compared_once_in_another_process_and_anew_when_one_changes(tmp_path, monkeypatch):
    folder, started = tmp_path / "scans", []
    for number in (1, 2, 3):        # of few voxels: each takes a moment
        write(folder / f"a_{number}.nii.gz", toy_case(number)[0][:, ::4, ::4])
    stroke = drawing()[:, ::4, ::4]
    monkeypatch.setattr(apart.subprocess, "Popen", lambda *given, **more: started.append(given[0][-1]) or popen(*given, **more))

    def advice():
        session = Session(folder)
        advisor = Advisor(session)
        with served(session, advisor=advisor) as client:
            prepare_all(session, threading.Event(), advisor)
            first = client.state()["advice"]["first"]
            client.draw("a_2", nifti(stroke))
            assert client.state()["advice"] == NONE       # it is begun
            client.draw("a_2", nifti(0 * stroke))
        return first

    once = advice()
    assert once["scan"] in ("a_1", "a_2", "a_3") and once["why"] == "it looks most like the 2 others"
    assert advice() == once and started.count("qnet.util.label.advice") == 1
    write(folder / "a_3.nii.gz", toy_case(10)[0][:, ::4, ::4])
    assert advice() is not None and started.count("qnet.util.label.advice") == 2
