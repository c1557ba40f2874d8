"""Reads `configs/*.json5` and refuses what is not allowed, before any work.

`RULES` has one entry per key of `base.json5`; its `description` is what an error message gives as allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import json5

from util.base.errors import InputError
from util.base.inputs import expect_file
from util.base.root import ROOT

CONFIG_DIR = ROOT / "configs"
MAX_WHOLE, MAX_NUMBER = 2**31 - 1, 1e30
SPACING_MM, MAX_SIZE_PX = (0.01, 1000), 4096      # of a grid


@dataclass(frozen=True)
class Rule:
    description: str
    allows: Callable[[Any], bool]


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MAX_NUMBER <= value <= MAX_NUMBER


def whole(low: int, high: int = MAX_WHOLE) -> Rule:
    limit = f"of at least {low} and at most {high}" if high == MAX_WHOLE else f"from {low} to {high}"
    return Rule(f"a whole number {limit}", lambda v: _is_whole(v) and low <= v <= high)


def number(low: float, high: float = MAX_NUMBER, *, above: bool = False) -> Rule:
    return Rule(f"a number {'above' if above else 'of at least'} {low} and at most {high:g}",
                lambda v: _is_number(v) and (v > low if above else v >= low) and v <= high)


def one_of(*values: Any) -> Rule:
    return Rule("one of " + ", ".join(repr(v) for v in values), lambda v: any(v == x and type(v) is type(x) for x in values))


def text() -> Rule:
    return Rule("a non-empty text without control characters", lambda v: isinstance(v, str) and bool(v) and v.isprintable())


def boolean() -> Rule:
    return Rule("true or false", lambda v: isinstance(v, bool))


def list_of(rule: Rule) -> Rule:
    return Rule(f"a non-empty list without repeats, each item {rule.description}",
                lambda v: isinstance(v, (list, tuple)) and len(v) > 0 and all(map(rule.allows, v)) and len(set(v)) == len(v))


def optional(rule: Rule) -> Rule:
    return Rule(f"null or {rule.description}", lambda v: v is None or rule.allows(v))


def either(first: Rule, second: Rule) -> Rule:
    return Rule(f"{first.description}, or {second.description}", lambda v: first.allows(v) or second.allows(v))


def _is_alpha(value: Any) -> bool:
    return (isinstance(value, (list, tuple)) and len(value) == 2
            and all(_is_number(v) and v >= 0 for v in value) and sum(value) > 0)


def _is_windows(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_whole(v) and v >= 1 for v in value)


def _is_device(value: Any) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]?))?", value))


ENCODERS = ("resnet101", "resnet50", "small")
MODELS = {"qnet": "QNet", "adnet": "ADNet", "alpnet": "ALPNet", "panet": "PANet"}   # with the names in folders and tables

RULES: dict[str, Rule | dict[str, Rule]] = {
    "dataset": text(),
    "eval_fold": whole(0),
    "test_label": list_of(whole(1, 254)),
    "exclude_label": optional(list_of(whole(1, 254))),
    "exclude_rule": one_of("any", "all"),
    "use_gt": boolean(),
    "pseudo_labels": one_of("supervoxels", "superpixels"),
    "n_sv": whole(1),
    "n_sp": whole(1),
    "min_size": whole(0),
    "n_way": one_of(1),
    "n_shot": whole(1),
    "n_query": one_of(1),
    "batch_size": whole(1),
    "num_workers": whole(0, 1024),
    "model": one_of(*MODELS),
    "encoder": one_of(*ENCODERS),
    "pretrained": text(),
    "paths": one_of("both", "fine", "coarse"),
    "alpha": Rule("two numbers [fine, coarse], none negative, not both 0", _is_alpha),
    "n_iters": whole(0),
    "coordinates": boolean(),
    "threshold": one_of("query", "learned", "support"),
    "t_loss_scaler": number(0),
    "prototype_windows": Rule("two whole numbers [in training, in testing] of at least 1", _is_windows),
    "device": Rule("'auto', 'cpu', 'cuda' or 'cuda:<number>'", _is_device),
    "precision": one_of("float32", "bf16"),
    "deterministic": boolean(),
    "seed": whole(0, 2**32 - 1),
    "n_steps": whole(1, 10**8),
    "optim": {"lr": number(0, above=True), "momentum": number(0, 1), "weight_decay": number(0)},
    "lr_step_gamma": number(0, 1, above=True),
    "max_iters_per_load": whole(1),
    "bg_wt": number(0, above=True),
    "ignore_label": whole(2, 255),
    "sync_batchnorm": boolean(),
    "print_interval": whole(1),
    "save_snapshot_every": whole(1),
    "keep_snapshots": either(one_of("all"), whole(1)),
    "max_refused_steps": whole(0),
    "resume": text(),
    "reload_model_path": optional(text()),
    "protocol": one_of("published", "corrected", "ep2"),
    "supp_idx": either(one_of("all"), either(whole(0), list_of(whole(0)))),
    "n_part": one_of(1, 3),
    "eval_batch_size": whole(1),
    "whole_volume": boolean(),
    "surface_tolerance_mm": number(0, above=True),
    "slice_margin": whole(0),
    "location_mm": number(0),
    "smooth_z": number(0, 1000),
    "largest_component": boolean(),
    "support_image": optional(either(text(), list_of(text()))),
    "support_label": optional(either(text(), list_of(text()))),
    "query": optional(text()),
    "output": optional(text()),
    "overwrite": boolean(),
    "save_probs": boolean(),
    "augment": boolean(),
    "run": optional(text()),
}


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 100 and value.isprintable() and not set(value) & set('/\\:"')


def _is_label(key: Any, high: int = 254) -> bool:
    """Whether a key, which JSON5 has as text, is a whole number from 1 to `high`."""
    return bool(re.fullmatch("[1-9][0-9]{0,8}", str(key))) and int(key) <= high


def _is_label_table(value: Any) -> bool:
    if not isinstance(value, Mapping) or not all(map(_is_label, value)) or not all(map(_is_file_name, value.values())):
        return False
    return len(value) == len({name.replace(" ", "_") for name in value.values()}) > 0


def _is_case_pattern(value: Any) -> bool:
    """Whether a text names a file by {case} and nothing else that `str.format` or `Path.glob` would take for its own."""
    if not isinstance(value, str) or value.rpartition("/")[2].count("{case}") != 1:
        return False
    rest = value.replace("{case}", "").replace("{n_sv}", "")
    return rest.isprintable() and not set(rest) & set("{}*?[]")


_LABEL_TABLE = Rule("{label value 1…254: name}, names distinct and fit for a file name", _is_label_table)
_FILE_VALUES = Rule("{value above 0 in the file: label value}, or {}", lambda v: isinstance(v, Mapping) and all(
    _is_label(key, MAX_WHOLE) and _is_whole(value) and 1 <= value <= 254 for key, value in v.items()))
_CASE_PATTERN = Rule("a path below data_dir with {case} in its file name, without * ? [ ]", _is_case_pattern)


def _is_grid(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == {"spacing_mm", "size_px", "orientation", "window"} and (
        _are_numbers(value["spacing_mm"], 3) and all(SPACING_MM[0] <= s <= SPACING_MM[1] for s in value["spacing_mm"])
        and _is_whole(value["size_px"]) and 1 <= value["size_px"] <= MAX_SIZE_PX
        and (value["orientation"] is None or _is_orientation(value["orientation"]))
        and (value["window"] is None or _are_numbers(value["window"], 2) and value["window"][0] < value["window"][1]))


def _are_numbers(value: Any, n: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == n and all(map(_is_number, value))


def _is_orientation(value: Any) -> bool:
    return isinstance(value, str) and set(value) <= set("RASLPI") and sorted("RASLPI".index(c) % 3 for c in value) == [0, 1, 2]


_GRID = Rule(f"null or {{spacing_mm: [x, y, z], each {SPACING_MM[0]} to {SPACING_MM[1]}, size_px: 1 to {MAX_SIZE_PX}, "
             "orientation: null or as \"LAS\", window: null or [low, high]}",
             lambda v: v is None or _is_grid(v))
DATASET_RULES = {"image": _CASE_PATTERN, "label": _CASE_PATTERN, "supervoxels": _CASE_PATTERN, "labels": _LABEL_TABLE,
                 "file_values": _FILE_VALUES, "n_folds": whole(1), "grid": _GRID}


def named_configs() -> dict[str, dict]:
    """Return every experiment file of `configs/`, by its name without the ending."""
    return {path.stem: read_json5(path) for path in sorted(CONFIG_DIR.glob("*.json5")) if path.stem != "base"}


def base_config() -> dict:
    return read_json5(CONFIG_DIR / "base.json5")


def load_config(*names: str) -> dict:
    """Return the base config with the named ones laid over it: what Sacred does, for programs that do not use it."""
    config, known = base_config(), named_configs()
    for name in names:
        if name not in known:
            raise InputError(f"config {name!r}: no file configs/{name}.json5; known: {sorted(known)}")
        _merge(config, known[name])
    return config


def read_json5(path: Path) -> dict:
    """Return the object in a JSON5 file; an InputError says what is wrong with the file."""
    try:
        content = json5.loads(expect_file(path).read_text(encoding="utf-8"), allow_duplicate_keys=False)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON5: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not valid JSON5 for a config: holds a {type(content).__name__}, expected an object {{…}}")
    return content


def _merge(target: dict, changes: Mapping) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def check_config(config: Mapping[str, Any]) -> None:
    """Check every key, also nested ones.

    Raises:
        InputError: an unknown or missing key, or a value that is not allowed; one line with the key, the value and what
            is allowed.
    """
    _check_section("", config, {**RULES, "path": None, "datasets": None})
    for name, entry in _section(config, "datasets").items():
        if not _is_file_name(name):
            raise InputError(f"datasets: got the name {_shown(name)}, allowed: a text fit for a file name")
        _check_section(f"datasets.{name}.", entry, DATASET_RULES)
    if config["dataset"] not in config["datasets"]:
        raise InputError(f"dataset: got {config['dataset']!r}, allowed: one of {sorted(config['datasets'])}")
    _check_paths(_section(config, "path"), config["datasets"])
    _check_labels(config)
    if config["protocol"] == "ep2" and config["n_part"] != 1:
        raise InputError(f"n_part: got {config['n_part']}, allowed with protocol 'ep2': 1")


def check_options(config: Mapping[str, Any], keys: Iterable[str], origin: Path) -> None:
    """Check some options of a run's own config, which may lack those of later versions.

    Raises:
        InputError: one of them is missing or not allowed; the message begins with the file, `origin`.
    """
    for key in keys:
        if key not in config or not RULES[key].allows(config[key]):
            got = _shown(config[key]) if key in config else "nothing"
            raise InputError(f"{origin}: {key}: got {got}, allowed: {RULES[key].description}")


def run_dataset(config: Mapping[str, Any], origin: Path) -> tuple[dict[str, Any], Path]:
    """Return the checked entry of a run's data set and its folder, from the run's own config in the file `origin`."""
    name = config["dataset"]
    try:
        entry = {"grid": None, **_section(_section(config, "datasets"), name)}
        _check_section(f"datasets.{name}.", entry, DATASET_RULES)
        return entry, Path(_section(_section(config, "path"), name)["data_dir"])
    except KeyError as error:
        raise InputError(f"{origin}: missing option {error.args[0]}") from None
    except (InputError, TypeError) as error:
        raise InputError(f"{origin}: {error}") from None


def _shown(value: Any) -> str:
    try:
        return repr(value) if len(repr(value)) <= 200 else repr(value)[:200] + "…"
    except ValueError:      # a whole number with thousands of digits
        return f"a huge {type(value).__name__}"


def _section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if not isinstance(config[key], Mapping):
        raise InputError(f"{key}: got {_shown(config[key])}, allowed: a section {{…}}")
    return config[key]


def _check_section(prefix: str, values: Any, rules: Mapping[str, Rule | Mapping | None]) -> None:
    if not isinstance(values, Mapping):
        raise InputError(f"{prefix.rstrip('.')}: got {_shown(values)}, allowed: a section with the keys {sorted(rules)}")
    for problem, keys in (("unknown", set(values) - set(rules)), ("missing", set(rules) - set(values))):
        if keys:
            names = ", ".join(prefix + (str(key) if str(key).isprintable() else repr(key)) for key in sorted(keys, key=str))
            raise InputError(f"{problem} option {names}; allowed here: {', '.join(sorted(rules))}")
    for key, rule in rules.items():
        if isinstance(rule, Mapping):
            _check_section(f"{prefix}{key}.", values[key], rule)
        elif rule is not None and not rule.allows(values[key]):
            raise InputError(f"{prefix}{key}: got {_shown(values[key])}, allowed: {rule.description}")


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
