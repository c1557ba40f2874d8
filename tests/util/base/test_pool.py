"""A pool's processes end with the process that made it, also when that is killed."""

import os
import subprocess
import sys
import time

import pytest

from util.base.root import ROOT

PROGRAM = """
import os, time
from util.base.pool import processes
if __name__ == "__main__":
    pool = processes(1)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.whole
def test_the_processes_of_a_killed_program_end(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    program = subprocess.Popen([sys.executable, str(tmp_path / "program.py")], cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8")
    worker = int(program.stdout.readline())
    assert is_alive(worker)
    program.kill()
    program.wait()
    end = time.monotonic() + 20
    while is_alive(worker) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(worker)
