"""Reads `configs/*.json5`, and checks a config before any work.

`qnet.util.options.sections` declares the options of the top level, each with its rule. The rules of data sets are here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import json5
import msgspec

from qnet.util.base.classes import ALIKE_RULE, MAX_TRAINED, MAX_VALUE, NAME_RULE, alike, is_name, is_value
from qnet.util.base.errors import InputError, did_you_mean
from qnet.util.base.inputs import Limits, as_schema, parse_json, read_small, shown
from qnet.util.base.root import ROOT
from qnet.util.base.rules import Rule, is_number, is_whole, text, whole
from qnet.util.options.names import current_names, gone_options
from qnet.util.options.sections import RULES

CONFIG_DIR = ROOT / "configs"
FILE_ENDINGS = (".json5", ".json")
LIMITS = Limits(2**17, 16, 2**15)       # of a config: the largest of this repository has 20 kB
SPACING_MM, MAX_SIZE_PX = (0.01, 1000), 4096      # bounds of a grid


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 100 and value.isprintable() and not set(value) & set('/\\:"')


def _is_label_table(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(is_value(key, MAX_TRAINED) for key in value):      # keys of JSON5 are texts
        return False
    return len(value) > 0 and all(map(is_name, value.values())) and alike(value.values()) is None


def _is_case_pattern(value: Any) -> bool:
    """Return whether a path has {case} in its file name, and nothing else that `str.format` or `Path.glob` would replace."""
    if not isinstance(value, str) or value.rpartition("/")[2].count("{case}") != 1:
        return False
    rest = value.replace("{case}", "").replace("{n_sv}", "")
    return rest.isprintable() and not set(rest) & set("{}*?[]")


_LABEL_TABLE = Rule(f"{{label value from 1 to {MAX_TRAINED}: name}}, each name {NAME_RULE}; {ALIKE_RULE}", _is_label_table)
_FILE_VALUES = Rule(f"{{value from 1 to {MAX_VALUE} in the file: label value from 1 to {MAX_TRAINED}}}, or {{}}",
                    lambda v: isinstance(v, Mapping) and all(map(is_value, v)) and all(
                        is_whole(value) and 1 <= value <= MAX_TRAINED for value in v.values()))
_CASE_PATTERN = Rule("a path below data_dir with {case} in its file name, without * ? [ ]", _is_case_pattern)


def _is_grid(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"spacing_mm", "size_px", "orientation", "window"} and (
        _are_numbers(value["spacing_mm"], 3) and all(SPACING_MM[0] <= s <= SPACING_MM[1] for s in value["spacing_mm"])
        and is_whole(value["size_px"]) and 1 <= value["size_px"] <= MAX_SIZE_PX
        and (value["orientation"] is None or _is_orientation(value["orientation"]))
        and (value["window"] is None or (_are_numbers(value["window"], 2) and value["window"][0] < value["window"][1])))


def _are_numbers(value: Any, n: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == n and all(map(is_number, value))


def _is_orientation(value: Any) -> bool:
    return isinstance(value, str) and set(value) <= set("RASLPI") and sorted("RASLPI".index(c) % 3 for c in value) == [0, 1, 2]


_GRID = Rule(f"null or {{spacing_mm: [x, y, z], each {SPACING_MM[0]} to {SPACING_MM[1]}, size_px: 1 to {MAX_SIZE_PX}, "
             "orientation: null or as \"LAS\", window: null or [low, high]}",
             lambda v: v is None or _is_grid(v))
DATASET_RULES = {"image": _CASE_PATTERN, "label": _CASE_PATTERN, "supervoxels": _CASE_PATTERN, "labels": _LABEL_TABLE,
                 "file_values": _FILE_VALUES, "n_folds": whole(1), "grid": _GRID}


def of_today(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that a user gives, under the names of today. One printed line names those that are gone."""
    if gone := gone_options(options):
        print(f"{', '.join(gone)}: left out; there is no such option any more, as lengths follow the scan now")
    return current_names(options)


def named_configs(folder: Path = CONFIG_DIR) -> dict[str, dict]:
    """Return the content of every experiment file of `configs/`, or of another folder, by file name without the ending.

    Raises:
        InputError: a file cannot be read.
    """
    return {name: current_names(read_json5(path)) for name, path in _named_files(folder).items()}


def _named_files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.json5")) if path.stem != "base"}


def base_config() -> dict:
    """Return `configs/base.json5`: every option with its default.

    Raises:
        InputError: the file cannot be read.
    """
    return read_json5(CONFIG_DIR / "base.json5")


def load_config(*names: str) -> dict:
    """Return the base config with others merged into it, as Sacred merges them. Programs without Sacred call this.

    Args:
        names: of files in `configs/`, or paths of files that end in .json5 or .json.
    Raises:
        InputError: a name is unknown, or a file cannot be read.
    """
    config, known = base_config(), _named_files(CONFIG_DIR)
    for name in names:
        if name.endswith(FILE_ENDINGS):
            merge(config, of_today(read_config_file(name)))
        elif name in known:
            merge(config, current_names(read_json5(known[name])))       # not the others, as each takes a while
        else:
            raise InputError(f"config {name!r}: no such file in configs/; allowed: {', '.join(known)}, or a file that "
                             f"ends in {' or '.join(FILE_ENDINGS)}")
    return config


def read_json5(path: Path) -> dict:
    """Return the object in a JSON5 file.

    Raises:
        InputError: the file is missing, too large, is not JSON5, or does not hold an object {…}.
    """
    return copy.deepcopy(_parsed(read_small(path, LIMITS.n_bytes), str(path)))


def read_config_file(path: str) -> dict[str, Any]:
    """Return the options in a config file that a user names, under the names that stand there (see `of_today`).

    The file is data: nothing in it is run.

    Raises:
        InputError: it has another ending than .json5 and .json, is missing, too large, damaged, or holds no object {…}.
    """
    if not path.endswith(FILE_ENDINGS):
        raise InputError(f"{path}: cannot be read as a config, allowed: a file that ends in {' or '.join(FILE_ENDINGS)}")
    if path.endswith(".json5"):
        return read_json5(Path(path))
    return parse_json(read_small(Path(path), LIMITS.n_bytes), path, limits=LIMITS)


@cache
def _parsed(content: bytes, origin: str) -> dict:
    """Parse JSON5. The result is kept, because base.json5 is read several times in a run and takes 60 ms."""
    return parse_json(content, origin, limits=LIMITS, loads=partial(json5.loads, allow_duplicate_keys=False), language="JSON5")


def stored_options(text: Any, origin: str) -> dict[str, Any]:
    """Return the options that a snapshot stores, under the names of today. Their values are checked where they are used.

    Args:
        text: JSON.
    Raises:
        InputError: it is no JSON, exceeds the limits, or is nothing that `Record.options` can be.
    """
    if not isinstance(text, str):
        raise InputError(f"{origin}: got a {type(text).__name__}, allowed: the options as JSON")
    stored = current_names(parse_json(text.encode("utf-8", "surrogatepass"), origin, limits=LIMITS))
    as_schema({key: stored[key] for key in ("datasets", "path") if key in stored}, _Sections, origin)
    return stored


class _Sections(msgspec.Struct):
    """The sections whose keys are names of data sets."""

    datasets: dict[str, dict[str, Any]] = {}
    path: dict[str, Any] = {}


def explanation(key: str) -> str:
    """Return the comment on an option in base.json5, beside its value and in the lines below, without line breaks.

    Raises:
        KeyError: there is no such option.
    """
    text = (CONFIG_DIR / "base.json5").read_text(encoding="utf-8")
    found = re.search(rf"^  {re.escape(key)}: ((?:.*\n)(?: {{3,}}//.*\n)*)", text, re.MULTILINE)
    if found is None:
        raise KeyError(key)
    return " ".join(line.partition("//")[2].strip() for line in found[1].splitlines()).strip()


def merge(target: dict, changes: Mapping) -> None:
    """Merge changes into a config, in place and section by section."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


def check_config(config: Mapping[str, Any]) -> None:
    """Check every key, nested ones too.

    Raises:
        InputError: a key is unknown or missing, or a value is not allowed.
    """
    _check_section("", config, {**RULES, "path": None, "datasets": None})
    for name, entry in _section(config, "datasets").items():
        if not _is_file_name(name):
            raise InputError(f"datasets: got the name {shown(name)}, allowed: a text fit for a file name")
        _check_section(f"datasets.{name}.", entry, DATASET_RULES)
    if config["dataset"] not in config["datasets"]:
        raise InputError(f"dataset: got {config['dataset']!r}, allowed: one of {sorted(config['datasets'])}")
    _check_paths(_section(config, "path"), config["datasets"])
    _check_labels(config)
    if config["protocol"] == "ep2" and config["n_part"] != 1:
        raise InputError(f"n_part: got {config['n_part']}, allowed with protocol 'ep2': 1")
    if config["model"] == "qnet_tpm" and config["threshold"] == "support":
        raise InputError("threshold: got 'support', allowed with model 'qnet_tpm': 'query' or 'learned'")


def check_options(config: Mapping[str, Any], keys: Iterable[str], origin: Path) -> None:
    """Check some options of the config that a run or snapshot stores. Options of later versions may be missing there.

    Raises:
        InputError: one of `keys` is missing or not allowed. The message begins with `origin`, the file of the config.
    """
    for key in keys:
        rule = RULES[key]
        if key not in config:
            allowed = rule.description if isinstance(rule, Rule) else f"a section with the keys {sorted(rule)}"
            raise InputError(f"{origin}: {key}: got nothing, allowed: {allowed}")
        try:
            _check_value(key, config[key], rule)
        except InputError as error:
            raise InputError(f"{origin}: {error}") from None


def run_dataset(config: Mapping[str, Any], origin: Path) -> tuple[dict[str, Any], Path]:
    """Return the checked entry of a run's data set, and its folder.

    Args:
        config: the config that the run stores.
        origin: the file that it was read from.
    Raises:
        InputError: an option is missing or not allowed. The message begins with `origin`.
    """
    name = config["dataset"]
    try:
        entry = {"grid": None, **_section(_section(config, "datasets"), name)}
        _check_section(f"datasets.{name}.", entry, DATASET_RULES)
        return entry, Path(_section(_section(config, "path"), name)["data_dir"])
    except KeyError as error:
        raise InputError(f"{origin}: missing option {error.args[0]}") from None
    except (InputError, TypeError) as error:
        raise InputError(f"{origin}: {error}") from None


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if not isinstance(config[key], Mapping):
        raise InputError(f"{key}: got {shown(config[key])}, allowed: a section {{…}}")
    return config[key]


def _check_section(prefix: str, values: Any, rules: Mapping[str, Rule | Mapping[str, Rule] | None]) -> None:
    if not isinstance(values, Mapping):
        raise InputError(f"{prefix.rstrip('.')}: got {shown(values)}, allowed: a section with the keys {sorted(rules)}")
    for problem, keys in (("unknown", set(values) - set(rules)), ("missing", set(rules) - set(values))):
        if keys:
            names = ", ".join(prefix + (str(key) if str(key).isprintable() else repr(key)) for key in sorted(keys, key=str))
            near = did_you_mean(str(min(keys, key=str)), rules) if problem == "unknown" else ""
            raise InputError(f"{problem} option {names}{near}; allowed here: {', '.join(sorted(rules))}")
    for key, rule in rules.items():
        if rule is not None:
            _check_value(prefix + key, values[key], rule)


def _check_value(name: str, value: Any, rule: Rule | Mapping[str, Rule]) -> None:
    if isinstance(rule, Mapping):
        _check_section(f"{name}.", value, rule)
    elif not rule.allows(value):
        raise InputError(f"{name}: got {shown(value)}, allowed: {rule.description}")


def _check_paths(paths: Mapping[str, Any], datasets: Mapping[str, Any]) -> None:
    _check_section("path.", paths, {"log_dir": text(), "weights_dir": text(), **{
        name: {"data_dir": text()} for name in datasets}})


def _check_labels(config: Mapping[str, Any]) -> None:
    entry = config["datasets"][config["dataset"]]
    known = {int(value): name for value, name in entry["labels"].items()}
    if unknown := set(entry["file_values"].values()) - set(known):
        raise InputError(f"datasets.{config['dataset']}.file_values: got label value {min(unknown)}, allowed: {known}")
    for key in ("test_label", "exclude_label"):
        for label in config[key] or ():
            if label not in known:
                raise InputError(f"{key}: got {label}, allowed for {config['dataset']}: {known}")
