"""Runs through the page's own requests: the others outlined, stopped, corrected, again, and what is exported."""

import csv
import json
import os
import signal
import statistics
import time
from contextlib import closing
from pathlib import Path

import nibabel
import numpy as np
import pytest

from qnet.util.base.errors import InputError
from qnet.util.engine.metrics import dice
from qnet.util.label.client import running
from qnet.util.label.run import Runner
from qnet.util.label.serve import load_task
from qnet.util.label.session import Session
from qnet.util.taskfile.task_file import manifest_of
from tests.labelling import FAST, drawing, nifti, refusal, served, wait_until, write_scans
from tests.programs import predict
from tests.toy import toy_case, write

pytestmark = [pytest.mark.whole, pytest.mark.usefixtures("warm")]
TRUTH = {f"a_{number}": toy_case(number)[1] for number in (1, 2, 3)}
CLASSES = [{"value": value, "name": f"organ {value}", "colour": "#e69f00"} for value in (1, 2, 3, 4)]


@pytest.fixture
def folder(tmp_path):
    return write_scans(tmp_path / "scans", [1, 2, 3])


def outlines(folder, name):
    """The present outlines of a scan, as the page gets them."""
    hand, found = folder / f"label_page/hand/{name}.nii.gz", sorted((folder / "label_page/found").glob(f"{name}.*.nii.gz"))
    return np.asarray(nibabel.load(hand if hand.exists() else found[-1]).dataobj).T


def mean_dice(folder, name):
    found = outlines(folder, name)
    return np.mean([dice(found == value, TRUTH[name] == value) for value in (1, 2, 3, 4)])


def exported(client):
    written = client.export()
    with (Path(written["folder"]) / "cases.csv").open(newline="", encoding="utf-8") as file:
        return written, list(csv.DictReader(file))


def test_outline_one_get_the_rest_correct_one_again_and_export(folder):
    with served(Session(folder), FAST) as client:
        client.tell("PUT", "/api/v1/classes", {"classes": CLASSES})
        client.draw("a_1", nifti(TRUTH["a_1"]))
        client.set_done("a_1")
        ended = client.run()
        assert ended["done"] == ended["total"] == 2 and ended["message"] == "2 of 2 scans outlined."
        assert min(mean_dice(folder, name) for name in ("a_2", "a_3")) > 0.7
        found = [scan for scan in client.state()["scans"] if scan["state"] == "found"]
        assert [scan["confidence"] for scan in found] == sorted(scan["confidence"] for scan in found) and len(found) == 2
        worst, other = (scan["name"] for scan in found)
        client.draw(worst, nifti(TRUTH[worst]))
        client.set_done(worst)
        assert client.scan(worst)["state"] == "corrected"
        before = client.scan(other)["found"]
        assert client.run()["total"] == 1           # neither the example nor what was corrected
        assert client.scan(other)["found"] != before and (outlines(folder, worst) == TRUTH[worst]).all()
        client.set_done(other)
        assert refusal(*client.ask("POST", "/api/v1/run", {"careful": False})).startswith("No scan is left to outline")
        written, rows = exported(client)
        assert sorted(written["files"]) == ["a_1.nii.gz", "a_2.nii.gz", "a_3.nii.gz", "cases.csv", "examples.task"]
        assert len(rows) == 12
        assert {(row["scan"], row["state"]) for row in rows} == {("a_1", "outlined"), (worst, "corrected"), (other, "accepted")}
        assert {row["label_name"] for row in rows} == {one["name"] for one in CLASSES}
        seconds = client.state()["run"]["seconds"]
        assert all(bool(row["confidence"]) == (row["scan"] == other) for row in rows)
        map_of_worst = nibabel.load(Path(written["folder"]) / f"{worst}.nii.gz")
        scan = nibabel.load(folder / f"{worst}.nii.gz")
        assert (TRUTH[worst] == np.asarray(map_of_worst.dataobj).T).all() and np.allclose(map_of_worst.affine, scan.affine)
        volume = next(float(row["volume_ml"]) for row in rows if row["scan"] == worst and row["label"] == "2")
        assert volume == pytest.approx((TRUTH[worst] == 2).sum() * 2 * 2 * 7.7 / 1000, abs=0.01)
        assert exported(client)[1] == rows          # again, over its own files
        write(Path(written["folder"]) / "a_1.nii.gz", drawing())
        assert "was changed since" in refusal(*client.ask("POST", "/api/v1/export", {"formats": []}))
    with closing(Session(folder)) as session:
        assert Runner(session).progress.seconds == seconds > 0
        session.own.write("pace.json", b'{"seconds": -1}')
        assert Runner(session).progress.seconds is None


def test_a_name_with_a_slash_goes_from_the_page_to_a_report(folder, tmp_path):
    names = {1: "L/R kidney", 2: 'a "b" = c', 3: "$^$", 4: "C:\\d"}
    classes = [{"value": value, "name": name, "colour": f"#00000{value}"} for value, name in names.items()]
    with served(Session(folder)) as client:
        client.tell("PUT", "/api/v1/classes", {"classes": classes})
        client.draw("a_1", nifti(TRUTH["a_1"]))
        client.set_done("a_1")
        written, rows = exported(client)
    task = Path(written["folder"]) / "examples.task"
    assert [row["label_name"] for row in rows] == list(names.values())
    assert manifest_of(task).names == names
    predict(task=task, query=folder / "a_2.nii.gz", output=tmp_path / "out", save_probs=True,
            registration={"finest": 4.0, "affine": False, "n_steps": 1})
    assert {path.name for path in (tmp_path / "out").glob("*_prob.nii.gz")} == {
        f"a_2_{name}_prob.nii.gz" for name in ("L%2FR_kidney", "a_%22b%22_=_c", "$^$", "C%3A%5Cd")}
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    content = json.loads(page.split('id="content">')[1].split("</script>")[0])
    assert content["labels"] == classes and len(content["views"][0]["probabilities"]) == 4
    other = Session(write_scans(tmp_path / "other", [3]))
    load_task(other, task)
    assert other.classes == classes
    other.close()


def test_nothing_to_learn_from(folder):
    with served(Session(folder), FAST) as client:
        assert "Nothing is outlined yet" in refusal(*client.ask("POST", "/api/v1/run", {"careful": False}))
        client.draw("a_1", nifti(drawing()))        # not done
        assert "Nothing is outlined yet" in refusal(*client.ask("POST", "/api/v1/run", {"careful": False}))


def test_a_scan_that_fails_is_named_and_the_others_are_done(folder):
    write(folder / "a_2.nii.gz", np.ones((8, 64, 64), np.int16))
    with served(Session(folder), FAST) as client:
        client.tell("POST", "/api/v1/scans/a_1/load", {"labels": "truth/a_1.nii.gz"})
        ended = client.run()
        (failure,) = ended["failures"]
        assert failure.startswith("a_2: ") and "constant" in failure and ended["message"] == "1 of 2 scans outlined."
        assert client.scan("a_2")["state"] == "empty" and client.scan("a_3")["state"] == "found"


def test_stopped_and_the_page_answers_meanwhile(folder):
    """Within 100 ms by the clock of a loaded machine: nine in ten, and the middle within 50."""
    slow = {"n_steps": 4000}
    with served(Session(folder), slow) as client:
        client.tell("POST", "/api/v1/scans/a_1/load", {"labels": "truth/a_1.nii.gz"})
        client.tell("POST", "/api/v1/run", {"careful": False})
        wait_until(lambda: client.state()["run"]["current"])
        assert "is at work" in refusal(*client.ask("POST", "/api/v1/run", {"careful": False}))
        seconds = []
        for path in 20 * ["/api/v1/state", "/api/v1/scans/a_1/image", "/api/v1/scans/a_1/outlines"]:
            begun = time.perf_counter()
            assert client.ask("GET", path)[0] == 200
            seconds.append(time.perf_counter() - begun)
        client.draw("a_3", nifti(drawing()))
        assert client.state()["run"]["state"] == "running"
        assert statistics.median(seconds) < 0.05 and sorted(seconds)[int(0.9 * len(seconds))] < 0.1
        client.tell("POST", "/api/v1/stop")
        wait_until(lambda: client.state()["run"]["state"] == "idle", 10)
        assert client.state()["run"]["message"] == "Stopped." and client.scan("a_3")["state"] == "drawing"
        client.tell("POST", "/api/v1/stop")            # nothing to stop
        assert client.state()["run"]["state"] == "idle"


def test_stopped_before_it_began(folder):
    with served(Session(folder), FAST) as client:
        client.tell("POST", "/api/v1/scans/a_1/load", {"labels": "truth/a_1.nii.gz"})
        client.tell("POST", "/api/v1/run", {"careful": False})
        client.tell("POST", "/api/v1/stop")
        wait_until(lambda: client.state()["run"]["state"] == "idle", 20)
        assert client.state()["run"]["message"] == "Stopped." and client.scan("a_2")["state"] == "empty"


def test_a_process_that_dies_is_told(folder):
    with served(Session(folder), {"n_steps": 4000}) as client:
        client.tell("POST", "/api/v1/scans/a_1/load", {"labels": "truth/a_1.nii.gz"})
        client.tell("POST", "/api/v1/run", {"careful": False})
        wait_until(lambda: client.state()["run"]["state"] == "running")
        (worker,) = workers(os.getpid())
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: client.state()["run"]["state"] == "idle", 10)
        assert client.state()["run"]["message"].startswith("The run ended with an error: ")


@pytest.mark.slow
def test_careful_takes_the_way_by_other_scans(folder):
    with served(Session(folder), FAST) as client:
        client.tell("POST", "/api/v1/scans/a_1/load", {"labels": "truth/a_1.nii.gz"})
        assert client.run()["done"] == 2
        quick = outlines(folder, "a_2")
        assert client.run(careful=True)["done"] == 2
        assert (outlines(folder, "a_2") != quick).any() and mean_dice(folder, "a_2") > 0.5


def workers(parent):
    """The processes below a process that segment (Linux)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            line = path.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if (parent is None or int(words[1]) == parent) and b"qnet.util.label.worker" in line and words[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_a_killed_server_takes_its_worker_along_and_keeps_what_was_found(folder):
    with running(folder, ["--outlined", "a_1=truth/a_1.nii.gz"]) as (client, process):
        client.tell("POST", "/api/v1/run", {"careful": False})
        wait_until(lambda: client.state()["run"]["done"] == 1)
        (worker,) = workers(process.pid)
        process.kill()
        process.wait()
        wait_until(lambda: worker not in workers(None), 10)
    with running(folder, ["--outlined", "a_1=truth/a_1.nii.gz"]) as (client, _):
        states = [scan["state"] for scan in client.state()["scans"]]
        assert states.count("found") >= 1 and states.count("outlined") == 1
        if "empty" in states:
            assert client.run()["done"] == 2


@pytest.mark.slow
def test_a_task_file_goes_out_and_comes_in(folder, tmp_path):
    with served(Session(folder), FAST) as client:
        client.tell("PUT", "/api/v1/classes", {"classes": CLASSES})
        client.tell("POST", "/api/v1/scans/a_1/load", {"labels": "truth/a_1.nii.gz"})
        written, _ = exported(client)
        task = Path(written["folder"]) / "examples.task"
        renamed = [{**one, "name": f"{one['name']}/"} for one in CLASSES]
        client.tell("PUT", "/api/v1/classes", {"classes": renamed})
        assert "examples.task: " in refusal(*client.ask("POST", "/api/v1/export", {"formats": []}))     # no name for a file
    others = write_scans(tmp_path / "others", [2])
    session = Session(others)
    load_task(session, task)
    assert [(one["value"], one["name"]) for one in session.classes] == [(value, f"organ {value}") for value in (1, 2, 3, 4)]
    with served(session) as client:
        assert client.run()["message"] == "1 of 1 scans outlined."
        assert mean_dice(others, "a_2") > 0.7
    damaged = tmp_path / "damaged.task"
    damaged.write_bytes(task.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"damaged\.task"):
        load_task(session, damaged)
