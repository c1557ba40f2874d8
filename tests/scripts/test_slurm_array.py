"""scripts/slurm_array.sh without a cluster."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from util.base.root import ROOT

SCRIPT = ROOT / "scripts/slurm_array.sh"
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}


def dry_run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", str(SCRIPT), "--dry-run", *arguments], env=CLEAN | environment, capture_output=True,
                          encoding="utf-8")


def test_syntax_and_help():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    shown = subprocess.run(["bash", str(SCRIPT), "--help"], env=CLEAN, capture_output=True, encoding="utf-8", check=True).stdout
    assert "--dry-run" in shown and "#SBATCH" not in shown


def test_the_tasks_are_every_config_on_every_fold():
    commands = [dry_run(str(task), "one", "two", "--", "seed=1").stdout for task in range(10)]
    assert commands == [f"task {task}: python train.py with {config} eval_fold={fold} resume=auto seed=1\n"
                        for task, (config, fold) in enumerate((c, f) for c in ("one", "two") for f in range(5))]


def test_default_configs_exist_and_are_as_many_as_the_array_says():
    last = int(re.search(r"^#SBATCH --array=0-(\d+)$", SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)[1])
    assert dry_run(str(last)).returncode == 0 and dry_run(str(last + 1)).returncode == 2
    for task in range(0, last, 5):
        name = dry_run(str(task)).stdout.split()[5]
        assert (ROOT / f"configs/{name}.json5").is_file()


@pytest.mark.parametrize(("environment", "expected"), [
    ({"SLURM_GPUS_ON_NODE": "1"}, "task 3: python train.py with cmr_setting1 eval_fold=3 resume=auto\n"),
    ({"SLURM_GPUS_ON_NODE": "4"}, "task 3: torchrun --standalone --nproc-per-node=4 --max-restarts=3 train.py with cmr_setting1"),
    ({"SLURM_GPUS_ON_NODE": "8", "SLURM_NNODES": "2", "SLURM_JOB_ID": "99"},
     "task 3: srun --ntasks-per-node=1 torchrun --nnodes=2 --nproc-per-node=8 --max-restarts=3 --rdzv-id=99")])
def test_it_uses_all_that_the_task_was_given(environment, expected):
    assert dry_run("3", "cmr_setting1", **environment).stdout.startswith(expected)


@pytest.mark.parametrize("task", ["5", "-1", "x"])
def test_a_task_that_is_none(task):
    done = dry_run(task, "cmr_setting1")
    assert done.returncode == 2
    assert done.stderr == f"error: task: got '{task}', allowed with 1 configs: 0 to 4 (--help explains)\n"


@pytest.mark.parametrize(("exit_status", "queued_again"), [(143, True), (0, False)])
def test_the_signal_reaches_the_training_whose_task_is_queued_again_unless_it_is_finished(tmp_path, exit_status, queued_again):
    for folder in ("scripts", ".venv/bin", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "scripts/common.sh", tmp_path / "scripts")
    (tmp_path / ".venv/bin/activate").write_text(f"PATH={tmp_path}/bin:$PATH\n", encoding="utf-8")
    write_program(tmp_path / "bin/scontrol", 'echo "scontrol $*"')
    write_program(tmp_path / "bin/python",
                  f"trap 'sleep 0.2; echo saved; exit {exit_status}' TERM\necho ready\nfor i in $(seq 100); do sleep 0.1; done")
    environment = CLEAN | {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_ARRAY_JOB_ID": "55", "SLURM_ARRAY_TASK_ID": "2"}
    process = subprocess.Popen(["bash", str(SCRIPT)], env=environment, stdout=subprocess.PIPE, encoding="utf-8")
    lines = [process.stdout.readline(), process.stdout.readline()]
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=60)[0].splitlines()
    assert lines == ["task 2: python train.py with chaost2_setting1 eval_fold=2 resume=auto\n", "ready\n"]
    assert rest == ["saved", *(["scontrol requeue 55_2"] if queued_again else [])]
    assert process.returncode == exit_status


def write_program(path: Path, lines: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{lines}\n", encoding="utf-8")
    path.chmod(0o755)
