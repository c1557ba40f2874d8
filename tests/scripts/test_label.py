"""scripts/label.py: what it refuses in one line, and existing outlines from the command line."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from contextlib import closing

import pytest

from qnet.scripts.label import main, outlined_pairs
from qnet.util.base.own_folder import OwnFolder
from qnet.util.base.root import ROOT
from qnet.util.label.client import PageClient
from qnet.util.label.serve import load_found, load_outlined, write_way
from qnet.util.label.session import Session
from qnet.util.predict.cases import TABLE, write_cases
from tests.labelling import drawing, nifti, wait_until, write_scans
from tests.toy import write


@pytest.fixture
def folder(tmp_path):
    return write_scans(tmp_path / "my scans", [1, 2])


@pytest.mark.parametrize(("arguments", "said"), [
    (["{folder}/nothing"], "nothing: no such folder"), (["{folder}", "--pattern", "b*"], "holds no scan named b*"),
    (["{folder}", "--outlined", "a_1"], "--outlined: got 'a_1', allowed: SCAN=LABELS"),
    (["{folder}", "--outlined", "a_9=truth/a_1.nii.gz"], "--outlined: 'a_9' is no scan of {folder}"),
    (["{folder}", "--outlined", "a_1=nothing.nii.gz"], "nothing.nii.gz: no such file"),
    (["{folder}", "--outlined", "a_1=small.nii.gz"], "size (x, y, z)"),
    (["{folder}", "--port", "99999"], "--port: 99999 cannot be had"),
    (["{folder}", "--port", "{taken}"], "--port: {taken} cannot be had"),
])
@pytest.mark.usefixtures("handlers_stay")
def test_refused_in_one_line(arguments, said, folder, capsys):
    write(folder / "truth/small.nii.gz", drawing()[:4])
    (folder / "truth/small.nii.gz").rename(folder / "small.nii.gz")
    with socket.create_server(("127.0.0.1", 0)) as held:
        filled = [text.replace("{folder}", str(folder)).replace("{taken}", str(held.getsockname()[1])) for text in arguments]
        assert main([*filled, "--no-browser"]) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ") and told.count("\n") == 1
        assert said.replace("{folder}", str(folder)).replace("{taken}", str(held.getsockname()[1])) in told


def test_the_same_command_again_keeps_what_was_drawn_since(folder):
    session = Session(folder)
    pairs = outlined_pairs(["a_1=truth/a_1.nii.gz"], session)
    assert load_outlined(session, pairs) == []
    session.draw("a_1", nifti(drawing()), 1)
    before = session.hand_file("a_1").read_bytes()
    session.close()
    session = Session(folder)
    (line,) = load_outlined(session, pairs)
    assert line.startswith("a_1: its outlines by hand are kept") and session.hand_file("a_1").read_bytes() == before
    session.close()


def test_the_address_reaches_the_browser_by_a_file_that_others_cannot_read(tmp_path):
    folder = OwnFolder(tmp_path / "own")
    way = folder.path / "open.html"
    way.write_text("of a server that was killed", encoding="utf-8")
    assert write_way("http://127.0.0.1:1/#token=secret", folder) == way.as_uri()
    assert stat.S_IMODE(way.stat().st_mode) == 0o600 and "http://127.0.0.1:1/#token=secret" in way.read_text(encoding="utf-8")


@pytest.mark.whole
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal_it_leaves_no_way_to_the_page_and_no_traceback(number, folder):
    command = [sys.executable, str(ROOT / "scripts/label.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BROWSER": "true", "DISPLAY": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment) as process:
        way = folder / "label_page/open.html"
        wait_until(way.exists)
        assert stat.S_IMODE(way.stat().st_mode) == 0o600
        (address,) = re.findall(r"open (http://127\.0\.0\.1:\d+/#token=\S+)",
                                process.stdout.readline() + process.stdout.readline())
        assert PageClient(address).state()["scans"]
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1] == f"stopped by {signal.Signals(number).name}; the same command goes on"
    assert "Traceback" not in errors
    assert not way.exists() and not list((folder / "label_page").glob(".work-*"))


def segmented(folder, output):
    """The output of `qnet segment` for two scans of a folder, and for one that is not there."""
    rows = {}
    for name, confidence in (("a_1", 0.4), ("a_2", 0.8), ("elsewhere", 0.9)):
        write(output / f"{name}.nii.gz", drawing(3))
        numbers = {"volume_ml": 1.5, "slices": 2, "confidence": confidence}
        rows[name] = [{"query": name, "label": 3, "label_name": "spleen", **numbers}]
    write_cases(output / TABLE, {}, rows)
    return output


def test_what_segment_found_is_opened_to_correct_it(folder, tmp_path):
    output = segmented(folder, tmp_path / "outlined")
    with closing(Session(folder)) as session:
        session.draw("a_2", nifti(drawing()), 0)
        assert load_found(session, output) == [f"a_2: its outlines are kept; {output / 'a_2.nii.gz'} is not read again",
                                               f"1 of 2 scans with outlines of {output}"]
        scans = {scan["name"]: scan for scan in session.overview()["scans"]}
        assert [scans[name]["state"] for name in ("a_1", "a_2")] == ["found", "drawing"]
        assert scans["a_1"]["confidence"] == 0.4 and session.classes[-1]["name"] == "spleen"
        assert (session.present("a_1", 0)[0] == drawing(3)).all()
    with closing(Session(folder)) as session:
        assert session.state_of("a_1") == "found"


def test_a_folder_that_segment_did_not_write_is_refused(folder, tmp_path, capsys):
    assert main([str(folder), "--found", str(tmp_path), "--no-browser"]) == 2
    assert "cases.csv: names no scan of" in capsys.readouterr().err
