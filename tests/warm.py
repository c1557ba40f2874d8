"""A Python that has PyTorch loaded already, for tests whose programs start processes of their own.

A server loads what the programs import and waits. `WarmPython.path` is a program that may stand in the place of
`sys.executable`. Asked for a module, a file or a piece of code, it hands its words, variables, folder and open files to the
server, which forks a process that runs it. It hands on signals that it gets. The process ends when what it runs does, with the
status of that. What it starts with `sys.executable`, or in a pool, is warm as well. Asked for anything else, such as an option
of Python, it is the usual Python. The variables that Python itself reads when it starts, such as PYTHONPATH, are the server's.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import multiprocessing
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import ModuleType, TracebackType

from qnet.util.base.root import ROOT

LOADED = ("qnet.util.label.worker", "qnet.util.label.report", "qnet.util.label.preparing", "qnet.util.label.advice",
          "qnet.util.predict.task_command", "qnet.scripts.tables.organ_sets.worker", "qnet.util.run.experiment",
          "qnet.util.training.loop", "torch._dynamo")       # the last by the first step of a training
MOST_FILES = 100        # that a process is given
CLIENT = """
import json, os, signal, socket, sys
words, flags = sys.argv[1:], []
while words[:1] in (["-P"], ["-B"]):
    flags.append(words.pop(0))
served = words and (words[0] in ("-m", "-c") or words[0][:1] != "-") and "resource_tracker" not in "".join(words[:2])
if not served:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
files = [int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{{name}}")]
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
job = json.dumps([words, "-P" in flags, dict(os.environ), os.getcwd(), files]).encode()
socket.send_fds(server, [len(job).to_bytes(4, "big")], files)
server.sendall(job)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: server.sendall(bytes([number])))
answer = server.recv(4)
if not answer:
    sys.exit("the warmed Python ended")
status = int.from_bytes(answer, "big", signed=True)
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


class WarmPython:
    """The server, from the beginning of a block to its end.

    Attributes:
        path: the file that may stand in the place of `sys.executable`.
    """

    def __enter__(self) -> WarmPython:
        self._folder = tempfile.TemporaryDirectory(prefix="warm-")
        address, client, self.path = (Path(self._folder.name) / name for name in ("socket", "client.py", "python"))
        client.write_text(CLIENT.format(python=sys.executable, address=str(address)), encoding="utf-8")
        self.path.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, '-IS', str(client)])} \"$@\"\n", encoding="utf-8")
        self.path.chmod(0o700)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen([sys.executable, "-P", "-m", "tests.warm", str(address)], cwd=ROOT, env=environment,
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
    import numpy as np

    from qnet.data.supervoxels.felzenszwalb import generate_supervoxels
    from qnet.util.options.config import base_config, named_configs
    for name in LOADED:
        __import__(name)
    generate_supervoxels(np.arange(64).reshape(4, 4, 4), (1.0, 1.0, 1.0), 8)        # loads what Numba compiled
    base_config(), named_configs()      # keeps what it parses
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
    size, files, _, _ = socket.recv_fds(client, 4, MOST_FILES)
    if not files:       # it was killed before it could ask
        os._exit(0)
    wanted, content = int.from_bytes(size, "big"), b""
    while len(content) < wanted:
        part = client.recv(wanted - len(content))
        if not part:
            os._exit(0)
        content += part
    process = os.fork()
    if process == 0:
        client.close()
        *job, numbers = json.loads(content)
        give_files(files, numbers)
        run(*job)
    for number in files:
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


def give_files(files: list[int], numbers: list[int]) -> None:
    """Give open files the numbers that they have in the client."""
    first_free = max(*files, *numbers) + 1
    apart = [fcntl.fcntl(file, fcntl.F_DUPFD, first_free) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(apart, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)


def run(words: list[str], safe_path: bool, environment: dict[str, str], folder: str) -> None:
    """Run what Python is asked for. Does not return.

    Args:
        safe_path: whether modules in the folder are not found, as with -P.
    """
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = environment.get("WARM_PYTHON", sys.executable)
    multiprocessing.set_executable(sys.executable)
    if not safe_path:
        sys.path.insert(0, folder if words[0] in ("-m", "-c") else str(Path(words[0]).parent.absolute()))
    sys.argv = words[1:] if words[0] == "-m" else ["-c", *words[2:]] if words[0] == "-c" else words
    try:
        do(words)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status == 1 and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()       # type: ignore[attr-defined]    # as multiprocessing ends a process that it forked
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def do(words: list[str]) -> None:
    """Run a module, a piece of code or a file, as the main module."""
    if words[0] == "-m":
        if not hasattr(sys.modules.get(words[1]), "__path__"):      # it may be loaded, but runs once more
            sys.modules.pop(words[1], None)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), vars(main))
    else:
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
