"""The check of many volumes: what it makes, how it counts memory; and, slow, the whole of it with small ones."""

import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from qnet.scripts.checks.scale import HEADER, PREPARATION_HEADER, PeakMemory, family, main, pss_kb


@pytest.mark.whole
def test_memory_of_a_process_and_its_children_is_the_largest_sum():
    held = "import time; kept = b'1' * {} * 1024 * 1024; time.sleep(1.5)"
    parent = "import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {!r}])\n{}\nchild.wait()"
    process = subprocess.Popen([sys.executable, "-c", parent.format(held.format(90), held.format(60))])
    memory = PeakMemory(process.pid)
    memory.start()
    assert process.wait() == 0
    memory.join(timeout=10)
    assert not memory.is_alive() and 150 < memory.peak_mb < 260
    assert pss_kb(process.pid) == 0 < pss_kb(os.getpid()) and os.getpid() in family(os.getpid())


@pytest.mark.slow
def test_the_whole_of_it(tmp_path, capfd):
    options = ["--folder", str(tmp_path), "--size", "64", "--slices", "12", "--steps", "3", "--workers", "1", "--folds", "2"]
    assert main([*options, "--volumes", "4", "6"]) == 0
    lines = capfd.readouterr().out.splitlines()[-4:]
    assert lines[0].split()[0] == HEADER[0] and [line.split()[0] for line in lines[2:]] == ["4", "6"]
    images = [nibabel.load(path).get_fdata() for path in sorted((tmp_path / "first_6").rglob("image_*.nii.gz"))]
    assert len(images) == 6 and all(not np.array_equal(images[0], other) for other in images[1:])
    assert main([*options, "--volumes", "6", "--prepare", "2"]) == 0
    header, _, row = (line.split() for line in capfd.readouterr().out.splitlines()[-3:])
    killed, images, supervoxels, rest, nothing, _ = map(float, row[1:])
    assert header[0] == PREPARATION_HEADER[0] and row[0] == "6"
    assert killed == 2 and supervoxels <= images <= 6 and min(rest, nothing) > 0
    assert len(list((tmp_path / "prepared_6").rglob("superpix-*.nii.gz"))) == 6
    assert main([*options, "--volumes", "6", "--prepare", "2"]) == 2
