"""A folder to label and a server on it, as tests need them."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np

from qnet.util.label.advice import Advisor
from qnet.util.label.client import PageClient
from qnet.util.label.run import Runner
from qnet.util.label.serve import listen, make_server
from qnet.util.label.session import Session
from tests.toy import AFFINE, toy_case, write

TOKEN = "a-token-of-tests".ljust(43, "-")
FAST = {"affine": False, "finest": 1.5, "n_steps": 20}      # registration, a second for a scan


def write_scans(folder: Path, numbers: Sequence[int] = (1, 2, 3)) -> Path:
    """Write scans a_1.nii.gz, … of the toy data into a folder, and their true outlines below truth/."""
    for number in numbers:
        image, label_map, _ = toy_case(number)
        write(folder / f"a_{number}.nii.gz", image.astype(np.int16))
        write(folder / f"truth/a_{number}.nii.gz", label_map)
    return folder


def nifti(label_map: np.ndarray, affine: np.ndarray = AFFINE) -> bytes:
    """Return a (D, H, W) label map as the content of a NIfTI file."""
    return nibabel.Nifti1Image(label_map.transpose(2, 1, 0), affine).to_bytes()


def drawing(value: int = 1, slices: slice = slice(3, 5)) -> np.ndarray:
    """A square in a few slices of a toy case."""
    label_map = np.zeros((8, 64, 64), np.uint8)
    label_map[slices, 10:30, 10:30] = value
    return label_map


@contextmanager
def served(session: Session, registration: dict | None = None, advisor: Advisor | None = None) -> Iterator[PageClient]:
    """Serve a session in a thread of this process, and yield a client."""
    listening = listen(0)
    port = listening.getsockname()[1]
    runner = Runner(session, registration)
    server = make_server(session, runner, port, TOKEN, advisor)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield PageClient(f"http://127.0.0.1:{port}/#token={TOKEN}")
    finally:
        server.should_exit = True
        thread.join()
        runner.close()
        session.close()


def send_raw(client: PageClient, request: bytes, wait_s: float = 20) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, and return status, headers and body of the answer."""
    host, port = client.host.split(":")
    with socket.create_connection((host, int(port)), wait_s) as connection:
        connection.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer or not _is_whole(answer):
            received = connection.recv(2**16)
            if not received:
                break
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, body


def _is_whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(length) and len(body) >= int(length[0].split(b":")[1])


def head(client: PageClient, method: str, path: str, **changed: str | None) -> bytes:
    """Return the head of a request as the page sends it, with some headers changed, or left out where None."""
    headers = {"Host": client.host, **client.headers, **{name.replace("_", "-"): value for name, value in changed.items()}}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items() if value is not None)]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def refusal(status: int, body: bytes) -> str:
    """Return the words of an answer that must be a refusal in JSON."""
    assert 400 <= status < 500, (status, body[:200])
    said = json.loads(body)
    assert list(said) == ["error"] and "Traceback" not in said["error"]
    return said["error"]


def wait_until(condition, limit_s: float = 60) -> None:
    """Wait until a function returns something true."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
