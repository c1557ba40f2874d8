"""The command `qnet`: its sub-commands, their help, what it refuses in one line, and one version."""

import os
import re
import subprocess
import sys
import tomllib

import pytest

import qnet
from qnet.command import PROGRAMS, SACREDS, help_text, main, report_words, with_words
from qnet.scripts.checks.wheel import ALL_COMMANDS
from qnet.util.base.root import ROOT, module_environment


@pytest.fixture
def said(capsys, monkeypatch):
    """Run the command and return its exit status, what it printed, and what it said of errors."""
    monkeypatch.setattr(sys, "argv", ["qnet"])

    def call(*arguments):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@pytest.mark.parametrize("asked", [[], ["--help"], ["-h"], ["help"]])
def test_its_help_names_every_command(said, asked):
    status, out, _ = said(*asked)
    assert status == 0 and out.strip() == help_text()
    assert [line.split()[0] for line in out.splitlines() if re.match(r"    \w+  ", line)] == list(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_help_begins_with_what_a_person_needs(said, name, handlers_stay):
    status, out, _ = said(name, "--help")
    before_sacreds = out.partition("Sacred")[0]
    assert not status and f"    qnet {name} " in before_sacreds and "python " not in before_sacreds
    assert out.startswith("usage: qnet") or out.index("Usage:") > len(before_sacreds)


@pytest.mark.parametrize(("name", "commands"), [("train", SACREDS), ("test", SACREDS), ("predict", ()), ("report", ())])
def test_a_help_lists_the_commands_that_may_follow_and_no_others(said, name, commands, handlers_stay):
    out = said(name, "--help")[1]
    listed = re.findall(r"^  (\w+) ", out.partition("\nCommands:\n")[2], re.MULTILINE)
    assert {*listed, "help"} == {*commands, "help"} and ("COMMAND" in out) == bool(commands)
    assert "end of this file" not in out and "predict and report" not in out


def test_the_log_names_the_command(said, caplog, tmp_path, monkeypatch, handlers_stay):
    monkeypatch.chdir(tmp_path)
    said("report", "nowhere")
    assert {record.name for record in caplog.records} == {"report"}


def test_a_misspelt_command_is_told_in_one_line(said):
    status, out, err = said("segmnt", "--scans", "x")
    assert status == 2 and not out
    assert err == f"error: qnet: got 'segmnt'; did you mean segment?; allowed: {', '.join(PROGRAMS)}\n"


@pytest.mark.parametrize(("arguments", "error"), [
    (["segment", "--scan", "x", "--outlined", "a=b"], "error: the following arguments are required: --output; qnet segment"),
    (["label"], "error: the following arguments are required: FOLDER; qnet label --help explains"),
    (["task", "shwo", "x"], "error: argument {create,show,check}: invalid choice: 'shwo'"),
    (["prepare", "chaos"], "error: the following arguments are required: --source, --target; qnet prepare chaos --help explains"),
    (["check", "NONE"], "error: dataset: got 'NONE', allowed: "),
    (["compare", "nowhere"], "error: "),
])
def test_what_is_wrong_is_one_line(said, arguments, error):
    status, _, err = said(*arguments)
    assert status == 2 and err.startswith(error) and err.count("\n") == 1


@pytest.mark.parametrize(("arguments", "told"), [
    (["train", "demo", "n_step=3"], "n_step"), (["test", "dem"], "did you mean demo?"),
    (["predict", "guided", "qery=x"], "did you mean query?"), (["report", "nowhere"], "nowhere/config.json: no such file"),
    (["train", "-x"], "error: -x: cannot be understood")])
def test_what_is_wrong_with_options_is_one_line(said, arguments, told, handlers_stay):
    status, _, _ = said(*arguments)
    assert isinstance(status, str) and status.startswith("error: ") and told in status and "\n" not in status


def test_with_may_be_left_out():
    assert with_words(["demo", "seed=1"]) == with_words(["with", "demo", "seed=1"]) == ["with", "demo", "seed=1"]
    assert with_words([]) == [] and with_words(["--help"], ["predict"]) == ["predict", "--help"]
    assert with_words(["print_config", "with", "demo"]) == ["print_config", "with", "demo"]
    assert report_words(["runs/1"]) == report_words(["with", "run=runs/1"]) == ["report", "with", "run=runs/1"]
    assert report_words(["runs/1", "overwrite=true"]) == ["report", "with", "run=runs/1", "overwrite=true"]


def test_the_functions_are_there_and_their_modules_put_no_folder_on_the_path(warm):
    done = subprocess.run([sys.executable, "-c", ALL_COMMANDS], env=module_environment(), capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_the_version_stands_in_one_place(said):
    """Of an environment that was made before the version changed, it may be an earlier one."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert said("--version") == (0, f"qnet {qnet.__version__}\n", "")
    assert re.fullmatch(r"\d+\.\d+\.\d+|unknown", qnet.__version__) and re.fullmatch(r"\d+\.\d+\.\d+", version)
    with pytest.raises(AttributeError, match="has no attribute 'versoin'"):
        qnet.versoin  # noqa: B018


def test_as_a_module_it_loads_no_library_for_its_help(tmp_path):
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "qnet"], cwd=tmp_path, env=module_environment(),
                          capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and done.stdout.strip() == help_text()
    assert not {"torch", "numpy", "sacred"} & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize("words", [["--help"], ["label", "--help"]])
def test_a_reader_who_leaves_gets_no_traceback(words, buffered, tmp_path):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as left:
        done = subprocess.run([sys.executable, "-m", "qnet", *words], cwd=tmp_path, stdout=left, stderr=subprocess.PIPE,
                              env={**module_environment(), "PYTHONUNBUFFERED": buffered})
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("given", "spins"), [
    ({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)])
def test_threads_wait_shortly_unless_it_is_said_otherwise(given, spins):
    """The number is set before PyTorch is imported, which reads it then alone."""
    usual = {name: value for name, value in module_environment().items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = "import os, sys, qnet; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], env=usual | given, capture_output=True, encoding="utf-8",
                          check=True).stdout
    assert said.split() == [str(spins), "False"]
