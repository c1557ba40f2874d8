"""The scripts as the published README knows them, without arguments, and scripts/val.py over all trainings."""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest

from qnet.scripts import val
from qnet.scripts.val import ALL_FOLDS
from qnet.util.base.root import ROOT
from qnet.util.options.config import base_config, named_configs
from qnet.util.run.experiment import run_commandline
from tests.programs import entry_point, run


@pytest.fixture
def script(tmp_path):
    """Run a script of a copy of scripts/, whose python only prints its arguments."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    with (tmp_path / "scripts/common.sh").open("a", encoding="utf-8") as file:
        file.write("\nuse_environment() { :; }\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text("#!/bin/sh\necho \"python $*\"\n", encoding="utf-8")
    (tmp_path / "bin/python").chmod(0o755)

    def call(name, *arguments):
        return subprocess.run(["bash", str(tmp_path / "scripts" / name), *arguments], capture_output=True, encoding="utf-8",
                              env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})

    return call


@pytest.mark.parametrize(("name", "arguments", "configs", "folds", "options"), [
    ("train_abd_mr.sh", [], ["chaost2_setting1"], ALL_FOLDS, ""),
    ("train_abd_mr.sh", ["--", "seed=1"], ["chaost2_setting1"], ALL_FOLDS, " seed=1"),
    ("train_abd_mr.sh", ["1_scratch", "3"], ["chaost2_setting1_scratch"], [3], ""),
    ("train_abd_mr.sh", ["2", "0", "1", "--", "adnet"], ["chaost2_setting2_liver_spleen", "chaost2_setting2_kidneys"], [0, 1],
     " adnet"),
    ("train_cmr_mr.sh", [], ["cmr_setting1"], ALL_FOLDS, ""),
    ("train_cmr_mr.sh", ["4", "--", "seed=1"], ["cmr_setting1"], [4], " seed=1"),
])
def test_training_scripts(name, arguments, configs, folds, options, script):
    done = script(name, *arguments)
    assert done.returncode == 0, done.stderr
    commands = [line.rstrip() for line in done.stdout.splitlines() if line.startswith("python")]
    assert commands == [f"python train.py with {config} eval_fold={fold}{options}" for config in configs for fold in folds]


@pytest.mark.parametrize(("arguments", "passed_on"), [
    ([], f"--folds {' '.join(map(str, ALL_FOLDS))} --options"),
    (["--", "supp_idx=all"], f"--folds {' '.join(map(str, ALL_FOLDS))} --options supp_idx=all"),
    (["CHAOST2", "2", "0", "1", "--", "ep2"], "CHAOST2 2 --folds 0 1 --options ep2"),
])
def test_val_script(arguments, passed_on, script):
    done = script("val.sh", *arguments)
    assert (done.returncode, done.stdout.rstrip()) == (0, f"python scripts/val.py {passed_on}")


@pytest.mark.parametrize(("name", "arguments", "message"), [
    ("train_abd_mr.sh", ["3"], "error: setting: got '3', allowed: 1, 1_scratch or 2"),
    ("train_cmr_mr.sh", ["x"], "error: fold: got 'x'"),
    ("val.sh", ["CMR"], "error: a dataset and a setting are needed, or neither"),
    ("val.sh", ["CMR", "--", "ep2"], "error: a dataset and a setting are needed, or neither"),
])
def test_arguments_that_are_none(name, arguments, message, script):
    done = script(name, *arguments)
    assert done.returncode == 2 and done.stderr.startswith(message) and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["train_abd_mr.sh", "train_cmr_mr.sh", "val.sh"])
def test_help_says_what_happens_without_arguments(name, script):
    shown = script(name, "--help").stdout
    assert "unless given" in shown or "Without a dataset" in shown


# ---- all trainings ----

class InThisProcess:
    """What scripts/val.py calls, without the seconds that a new process takes; `called` has the commands."""

    def __init__(self, monkeypatch):
        self.called, self.monkeypatch = [], monkeypatch

    def __call__(self, *words):
        self.called.append(words)
        self.monkeypatch.setattr(sys, "argv", list(words))
        run_commandline(entry_point("test").experiment)


@pytest.fixture
def in_this_process(monkeypatch, handlers_stay):
    return InThisProcess(monkeypatch)


def edited(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


@pytest.mark.whole
def test_every_training_is_scored_or_named_as_left_out(toy_data, tmp_path, in_this_process, capsys):
    common = {"n_steps": 1, "supp_idx": 0, "test_label": [1], "whole_volume": False, "n_iters": 1, "alpha": [0.6, 0.4]}
    older = run("train", tmp_path, toy_data, **common, eval_fold=0)
    newer = run("train", tmp_path, toy_data, **common, eval_fold=0, resume="never")
    second = run("train", tmp_path, toy_data, **common, eval_fold=1)
    other = run("train", tmp_path, toy_data, **common, eval_fold=1, seed=1)
    unfinished, protocol, damaged = (run("train", tmp_path, toy_data, **{**common, "n_steps": n}, eval_fold=fold)
                                     for fold, n in ((2, 2), (3, 1), (4, 1)))
    edited(unfinished, "run.json", status="INTERRUPTED")
    (unfinished / "snapshots/2.pth").rename(unfinished / "snapshots/1.pth")
    edited(protocol, "config.json", protocol="corrected")
    config = json.loads((second / "config.json").read_text(encoding="utf-8"))       # as an earlier version wrote it
    config["paths"] = config.pop("encoder_paths")
    (second / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (damaged / "config.json").write_text("{", encoding="utf-8")
    capsys.readouterr()

    val.main(["--options", f"path.log_dir={tmp_path}", "n_iters=0"], in_this_process)
    out = capsys.readouterr().out
    assert [words[2] for words in in_this_process.called] == [str(folder / "config.json") for folder in (newer, second, other)]
    assert out.count("as the snapshot was trained") == 0 and "from the command line" not in out
    assert "class            fold 0  fold 1   mean ± std" in out and "class            fold 1   mean ± std" in out
    assert out.count("; published protocol, but n_iters=0: Dice in %, each fold's mean") == 2
    left_out = out.partition("left out:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.strip().partition(": ")[0] for line in left_out] == [str(f) for f in (unfinished, damaged, older, protocol)]
    for line, reason in zip(left_out, ("unfinished, step 1 of 2", "cannot be scored", f"the same training as {newer}",
                                       "another protocol, protocol='corrected'"), strict=True):
        assert reason in line
    rows = list(csv.DictReader((tmp_path / "val.csv").open(encoding="utf-8")))
    assert [(row["class"], row["fold"]) for row in rows] == [("liver", "0"), ("liver", "1"), ("liver", "1")]
    assert len({row["experiment"] for row in rows}) == 2 and "seed=1" in rows[2]["experiment"]


@pytest.mark.whole
def test_an_evaluation_that_fails_is_named_and_the_others_are_made(toy_data, tmp_path, in_this_process, capsys):
    common = {"n_steps": 1, "supp_idx": 0, "test_label": [1], "whole_volume": False, "n_iters": 1}
    folders = [run("train", tmp_path, toy_data, **common, eval_fold=fold) for fold in (0, 1)]
    content = json.loads((folders[0] / "config.json").read_text(encoding="utf-8"))
    content["path"]["CHAOST2"]["data_dir"] = str(tmp_path / "nowhere")
    edited(folders[0], "config.json", path=content["path"])
    with pytest.raises(SystemExit) as caught:
        val.main(["--options", f"path.log_dir={tmp_path}"], in_this_process)
    out = capsys.readouterr().out
    assert caught.value.code == 1 and f"{folders[0]}: test.py failed" in out and "fold 1" in out
    assert [row["fold"] for row in csv.DictReader((tmp_path / "val.csv").open(encoding="utf-8"))] == ["1"]


def test_a_users_own_file_is_not_written_over(toy_data, tmp_path, in_this_process):
    run("train", tmp_path, toy_data, n_steps=1)
    for arguments, name in (([], "val.csv"), (["CHAOST2", "1", "--folds", "0"], "val_QNet.csv")):
        (tmp_path / name).write_text("mine", encoding="utf-8")
        with pytest.raises(SystemExit, match=f"^error: {tmp_path / name}: is there and was not made by this program"):
            val.main([*arguments, "--options", f"path.log_dir={tmp_path}"], in_this_process)
        assert (tmp_path / name).read_text(encoding="utf-8") == "mine" and not in_this_process.called


def test_without_a_training_there_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match=f"^error: {tmp_path}: no finished training below; bash scripts/train_abd_mr.sh makes"):
        val.main(["--options", f"path.log_dir={tmp_path}"])


def test_the_log_folders_are_those_of_all_configs():
    wanted = {config["path"]["log_dir"] for config in [base_config(), *named_configs().values()] if "path" in config}
    assert {str(folder.relative_to(ROOT)) for folder in val.log_folders([])} == wanted and "runs/cmr_setting1" in wanted
