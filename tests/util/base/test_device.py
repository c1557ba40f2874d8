import resource
import subprocess
import sys

import pytest

from util.base.device import keep_freed_memory

FAULTS = """
import resource, sys, torch
from util.base.device import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for step in range(23):      # the first fill the allocator's lists of small remainders
    if step == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(48 * 2**20, dtype=torch.uint8).fill_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.whole
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_freed_memory_is_used_again_without_new_pages():
    if not keep_freed_memory():
        pytest.skip("the C library is not glibc")
    faults = {how: int(subprocess.run([sys.executable, "-c", FAULTS, how], stdout=subprocess.PIPE, check=True).stdout)
              for how in ("handed back", "kept")}
    assert faults["kept"] < 100 < 3 * 48 * 2**20 / resource.getpagesize() * 0.9 < faults["handed back"]


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_without_glibc_nothing_happens(error, monkeypatch):
    def missing(name):
        raise error

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert keep_freed_memory() is False
