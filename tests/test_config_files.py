"""Config files are data, whoever wrote them: no program runs what one says."""

import json
import pickle
import re
import sys

import pytest

from qnet.data.check import main as check
from qnet.data.supervoxels.generate_supervoxels import main as generate
from qnet.scripts.compare import main as compare
from qnet.util.base.errors import InputError
from qnet.util.options.config import LIMITS, load_config, read_config_file
from qnet.util.run.experiment import run_commandline
from tests.programs import entry_point

pytestmark = pytest.mark.usefixtures("handlers_stay")


def by_reduce(canary):
    return {"seed": {"py/reduce": [{"py/function": "posix.system"}, {"py/tuple": [f"touch {canary}"]}]}}


def by_object(canary):
    return {"seed": {"py/object": "subprocess.Popen", "py/newargsex": [{"py/tuple": [["touch", str(canary)]]}, {}]}}


class Evil:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return exec, (f"open({str(self.canary)!r}, 'w')",)


FILES = {
    "c.json": lambda canary: json.dumps(by_reduce(canary)).encode(),
    "d.json": lambda canary: json.dumps(by_object(canary)).encode(),
    "c.json5": lambda canary: json.dumps(by_reduce(canary)).encode(),
    "c.pickle": lambda canary: pickle.dumps({"seed": Evil(canary)}),
    "pickle.json": lambda canary: pickle.dumps({"seed": Evil(canary)}),
    "c.yaml": lambda canary: f"seed: !!python/object/apply:os.system ['touch {canary}']\n".encode(),
    "c.yml": lambda canary: b"seed: 1\n", "c.py": lambda canary: f"open({str(canary)!r}, 'w')\n".encode(),
    "guided": lambda canary: pickle.dumps({"seed": Evil(canary)}),
}


def of_command_line(name, *words):
    def run(path, monkeypatch):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *words, "with", str(path)])
        run_commandline(entry_point(name).experiment)
    return run


def of_python(name, command):
    def run(path, monkeypatch):
        entry_point(name).experiment.run(command, named_configs=[str(path)])
    return run


def run_folder(path, monkeypatch):
    """The run folder that a stranger made, with this as its config."""
    (path.parent / "config.json").write_bytes(path.read_bytes())
    (path.parent / "scores.csv").write_text("dice\n", encoding="utf-8")
    sys.exit(compare([str(path.parent), "--output", str(path.parent / "out")]))


PROGRAMS = {
    **{f"{name} {' '.join(words)}": of_command_line(name, *words) for name, *words in (
        ("train",), ("train", "print_config"), ("train", "print_named_configs"), ("train", "save_config"), ("test",),
        ("test", "print_config"), ("test", "predict"), ("test", "report"))},
    **{f"experiment.run of {name} {command}": of_python(name, command) for name, command in (
        ("train", None), ("train", "print_config"), ("test", "predict"), ("test", "report"))},
    "check": lambda path, _: sys.exit(check(["CHAOST2", "--config", str(path)])),
    "generate": lambda path, _: sys.exit(generate(["CHAOST2", "--config", str(path)])),
    "compare": run_folder,
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_no_program_runs_what_a_config_file_says(program, file, tmp_path, monkeypatch, capsys):
    canary, path = tmp_path / "canary", tmp_path / file
    path.write_bytes(FILES[file](canary))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        PROGRAMS[program](path, monkeypatch)
    assert not canary.exists()
    said = str(caught.value) if isinstance(caught.value.code, str) else capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in said and "\n" not in said and "Traceback" not in said and caught.value.code != 0


def test_a_file_in_this_folder_takes_no_named_configs_place(tmp_path, monkeypatch):
    """Sacred would load it."""
    (tmp_path / "guided").write_bytes(pickle.dumps({"seed": Evil(tmp_path / "canary")}))
    monkeypatch.chdir(tmp_path)
    run = entry_point("train").experiment.run("print_config", named_configs=["guided"])
    assert run.config["model"] == "guided" and not (tmp_path / "canary").exists()


@pytest.mark.parametrize("words", [("print_config",), ("predict",), ()])
def test_a_file_does_not_say_whose_code_runs_and_the_command_line_does(words, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\nNet = print\n", encoding="utf-8")
    network = f"{tmp_path}/evil.py:Net"
    (tmp_path / "c.json").write_text(json.dumps({"model": "outside", "outside": {"network": network}}), encoding="utf-8")
    said = f"^error: outside.network: a config file says '{network}', whose code would run; allowed: to name it on the command"
    with pytest.raises(SystemExit, match=said):
        of_command_line("test", *words)(tmp_path / "c.json", monkeypatch)
    assert not (tmp_path / "canary").exists()
    run = entry_point("test").experiment.run("print_config", {"outside": {"network": network}}, [str(tmp_path / "c.json")])
    assert run.config["outside"]["network"] == network


@pytest.mark.parametrize(("name", "text"),
                         [("a.json", '{"seed": 5, "optim": {"lr": 0.5}}'), ("a.json5", "{seed: 5, optim: {lr: 0.5,}}")])
def test_what_is_sound_is_read_as_ever(name, text, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    run = entry_point("train").experiment.run("print_config", {"n_steps": 7}, ["cmr_setting1", str(tmp_path / name)])
    config = run.config
    assert (config["seed"], config["optim"]["lr"], config["n_steps"], config["dataset"]) == (5, 0.5, 7, "CMR")
    assert load_config(str(tmp_path / name))["seed"] == 5


@pytest.mark.parametrize(("content", "said"), [
    (b"[" * 10000, r"a\.json: not valid JSON"), (b"[1]", r"a\.json: holds a list, expected an object"),
    (b"\xff{}", "not valid JSON"),
    (b'{"a":' * 20 + b"1" + b"}" * 20, "is nested more than 16 levels deep"),
    (b'{"seed": ' + b"1" * 5000 + b"}", "not valid JSON"),
    (b" " * (LIMITS.n_bytes + 1), f"has more than {LIMITS.n_bytes} bytes"),
    (b"[" + b"1," * 50000 + b"1]", "with .* values; allowed: at most")])
def test_limits(content, said, tmp_path):
    for ending in ("json", "json5"):
        (tmp_path / f"a.{ending}").write_bytes(content)
        with pytest.raises(InputError,
                           match=said.replace(r"\.json", rf"\.{ending}").replace("valid JSON", "valid JSON5?")) as caught:
            read_config_file(str(tmp_path / f"a.{ending}"))
        assert re.fullmatch("[^\n]*", str(caught.value))
