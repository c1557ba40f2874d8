"""The table of options: the rule and the roles of each key of `configs/base.json5`.

Only `base.json5` explains what an option means; `qnet.util.options.config.explanation` reads that text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from qnet.util.base.classes import MAX_TRAINED
from qnet.util.options.rules import (
    Rule,
    boolean,
    device_name,
    either,
    encoder,
    list_of,
    number,
    one_of,
    optional,
    path_weights,
    text,
    whole,
    windows,
)

ENCODERS = ("resnet101", "resnet50", "small")
MODELS = {"qnet": "QNet", "adnet": "ADNet", "alpnet": "ALPNet", "panet": "PANet", "tpm": "TPM", "qnet_tpm": "QNetTPM",
          "rpt": "RPT", "gmrd": "GMRD", "registration": "Registration", "guided": "Guided", "universeg": "UniverSeg",
          "outside": "Outside"}      # the names in folders and tables
VOLUME_MODELS = ("registration", "guided")         # these segment whole volumes
OUTSIDE_MODELS = ("universeg", "outside")          # these are loaded from elsewhere
UNTRAINED_MODELS = (*VOLUME_MODELS, *OUTSIDE_MODELS)      # train.py trains none of them, and no snapshot holds one


CLASS_PRIORS = ("none", "average", "linear", "oracle")
RPT_FORMS, GMRD_EDGES = ("2023", "2024"), ("published", "meant")


class Role(Enum):
    """Why an option is treated specially. Without a role, another value makes another training."""

    SHAPES = "it shapes the network or what the network computes: a snapshot is evaluated with the value that it was trained with"
    TRAINED_WITH = "predict takes it from the snapshot: all of SHAPES, and the data set with its grid and labels"
    TASK = "a task file stores it, besides the model and, for a network, all of TRAINED_WITH"
    RESUME = "it may differ when a training is resumed"
    RESUME_NAMED = "it may also differ when the user names the snapshot to resume"
    COMPARED = "scripts/compare.py reads it from the run folder of an evaluation"
    SHOWN = "the report reads it from the run folder of an evaluation"
    ELSEWHERE = "it says where predict reads and writes, not what it computes; files are compared by content"


@dataclass(frozen=True)
class Option:
    """An option at the top level of a config.

    Attributes:
        rule: what is allowed. A section has one rule per key. None: `qnet.util.options.config` checks the option by itself.
        roles: why the option is treated specially; empty for most.
    """

    rule: Rule | Mapping[str, Rule] | None
    roles: frozenset[Role]


def _option(rule: Rule | Mapping[str, Rule] | None, *roles: Role) -> Option:
    return Option(rule, frozenset(roles))


OLD_NAMES = {"paths": "encoder_paths", "max_iters_per_load": "lr_step_every"}      # still read, wherever an option is named


# read and left out, with a word, wherever an option is named: lengths follow the scan now
GONE = {"registration": ("affine_mm", "search_mm"), "guided": ("blur_mm", "filter_mm")}


def current_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options, by name: those that had another name before under the one of today, and without those that are GONE."""
    gone = gone_options(options)
    current: dict[str, Any] = {}
    for key, value in options.items():
        if key in GONE and isinstance(value, Mapping):
            value = {name: of_one for name, of_one in value.items() if f"{key}.{name}" not in gone}
        if key not in gone:
            current[OLD_NAMES.get(key, key)] = value
    return current


def gone_options(options: Mapping[str, Any]) -> list[str]:
    """Return the dotted names of the options that are GONE; they are in their sections, or under such a name."""
    return [f"{section}.{name}" for section, names in GONE.items() for name in names
            if f"{section}.{name}" in options or isinstance(options.get(section), Mapping) and name in options[section]]


def with_role(role: Role) -> tuple[str, ...]:
    """Return the keys of the options that have a role, in the order of `base.json5`."""
    return tuple(key for key, option in OPTIONS.items() if role in option.roles)


OPTIONS: dict[str, Option] = {
    "dataset": _option(text(), Role.TRAINED_WITH, Role.COMPARED, Role.SHOWN),
    "eval_fold": _option(whole(0), Role.COMPARED, Role.SHOWN),
    "test_label": _option(list_of(whole(1, MAX_TRAINED))),
    "exclude_label": _option(optional(list_of(whole(1, MAX_TRAINED))), Role.COMPARED),
    "exclude_rule": _option(one_of("any", "all"), Role.COMPARED),
    "use_gt": _option(boolean()),
    "pseudo_labels": _option(one_of("supervoxels", "superpixels")),
    "n_sv": _option(whole(1), Role.SHOWN),
    "n_sp": _option(whole(1)),
    "min_size": _option(whole(0)),
    "n_way": _option(one_of(1)),
    "n_shot": _option(whole(1)),
    "n_query": _option(one_of(1)),
    "batch_size": _option(whole(1)),
    "num_workers": _option(whole(0, 1024), Role.RESUME),
    "model": _option(one_of(*MODELS), Role.SHAPES, Role.TRAINED_WITH, Role.COMPARED),
    "encoder": _option(encoder(*ENCODERS), Role.SHAPES, Role.TRAINED_WITH, Role.SHOWN),
    "pretrained": _option(text(), Role.RESUME_NAMED),
    "coordinates": _option(boolean(), Role.SHAPES, Role.TRAINED_WITH),
    "encoder_paths": _option(one_of("both", "fine", "coarse"), Role.SHAPES, Role.TRAINED_WITH),
    "alpha": _option(path_weights(), Role.SHAPES, Role.TRAINED_WITH),
    "n_iters": _option(whole(0), Role.TASK, Role.RESUME, Role.SHOWN),
    "threshold": _option(one_of("query", "learned", "support"), Role.SHAPES, Role.TRAINED_WITH),
    "t_loss_scaler": _option(number(0)),
    "prototype_windows": _option(windows(), Role.SHAPES, Role.TRAINED_WITH),
    "n_prototypes": _option(whole(1, 1000), Role.SHAPES, Role.TRAINED_WITH),
    "class_prior": _option(one_of(*CLASS_PRIORS), Role.RESUME, Role.TASK),
    "rpt": _option({"form": one_of(*RPT_FORMS), "n_regions": whole(1, 10000), "corner": boolean()},
                   Role.SHAPES, Role.TRAINED_WITH),
    "gmrd": _option({
        "n_background": whole(1, 10000), "n_foreground": whole(1, 10000), "mix_px": whole(1, 4096), "relu": boolean(),
        "edge": one_of(*GMRD_EDGES), "extra_weight": number(0)},
        Role.SHAPES, Role.TRAINED_WITH),
    "outside": _option({"network": optional(text()), "weights": optional(text())}, Role.RESUME),
    "registration": _option({
        "affine": boolean(), "zoom": boolean(), "finest": number(0.1, 100), "mind_radius": whole(1, 10),
        "mind_dilation": whole(1, 10), "intensity_weight": number(0), "smoothness": number(0), "n_steps": whole(0, 10000),
        "stones": whole(0, 1000), "agreement_power": number(0, 1000)},
        Role.TASK, Role.RESUME),
    "guided": _option({
        "blur": number(0, 10), "sure": number(0, 1), "clear": number(0, 1), "near": number(0, 1), "clip": number(0),
        "prior_weight": number(0), "bias": number(-100, 100), "filter": number(0, 10), "filter_eps": number(0, above=True)},
        Role.TASK, Role.RESUME),
    "spatial_prior": _option(one_of("none", "registration"), Role.TASK, Role.RESUME),
    "device": _option(device_name(), Role.RESUME, Role.ELSEWHERE),
    "precision": _option(one_of("auto", "float32", "bf16"), Role.SHOWN),
    "deterministic": _option(boolean()),
    "seed": _option(whole(0, 2**32 - 1)),
    "n_steps": _option(whole(1, 10**8), Role.RESUME),
    "optim": _option({"lr": number(0, above=True), "momentum": number(0, 1), "weight_decay": number(0)}),
    "clip_gradient": _option(optional(number(0, above=True))),
    "lr_step_gamma": _option(number(0, 1, above=True)),
    "lr_step_every": _option(whole(1)),
    "bg_wt": _option(number(0, above=True)),
    "ignore_label": _option(whole(2, 255)),
    "sync_batchnorm": _option(boolean()),
    "print_interval": _option(whole(1), Role.RESUME),
    "save_snapshot_every": _option(whole(1), Role.RESUME),
    "keep_snapshots": _option(either(one_of("all"), whole(1)), Role.RESUME),
    "max_refused_steps": _option(whole(0), Role.RESUME),
    "resume": _option(text(), Role.RESUME, Role.ELSEWHERE),
    "reload_model_path": _option(optional(text()), Role.RESUME_NAMED, Role.COMPARED, Role.SHOWN, Role.ELSEWHERE),
    "protocol": _option(one_of("published", "corrected", "ep2"), Role.RESUME, Role.COMPARED, Role.SHOWN),
    "supp_idx": _option(either(one_of("all"), either(whole(0), list_of(whole(0)))), Role.RESUME),
    "n_part": _option(one_of(1, 3), Role.RESUME, Role.COMPARED, Role.SHOWN),
    "eval_batch_size": _option(whole(1), Role.RESUME),
    "whole_volume": _option(boolean(), Role.RESUME),
    "surface_tolerance_mm": _option(number(0, above=True), Role.RESUME, Role.SHOWN),
    "slice_margin": _option(whole(0), Role.TASK, Role.RESUME),
    "location_mm": _option(number(0), Role.TASK, Role.RESUME),
    "smooth_z": _option(number(0, 1000), Role.TASK, Role.RESUME),
    "largest_component": _option(boolean(), Role.TASK, Role.RESUME),
    "support_image": _option(optional(either(text(), list_of(text()))), Role.RESUME, Role.ELSEWHERE),
    "support_label": _option(optional(either(text(), list_of(text()))), Role.RESUME, Role.ELSEWHERE),
    "fill": _option(boolean(), Role.RESUME),
    "task": _option(optional(text()), Role.RESUME, Role.ELSEWHERE),
    "query": _option(optional(text()), Role.RESUME, Role.ELSEWHERE),
    "output": _option(optional(text()), Role.RESUME, Role.ELSEWHERE),
    "overwrite": _option(boolean(), Role.RESUME, Role.ELSEWHERE),
    "save_probs": _option(boolean(), Role.RESUME),
    "augment": _option(boolean(), Role.RESUME),
    "run": _option(optional(text()), Role.RESUME, Role.ELSEWHERE),
    "path": _option(None, Role.RESUME_NAMED, Role.ELSEWHERE),
    "datasets": _option(None, Role.TRAINED_WITH, Role.RESUME_NAMED),
}

RULES = {key: option.rule for key, option in OPTIONS.items() if option.rule is not None}
