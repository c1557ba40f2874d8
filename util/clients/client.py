"""The requests of the labelling page from Python: start or find the server of a folder, send outlines, run, take what was found.

docs/api.md explains the requests. This file needs Python 3.9 and nothing else, so that programs with a Python of their own, as 3D
Slicer, load it as it lies here.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from typing import Self

VERSION = 1                     # of the requests
API = f"/api/v{VERSION}"
TOKEN_HEADER = "Label-Token"
FOLDER, ADDRESS = "label_page", "address.json"      # where the server of a folder keeps port and token
COMMAND = ("qnet", "label")     # starts a server
WAIT_S = 60.0                   # for an answer
CHECK_S = 10.0                  # for the answer of what may be no server
EXPORT_S, RUN_S = 3600.0, 86400.0
POLL_S = 0.2
CLOSE_S = 20.0                  # for a server that was told to end
GZIP = b"\x1f\x8b"


class ClientError(RuntimeError):
    """A request was refused, or there is no server: one line, for the person."""


class NoServerError(ClientError):
    """No server is at work on a folder."""


class Client:
    """Sends requests to the server of a folder of scans, as the page does.

    Outlines are label maps on the voxels of their scan, as the content of NIfTI files: 0 outside, and the values of the classes.

    Args:
        address: that `qnet label` printed, with the token: "http://127.0.0.1:PORT/#token=TOKEN".
    Attributes:
        process: of the server, if this client started it.
    Raises:
        ClientError: the address is none of this machine.
    """

    def __init__(self, address: str):
        split = urlsplit(address)
        if split.scheme != "http" or split.hostname != "127.0.0.1" or not split.fragment.startswith("token="):
            raise ClientError("address: allowed: as qnet label printed it, http://127.0.0.1:PORT/#token=TOKEN")
        self.address, self.host, self.token = address, split.netloc, split.fragment[len("token="):]
        self.headers = {"Origin": f"http://{self.host}", TOKEN_HEADER: self.token}
        self.process: subprocess.Popen[str] | None = None

    # ---- the server ----

    @classmethod
    def open(cls, folder: str | Path, command: Sequence[str] = COMMAND, environment: Mapping[str, str] | None = None) -> Self:
        """Return a client of the server that is at work on a folder of scans; if there is none, start one.

        Args:
            command: starts a server, without the folder; `start` explains it.
            environment: of that server.
        Raises:
            ClientError: the server speaks another version, or could not be started.
        """
        try:
            return cls.find(folder)
        except NoServerError:
            return cls.start([*command, str(folder), "--no-browser"], environment)

    @classmethod
    def find(cls, folder: str | Path) -> Self:
        """Return a client of the server that is at work on a folder of scans.

        Raises:
            NoServerError: there is none.
            ClientError: it speaks another version.
        """
        kept = _kept(Path(folder) / FOLDER)
        if kept is None:
            raise NoServerError(f"{folder}: no server is at work on this folder; allowed: to start one by qnet label {folder}")
        client = cls("http://127.0.0.1:{port}/#token={token}".format(**kept))
        client.check()
        return client

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Self:
        """Start a server, and return its client. `close` ends it; so do Ctrl-C and the end of the session, and nothing is lost.

        Args:
            command: as ("qnet", "label", "scans/", "--no-browser").
            environment: of the server; default: that of this process.
        Raises:
            ClientError: it did not start; with what it said.
        """
        try:
            process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       encoding="utf-8", errors="replace", env=None if environment is None else dict(environment))
        except OSError as error:
            raise ClientError(f"{command[0]}: cannot be started ({error.strerror}); allowed: the command qnet of an installation "
                              "of this program") from None
        try:
            client = cls(_address(process))
            client.process = process
            client.check()
        except BaseException:
            _end(process)
            raise
        return client

    def check(self) -> None:
        """Check that the server is one of this program, and takes the requests of this client.

        Raises:
            NoServerError: nobody answers, or another program does.
            ClientError: the server speaks another version.
        """
        status, content = self.ask("GET", "/api", limit_s=CHECK_S)
        if status == 403:
            raise NoServerError(f"{self.host}: the server there is of another folder")
        try:
            about = json.loads(content)
            versions = about.get("api", [])
        except (ValueError, AttributeError):
            raise NoServerError(f"{self.host}: another program answers there") from None
        if VERSION not in versions:
            raise ClientError(f"the server is of qnet {about.get('version', 'of before')} and takes requests of the versions "
                              f"{versions}, this client sends version {VERSION}; allowed: both of one version of qnet")

    def close(self) -> None:
        """End the server if this client started it. Nothing is lost; a run that is at work ends."""
        if self.process is not None:
            _end(self.process)
            self.process = None

    # ---- requests ----

    def ask(self, method: str, path: str, body: Any = None, limit_s: float = WAIT_S) -> tuple[int, bytes]:
        """Send a request, and return status and body of the answer. A body that is no bytes is sent as JSON.

        Raises:
            NoServerError: nobody answers within `limit_s` seconds.
        """
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = HTTPConnection(self.host, timeout=limit_s)
        try:
            connection.request(method, path, content, self.headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, HTTPException) as error:
            raise NoServerError(f"{self.host}: the server does not answer ({error or type(error).__name__})") from None
        finally:
            connection.close()

    def get(self, method: str, path: str, body: Any = None, limit_s: float = WAIT_S) -> bytes:
        """Send a request, and return the body of the answer.

        Raises:
            ClientError: it was refused, with the server's words; or nobody answers.
        """
        status, content = self.ask(method, path, body, limit_s)
        if status >= 400:
            raise ClientError(_error(status, content))
        return content

    def tell(self, method: str, path: str, body: Any = None, limit_s: float = WAIT_S) -> Any:
        """Send a request as `get` does, and return the JSON of the answer."""
        return json.loads(self.get(method, path, body, limit_s))

    # ---- scans, classes and outlines ----

    def state(self) -> dict[str, Any]:
        """Return what the page shows."""
        return self.tell("GET", f"{API}/state")

    def scans(self) -> list[dict[str, Any]]:
        """Return what the page shows of each scan, those to look at first in front: "name", "state", "confidence" and others."""
        return self.state()["scans"]

    def scan(self, name: str) -> dict[str, Any]:
        """Return what the page shows of a scan.

        Raises:
            ClientError: there is no such scan.
        """
        scans = self.scans()
        for scan in scans:
            if scan["name"] == name:
                return scan
        raise ClientError(f"scan: got {name!r}, allowed: {', '.join(scan['name'] for scan in scans)}")

    def classes(self) -> list[dict[str, Any]]:
        """Return the classes, each with "value", "name" and "colour" (as #e69f00)."""
        return self.state()["classes"]

    def set_classes(self, classes: Sequence[Mapping[str, Any]]) -> None:
        """Take names and colours of the classes. One that no outlines hold may go."""
        self.tell("PUT", f"{API}/classes", {"classes": [dict(one) for one in classes]})

    def add_classes(self, colours: Mapping[str, str]) -> dict[str, int]:
        """Return the value of each class, by name. Those that are new are added.

        Args:
            colours: of the classes, by name. Classes that are there keep theirs.
        """
        state = self.state()
        classes = list(state["classes"])
        if not state["named"] and not any(scan["drawn"] or scan["found"] for scan in state["scans"]):
            classes = []        # the one that stands for what the person will name
        values = {one["name"]: one["value"] for one in classes}
        for name, colour in colours.items():
            if name not in values:
                values[name] = max(values.values(), default=0) + 1
                classes.append({"value": values[name], "name": name, "colour": colour})
        if classes != state["classes"]:
            self.set_classes(classes)
        return {name: values[name] for name in colours}

    def image(self, name: str) -> bytes:
        """Return a scan as the content of a NIfTI file, not compressed, on whose voxels outlines are."""
        return _plain(self.get("GET", scan_path(name, "image")))

    def outlines(self, name: str) -> bytes | None:
        """Return the present outlines of a scan, by hand or found, as the content of a NIfTI file, not compressed.

        None if there are none.
        """
        return _plain(self.get("GET", scan_path(name, "outlines"))) or None

    def draw(self, name: str, label_map: bytes, drawn: int | None = None) -> int:
        """Save a scan's outlines as a whole: all of its slices are as they should be. What was there is replaced.

        Args:
            label_map: the content of a NIfTI file, compressed or not, with values of classes.
            drawn: the scan's "drawn" when its outlines were read. If somebody drew since, nothing is saved. Default: the
                present one.
        Returns:
            How often they were saved now.
        Raises:
            ClientError: it does not fit the scan, or somebody drew on the scan since.
        """
        before = self.scan(name)["drawn"] if drawn is None else drawn
        return self.tell("PUT", f"{scan_path(name, 'outlines')}?drawn={before}", _plain(label_map))["drawn"]

    def set_done(self, name: str, done: bool = True) -> None:
        """Accept a scan's outlines, or make them an example, or take that back."""
        self.tell("POST", scan_path(name, "done"), {"done": done})

    # ---- runs ----

    def begin(self, careful: bool = False) -> None:
        """Begin to outline the other scans, from all examples.

        Args:
            careful: by way of other scans of the folder; better, and takes several times as long.
        """
        self.tell("POST", f"{API}/run", {"careful": careful})

    def progress(self) -> dict[str, Any]:
        """Return how far the run is: "state" (of which "idle" is the end), "done", "total", "current", "failures", "message"."""
        return self.state()["run"]

    def stop(self) -> None:
        """Stop the run. What it has found stays."""
        self.tell("POST", f"{API}/stop")

    def run(self, careful: bool = False, limit_s: float = RUN_S, told: Callable[[dict[str, Any]], None] | None = None,
            ) -> dict[str, Any]:
        """Outline the other scans, wait until that has ended, and return the progress then.

        Args:
            told: is given the progress whenever it changed.
        Raises:
            ClientError: it was refused, or takes longer than `limit_s`.
        """
        self.begin(careful)
        deadline, last = time.monotonic() + limit_s, None
        while True:
            progress = self.progress()
            if told is not None and progress != last:
                told(progress)
            if progress["state"] == "idle":
                return progress
            if time.monotonic() > deadline:
                raise ClientError(f"the run takes longer than {limit_s} s: {progress}")
            last = progress
            time.sleep(POLL_S)

    def found(self) -> dict[str, bytes]:
        """Return the outlines of the scans that the computer outlined and nobody corrected, by name, as `outlines` does."""
        names = [scan["name"] for scan in self.scans() if scan["state"] in ("found", "accepted")]
        return {name: content for name in names if (content := self.outlines(name)) is not None}

    def export(self, formats: Sequence[str] = ()) -> dict[str, Any]:
        """Write label maps, cases.csv and task file, and return "folder", "files", and "problems", a line each.

        Args:
            formats: besides NIfTI, as "seg.nrrd".
        """
        return self.tell("POST", f"{API}/export", {"formats": list(formats)}, EXPORT_S)


def scan_path(name: str, what: str) -> str:
    """Return the path of a request about a scan."""
    return f"{API}/scans/{quote(name, safe='')}/{what}"


def _error(status: int, content: bytes) -> str:
    try:
        said = json.loads(content)["error"]
    except (ValueError, LookupError, TypeError):
        said = None
    return said if isinstance(said, str) else f"the server answered {status} without a reason"


def _plain(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(GZIP) else content


def _kept(folder: Path) -> dict[str, Any] | None:
    """Return port and token of the last server of a folder; None if they are not this person's, or of a copy of the folder."""
    try:
        status = folder.stat()
        kept = json.loads((folder / ADDRESS).read_text(encoding="utf-8"))
        is_own = not hasattr(os, "getuid") or os.getuid() in (status.st_uid, 0)
        is_whole = re.fullmatch(r"[A-Za-z0-9_-]{43}", kept["token"]) and type(kept["port"]) is int and 0 < kept["port"] < 2**16
        return kept if is_own and is_whole and kept["folder"] == [status.st_dev, status.st_ino] else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _address(process: subprocess.Popen[str]) -> str:
    """Return the address that a server prints. What it prints later is not kept."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line.strip())
        match = re.match(r"open (http://\S+)", line)
        if match:
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return match[1]
    raise ClientError(re.sub("^error: ", "", said[-1]) if said else "the server ended without a word")


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
