"""Networks for tests, with the values that configs/ gives to what a test does not name."""

from __future__ import annotations

from typing import Any

from torch import nn

from qnet.models.adnet import ADNet
from qnet.models.alpnet import ALPNet
from qnet.models.encoder import DualPathEncoder, SinglePathEncoder, build_encoder, build_single_path_encoder
from qnet.models.panet import PANet
from qnet.models.qnet import QNet
from qnet.models.tpm import TPM
from qnet.util.options.config import base_config, load_config

_BASE = base_config()
ENCODER = {"bf16": False, "coordinates": _BASE["coordinates"]}
PATHS = {"paths": _BASE["encoder_paths"], "predicts_threshold": _BASE["threshold"] == "query"}
LOSSES = {"background_weight": _BASE["bg_wt"], "ignore_label": _BASE["ignore_label"]}
THRESHOLD = {**LOSSES, "t_loss_scaler": _BASE["t_loss_scaler"]}
QNET = {**THRESHOLD, "alpha": _BASE["alpha"], "n_iters": _BASE["n_iters"]}


def dual_path(name: str = "small", **changes: Any) -> DualPathEncoder:
    """Return Q-Net's encoder."""
    return build_encoder(name, **{**ENCODER, **PATHS, **changes})


def single_path(name: str = "small", **changes: Any) -> SinglePathEncoder:
    """Return ADNet's encoder."""
    return build_single_path_encoder(name, **{**ENCODER, **changes})


def make_qnet(encoder: nn.Module | None = None, method: type[QNet] = QNet, **changes: Any) -> QNet:
    """Return Q-Net, or a method with the same arguments, on the small encoder or the given one."""
    return method(dual_path() if encoder is None else encoder, **{**QNET, **changes})


def make_adnet(encoder: nn.Module, **changes: Any) -> ADNet:
    """Return ADNet."""
    return ADNet(encoder, **{**THRESHOLD, **changes})


def make_tpm(encoder: nn.Module, **changes: Any) -> TPM:
    """Return TPM without a prior of the class's size."""
    config = load_config("tpm")
    return TPM(encoder, **{**THRESHOLD, "n_prototypes": config["n_prototypes"], "t_loss_scaler": config["t_loss_scaler"],
                           "class_prior": _BASE["class_prior"], **changes})


def make_alpnet(encoder: nn.Module) -> ALPNet:
    """Return SSL-ALPNet."""
    config = load_config("alpnet")
    return ALPNet(encoder, config["prototype_windows"], config["bg_wt"], config["ignore_label"])


def make_panet(encoder: nn.Module, background_weight: float = load_config("panet")["bg_wt"]) -> PANet:
    """Return PANet."""
    return PANet(encoder, background_weight, _BASE["ignore_label"])
