"""The Sacred experiment of `qnet train` and `qnet test`: its configs, command line and observer."""

from __future__ import annotations

import ast
import contextlib
import copy
import json
import logging
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from docopt import DocoptExit, docopt
from sacred import SETTINGS, Experiment
from sacred.commandline_options import cli_option
from sacred.observers import RunObserver
from sacred.run import Run
from sacred.utils import convert_to_nested_dict

from qnet.util.base.device import resolve_device, resolve_precision, set_up_process
from qnet.util.base.distributed import first_tells, is_main, leave, let_first_tell, meet, of_main, silence
from qnet.util.base.errors import InputError, did_you_mean
from qnet.util.base.root import ROOT
from qnet.util.base.signals import Interrupted, raise_on_signals
from qnet.util.base.system import print_help
from qnet.util.options.config import (
    CONFIG_DIR,
    FILE_ENDINGS,
    base_config,
    check_config,
    explanation,
    merge,
    named_configs,
    of_today,
    read_config_file,
)
from qnet.util.options.record import Record
from qnet.util.options.sections import RunOptions, RunPlace
from qnet.util.run.observer import RunFolder
from qnet.util.run.resume import begun_with, is_finished, run_to_continue
from qnet.util.run.trackers import expect_tracker, tracker
from qnet.util.taskfile.task_file import manifest_of
from qnet.util.training.as_trained import as_trained, complete, scored_config

PATHS = ("support_image", "support_label", "task", "query", "output", "reload_model_path", "run")     # options with one path
HELP_COLUMN = 22    # where an option's explanation begins
SETTINGS.CAPTURE_MODE = "sys"
# check_config checks types and new entries, so sacred's warnings about them would only confuse
logging.getLogger().addFilter(lambda record: " of config entry " not in record.msg and "new config entry" not in record.msg)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an InputError, or an OSError about a file such as a full disk, into a one-line message and exit status 1."""
    try:
        yield
    except InputError as error:
        let_first_tell()
        raise SystemExit(f"error: {error}") from None
    except OSError as error:
        if error.filename is None:
            raise
        let_first_tell()
        raise SystemExit(f"error: {error.filename}: {error.strerror}") from None


class Help(NamedTuple):
    """What `--help` says: a text with examples, and the options that most people need."""

    text: str
    options: Sequence[str] = ()


class _Experiment(Experiment):
    """Sacred's experiment, which checks the config before a run, and completes it from a snapshot or an earlier run.

    A config hook of sacred's cannot do that, as named configs override what it returns. So sacred gets the complete config.
    """

    path: str       # the name: "train" or "test"
    told_as: str    # what the lines of the log say: the command, or the name

    helps: Mapping[str, Help]       # by command; "main" for none
    tracker: str | None = None      # what `--observer` says
    base: dict[str, Any]
    of_names: dict[str, dict[str, Any]]     # the named configs

    def run(self, command_name: str | None = None, config_updates: dict | None = None, named_configs: Sequence[str] = (),
            *rest: Any, **options: Any) -> Run:
        """Run a command as sacred does, with the checked config.

        Raises:
            SystemExit: the config is not allowed, or the training to resume is finished.
        """
        config_updates = of_today(config_updates or {})
        self.told_as = self.path if command_name in (None, "main") else command_name
        self.observers.clear()
        with one_line_errors():
            used, given = self._named(named_configs)
            asked, of_files = copy.deepcopy(used), copy.deepcopy(given)
            for target in (asked, given):
                merge(target, convert_to_nested_dict(config_updates))
            check_config(asked)
            expect_no_code(of_files, convert_to_nested_dict(config_updates))
            command = command_name or self.default_command
            self.tracker = _tracker_asked_for(command, options.get("options") or {})
            if command in ("main", "predict"):
                used, config_updates = self._used(command, plain(asked), plain(given)), {}
        self.configurations.clear()
        self.add_config(used)
        return super().run(command_name, config_updates, (), *rest, **options)      # no name: sacred would run what a file says

    def _named(self, names: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the base config with named configs and files merged into it, and what the files say alone."""
        config, given = copy.deepcopy(self.base), dict[str, Any]()
        for name in names:
            if name in self.of_names:
                merge(config, copy.deepcopy(self.of_names[name]))
            else:
                content = of_today(read_config_file(name))
                merge(config, copy.deepcopy(content))
                merge(given, content)      # a file given by its path counts as the command line
        return config, given

    def _used(self, command: str, used: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Return the complete config of a run. For "main", also find the run folder to continue, if any.

        Args:
            used: the checked config.
            given: what the command line says of it, and files on the command line.
        """
        if command == "predict" and used["task"] is not None:
            stored = of_today(manifest_of(used["task"]).options)
            used = as_trained(used, stored, tuple(stored), given)
        elif self.path == "test":
            used = scored_config(used, given, command)
        if command == "main":
            make_writable(RunPlace.of(used).folders(self.path))
            return self._continued(used)
        used = complete(used)
        set_up_process(resolve_device(used["device"]), used["deterministic"])       # before Sacred starts a thread
        return used

    def _continued(self, config: dict[str, Any]) -> dict[str, Any]:
        """Find the run folder to continue, if any, and return the config with the run's precision.

        The main process decides, and only it has an observer. A training that is finished ends here.
        """
        options = RunOptions.of(config)
        device = resolve_device(options.device)
        set_up_process(device, options.deterministic)
        meet(device)
        folder, finished, precision = of_main(_earlier_run(Record(config), options, self.path, device) if is_main() else None)
        if finished:
            print(f"nothing to do: {folder} is finished, with these options and {options.n_steps} steps; "
                  "to train it once more say resume=never")
            raise SystemExit(0)
        config = {**config, "precision": precision}
        self.observers[:] = self._observers(folder, options.place, Record(config)) if is_main() else []
        return config

    def _observers(self, continued: Path | None, place: RunPlace, record: Record) -> list[RunObserver]:
        """Return the run folder and, if `--observer` asks for it, a tracker. InputError as they raise it."""
        kept = RunFolder(place.folders(self.path), continued, record)
        return [kept, *([tracker(self.tracker, kept.folder, place.log_dir)] if self.tracker else [])]


@cli_option("-o", "--observer")
def observer_option(args: str, run: Run) -> None:
    """Log to "tensorboard" or "mlflow" as well, in local files below path.log_dir."""


def _tracker_asked_for(command: str | None, options: Mapping[str, Any]) -> str | None:
    name = options.get("--observer")
    if name:
        expect_tracker(name)
        if command != "main":
            raise InputError(f"--observer {name}: {command} is not tracked; allowed: with training and evaluation")
    return name or None


def expect_no_code(of_files: Mapping[str, Any], of_command_line: Mapping[str, Any]) -> None:
    """Check that no file of options, which may be anyone's, decides what code runs: `outside.network` is named by hand.

    Raises:
        InputError: one does.
    """
    network = (of_files.get("outside") or {}).get("network")
    if network is not None and "network" not in of_command_line.get("outside", {}):
        raise InputError(f"outside.network: a config file says {network!r}, whose code would run; allowed: to name it on the "
                         "command line")


def make_experiment(mode: str, helps: Mapping[str, Help], configs: Path = CONFIG_DIR) -> _Experiment:
    """Return the experiment of an entry point, with the configs of `configs/`.

    Args:
        mode: "train" or "test".
        helps: what `--help` says, by command; "main" for none.
        configs: the folder of the named configs.
    Raises:
        SystemExit: a file of `configs/` cannot be read.
    """
    if not is_main():
        silence()
    experiment = _Experiment(mode, base_dir=str(ROOT), save_git_info=False, additional_cli_options=[observer_option])
    experiment.doc, experiment.helps, experiment.told_as = "", helps, mode      # sacred would take this module's docstring
    logging.getLogger(mode).addFilter(partial(_is_told, experiment))
    with one_line_errors():
        experiment.base, experiment.of_names = base_config(), named_configs(configs)
        for name, config in experiment.of_names.items():
            experiment.add_named_config(name, config)
    return experiment


def _is_told(experiment: _Experiment, record: logging.LogRecord) -> bool:
    """Name the command in a line of the log, and return whether the line is told: predict and report have no observer."""
    record.name = experiment.told_as
    return "No observers" not in record.msg


def make_writable(folder: Path) -> None:
    """Make the folder that holds the run folders.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"path.log_dir: {folder} cannot be made ({error.strerror})") from None


def _earlier_run(record: Record, options: RunOptions, mode: str, device: torch.device) -> tuple[Path | None, bool, str]:
    """Return the run folder to continue or None, whether its training is finished, and the precision of the run."""
    folder = run_to_continue(record, options, mode)
    if mode == "train" and folder is not None and is_finished(folder, options.n_steps):
        return folder, True, options.precision
    begun = begun_with(options, folder, mode)
    return folder, False, resolve_precision(options.precision, device, begun, training=mode == "train")


def run_commandline(experiment: _Experiment, others: Sequence[str] = ()) -> None:
    """Run an experiment with the arguments of the command line. As in configs/, true, false and null are values there.

    Args:
        others: commands of the program that are not the experiment's, which a message about an unknown one names too.
    Raises:
        SystemExit: with 128 + the signal's number after SIGTERM or Ctrl-C; with one line if an argument is not allowed.
    """
    words = {"true": "True", "false": "False", "null": "None"}
    pairs = (argument.partition("=") for argument in sys.argv)
    arguments = [name + equals + words.get(value, value) if not _is_path(name, value) else name + equals + repr(value)
                 for name, equals, value in pairs]
    if {"-h", "--help"} & set(arguments[1:]):
        print_help(help_text(experiment, arguments[1]))
        raise SystemExit(0)
    with first_tells(), one_line_errors():
        for update in _updates(experiment, arguments[1:], others):
            check_update(update, sorted(experiment.named_configs))
    raise_on_signals()
    try:
        experiment.run_commandline(arguments)
    except Interrupted as error:
        print(f"stopped by {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    leave()


def _updates(experiment: _Experiment, words: list[str], others: Sequence[str]) -> list[str]:
    """Return the words after `with`. Raises InputError unless sacred understands all words: it would show its whole help."""
    commands = [name for name, _ in experiment.gather_commands()]
    try:
        parsed = docopt(experiment.get_usage()[2], words, default_help=False)
        command = parsed["COMMAND"]
        if command is None or command in commands:
            return parsed["UPDATE"]
    except DocoptExit:
        command = next((word for word in words if not word.startswith("-")), "with")
    if command in (*commands, "with", "help"):
        raise InputError(f"{' '.join(words)}: cannot be understood; allowed: COMMAND with KEY=VALUE, where either may be left "
                         "out; --help explains it")
    allowed = sorted({*commands, *others})
    raise InputError(f"{command}: is no command{did_you_mean(command, ['with', 'help', *allowed])}; allowed: "
                     f"{', '.join(allowed)}{f', or with {command}' if '=' in command else ''}")


def help_text(experiment: _Experiment, command: str) -> str:
    """Return the help of a command, or of the experiment: what a person needs, then what is sacred's."""
    text, options = experiment.helps.get(command, experiment.helps["main"])
    explained = [textwrap.fill(explanation(key), 120, initial_indent=f"  {key:<{HELP_COLUMN - 4}}  ",
                               subsequent_indent=" " * HELP_COLUMN) for key in options]
    every = f"Every option is explained in {CONFIG_DIR / 'base.json5'}, and may be given as key=value."
    return "\n".join([text.strip(), "", *([*explained, ""] if explained else []), every, "",
                      "Sacred, which runs this, has these of its own:", "", _sacreds_help(experiment, command)])


def _sacreds_help(experiment: _Experiment, command: str) -> str:
    """Return sacred's part of the help. After `qnet predict` and `qnet report` no command of sacred's may follow, and none of the
    experiment's after any program of `qnet`.
    """
    program = Path(sys.argv[0]).name
    lines = experiment.get_usage()[2].replace("dummy", program).replace("\n\n\n", "\n").strip().split("\n")
    if program.startswith("qnet "):
        lines = [line for line in lines if line.split()[:1] not in [[name] for name in experiment.helps]]
        if command in experiment.helps:
            lines = [line for line in lines[:lines.index("Commands:")] if "COMMAND" not in line]
    return "\n".join(lines)


def _is_path(name: str, value: str) -> bool:
    """Return whether a word of the command line names a file or folder though it looks like a number, a truth value or null."""
    if name not in PATHS or value[:1] in ("[", "(", "{", '"', "'"):
        return False
    if value in ("null", "None"):
        return Path(value).exists()
    try:
        return isinstance(ast.literal_eval(value), (int, float, complex))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value in ("true", "false")


def check_update(update: str, named: Sequence[str]) -> None:
    """Raise InputError unless a word after `with` is key=value, a named config or a file. Sacred would show a traceback."""
    key, equals, text = update.partition("=")
    if not equals and update not in named and not Path(update).is_file():
        raise InputError(f"with {update}: neither key=value nor a named config{did_you_mean(update, named)}; known: "
                         f"{', '.join(named)}")
    if not equals and update not in named and not update.endswith(FILE_ENDINGS):
        raise InputError(f"with {update}: cannot be read as a config, allowed: a file that ends in {' or '.join(FILE_ENDINGS)}")
    try:
        json.dumps(ast.literal_eval(text))
    except TypeError:
        raise InputError(f"{key}: got {text}, allowed: text, a number, true, false, null, a [list] or a {{section}}") from None
    except (ValueError, SyntaxError, RecursionError, MemoryError):      # then it is plain text
        pass


def run_dir(run: Run) -> Path:
    """Return the run folder, which the main process's observer made. Every process must call this."""
    return Path(of_main(run.observers[0].dir if is_main() else None))


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config as plain dictionaries and lists."""
    return json.loads(json.dumps(config))
