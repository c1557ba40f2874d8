"""The labelling page's requests from Python: for the checks, and for programs in the place of a person."""

from __future__ import annotations

import gzip
import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import nibabel
import numpy as np

from qnet.util.base.root import ROOT, module_environment
from qnet.util.label.gate import TOKEN_HEADER
from qnet.util.label.strokes import changes_between, pack, unpack

PROGRAM = ROOT / "scripts/label.py"

WAIT_S = 60.0


class Client:
    """Sends requests as the page does.

    Args:
        address: that label.sh printed, with the token.
    """

    def __init__(self, address: str):
        split = urlsplit(address)
        self.address, self.host, self.token = address, split.netloc, split.fragment.removeprefix("token=")
        self.headers = {"Origin": f"http://{self.host}", TOKEN_HEADER: self.token}

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Send a request, and return status and body of the answer. A body that is no bytes is sent as JSON."""
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = HTTPConnection(self.host, timeout=WAIT_S)
        try:
            connection.request(method, path, content, self.headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def tell(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request, and return the JSON of the answer.

        Raises:
            RuntimeError: it was refused.
        """
        status, content = self.ask(method, path, body)
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {content.decode(errors='replace')}")
        return json.loads(content)

    def state(self) -> dict[str, Any]:
        """Return what the page shows."""
        return self.tell("GET", "/api/state")

    def scan(self, name: str) -> dict[str, Any]:
        """Return what the page shows of a scan."""
        return next(scan for scan in self.state()["scans"] if scan["name"] == name)

    def draw(self, name: str, label_map: bytes) -> None:
        """Save a scan's outlines as after a stroke. The label map is the content of a NIfTI file."""
        self.tell("PUT", f"{scan_path(name, 'outlines')}?drawn={self.scan(name)['drawn']}", label_map)

    def present(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return a scan's present outlines, (D, H, W) uint8; empty ones of that shape if there are none."""
        status, content = self.ask("GET", scan_path(name, "outlines"))
        if status == 204:
            return np.zeros(shape, np.uint8)
        image = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
        return np.asarray(image.dataobj).transpose(2, 1, 0).astype(np.uint8)

    def change(self, name: str, before: np.ndarray, after: np.ndarray, slices: Mapping[str, Any]) -> None:
        """Save what makes one (D, H, W) label map another, as a stroke.

        Args:
            slices: those that a person made, as in hand/<scan>.json.
        """
        said = {"drawn": self.scan(name)["drawn"], "stroke": secrets.token_hex(8), "slices": slices}
        self.tell("PATCH", scan_path(name, "outlines"), pack(said, changes_between(before, after)))

    def propose(self, name: str, label_map: np.ndarray, tool: str, **asked: Any) -> tuple[np.ndarray, list[int]]:
        """Return what a tool of the page makes of a scan's present (D, H, W) label map, and which slices it filled.

        Raises:
            RuntimeError: it has nothing to work on.
        """
        status, content = self.ask("POST", scan_path(name, "propose"), {"drawn": self.scan(name)["drawn"], "tool": tool, **asked})
        if status >= 400:
            raise RuntimeError(f"{tool}: {content.decode(errors='replace')}")
        said, changes = unpack(content, dict[str, Any])
        return changes.applied(label_map), said["filled"]

    def set_done(self, name: str, done: bool = True) -> None:
        """Accept a scan's outlines, or make them an example, or take that back."""
        self.tell("POST", scan_path(name, "done"), {"done": done})

    def run(self, careful: bool = False, limit_s: float = 3600) -> dict[str, Any]:
        """Outline the others, wait until that has ended, and return how.

        Raises:
            RuntimeError: it was refused, or takes longer than `limit_s`.
        """
        self.tell("POST", "/api/run", {"careful": careful})
        deadline = time.monotonic() + limit_s
        while (run := self.state()["run"])["state"] != "idle":
            if time.monotonic() > deadline:
                raise RuntimeError(f"the run takes longer than {limit_s} s: {run}")
            time.sleep(0.2)
        return run


def scan_path(name: str, what: str) -> str:
    """Return the path of a request about a scan."""
    return f"/api/scans/{quote(name, safe='')}/{what}"


@contextmanager
def running(folder: Path, options: Sequence[str] = (),
            program: Path | Sequence[str | Path] = PROGRAM, environment: Mapping[str, str] | None = None,
            ) -> Iterator[tuple[Client, subprocess.Popen[str]]]:
    """Run scripts/label.py, or a program like it, on a folder, and yield a client and the process. It is ended with the block.

    Args:
        program: a file of Python, or a command.
        environment: of the process; default: in which it finds this package.

    Raises:
        RuntimeError: it did not start; with what it said.
    """
    begin = [sys.executable, str(program)] if isinstance(program, Path) else list(map(str, program))
    command = [*begin, str(folder), "--no-browser", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
                          env=module_environment() if environment is None else environment) as process:
        assert process.stdout is not None
        try:
            yield Client(_address(process)), process
        finally:
            process.terminate()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if match := re.match(r"open (http://\S+)", line):
            return match[1]
    raise RuntimeError("".join(said).strip())
