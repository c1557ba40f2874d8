"""What Windows lacks: every module of the package is imported without it, and locks hold with and without fcntl."""

import subprocess
import sys

import pytest

from qnet.util.base.root import ROOT, module_environment

# Libraries that the modules import at once take care of themselves, and are imported before.
WITHOUT = """
import os, sys
import torch, torch.distributed, torch.multiprocessing, torch.utils.data, sacred, convexAdam
import cv2, json5, matplotlib.pyplot, msgspec, nibabel, numba, pydicom, scipy.ndimage, SimpleITK, skimage.measure
import starlette.applications, uvicorn
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "fchmod", "geteuid", "nice", "fork", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
import importlib, pathlib
for name in [name for name in sys.modules if name.partition(".")[0] == "qnet"]:
    del sys.modules[name]
import qnet
root = pathlib.Path(sys.argv[1])
files = [file for top in ("qnet", "data", "dataloaders", "models", "scripts", "util") for file in (root / top).rglob("*.py")]
names = [".".join(file.relative_to(root).with_suffix("").parts) for file in files]
for name in names:
    left_out = "scripts.checks", "scripts.tables", "util.clients.napari", "util.clients.slicer"   # plugins
    if not name.startswith(left_out) and not name.endswith("__main__"):
        importlib.import_module(name.removesuffix(".__init__") if name.startswith("qnet") else f"qnet.{name}")
print(len(names))
"""


@pytest.mark.whole
def test_every_module_can_be_imported_where_there_is_no_fcntl(warm):
    done = subprocess.run([sys.executable, "-c", WITHOUT, str(ROOT)], env=module_environment(), capture_output=True,
                          encoding="utf-8")
    assert done.returncode == 0 and int(done.stdout) > 100, done.stderr


LOCK = """
import sys
if sys.argv[2] == "without":
    import filelock._native._unix as native
    sys.modules["fcntl"] = None
from qnet.util.base.system import lock_file
file = open(sys.argv[1], "ab")
print(lock_file(file, wait=False), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["with", "without"])
def test_one_process_at_a_time_and_a_lock_dies_with_its_process(kind, tmp_path):
    def start():
        process = subprocess.Popen([sys.executable, "-c", LOCK, str(tmp_path / "lock"), kind], env=module_environment(),
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
        return process, process.stdout.readline().strip()

    first, had = start()
    second, refused = start()
    first.kill()
    first.communicate()
    third, free = start()
    for process in (second, third):
        process.communicate()
    assert (had, refused, free) == ("True", "False", "True")


@pytest.mark.parametrize("name", ["worker", "preparing", "advice"])
def test_work_beside_the_page_begins_where_no_process_can_yield_to_others(name, warm):
    code = f"import os; vars(os).pop('nice', None); from qnet.util.label.{name} import main; main()"
    done = subprocess.run([sys.executable, "-c", code], input="no job", env=module_environment(), capture_output=True,
                          encoding="utf-8")
    assert done.stderr.splitlines()[-1].startswith("json.decoder.JSONDecodeError"), done.stderr
