"""Attempts to get in: every one is refused with words in JSON, and nothing changes."""

import os
import socket
import struct
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

from qnet.util.base.errors import InputError
from qnet.util.label.app import MAX_HEADER, MAX_JSON, ROUTES
from qnet.util.label.gate import REPORTS, is_code
from qnet.util.label.on_scan import read_labels
from qnet.util.label.session import Session
from tests.labelling import TOKEN, drawing, head, nifti, refusal, send_raw, served, write_scans
from tests.toy import AFFINE

SECRET = b"what no page may read"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("labelled")
    (root / "secret.txt").write_bytes(SECRET)
    write_scans(root / "elsewhere", [3])
    scans = write_scans(root / "scans", [1, 2])
    (scans / "out.nii.gz").symlink_to(root / "elsewhere/a_3.nii.gz")
    (scans / "series").mkdir()
    (scans / "series/1.dcm").symlink_to(root / "secret.txt")
    (scans / "truth/out.nii.gz").symlink_to(root / "elsewhere/truth/a_3.nii.gz")
    return scans


@pytest.fixture(scope="module")
def client(folder):
    with served(Session(folder)) as client:
        client.draw("a_1", nifti(drawing()))
        yield client


@pytest.fixture(autouse=True)
def nothing_changes(client, folder):
    def all_files():
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".made.jsonl"}

    before, shown = all_files(), client.state()
    yield
    assert all_files() == before and client.state() == shown


EVERY_ROUTE = [(method, path.replace("{name}", "a_1")) for method, path, _ in ROUTES]


@pytest.mark.parametrize(("changed", "word"), [
    ({"Label-Token": None}, "token"), ({"Label-Token": TOKEN[:-1]}, "token"), ({"Label-Token": ""}, "token"),
    ({"Label-Token": None, "Cookie": f"label-token={TOKEN}; token={TOKEN}"}, "token"),
    ({"Label-Token": "é" + TOKEN}, "token"),
    ({"Host": "evil.example"}, "host"), ({"Host": "evil.example:{port}"}, "host"),     # DNS rebinding
    ({"Host": "localhost:{port}"}, "host"), ({"Host": "127.0.0.1"}, "host"), ({"Host": "127.0.0.1:1"}, "host"),
    ({"Host": "127.0.0.1.evil.example:{port}"}, "host"),
    ({"Origin": "http://evil.example"}, "origin"), ({"Origin": "null"}, "origin"), ({"Origin": "http://127.0.0.1:1"}, "origin"),
    ({"Origin": "https://127.0.0.1:{port}"}, "origin"), ({"Origin": "http://127.0.0.1:{port}.evil.example"}, "origin"),
], ids=lambda value: str(value)[:40])
def test_strangers(changed, word, client):
    port = client.host.split(":")[1]
    filled = {name: value and value.replace("{port}", port) for name, value in changed.items()}
    for method, path in EVERY_ROUTE:
        if word == "token" and (is_code(path) or path.startswith(REPORTS)):
            continue
        status, _, body = send_raw(client, head(client, method, path, **filled))
        assert status == 403 and refusal(status, body).startswith(f"{word}: "), (method, path)


@pytest.mark.parametrize(("method", "path"), [route for route in EVERY_ROUTE if route[0] != "GET"])
def test_what_changes_something_needs_an_origin(method, path, client):
    status, _, body = send_raw(client, head(client, method, path, Origin=None))
    assert status == 403 and refusal(status, body).startswith("origin: ")


@pytest.mark.parametrize("path", [f"/api/v1/state?token={TOKEN}", f"/api/v1/state?Label-Token={TOKEN}",
                                  f"/api/v1/scans/a_1/image?token={TOKEN}"])
def test_a_token_in_an_address_counts_for_nothing(path, client):
    status, _headers, body = send_raw(client, head(client, "GET", path, Label_Token=None))
    assert status == 403 and "token" in refusal(status, body)


@pytest.mark.parametrize("path", [f"/?token={TOKEN}", "/", "/page/requests.js", "/niivue.js"])
def test_the_page_itself_needs_no_token_and_gives_no_cookie_that_would_go_to_every_port(path, client):
    status, headers, body = send_raw(client, head(client, "GET", path, Label_Token=None, Origin=None))
    assert status == 200 and "set-cookie" not in headers and TOKEN.encode() not in body


@pytest.mark.parametrize("path", ["/", "/api/v1/state", "/niivue.js", "/nothing"])
def test_headers_that_keep_the_browser_in(path, client):
    _, headers, _ = send_raw(client, head(client, "GET", path))
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin" and headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in headers and "server" not in headers


@pytest.mark.parametrize("path", [
    "/page/../app.py", "/page/..%2fapp.py", "/page/%2e%2e/app.py", "/page/..%5capp.py", "/page/....//app.py",
    "/page/page.js/../../app.py", "/page/%2fetc%2fpasswd", "//etc/passwd", "/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
    "/page/page.js%00.css", "/page/",
    "/api/v1/scans/..%2f..%2fsecret.txt/image", "/api/v1/scans/../../secret.txt/image", "/api/v1/scans/%2e%2e%2fsecret.txt/image",
    "/api/v1/scans/..%252fsecret.txt/image", "/api/v1/scans/truth%2fa_1/image", "/api/v1/scans/%00/image", "/api/v1/scans//image",
    "/api/v1/scans/label_page/image", "/api/v1/scans/a_1.nii.gz/image", "/api/v1/scans/a_1%00/image",
    "/api/v1/scans/.%2fa_1/outlines", "http://evil.example/api/v1/nothing",
    "/api/v1/scans/%ff%fe/image", "/api/v1/scans/" + 3000 * "a" + "/image"])
def test_no_way_out_of_the_folder(path, client):
    status, _, body = send_raw(client, head(client, "GET", path))
    assert status == 404 and refusal(status, body) and SECRET not in body and b"root:" not in body


@pytest.mark.parametrize("name", ["out", "series"])
def test_links_that_lead_out_are_not_followed(name, client, folder):
    assert client.scan(name)["state"] == "unreadable" and "leads out of" in client.scan(name)["problem"]
    status, body = client.ask("GET", f"/api/v1/scans/{name}/image")
    assert status == 400 and "leads out of" in refusal(status, body) and SECRET not in body
    assert refusal(*client.ask("PUT", f"/api/v1/scans/{name}/outlines?drawn=0", nifti(drawing())))


def test_a_scan_that_becomes_a_link_is_not_followed(client, folder):
    aside = folder.parent / "a_2.nii.gz"
    (folder / "a_2.nii.gz").rename(aside)
    try:
        (folder / "a_2.nii.gz").symlink_to(folder.parent / "secret.txt")
        status, body = client.ask("GET", "/api/v1/scans/a_2/image")
        assert status == 400 and "leads out of" in refusal(status, body)
        (folder / "a_2.nii.gz").unlink()
        status, body = client.ask("GET", "/api/v1/scans/a_2/image")
        assert status == 400 and "no such file" in refusal(status, body)
    finally:
        (folder / "a_2.nii.gz").unlink(missing_ok=True)
        aside.rename(folder / "a_2.nii.gz")


@pytest.mark.parametrize("labels", [
    "../secret.txt", "../elsewhere/truth/a_3.nii.gz", "/etc/passwd", "truth/out.nii.gz", "", "truth", "truth/../truth/a_2.nii.gz",
    "label_page/hand/a_1.nii.gz", "a\x00b", 5000 * "x"])
def test_outlines_are_loaded_from_the_folder_alone(labels, client):
    assert labels not in client.tell("GET", "/api/v1/files")["files"]
    status, body = client.ask("POST", "/api/v1/scans/a_2/load", {"labels": labels})
    assert status == 404 and "labels: got" in refusal(status, body)


def test_bodies_that_say_that_they_are_huge_are_not_read(client):
    for path, limit in (("/api/v1/classes", MAX_JSON), ("/api/v1/scans/a_2/outlines?drawn=0", 8 * 64 * 64 + MAX_HEADER)):
        status, _, body = send_raw(client, head(client, "PUT", path, Content_Length=str(limit + 1)))
        assert status == 413 and "at most" in refusal(status, body)
    status, _, body = send_raw(client, head(client, "PUT", "/api/v1/classes", Content_Length="9" * 30))
    assert 400 <= status < 500


def test_bodies_that_turn_out_huge_are_cut_off(client):
    chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
    request = head(client, "PUT", "/api/v1/classes", Transfer_Encoding="chunked") + 3 * chunk + b"0\r\n\r\n"
    status, _, body = send_raw(client, request)
    assert status == 413 and "at most" in refusal(status, body)


def test_a_head_without_an_end_is_cut_off(client):
    with suppress(ConnectionResetError):        # the rest of it is not read
        assert 400 <= send_raw(client, head(client, "GET", "/api/v1/state", X=2**17 * "x"))[0] < 500
    assert client.ask("GET", "/api/v1/state")[0] == 200


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"done": 1}', b'{"done": "true"}', b'{"done": null}', b'{}',
    b'{"done": true, "more": 1}',
    b"[" * 30000, b'{"done": NaN}', b'{"__proto__": {"done": true}}'])
def test_broken_json(body, client):
    status, said = client.ask("POST", "/api/v1/scans/a_1/done", body)
    assert status == 400 and "body: " in refusal(status, said)


@pytest.mark.parametrize("classes", [
    [], [1], [{}], [{"value": 1}],
    [{"value": 0, "name": "a", "colour": "#000000"}], [{"value": 256, "name": "a", "colour": "#000000"}],
    [{"value": True, "name": "a", "colour": "#000000"}], [{"value": 1, "name": "", "colour": "#000000"}],
    [{"value": 1, "name": "a\nb", "colour": "#000000"}], [{"value": 1, "name": 101 * "a", "colour": "#000000"}],
    [{"value": 1, "name": "a", "colour": "red"}], [{"value": 1, "name": "a", "colour": "#00000g"}],
    [{"value": 2, "name": "a", "colour": "#000000"}], 2 * [{"value": 1, "name": "a", "colour": "#000000"}],
    [{"value": 1, "name": "a", "colour": "#000000"}, {"value": 2, "name": "a", "colour": "#000000"}]], ids=str)
def test_bad_classes(classes, client):
    status, said = client.ask("PUT", "/api/v1/classes", {"classes": classes})
    assert status == 400 and refusal(status, said).startswith("classes: ")


MOVED = AFFINE + np.array([[0, 0, 0, 30.0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(("body", "said"), [
    (b"", "a_2: cannot be read"), (b"\x1f\x8b" + bytes(500), "cannot be read"), (os.urandom(5000), "cannot be read"),
    (nifti(drawing())[:-1], "cannot be read"), (nifti(drawing())[:300], "cannot be read"),
    (nifti(drawing()[:, :, 1:]), "size"), (nifti(drawing(), MOVED), "mm away"), (nifti(drawing(9)), "the value 9"),
    (nifti(drawing().astype(np.float32) / 2), "0.5"), (nifti(drawing().astype(np.int16) * -1), "-1"),
], ids=range(10))
def test_broken_outlines(body, said, client):
    status, answer = client.ask("PUT", "/api/v1/scans/a_2/outlines?drawn=0", body)
    words = refusal(status, answer)
    assert status == 400 and said in words and ".partial" not in words


@pytest.mark.parametrize("drawn", ["", "x", "-1", "1.5", "9" * 40, "%00"])
def test_bad_numbers_of_a_drawing(drawn, client):
    status, answer = client.ask("PUT", f"/api/v1/scans/a_2/outlines?drawn={drawn}", nifti(drawing()))
    assert status == 400 and refusal(status, answer).startswith("drawn: ")


@pytest.mark.parametrize(("method", "path"), [
    ("DELETE", "/api/v1/scans/a_1/outlines"), ("POST", "/api/v1/state"), ("GET", "/api/v1/run"), ("TRACE", "/"),
    ("OPTIONS", "/api/v1/state")])
def test_other_methods(method, path, client):
    status, body = client.ask(method, path)
    assert status == 405 and refusal(status, body)


def test_it_listens_on_this_machine_alone(client):
    port = int(client.host.split(":")[1])
    for other in {"127.0.0.2", *(info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET))}:
        if other != "127.0.0.1":
            with pytest.raises(OSError, match=r"refused|timed out"):
                socket.create_connection((other, port), 2)


def test_two_hundred_at_once(client):
    paths = ["/api/v1/state", "/api/v1/scans/a_1/image", "/api/v1/scans/a_1/outlines", "/niivue.js"]
    start = threading.Barrier(200)

    def ask(k):
        start.wait()
        return client.ask("GET", paths[k % len(paths)])[0]

    with ThreadPoolExecutor(200) as pool:
        assert set(pool.map(ask, range(200))) == {200}


def test_clients_that_leave_in_the_middle_are_no_matter_for_the_log(client, capfd, caplog):
    host, port = client.host.split(":")
    for path, said in (("/api/v1/classes", b'{"classes": '), ("/api/v1/scans/a_2/outlines?drawn=0", b"\x5c\x01"),
                       ("/api/v1/run", b"")):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head(client, "POST" if "run" in path else "PUT", path, Content_Length="1000") + said)
            time.sleep(0.1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))      # gone without a farewell
    assert client.ask("GET", "/api/v1/state")[0] == 200
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err + printed.out and not [one for one in caplog.records if one.exc_info]


def test_hostile_headers_of_a_label_map_warn_of_nothing(client, folder):
    huge, rng = nifti(drawing() * 1e300), np.random.default_rng(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for values in ([3e38] * 24, [-1e38, 1e38] * 12, [np.nan] * 24, [np.inf] * 24, *(10 ** rng.uniform(30, 38.5, (30, 24)))):
            for with_place in (False, True):
                sent = bytearray(huge)
                sent[112:120] = np.array(values[:2], "<f4").tobytes()               # slope and intercept
                if with_place:
                    sent[76:108] = np.array(values[:8], "<f4").tobytes()            # pixdim
                    sent[252:256] = np.array([1, 1], "<i2").tobytes()               # codes of qform and sform
                    sent[256:328] = np.array(values[6:24], "<f4").tobytes()
                with pytest.raises(InputError):
                    read_labels(folder / "a_2.nii.gz", _written(folder.parent / "sent.nii", bytes(sent)))


def _written(path, content):
    path.write_bytes(content)
    return path


def test_requests_that_never_end_keep_nobody_waiting(client):
    host, port = client.host.split(":")
    held = [socket.create_connection((host, int(port))) for _ in range(100)]
    try:
        for k, connection in enumerate(held):
            connection.sendall(head(client, "PUT", "/api/v1/classes", Content_Length="100")[:None if k % 2 else -10])
        assert client.ask("GET", "/api/v1/state")[0] == 200
    finally:
        for connection in held:
            connection.close()
