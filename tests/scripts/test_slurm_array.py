"""scripts/slurm_array.sh without a cluster."""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from qnet.util.base.root import ROOT

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


def test_the_other_stages():
    assert dry_run("3", "evaluate", "cmr_setting1", "--", "seed=1").stdout == (
        "task 3: python test.py with cmr_setting1 eval_fold=3 resume=auto seed=1 reload_model_path=<newest>\n"
        "        <newest>: python scripts/newest.py snapshot cmr_setting1 --folds 3 --options seed=1\n")
    assert dry_run("0", "compare", "a", "b", "--", "seed=1").stdout == (
        "task 0: python scripts/newest.py compare a b --options seed=1\n")
    assert dry_run("0", "prepare", "cmr", "--source", "A").stdout == "task 0: python data/prepare.py cmr --source A\n"
    assert dry_run("0", "segment", "--scans", "A").stdout == "task 0: python scripts/segment.py --scans A\n"
    assert dry_run("0", "predict", "guided", "query=A").stdout == "task 0: python test.py predict with guided query=A\n"
    shared = dry_run("0", "segment", "--scans", "A", SLURM_GPUS_ON_NODE="4").stdout
    assert shared == "task 0: torchrun --standalone --nproc-per-node=4 --max-restarts=0 scripts/segment.py --scans A\n"
    several = dry_run("0", "prepare", "cmr", SLURM_NNODES="2").stdout
    assert "torchrun --nnodes=2 --nproc-per-node=1 --max-restarts=0 " in several and several.endswith(" data/prepare.py cmr\n")
    assert dry_run("1", "prepare", "cmr").stderr == "error: task: got '1', allowed for prepare: 0 to 0 (--help explains)\n"


def test_an_evaluation_takes_the_snapshot_that_is_found(tmp_path):
    for folder in ("scripts", ".venv/bin", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "scripts/common.sh", tmp_path / "scripts")
    (tmp_path / ".venv/bin/activate").write_text(f"PATH={tmp_path}/bin:$PATH\n", encoding="utf-8")
    find = '{ [[ "$*" != *missing* ]] && echo "my run/7.pth"; exit; }'
    write_program(tmp_path / "bin/python", f'[[ $1 != scripts/newest.py ]] || {find}\nprintf "<%s>" "$@"')
    environment = CLEAN | {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_ARRAY_JOB_ID": "55", "SLURM_ARRAY_TASK_ID": "2"}
    done = subprocess.run(["bash", str(SCRIPT), "evaluate", "one"], env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and done.stdout.splitlines()[1:] == [
        "<newest>: my run/7.pth", "<test.py><with><one><eval_fold=2><resume=auto><reload_model_path=my run/7.pth>"]
    done = subprocess.run(["bash", str(SCRIPT), "evaluate", "missing"], env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode != 0 and "test.py><" not in done.stdout


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
