"""A Python that has PyTorch loaded already, for tests whose programs start modules of this package in processes of their own.

A server loads what these modules import and waits. `WarmPython.path` is a program that may stand in the place of
`sys.executable`. Asked for one of these modules, it hands its words, variables, folder and standard streams to the server,
which forks a process that runs the module. It hands on signals that it gets. The module ends when it does, and it ends with
the module's status. Asked for anything else, it is the usual Python.
"""

from __future__ import annotations

import array
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from qnet.util.base.root import ROOT

LOADED = ("qnet.util.label.worker", "qnet.util.label.report", "qnet.util.label.preparing", "qnet.util.label.advice",
          "qnet.util.predict.task_command", "qnet.scripts.tables.organ_sets.worker")
CLIENT = """
import array, json, os, signal, socket, sys
if not {loaded!r} & {{*sys.argv}}:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
job = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
server.sendmsg([len(job).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(job)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: server.sendall(bytes([number])))
status = int.from_bytes(server.recv(4), "big", signed=True)
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


class WarmPython:
    """The server, from the beginning of a block to its end.

    Attributes:
        path: the file that may stand in the place of `sys.executable`, with the words -m and the name of a module.
    """

    def __enter__(self) -> WarmPython:
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        address, client, self.path = (Path(self._folder.name) / name for name in ("socket", "client.py", "python"))
        client.write_text(CLIENT.format(python=sys.executable, address=str(address), loaded={*LOADED}), encoding="utf-8")
        self.path.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, '-IS', str(client)])} \"$@\"\n", encoding="utf-8")
        self.path.chmod(0o700)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen([sys.executable, "-m", "tests.warm", str(address)], cwd=ROOT, env=environment,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._folder.cleanup()


def serve(address: str) -> None:
    """Fork a process for each client, until standard input ends."""
    for name in LOADED:
        __import__(name)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)       # nobody waits for the keepers
    print("ready", flush=True)
    while True:
        if 0 in select.select([0, listening.fileno()], [], [])[0]:
            return
        client, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            keep(client)
        client.close()


def keep(client: socket.socket) -> None:
    """Run what a client asks for in a process, hand signals on, and tell the client its status. Does not return."""
    streams = array.array("i")
    size, given, _, _ = client.recvmsg(4, socket.CMSG_SPACE(3 * streams.itemsize))
    if not given:       # it was killed before it could ask
        os._exit(0)
    streams.frombytes(given[0][2])
    wanted, content = int.from_bytes(size, "big"), b""
    while len(content) < wanted:
        part = client.recv(wanted - len(content))
        if not part:
            os._exit(0)
        content += part
    process = os.fork()
    if process == 0:
        client.close()
        words, environment, folder = json.loads(content)
        run(words, environment, folder, list(streams))
    for number in streams:
        os.close(number)
    ended = os.pidfd_open(process)
    while True:
        if ended in select.select([ended, client.fileno()], [], [])[0]:
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            with suppress(OSError):     # a client that is gone asks for nothing
                client.sendall(status.to_bytes(4, "big", signed=True))
            os._exit(0)
        with suppress(ProcessLookupError):
            os.kill(process, (client.recv(1) or bytes([signal.SIGKILL]))[0])


def run(words: list[str], environment: dict[str, str], folder: str, streams: list[int]) -> None:
    """Run a module as `python -m` does. Does not return."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    words = words[words.index("-m") + 1:]
    sys.argv = words
    del sys.modules[words[0]]
    try:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status == 1 and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
