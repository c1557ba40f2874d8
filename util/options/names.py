"""Names: of models and encoders, and of options in files of earlier versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENCODERS = ("resnet101", "resnet50", "small", "resnext101_3d")
MODELS = {"qnet": "QNet", "adnet": "ADNet", "adnet3d": "ADNet3D", "alpnet": "ALPNet", "panet": "PANet", "tpm": "TPM",
          "qnet_tpm": "QNetTPM", "rpt": "RPT", "gmrd": "GMRD", "registration": "Registration", "guided": "Guided",
          "student": "Student", "unet": "UNet", "universeg": "UniverSeg", "outside": "Outside"}    # names in folders, tables
VOLUME_MODELS = ("registration", "guided", "student")     # these segment whole volumes
OUTSIDE_MODELS = ("universeg", "outside")          # these are loaded from elsewhere
FITTED_MODELS = ("unet",)                          # these are trained on the outlined scan, when scans are segmented
UNTRAINED_MODELS = (*VOLUME_MODELS, *FITTED_MODELS, *OUTSIDE_MODELS)     # training has none of them, and no snapshot holds one
CLASS_PRIORS = ("none", "average", "linear", "oracle")

OLD_NAMES = {"paths": "encoder_paths", "max_iters_per_load": "lr_step_every"}      # still read, wherever an option is named

# read and left out, with a word, wherever an option is named: lengths follow the scan now
GONE = {"registration": ("affine_mm", "search_mm"), "guided": ("blur_mm", "filter_mm")}
ALWAYS_ONE = ("n_way", "n_query")       # left out too: an episode has one class and one query. No other value was ever allowed


def current_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options under their names of today. Options that are gone are left out."""
    gone = {*gone_options(options), *(name for name in ALWAYS_ONE if options.get(name) == 1)}
    current: dict[str, Any] = {}
    for key, value in options.items():
        if key in GONE and isinstance(value, Mapping):
            value = {name: of_one for name, of_one in value.items() if f"{key}.{name}" not in gone}
        if key not in gone:
            current[OLD_NAMES.get(key, key)] = value
    return current


def gone_options(options: Mapping[str, Any]) -> list[str]:
    """Return the dotted names of the options that are GONE. They stand in their sections or under a dotted name."""
    return [f"{section}.{name}" for section, names in GONE.items() for name in names
            if f"{section}.{name}" in options or (isinstance(options.get(section), Mapping) and name in options[section])]
