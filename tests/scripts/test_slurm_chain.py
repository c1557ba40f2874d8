"""scripts/slurm_chain.sh with an sbatch that only writes down how it was called."""

import os
import subprocess
from pathlib import Path

import pytest

from qnet.data.prepare import parse_arguments as prepare_arguments
from qnet.scripts.newest import parse_arguments as newest_arguments
from qnet.util.base.root import ROOT
from qnet.util.options.config import check_config, load_config, named_configs
from qnet.util.run.experiment import check_update

SCRIPT = ROOT / "scripts/slurm_chain.sh"
PREPARE = ["--prepare", "cmr", "--source", "DOWNLOAD", "--target", "data/CMR"]
SBATCH = """#!/usr/bin/env bash
echo "$*" >> "$CALLED"
n=$(wc -l < "$CALLED")
[[ $n != "${REFUSED:-}" ]] || exit 7
echo "$((100 + n));cluster"
"""


@pytest.fixture
def chain(tmp_path):
    """Submit a chain; returns what the script did and how sbatch was called."""
    (tmp_path / "sbatch").write_text(SBATCH, encoding="utf-8")
    (tmp_path / "sbatch").chmod(0o755)
    (tmp_path / "called").touch()

    def submit(*arguments, **environment):
        given = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        done = subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, encoding="utf-8", cwd=tmp_path,
                              env={**given, "PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLED": str(tmp_path / "called"),
                                   **environment})
        return done, (tmp_path / "called").read_text(encoding="utf-8").splitlines()

    return submit


def test_each_stage_waits_for_the_one_before(chain):
    done, called = chain("cmr_setting1", "demo", "--", "adnet", "seed=1", *PREPARE)
    assert done.returncode == 0, done.stderr
    array, given = "scripts/slurm_array.sh", "cmr_setting1 demo -- adnet seed=1"
    assert called == [
        f"--parsable --job-name=qnet-prepare --array=0-0 --gres=none {array} prepare cmr --source DOWNLOAD --target data/CMR",
        f"--parsable --job-name=qnet-train --array=0-9 --dependency=afterok:101 --kill-on-invalid-dep=yes {array} train {given}",
        f"--parsable --job-name=qnet-evaluate --array=0-9 --dependency=aftercorr:102 --kill-on-invalid-dep=yes {array} evaluate "
        f"{given}",
        f"--parsable --job-name=qnet-compare --array=0-0 --dependency=afterok:103 --kill-on-invalid-dep=yes --gres=none {array} "
        f"compare {given}"]
    assert done.stdout.splitlines() == ["prepare: job 101", "train: job 102", "evaluate: job 103", "compare: job 104"]


def test_without_preparation_training_waits_for_nothing(chain):
    _, called = chain()
    assert [line.split("qnet-")[1].split()[0] for line in called] == ["train", "evaluate", "compare"]
    assert "--array=0-19" in called[0] and "--dependency" not in called[0] and "--dependency=aftercorr:101" in called[1]


def test_after_a_refusal_nothing_more_is_submitted(chain):
    done, called = chain("cmr_setting1", REFUSED="2")
    assert done.returncode == 1 and len(called) == 2 and "job 101" in done.stdout
    assert done.stderr == "error: sbatch refused evaluate; jobs above stay in the queue: scancel takes them out\n"


def test_preparation_of_nothing_is_refused(chain):
    done, called = chain("cmr_setting1", "--prepare")
    assert (done.returncode, called) == (2, []) and done.stderr.startswith("error: --prepare: got nothing after it")


def expect_allowed(words):
    """Check what stands after `with`, as train.py and test.py do."""
    named = sorted(named_configs())
    for word in words:
        check_update(word, named)
    config = load_config(*(word for word in words if "=" not in word))
    for key, value in (word.split("=", 1) for word in words if "=" in word):
        assert key in config
        config[key] = int(value) if value.isdecimal() else value
    check_config(config)


def test_the_dry_run_needs_no_cluster_and_every_command_in_it_is_allowed(chain):
    done, called = chain("--dry-run", "cmr_setting1", "--", "adnet", "seed=1", *PREPARE)
    assert done.returncode == 0 and called == []
    lines = [line.strip() for line in done.stdout.splitlines()]
    submitted = [line.split("slurm_array.sh ")[1].split()[0] for line in lines if line.startswith("sbatch --parsable ")]
    assert submitted == ["prepare", "train", "evaluate", "compare"]
    assert "--dependency=afterok:<prepare>" in done.stdout and "--dependency=aftercorr:<train>" in done.stdout
    commands = [line.split(": ", 1)[1].split() for line in lines if line.startswith(("task ", "<newest>"))]
    programs = [command[1] for command in commands]
    assert programs == ["data/prepare.py", *["train.py"] * 5, *["test.py", "scripts/newest.py"] * 5, "scripts/newest.py"]
    assert all((ROOT / program).is_file() for program in programs)
    for command in commands:
        if command[1] in ("train.py", "test.py"):
            assert command[2] == "with"
            expect_allowed(command[3:])
        elif command[1] == "data/prepare.py":
            assert prepare_arguments(command[2:]).target == Path("data/CMR")
        else:
            assert newest_arguments(command[2:]).options == ["adnet", "seed=1"]
    folds = [word for command in commands for word in command if word.startswith("eval_fold=")]
    assert folds == [f"eval_fold={fold}" for fold in range(5)] * 2


def test_help_and_syntax(chain):
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    assert "--dry-run" in chain("--help")[0].stdout
