"""Trainings that are killed, interrupted, changed and run again."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from qnet.util.base.checksums import sha256
from qnet.util.base.files import LIST, PARTIAL
from qnet.util.base.kept import Kept
from qnet.util.base.locks import lock
from qnet.util.base.root import ROOT
from qnet.util.base.signals import Interrupted
from qnet.util.run.experiment import run_commandline
from qnet.util.run.folders import newest_run
from qnet.util.run.provenance import record_start
from qnet.util.training.building import BUILDERS
from qnet.util.training.snapshots import read_snapshot
from tests.programs import TINY, entry_point, run
from tests.toy import write_toy_data


def same(first, second):
    """Whether two snapshots have the same weights, history and log, bit for bit."""
    return (all(torch.equal(value, second.model[name]) for name, value in first.model.items())
            and torch.equal(first.history, second.history) and first.log == second.log)


@pytest.mark.whole
def test_continued_training_ends_in_the_same_weights_history_and_metrics(trained, toy_data, tmp_path):
    first = run("train", tmp_path, toy_data, n_steps=2)
    assert json.loads((first / "metrics.json").read_text(encoding="utf-8"))["lr"]["steps"] == [2]
    second = run("train", tmp_path, toy_data)
    assert second == first
    assert same(read_snapshot(trained / "snapshots/3.pth"), read_snapshot(second / "snapshots/3.pth"))
    whole, resumed = (json.loads((folder / "metrics.json").read_text(encoding="utf-8")) for folder in (trained, second))
    assert {name: (entry["steps"], entry["values"]) for name, entry in whole.items()} == {
        name: (entry["steps"], entry["values"]) for name, entry in resumed.items()}


@pytest.mark.whole
@pytest.mark.parametrize("content", [b"", b"[3]", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["config.json", "run.json", "metrics.json", "provenance.json"])
def test_a_damaged_file_of_a_run_does_not_stop_what_goes_on(name, content, one_step, toy_data, tmp_path):
    shutil.copytree(one_step, tmp_path / "QNet_train_CHAOST2_cv0/1")
    (tmp_path / "QNet_train_CHAOST2_cv0/1" / name).write_bytes(content)
    folder = run("train", tmp_path, toy_data, n_steps=2)
    assert folder.name == ("2" if name == "config.json" else "1")     # without its config a run is not known again
    assert (folder / "snapshots/2.pth").exists() and json.loads((folder / "run.json").read_bytes())["status"] == "COMPLETED"


@pytest.fixture(scope="module")
def one_step(toy_data, tmp_path_factory):
    return run("train", tmp_path_factory.mktemp("one_step"), toy_data, n_steps=1)


@pytest.mark.whole
def test_a_finished_training_says_so_and_other_options_make_a_new_run(toy_data, tmp_path, capsys):
    first = run("train", tmp_path, toy_data, n_steps=1)
    written = (first / "run.json").read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        run("train", tmp_path, toy_data, n_steps=1, save_snapshot_every=1)
    assert stopped.value.code == 0
    assert f"nothing to do: {first} is finished, with these options and 1 steps" in capsys.readouterr().out
    assert (first / "run.json").read_text(encoding="utf-8") == written
    assert run("train", tmp_path, toy_data, n_steps=1, seed=1).name == "2"
    assert "the newest, 1, differs in seed" in capsys.readouterr().out
    assert run("train", tmp_path, toy_data, n_steps=1, resume="never").name == "3"
    other_data = write_toy_data(tmp_path / "other")
    assert run("train", tmp_path, other_data, n_steps=1).name == "4"


def test_a_named_snapshot_goes_on_in_a_new_run(trained, toy_data, tmp_path):
    folder = run("train", tmp_path, toy_data, resume=str(trained / "snapshots/2.pth"))
    assert folder.parent.parent == tmp_path
    assert same(read_snapshot(trained / "snapshots/3.pth"), read_snapshot(folder / "snapshots/3.pth"))


@pytest.mark.parametrize(("options", "message"), [
    ({"seed": 5, "n_steps": 9}, "resume: .*3.pth was trained with seed=2021, now it is 5"),
    ({"n_steps": 2}, "n_steps: got 2, but .*3.pth has 3 steps"),
])
def test_resuming_with_other_options_is_refused(options, message, trained, toy_data, tmp_path):
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        run("train", tmp_path, toy_data, **options, resume=str(trained / "snapshots/3.pth"))


def test_only_the_last_snapshots_are_kept(toy_data, tmp_path):
    folder = run("train", tmp_path, toy_data, save_snapshot_every=1, keep_snapshots=2)
    assert sorted(path.name for path in (folder / "snapshots").glob("*.pth")) == ["2.pth", "3.pth"]


@pytest.mark.whole
def test_a_full_disk_ends_the_training_with_one_line_and_it_goes_on_later(trained, toy_data, tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def full_at_the_end(path, content):
        if path.name.endswith("3.pth"):
            path.symlink_to("/dev/full")
        write_bytes(path, content)

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.write_bytes", full_at_the_end)
        with pytest.raises(SystemExit, match=r"^error: .*/3.pth: No space left on device$"):
            run("train", tmp_path, toy_data, save_snapshot_every=2)
    folder = newest_run(tmp_path / "QNet_train_CHAOST2_cv0")
    assert {path.name for path in (folder / "snapshots").iterdir()} == {"2.pth", LIST}
    run("train", tmp_path, toy_data, save_snapshot_every=2)
    assert same(read_snapshot(trained / "snapshots/3.pth"), read_snapshot(folder / "snapshots/3.pth"))


@pytest.mark.whole
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves_it(number, trained, toy_data, tmp_path, monkeypatch, capsys):
    advance = sys.modules["qnet.util.training.loop"].Trainer.advance

    def interrupted(trainer, episode):
        if trainer.step == 0:
            signal.raise_signal(number)
        return advance(trainer, episode)

    with monkeypatch.context() as patched:
        patched.setattr("qnet.util.training.loop.Trainer.advance", interrupted)
        with pytest.raises(Interrupted) as caught:
            run("train", tmp_path, toy_data)
    assert caught.value.exit_status == 128 + number
    folder = newest_run(tmp_path / "QNet_train_CHAOST2_cv0")
    assert f"stopped after step 1 of 3; the same command, with resume=auto, goes on from {folder}" in capsys.readouterr().out
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["status"] == "INTERRUPTED"
    assert {path.name for path in (folder / "snapshots").iterdir()} == {"1.pth", LIST}
    run("train", tmp_path, toy_data)
    assert same(read_snapshot(trained / "snapshots/3.pth"), read_snapshot(folder / "snapshots/3.pth"))


def in_another_process(action, ends_with):
    """Fork, do it there, and check how that process ended: its exit status, or minus the signal that killed it."""
    if torch.get_num_threads() > 1:
        pytest.skip("OpenMP's threads do not survive a fork; this runs with OMP_NUM_THREADS=1, as scripts/run_tests.sh sets it")
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            action()
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == ends_with


def test_a_second_ctrl_c_exits_at_once(toy_data, tmp_path, monkeypatch):
    def interrupted(trainer, episode):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("qnet.util.training.loop.Trainer.advance", interrupted)
    in_another_process(lambda: run("train", tmp_path, toy_data), ends_with=130)


@pytest.mark.whole
def test_a_killed_training_goes_on_in_its_folder(trained, toy_data, tmp_path, monkeypatch):
    """Killed while it writes the second of three snapshots, so that half a file is left."""
    write_bytes = Path.write_bytes

    def killed(path, content):
        if path.name.endswith("2.pth"):
            write_bytes(path, content[:1000])
            os.kill(os.getpid(), signal.SIGKILL)
        write_bytes(path, content)

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.write_bytes", killed)
        in_another_process(lambda: run("train", tmp_path, toy_data, save_snapshot_every=1), ends_with=-signal.SIGKILL)
    folder = newest_run(tmp_path / "QNet_train_CHAOST2_cv0")
    half, *others = sorted(path.name for path in (folder / "snapshots").glob("*.pth"))
    assert half.startswith(PARTIAL) and half.endswith("-2.pth") and others == ["1.pth"]
    run("train", tmp_path, toy_data, save_snapshot_every=1)
    assert newest_run(folder.parent) == folder
    assert sorted(path.name for path in (folder / "snapshots").iterdir()) == [LIST, "1.pth", "2.pth", "3.pth"]
    assert same(read_snapshot(trained / "snapshots/3.pth"), read_snapshot(folder / "snapshots/3.pth"))


def test_a_run_that_is_killed_as_it_starts_keeps_its_folder(toy_data, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("qnet.util.run.observer.RunFolder.save_sources", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        in_another_process(lambda: run("train", tmp_path, toy_data), ends_with=-signal.SIGKILL)
    assert run("train", tmp_path, toy_data, n_steps=4).name == "1"
    assert [path.name for path in (tmp_path / "QNet_train_CHAOST2_cv0").iterdir() if path.name.startswith(".")] == []


@pytest.mark.whole
def test_a_run_has_one_process(toy_data, tmp_path):
    folder = run("train", tmp_path, toy_data, n_steps=1)

    def busy():
        with pytest.raises(SystemExit, match=f"^error: {folder}: another process is at work on this run"):
            run("train", tmp_path, toy_data, n_steps=2)
        os._exit(0)

    held = lock(folder, "busy")
    in_another_process(busy, ends_with=0)
    held.close()
    assert run("train", tmp_path, toy_data, n_steps=2) == folder


IN_A_GROUP = """
import os, runpy, sys
os.setsid()
print(os.getpid(), flush=True)
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.whole
def test_ctrl_c_on_the_command_line_with_workers_alive(warm, toy_data, tmp_path):
    """The signal goes to all processes of the group, as a terminal sends it."""
    options = {**TINY, "n_steps": 100000, "num_workers": 2, "save_snapshot_every": 2}
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_GROUP, "with", *(f"{key}={value}" for key, value in options.items()),
         f"path.log_dir={tmp_path}", f"path.CHAOST2.data_dir={toy_data}"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    group = int(process.stdout.readline())
    folder = tmp_path / "QNet_train_CHAOST2_cv0/1"
    while process.poll() is None and not (folder / "snapshots/2.pth").exists():
        time.sleep(0.05)
    os.killpg(group, signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "SIGINT: finishing this step" in errors and "Traceback" not in errors
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["status"] == "INTERRUPTED"
    last = max(int(path.stem) for path in (folder / "snapshots").glob("*.pth"))
    assert f"stopped after step {last} of 100000" in output


@pytest.mark.whole
def test_random_numbers_of_a_model_of_ones_own_go_on(toy_data, tmp_path, monkeypatch):
    """Dropout draws from the global generator; a resumed training must draw what it would have drawn."""
    built = BUILDERS["qnet"]

    def with_dropout(config):
        model = built(config)
        model.encoder.backbone.maxpool = torch.nn.Sequential(model.encoder.backbone.maxpool, torch.nn.Dropout(0.2))
        return model

    monkeypatch.setitem(BUILDERS, "qnet", with_dropout)
    whole = run("train", tmp_path / "whole", toy_data, num_workers=0)
    run("train", tmp_path / "parts", toy_data, n_steps=2)
    parts = run("train", tmp_path / "parts", toy_data)
    assert same(read_snapshot(whole / "snapshots/3.pth"), read_snapshot(parts / "snapshots/3.pth"))


# ---- repeating a run ----

def test_the_run_folder_says_what_the_run_was_made_of(trained):
    starts = json.loads((trained / "provenance.json").read_text(encoding="utf-8"))
    (start,) = starts
    assert {"command", "git", "python", "packages", "device", "threads", "data", "weights"} <= set(start)
    assert start["packages"]["torch"] == torch.__version__.partition("+")[0] and start["device"]["type"] == "cpu"
    images = [path for path in start["data"] if "image_" in path]
    assert len(images) == 3 and len(start["data"]) == 12       # of the training cases: image, label, supervoxels, superpixels
    assert all(sha256(Path(path)) == digest for path, digest in start["data"].items())


def test_uncommitted_changes_are_kept_and_git_may_be_missing(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path / "code"), "-c", "user.name=a", "-c", "user.email=b", *arguments], check=True,
                       stdout=subprocess.DEVNULL)

    for name in ("code", "1", "2", "3"):
        (tmp_path / name).mkdir()
    cpu, sums = torch.device("cpu"), Kept(tmp_path / "sums.jsonl", sha256)
    (tmp_path / "code/a.py").write_text("x = 1\n", encoding="utf-8")
    record_start(tmp_path / "1", cpu, "float32", [], None, sums, root=tmp_path / "code", entries=("a",))
    git("init", "--quiet")
    git("add", "a.py")
    git("commit", "--quiet", "--message", "first")
    record_start(tmp_path / "2", cpu, "float32", [], None, sums, root=tmp_path / "code", entries=("a",))
    (tmp_path / "code/a.py").write_text("x = 2\n", encoding="utf-8")
    (tmp_path / "code/b.py").touch()
    assert record_start(tmp_path / "2", cpu, "float32", [], None, sums, root=tmp_path / "code", entries=("a",)) == ["code"]
    without = json.loads((tmp_path / "1/provenance.json").read_text(encoding="utf-8"))[0]["git"]
    clean, changed = (start["git"] for start in json.loads((tmp_path / "2/provenance.json").read_text(encoding="utf-8")))
    assert without is None and clean["uncommitted"] is None
    assert len(changed["commit"]) == 40 and changed["untracked"] == ["b.py"]
    git("checkout", "--quiet", "a.py")
    git("apply", str(tmp_path / "2" / changed["uncommitted"]))
    assert (tmp_path / "code/a.py").read_text(encoding="utf-8") == "x = 2\n"
    monkeypatch.setenv("PATH", "")
    assert record_start(tmp_path / "3", cpu, "float32", [], None, sums, root=tmp_path / "code", entries=("a",)) == []
    assert json.loads((tmp_path / "3/provenance.json").read_text(encoding="utf-8"))[0]["git"] is None


@pytest.mark.whole
def test_data_that_changed_since_are_told(toy_data, tmp_path, capsys):
    data = write_toy_data(tmp_path / "data")
    run("train", tmp_path, data, n_steps=1)
    (data / "chaos_MR_T2_normalized/label_12.nii.gz").write_bytes(b"other")
    run("train", tmp_path, data, n_steps=2)
    assert "warning: data changed since this run was last started" in capsys.readouterr().out


def test_config_json_of_a_run_repeats_it(trained, tmp_path, monkeypatch, handlers_stay):
    monkeypatch.setattr(sys, "argv", ["train.py", "with", str(trained / "config.json"), f"path.log_dir={tmp_path}"])
    run_commandline(entry_point("train").experiment)
    folder = newest_run(tmp_path / "QNet_train_CHAOST2_cv0")
    assert same(read_snapshot(trained / "snapshots/3.pth"), read_snapshot(folder / "snapshots/3.pth"))


def test_deterministic_changes_nothing_on_a_cpu(trained, toy_data, tmp_path):
    folder = run("train", tmp_path, toy_data, deterministic=True)
    assert same(read_snapshot(trained / "snapshots/3.pth"), read_snapshot(folder / "snapshots/3.pth"))
