"""Two processes, as torchrun starts them, prepare one dataset."""

import json
import os
import socket
import subprocess
import sys

import pytest

from qnet.data import prepare
from qnet.util.base.root import ROOT
from tests.data.raw_downloads import empty_scan, write_nifti_pair

SCAN = empty_scan((40, 36, 6), (6.0, 6.0, 20.0))
PROGRAM = """
import json, sys
from qnet.data import prepare
for arguments in json.loads(sys.argv[1]):
    try:
        status = prepare.main(arguments)
    except SystemExit as end:
        status = end.code
    print("status", status, file=sys.stderr)
"""


def in_two_processes(*commands):
    """Return what each process printed: standard output and error."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [subprocess.Popen([sys.executable, "-c", PROGRAM, json.dumps(commands)], cwd=ROOT, encoding="utf-8",
                                  env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) for rank in range(2)]
    try:
        return [process.communicate(timeout=100) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.whole
def test_two_processes_share_out_the_cases_and_only_one_speaks(warm, tmp_path, capsys):
    for seed, name in enumerate("abcde"):
        write_nifti_pair(tmp_path / f"in/image_{name}.nii.gz", tmp_path / f"in/label_{name}.nii.gz", SCAN, (1, 2), seed)
    (tmp_path / "in/image_f.nii.gz").write_bytes(b"")
    target = tmp_path / "MINE"
    command = ["nifti", "--source", str(tmp_path / "in"), "--target", str(target), "--spacing", "6", "6", "20", "--size", "48",
               "--n-sv", "300", "--jobs", "1"]
    refused = [*command, "--label", "nothing_{case}.nii.gz"]
    (out, error), (other_out, other_error) = in_two_processes(refused, command)

    # the main process says why nothing begins, and both end
    said = [line for line in error.splitlines() if line.startswith(("error", "status"))]
    assert said[0].startswith("error: --label: no file nothing_{case}.nii.gz") and said[1] == "status 2"
    assert other_out == "" and other_error.splitlines()[0] == "status 2"
    # a broken case is told once, and both end with its status
    assert (error + other_error).count("error: case f: ") == 1
    assert error.splitlines()[-1] == other_error.splitlines()[-1] == "status 1"
    assert "5 prepared, 0 skipped, 1 broken" in error and "5 of 5 cases to do" in error
    assert out.startswith("// save as mine.json5") and "cases to do" not in other_error and "|" not in other_error

    # all is there and recorded, so that one process finds nothing to do
    assert json.loads((target / "images/preparation.json").read_text(encoding="utf-8")).keys() == set("abcde")
    assert json.loads((target / "supervoxels_300/supervoxels.json").read_text(encoding="utf-8")).keys() == set("abcde")
    classmap = json.loads((target / "images/classmap_1.json").read_text(encoding="utf-8"))
    assert classmap["label 1"].keys() == set("abcde")
    (tmp_path / "in/image_f.nii.gz").unlink()
    before = {path: path.read_bytes() for path in target.rglob("*.nii.gz")}
    assert len(before) == 15 and prepare.main(command) == 0
    said = capsys.readouterr().err
    assert "0 prepared, 5 skipped, 0 broken" in said and "0 of 5 cases to do" in said
    assert {path: path.read_bytes() for path in target.rglob("*.nii.gz")} == before


def test_one_process_does_without_pytorch():
    program = "import sys; from qnet.data import prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
