"""Serves the labelling page of a folder until the person stops it."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from msgspec import Meta, Struct

from qnet.util.base.errors import InputError, in_utf8
from qnet.util.base.inputs import SMALL, parse_json
from qnet.util.base.own_folder import OwnFolder
from qnet.util.label.advice import Advisor
from qnet.util.label.app import make_app
from qnet.util.label.run import Runner
from qnet.util.label.session import ConflictError, Session
from qnet.util.predict.cases import TABLE, as_numbers, read_cases
from qnet.util.predict.correction import WAY

ADDRESS = "address.json"
HEADER_BYTES = 2**14        # largest head of a request
BACKLOG = 1024              # requests that wait
FOUND_NUMBERS = ("label", "label_name", "volume_ml", "slices", "confidence", "agreement", "margin", "outlined_ml", "look_at")
CLOSE_S = 2                 # for requests under way when the server is stopped


def serve(session: Session, port: int, said: Callable[[str], None], *, browser: bool,
          registration: Mapping[str, Any] | None = None) -> None:
    """Serve the page at 127.0.0.1 until SIGINT or SIGTERM, which is raised anew (`qnet.util.base.signals.raise_on_signals`).

    Args:
        port: 0 takes one that is free.
        said: is given the address.
        browser: open the page in the person's browser.
        registration: `Runner` explains it.
    Raises:
        InputError: the port is taken.
    """
    kept = kept_address(session.own)
    listening = listen_again(port, kept)
    port, token = listening.getsockname()[1], kept.token or secrets.token_urlsafe(32)
    keep_address(session.own, port, token)
    runner, stopped = Runner(session, registration), threading.Event()
    advisor = Advisor(session)
    preparation = threading.Thread(target=prepare_all, args=(session, stopped, advisor), daemon=True)
    server = make_server(session, runner, port, token, advisor)
    address = f"http://127.0.0.1:{port}/#token={token}"
    try:
        way = write_way(address, session.own)
        said(address)
        if browser:
            webbrowser.open(way)
        preparation.start()
        server.run(sockets=[listening])      # raises anew the signal that ended it
    finally:
        stopped.set()
        session.own.remove(WAY)
        runner.close()


def prepare_all(session: Session, stopped: threading.Event, advisor: Advisor | None = None) -> None:
    """Make every scan ready for the page, one after the other, until that is to stop. The list names those that are unusable.

    Args:
        advisor: compares the scans then.
    """
    for name in [name for name, scan in session.scans.items() if scan.problem is None]:
        if stopped.is_set():
            return
        with suppress(InputError, OSError):
            session.prepare(name)
    if advisor is not None:
        advisor.compare(stopped)


def make_server(session: Session, runner: Runner, port: int, token: str, advisor: Advisor | None = None) -> uvicorn.Server:
    """Return the server of the page. It believes no proxy, and speaks no websocket.

    Args:
        port: of 127.0.0.1 that it is reached at.
        token: `qnet.util.label.gate.Gate` explains it.
        advisor: given none, there is one that compares nothing.
    """
    app = make_app(session, runner, port, token, advisor or Advisor(session))
    return uvicorn.Server(uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, proxy_headers=False, ws="none", lifespan="off",
        http="h11", h11_max_incomplete_event_size=HEADER_BYTES, timeout_graceful_shutdown=CLOSE_S))


class Address(Struct):
    """Where the last server of a folder was, so that a page that is open goes on with the next one: the content of address.json.

    Attributes:
        port: of 127.0.0.1.
        token: of the page.
        folder: device and number of the folder. A copy of it, or one from elsewhere, gets a new token.
    """

    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    token: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}$")] = ""
    folder: list[int] = []


def kept_address(folder: OwnFolder) -> Address:
    """Return the address of the last server of a folder; an empty one if there was none."""
    with suppress(InputError, OSError):
        if folder.has(ADDRESS):
            kept = parse_json(folder.read(ADDRESS, SMALL.n_bytes), ADDRESS, Address, limits=SMALL, plain=True)
            if kept.folder == _identity(folder):
                return kept
    return Address()


def keep_address(folder: OwnFolder, port: int, token: str) -> None:
    """Keep the address for the next server. Raises OSError if it cannot be written."""
    folder.write(ADDRESS, json.dumps({"port": port, "token": token, "folder": _identity(folder)}).encode())


def _identity(folder: OwnFolder) -> list[int]:
    status = os.fstat(folder.descriptor)
    return [status.st_dev, status.st_ino]


def listen_again(port: int, kept: Address) -> socket.socket:
    """Return a socket at a port, or, if that is 0, at the kept one, or at one that is free. Raises InputError as `listen`."""
    if not port:
        with suppress(InputError):
            return listen(kept.port)
    return listen(port)


def listen(port: int) -> socket.socket:
    """Return a socket that listens at 127.0.0.1.

    Raises:
        InputError: the port is taken.
    """
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", port))
        listening.listen(BACKLOG)       # from here on requests wait until they are answered
    except (OSError, OverflowError) as error:
        listening.close()
        raise InputError(f"--port: {port} cannot be had ({error}); allowed: another number up to 65535, or 0 for any free "
                         "port") from None
    return listening


def write_way(address: str, folder: OwnFolder) -> str:
    """Write a file that leads a browser to the page, and that only this person can read: others see the arguments of programs.

    What follows "#" in its own address goes on to the page, as "scan=case 1". So a report links to it (`report.correction_of`).

    Args:
        folder: where that file is made.
    Returns:
        Its address.
    """
    with folder.fresh(WAY) as file:
        file.write(f'<!doctype html><meta charset="utf-8"><title>Opening</title><a href="{address}">the labelling page</a>'
                   f'<script>location.replace("{address}" + location.hash.replace("#", "&"))</script>'.encode())
    return (folder.path.resolve() / WAY).as_uri()


def load_task(session: Session, task: Path) -> None:
    """Take the examples of a task file.

    Raises:
        InputError: it is damaged, or its names do not fit the session's classes.
    """
    from qnet.util.taskfile.task_file import opened  # imports PyTorch, which the page does without
    with opened(task) as content:
        session.set_task(task, {value: (label.name, label.colour) for value, label in content.manifest.labels.items()})


def load_found(session: Session, folder: Path) -> list[str]:
    """Take the label maps that `qnet segment` wrote into a folder, with the numbers of its cases.csv.

    Returns:
        A line for each scan of the folder that was not taken, and how many were.
    Raises:
        InputError: there is no cases.csv, or nothing of it is about a scan of the session.
    """
    rows = read_cases(folder / TABLE)
    named = {name: folder / f"{name}.nii.gz" for name in rows if name in session.scans}
    if not named:
        raise InputError(f"{folder / TABLE}: names no scan of {session.folder}, allowed: what qnet segment wrote for these scans")
    told = []
    for name, labels in named.items():
        made = {"by": "qnet segment", "in": in_utf8(str(labels))}
        try:
            if not session.take_found(name, labels, [_found_row(row) for row in rows[name]], made):
                told.append(f"{name}: its outlines are kept; {labels} is not read again")
        except InputError as error:
            told.append(f"{name}: {error}")
    return [*told, f"{len(named) - len(told)} of {len(named)} scans with outlines of {folder}"]


def _found_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of cases.csv as a run of the page tells it."""
    numbers = as_numbers(row)
    return {key: numbers[key] for key in FOUND_NUMBERS}


def load_outlined(session: Session, pairs: list[tuple[str, Path]]) -> list[str]:
    """Take existing outlines, of a command line.

    Args:
        pairs: name of a scan, and file of its outlines.
    Returns:
        A line for each scan whose outlines by hand were kept.
    Raises:
        InputError: there is no such scan, or the file does not fit it.
    """
    kept = []
    for name, labels in pairs:
        try:
            session.load(name, labels)
        except ConflictError:
            kept.append(f"{name}: its outlines by hand are kept; {labels} is not read again")
    return kept
