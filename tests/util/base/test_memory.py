import resource
import subprocess
import sys

import pytest

from qnet.util.base.memory import keep_freed_memory, return_freed_memory

FAULTS = """
import resource, statistics, threading, torch
from qnet.util.base.memory import keep_freed_memory

def fill():
    torch.set_num_threads(1)
    torch.empty(48 * 2**20, dtype=torch.uint8).fill_(1)

def in_a_thread():
    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()

def faults(step):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def usual(step):         # a small block that lands in the freed memory makes one fill in many take new pages
    return int(statistics.median(faults(step) for _ in range(9)))

for _ in range(20):      # the first fill the allocator's lists of small remainders
    fill()
print(usual(fill))
assert keep_freed_memory()
for _ in range(20):
    fill()
print(usual(fill))
for _ in range(5):       # stacks of threads
    in_a_thread()
print(usual(in_a_thread))
"""


@pytest.mark.whole
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_freed_memory_is_used_again_without_new_pages_by_whichever_thread(warm):
    if not keep_freed_memory():
        pytest.skip("the C library is not glibc")
    done = subprocess.run([sys.executable, "-c", FAULTS], stdout=subprocess.PIPE, check=True)
    handed_back, kept, kept_by_thread = map(int, done.stdout.split())
    assert max(kept, kept_by_thread) < 100 < 48 * 2**20 / resource.getpagesize() * 0.9 < handed_back, done.stdout


GAPS = """
import resource, torch
from qnet.util.base.memory import keep_freed_memory, return_freed_memory

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

assert keep_freed_memory()
before = resident_mb()
blocks = [torch.ones(2**20, dtype=torch.uint8) for _ in range(200)]
kept = blocks[::2]
del blocks
full = resident_mb() - before
assert return_freed_memory()
assert all(bool((block == 1).all()) for block in kept)
print(round(full), round(resident_mb() - before))
"""


@pytest.mark.whole
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_gaps_between_blocks_are_returned_to_the_system_and_the_blocks_stay(warm):
    if not keep_freed_memory():
        pytest.skip("the C library is not glibc")
    full, left = map(int, subprocess.run([sys.executable, "-c", GAPS], stdout=subprocess.PIPE, check=True).stdout.split())
    assert full >= 190 and left < 130


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_without_glibc_nothing_happens(error, monkeypatch):
    def missing(name):
        raise error

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert keep_freed_memory() is False and return_freed_memory() is False
