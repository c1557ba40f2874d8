"""The Sacred experiment of train.py and test.py: its configs, its command line, its observer."""

from __future__ import annotations

import ast
import contextlib
import copy
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from docopt import docopt
from sacred import SETTINGS, Experiment
from sacred.config.config_files import load_config_file
from sacred.run import Run
from sacred.utils import convert_to_nested_dict

from util.base.device import resolve_device, resolve_precision
from util.base.distributed import is_main, meet, of_main, part, silence
from util.base.errors import InputError
from util.base.root import ROOT
from util.base.signals import Interrupted, raise_on_signals
from util.options.config import base_config, check_config, merge, named_configs
from util.options.table import current_names
from util.run.folders import run_folders
from util.run.observer import RunFolder
from util.run.resume import begun_with, is_finished, run_to_continue
from util.training.as_trained import scored_config

SETTINGS.CAPTURE_MODE = "sys"
# check_config knows which types and which new entries are allowed, so sacred's own warnings about both would only confuse
logging.getLogger().addFilter(lambda record: " of config entry " not in record.msg and "new config entry" not in record.msg)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an InputError, and an error of a file such as a full disk, into an exit with status 1 and its one line."""
    try:
        yield
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    except OSError as error:
        if error.filename is None:
            raise
        raise SystemExit(f"error: {error.filename}: {error.strerror}") from None


class _Experiment(Experiment):
    """Sacred's experiment, with the config checked, and completed by what a snapshot or an earlier run says, before a run starts.

    A hook of sacred's could not do that: what it returns gives way to named configs. So sacred gets the whole config as one.
    """

    base: dict[str, Any]
    of_names: dict[str, dict[str, Any]]     # named configs

    def run(self, command_name: str | None = None, config_updates: dict | None = None, named_configs: Sequence[str] = (),
            *rest: Any, **options: Any) -> Run:
        config_updates = current_names(config_updates or {})
        self.observers.clear()
        self.configurations.clear()
        self.add_config(self.base)
        if (command := command_name or self.default_command) in ("main", "predict"):
            with one_line_errors():
                used = self._used(command, config_updates, named_configs)
            self.configurations.clear()
            self.add_config(used)
            config_updates, named_configs = {}, ()
        return super().run(command_name, config_updates, named_configs, *rest, **options)

    def _used(self, command: str, config_updates: dict, names: Sequence[str]) -> dict[str, Any]:
        """Return the whole checked config that the run goes by; for "main" also find the run folder to go on in, if any."""
        config, given = copy.deepcopy(self.base), {}
        for name in names:
            if name in self.of_names:
                merge(config, copy.deepcopy(self.of_names[name]))
            else:
                content = current_names(_read_config_file(name))
                merge(config, copy.deepcopy(content))
                merge(given, content)      # a file that the user names by its path is the command line's
        for target in (config, given):
            merge(target, convert_to_nested_dict(config_updates))
        check_config(config)
        used = plain(config)
        if self.path == "test":
            used = scored_config(used, plain(given), command)
        if command == "main":
            make_writable(run_folders(used, self.path))
            return self._taken_up(used)
        device = resolve_device(used["device"], used["deterministic"])
        return {**used, "precision": resolve_precision(used["precision"], device)}

    def _taken_up(self, config: dict[str, Any]) -> dict[str, Any]:
        """Find the run folder to go on in and its precision; a training that is finished ends here. Returns the config with both.

        Of several processes the main one decides, and has the observer.
        """
        device = resolve_device(config["device"], config["deterministic"])
        meet(device)
        folder, finished, precision = of_main(_earlier_run(config, self.path, device) if is_main() else None)
        if finished:
            print(f"nothing to do: {folder} is finished, with these options and {config['n_steps']} steps; "
                  "to train it once more say resume=never")
            raise SystemExit(0)
        config = {**config, "precision": precision}
        self.observers[:] = [RunFolder(run_folders(config, self.path), folder, config)] if is_main() else []
        return config


def _read_config_file(path: str) -> dict[str, Any]:
    try:
        content = load_config_file(path)
    except Exception as error:      # json, yaml and pickle each have their own
        raise InputError(f"{path}: cannot be read as a config ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected an object {{…}}")
    return content


def make_experiment(mode: str, description: str) -> Experiment:
    """Return the experiment of an entry point ("train" or "test"): configs from `configs/`, checked before a run starts.

    `description` is what `--help` says; sacred takes the text of the module that makes the experiment, which is this one.
    """
    if not is_main():
        silence()
    logging.getLogger(mode).addFilter(lambda record: "No observers" not in record.msg)     # predict and report have none
    experiment = _Experiment(mode, base_dir=str(ROOT), save_git_info=False)
    experiment.doc = description
    with one_line_errors():
        experiment.base, experiment.of_names = base_config(), named_configs()
        for name, config in experiment.of_names.items():
            experiment.add_named_config(name, config)

    @experiment.config_hook
    def check(config: dict, command_name: str, logger: Any) -> dict:
        """For the commands that only print."""
        with one_line_errors():
            check_config(config)
        return {}

    return experiment


def make_writable(folder: Path) -> None:
    """Make the folder of a config's runs; an InputError says why that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"path.log_dir: {folder} cannot be made ({error.strerror})") from None


def _earlier_run(config: Mapping[str, Any], mode: str, device: torch.device) -> tuple[Path | None, bool, str]:
    """Return the run folder to go on in, or None; whether nothing is left to train there; and the precision to run with."""
    folder = run_to_continue(config, mode)
    if mode == "train" and folder is not None and is_finished(folder, config):
        return folder, True, config["precision"]
    return folder, False, resolve_precision(config["precision"], device, begun_with(config, folder, mode))


def run_commandline(experiment: Experiment) -> None:
    """Run an experiment on the command line's arguments; true, false and null mean there what they mean in configs/.

    SIGTERM and Ctrl-C end it with exit status 128 + the signal's number.

    Raises:
        SystemExit: after a signal, and with one line for an update of which sacred would make a traceback.
    """
    words = {"true": "True", "false": "False", "null": "None"}
    pairs = (argument.partition("=") for argument in sys.argv)
    arguments = [name + equals + words.get(value, value) for name, equals, value in pairs]
    with one_line_errors():
        for update in docopt(experiment.get_usage()[2], arguments[1:], default_help=False)["UPDATE"]:
            check_update(update, sorted(experiment.named_configs))
    raise_on_signals()
    try:
        experiment.run_commandline(arguments)
    except Interrupted as error:
        print(f"stopped by {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    part()


def check_update(update: str, named: Sequence[str]) -> None:
    """Raise InputError unless sacred can make a config of a word after `with`: key=value, or a named config or its file."""
    key, equals, text = update.partition("=")
    if not equals and update not in named and not Path(update).is_file():
        raise InputError(f"with {update}: neither key=value nor a named config; known: {', '.join(named)}")
    try:
        json.dumps(ast.literal_eval(text))
    except TypeError:
        raise InputError(f"{key}: got {text}, allowed: text, a number, true, false, null, a [list] or a {{section}}") from None
    except (ValueError, SyntaxError, RecursionError, MemoryError):      # plain text
        pass


def run_dir(run: Run) -> Path:
    """Return the folder of a run, made by the main process's observer; to be called in every process."""
    return Path(of_main(run.observers[0].dir if is_main() else None))


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config as plain dictionaries and lists."""
    return json.loads(json.dumps(config))
