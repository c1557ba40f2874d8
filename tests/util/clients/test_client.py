"""The client, against the real server: what it sends and gets, whom it takes for a server, and what it needs."""

import ast
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from shutil import copytree

import nibabel
import numpy as np
import pytest

from qnet.util.base.own_folder import OwnFolder
from qnet.util.base.root import ROOT, module_environment
from qnet.util.clients.client import Client, ClientError, NoServerError
from qnet.util.label.serve import keep_address
from qnet.util.label.session import Session
from tests.labelling import TOKEN, drawing, nifti, served, write_scans
from tests.toy import AFFINE, toy_case

FILE = ROOT / "util/clients/client.py"
COMMAND = (sys.executable, str(ROOT / "tests/label_fast.py"))
COLOURS = {"one": "#aa0000", "two": "#00aa00", "three": "#0000aa", "four": "#aaaa00"}


@pytest.fixture
def folder(tmp_path):
    return write_scans(tmp_path / "scans", [1, 2])


@pytest.fixture
def client(folder):
    """Of a server in this process, whose address is kept as that of a server of its own."""
    session = Session(folder)
    with served(session) as client:
        keep_address(session.own, int(client.host.split(":")[1]), TOKEN)
        yield Client.find(folder)


def array(content):
    return np.asarray(nibabel.Nifti1Image.from_bytes(content).dataobj).T


def test_it_needs_nothing_but_python():
    ast.parse(FILE.read_text(encoding="utf-8"), feature_version=(3, 9))        # of 3D Slicer
    code = ("import sys, importlib.util as u; s = u.spec_from_file_location('client', sys.argv[1]); m = u.module_from_spec(s); "
            "s.loader.exec_module(m); assert m.Client and not {'numpy', 'msgspec', 'qnet'} & {*sys.modules}")
    assert subprocess.run([sys.executable, "-I", "-S", "-c", code, str(FILE)], check=False).returncode == 0


def test_the_document_calls_what_is_there():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.DOTALL)
    called = [ast.unparse(node.func) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    names = [name for text in called for name in re.findall(r"^[Cc]lient\.(\w+)$", text)]
    assert len(names) > 6 and not [name for name in names if not callable(getattr(Client, name, None))]


@pytest.mark.whole
@pytest.mark.usefixtures("warm")
def test_a_server_is_started_found_used_and_ended(folder):
    truth, told = {number: toy_case(number)[1] for number in (1, 2)}, []
    client = Client.open(folder, COMMAND, module_environment())
    try:
        other = Client.open(folder, ["no such program"])
        assert other.address == client.address and client.process is not None and other.process is None
        assert client.add_classes(COLOURS) == {"one": 1, "two": 2, "three": 3, "four": 4}
        assert client.draw("a_1", nifti(truth[1])) == 1
        client.set_done("a_1")
        ended = client.run(told=told.append)
        assert ended["message"] == "1 of 1 scans outlined." and told[0]["state"] == "starting" and told[-1] == ended
        (name, found), = other.found().items()
        assert name == "a_2" and array(found).shape == truth[2].shape and (array(found) == truth[2]).mean() > 0.9
        assert np.allclose(nibabel.Nifti1Image.from_bytes(found).affine, AFFINE)
        other.close()
        assert client.scans()       # it goes on: the other did not start it
    finally:
        client.close()
    with pytest.raises(NoServerError, match="does not answer"):
        Client.find(folder)


def test_scans_and_outlines(client, folder):
    assert [scan["name"] for scan in client.scans()] == ["a_1", "a_2"] and client.outlines("a_1") is None
    image = nibabel.Nifti1Image.from_bytes(client.image("a_1"))
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(nibabel.load(folder / "a_1.nii.gz").dataobj))
    assert client.draw("a_1", nifti(drawing())) == 1
    np.testing.assert_array_equal(array(client.outlines("a_1")), drawing())
    assert client.found() == {}     # by hand
    with pytest.raises(ClientError, match="a_1: was drawn on in another window since"):
        client.draw("a_1", nifti(drawing(slices=slice(1, 2))), drawn=0)
    np.testing.assert_array_equal(array(client.outlines("a_1")), drawing())
    assert client.draw("a_1", nifti(drawing(slices=slice(1, 2))), drawn=1) == 2
    written = client.export(["seg.nrrd"])
    assert written == {"folder": str(folder / "label_page/export"), "files": ["a_1.nii.gz", "a_1.seg.nrrd", "cases.csv"],
                       "problems": []}


@pytest.mark.parametrize(("ask", "said"), [
    (lambda client: client.draw("a_1", nifti(drawing()[:4])), "size (x, y, z)"),
    (lambda client: client.draw("a_1", nifti(drawing(7))), "hold the value 7, allowed: 0, 1"),
    (lambda client: client.draw("b", b""), "scan: got 'b', allowed: a_1, a_2"),
    (lambda client: client.image("a_9"), "scan: got"), (lambda client: client.run(), "Nothing is outlined yet"),
    (lambda client: client.set_done("a_1"), "a_1: is empty"), (lambda client: client.export(["obj"]), "formats: got 'obj'"),
    (lambda client: client.add_classes({"\n": "#000000"}), "classes: name: got"),
])
def test_refusals_are_the_servers_words_in_one_line(ask, said, client):
    before = client.state()
    with pytest.raises(ClientError) as caught:
        ask(client)
    assert said in str(caught.value) and "\n" not in str(caught.value) and client.state() == before


def test_classes_keep_what_is_there(client):
    assert client.add_classes({"liver": "#aa0000"}) == {"liver": 1}         # in the place of the one that nobody named
    assert client.add_classes({"spleen": "#00aa00", "liver": "#ffffff"}) == {"spleen": 2, "liver": 1}
    assert client.classes() == [{"value": 1, "name": "liver", "colour": "#aa0000"},
                                {"value": 2, "name": "spleen", "colour": "#00aa00"}]


def test_a_class_that_nobody_named_stays_if_outlines_hold_it(client):
    client.draw("a_1", nifti(drawing()))
    assert client.add_classes({"liver": "#aa0000"}) == {"liver": 2} and len(client.classes()) == 2


# ---- whom it takes for a server ----

@pytest.mark.parametrize("spoil", [
    lambda kept: {}, lambda kept: [], lambda kept: {**kept, "token": "short"}, lambda kept: {**kept, "port": 0},
    lambda kept: {**kept, "port": "80@example.org"}, lambda kept: {**kept, "folder": [1, 2]},
    lambda kept: {**kept, "token": None},
])
def test_an_address_that_the_server_did_not_keep_is_none(spoil, client, folder):
    path = folder / "label_page/address.json"
    path.write_text(json.dumps(spoil(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    with pytest.raises(NoServerError, match=r"scans: no server is at work on this folder; allowed: to start one by qnet label"):
        Client.find(folder)


def test_a_copy_of_the_folder_has_no_server(client, folder, tmp_path):
    copytree(folder, tmp_path / "copy", ignore=lambda _, names: [name for name in names if name.startswith(".work")])
    with pytest.raises(NoServerError, match="copy: no server is at work"):
        Client.find(tmp_path / "copy")


@pytest.mark.parametrize("address", ["http://example.org/#token=a", "https://127.0.0.1:1/#token=a", "http://127.0.0.1:1/", ""])
def test_only_this_machine_is_asked(address):
    with pytest.raises(ClientError, match="address: allowed: as qnet label printed it"):
        Client(address)


@pytest.mark.parametrize(("status", "answer", "error", "said"), [
    (200, '{"program": "qnet", "version": "9.0", "api": [2, 3]}', ClientError,
     r"qnet 9.0 and takes requests of the versions \[2, 3\], this client sends version 1"),
    (404, '{"error": "Not Found"}', ClientError, r"of before and takes requests of the versions \[\]"),
    (403, '{"error": "token: …"}', NoServerError, "is of another folder"),
    (200, "<html>", NoServerError, "another program answers there"), (200, "[1]", NoServerError, "another program answers there"),
])
def test_another_server_is_none_or_refused(status, answer, error, said, tmp_path):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_):
            pass

    own = OwnFolder(tmp_path / "label_page")
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        keep_address(own, server.server_port, TOKEN)
        with pytest.raises(error, match=said) as caught:
            Client.find(tmp_path)
        server.shutdown()
    own.close()
    assert type(caught.value) is error and "\n" not in str(caught.value)


@pytest.mark.parametrize(("command", "said"), [
    (["/no/such/qnet", "label"], "/no/such/qnet: cannot be started"),
    ([sys.executable, "-c", "print('one'); print('error: two')"], "two"),
    ([sys.executable, "-c", ""], "the server ended without a word"),
])
def test_a_server_that_does_not_start_says_why(command, said, tmp_path):
    with pytest.raises(ClientError) as caught:
        Client.open(tmp_path, command)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", '{"no": 1}', "", "[]", '{"error": 7}'])
def test_an_answer_without_words_is_told_all_the_same(text, client, monkeypatch):
    monkeypatch.setattr(Client, "ask", lambda *_: (500, text.encode()))
    with pytest.raises(ClientError, match="the server answered 500 without a reason"):
        client.state()
