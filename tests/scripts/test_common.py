"""scripts/common.sh: which build of PyTorch is installed, from where, and when again."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from qnet.util.base.root import ROOT

A_GPU_IS_HERE = any(Path(path).exists() for path in ("/dev/nvidia0", "/proc/driver/nvidia/version"))
CPU_INDEX = "--index-url https://download.pytorch.org/whl/cpu torch==1.2.3 torchvision==4.5.6"
REQUIREMENTS = "# Exact versions\ntorch==1.2.3      # a comment\ntorchvision==4.5.6\ntorchio==7.8\nnumpy==9\n-e .   # here\n"
DEVELOPERS = "--requirement requirements.txt\n# Tools\n\npytest==5\n"
RECORDED = "torch==1.2.3\ntorchvision==4.5.6\ntorchio==7.8\nnumpy==9\n-e .\n"


def program(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{lines}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path):
    """A checkout with common.sh, and programs that only write down how they were called. `python3 -m venv` makes another one."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/common.sh", tmp_path / "scripts")
    (tmp_path / "requirements.txt").write_text(REQUIREMENTS, encoding="utf-8")
    (tmp_path / "requirements-dev.txt").write_text(DEVELOPERS, encoding="utf-8")
    program(tmp_path / "bin/uname", "echo Linux")
    program(tmp_path / "bin/nvidia-smi", "exit 9")
    program(tmp_path / "bin/fake-python", f"""
echo "$*" >> {tmp_path}/called
case "$*" in
    "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; touch .venv/bin/activate ;;
    *"pip list"*) printf 'numpy==9\\ntorch==1.2.3\\ntorchvision==4.5.6\\ntorchio==7.8\\nnvidia-cublas==1\\ncuda-toolkit==1\\n' ;;
    *download.pytorch.org*) [[ ! -e {tmp_path}/unreachable ]] ;;
esac""")
    return tmp_path


def see_a_gpu(checkout):
    program(checkout / "bin/nvidia-smi", 'echo "GPU 0: NVIDIA A100"')


def set_up(checkout, torch=None, status=0, file="requirements.txt"):
    """Return what was printed, and how pip was called."""
    environment = os.environ | {"PATH": f"{checkout / 'bin'}:{os.environ['PATH']}", "PYTHON": str(checkout / "bin/fake-python"),
                                "TORCH": torch or ""}
    (checkout / "called").write_text("", encoding="utf-8")
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", "source scripts/common.sh; use_environment $1", "set_up", file],
                          cwd=checkout, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == status, done.stderr
    called = (checkout / "called").read_text(encoding="utf-8").splitlines()
    return done.stdout + done.stderr, [line.removeprefix("-m pip ") for line in called if line.startswith("-m pip")]


ALL = "install --quiet --requirement requirements.txt"


@pytest.mark.skipif(A_GPU_IS_HERE, reason="this machine has an NVIDIA GPU")
def test_without_a_gpu_the_cpu_build_from_its_own_index(checkout):
    printed, pip = set_up(checkout)
    assert len(pip) == 2 and pip[0].endswith(CPU_INDEX) and pip[1] == ALL
    assert "--retries 0 --timeout 10" in pip[0]
    assert "0.6 GB to download" in printed and "TORCH=cuda" in printed
    assert (checkout / ".venv/installed-requirements.txt").read_text(encoding="utf-8") == "# TORCH=cpu\n" + RECORDED
    assert set_up(checkout) == ("", [])         # nothing is left to do


def test_with_a_gpu_the_default_index(checkout):
    see_a_gpu(checkout)
    printed, pip = set_up(checkout)
    assert pip == [ALL] and "3.3 GB to download" in printed and "TORCH=cpu" in printed


@pytest.mark.parametrize(("torch", "gpu"), [("cpu", True), ("cuda", False)])
def test_the_choice_by_hand(torch, gpu, checkout):
    if gpu:
        see_a_gpu(checkout)
    _, pip = set_up(checkout, torch)
    assert any(line.endswith(CPU_INDEX) for line in pip) == (torch == "cpu") and pip[-1] == ALL


def test_another_choice_is_refused(checkout):
    assert set_up(checkout, "rocm", status=2) == ("error: TORCH: got 'rocm', allowed: cpu, cuda, or unset\n", [])
    assert not (checkout / ".venv").exists()


def test_an_index_that_cannot_be_reached_is_told_and_the_default_one_taken(checkout):
    (checkout / "unreachable").touch()
    printed, pip = set_up(checkout, "cpu")
    assert "cannot be reached: taking PyTorch from the default one" in printed and pip[-1] == ALL


def test_another_build_is_installed_anew_and_stays_until_the_next_choice(checkout):
    set_up(checkout, "cuda")
    _, pip = set_up(checkout, "cpu")
    assert pip[1] == "uninstall --quiet --yes torch torchvision nvidia-cublas cuda-toolkit"
    assert pip[2].endswith(CPU_INDEX) and pip[3] == ALL
    see_a_gpu(checkout)
    printed, pip = set_up(checkout)             # a folder that machines with and without a GPU share does not change each time
    assert pip == [] and "TORCH=cuda before the command installs the other" in printed
    _, pip = set_up(checkout, "cuda")
    assert pip[1].startswith("uninstall") and pip[2] == ALL


def test_other_requirements_are_installed_with_the_same_build(checkout):
    set_up(checkout, "cuda")
    (checkout / "requirements.txt").write_text(REQUIREMENTS + "scipy==1\n", encoding="utf-8")
    printed, pip = set_up(checkout)
    assert pip == [ALL] and "for NVIDIA GPUs" in printed


def test_an_environment_with_the_developers_tools_serves_the_programs_too(checkout):
    printed, pip = set_up(checkout, "cuda", file="requirements-dev.txt")
    assert pip == ["install --quiet --requirement requirements-dev.txt"]
    assert "setting up .venv from requirements-dev.txt" in printed
    assert (checkout / ".venv/installed-requirements.txt").read_text(encoding="utf-8") == f"# TORCH=cuda\n{RECORDED}pytest==5\n"
    assert set_up(checkout)[1] == [] and set_up(checkout, file="requirements-dev.txt")[1] == []      # no way back and forth


def test_the_developers_tools_are_added_to_an_environment_without_them(checkout):
    set_up(checkout, "cpu")
    printed, pip = set_up(checkout, file="requirements-dev.txt")
    assert printed == "adding to .venv what requirements-dev.txt asks for besides (once); PyTorch's CPU build stays\n"
    assert pip[0].endswith(CPU_INDEX) and pip[1] == "install --quiet --requirement requirements-dev.txt"
    assert set_up(checkout)[1] == [] and set_up(checkout, file="requirements-dev.txt")[1] == []


def test_comments_are_no_reason_to_install(checkout):
    set_up(checkout, "cuda")
    file = checkout / "requirements.txt"
    file.write_text(REQUIREMENTS.replace("a comment", "another") + "\n# and one more\n", encoding="utf-8")
    assert set_up(checkout) == ("", [])
    file.write_text(REQUIREMENTS.replace("numpy==9", "numpy==9.1"), encoding="utf-8")
    assert set_up(checkout)[1] == [ALL]


@pytest.mark.parametrize(("script", "file"), [
    ("demo", "requirements.txt"), ("train_abd_mr", "requirements.txt"), ("train_cmr_mr", "requirements.txt"),
    ("val", "requirements.txt"), ("run_tests", "requirements-dev.txt"),
])
def test_each_script_takes_what_it_needs(script, file):
    assert f"\nuse_environment {file}\n" in (ROOT / f"scripts/{script}.sh").read_text(encoding="utf-8")
    assert (ROOT / file).is_file()


@pytest.mark.skipif(A_GPU_IS_HERE, reason="this machine has an NVIDIA GPU")
def test_elsewhere_than_on_linux_the_default_index_has_what_fits(checkout):
    program(checkout / "bin/uname", "echo Darwin")
    assert set_up(checkout)[1] == [ALL]


def test_a_set_up_that_failed_is_not_taken_for_done(checkout):
    set_up(checkout, "cpu")
    with (checkout / ".venv/bin/python").open("a", encoding="utf-8") as file:
        file.write('[[ "$*" != *requirement* ]]\n')
    (checkout / "bin/fake-python").write_bytes((checkout / ".venv/bin/python").read_bytes())
    set_up(checkout, "cuda", status=1)
    assert not (checkout / ".venv/installed-requirements.txt").exists()
