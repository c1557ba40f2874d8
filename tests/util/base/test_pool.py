"""A pool's processes end with the process that made it, also when that is killed; jobs in threads share out PyTorch's threads."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from qnet.util.base.pool import side_by_side
from qnet.util.base.root import ROOT

PROGRAM = """
import os, time
from qnet.util.base.pool import processes
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


@pytest.mark.parametrize(("threads", "jobs", "shares"), [
    (1, 3, [1, 1, 1]), (2, 3, [1, 1, 2]), (4, 3, [1, 1, 1]), (8, 6, [2, 2, 2, 2, 4, 4])])
def test_jobs_side_by_side(threads, jobs, shares):
    """Results come in the order of the jobs, and a round of jobs is drawn, runs together and shares out all threads."""
    before, begun, drawn = torch.get_num_threads(), threading.Barrier(min(threads, jobs, 4)), []

    def job(number):
        if shares[number] < threads and number < begun.parties:
            begun.wait(10)      # breaks, unless the others of the round run at the same time
        return number, torch.get_num_threads(), threading.current_thread() is threading.main_thread()

    def all_jobs():
        for number in range(jobs):
            drawn.append(number)
            yield partial(job, number)

    try:
        torch.set_num_threads(threads)
        results = []
        for result in side_by_side(all_jobs()):
            results.append(result)
            assert len(drawn) == min(jobs, -(-len(results) // begun.parties) * begun.parties)
        assert results == [(number, share, share == threads) for number, share in enumerate(shares)]
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_the_error_of_a_job_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(side_by_side([lambda: 1, lambda: 1 // 0]))
