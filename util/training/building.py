"""Builds the model that the option `model` names, from a config. Display names are in `util.options.config.MODELS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from models.adnet import ADNet
from models.alpnet import ALPNet
from models.base import FewShotModel
from models.encoder import SinglePathEncoder, build_encoder, build_single_path_encoder
from models.panet import PANet
from models.qnet import QNet, SupportThresholdQNet


def _qnet(config: Mapping[str, Any]) -> QNet:
    encoder = build_encoder(config["encoder"], config["precision"] == "bf16", config["paths"], config["threshold"] != "learned",
                            config["coordinates"])
    alpha = config["alpha"] if config["paths"] == "both" else [1.0]
    method = SupportThresholdQNet if config["threshold"] == "support" else QNet
    return method(encoder, alpha, config["n_iters"], config["bg_wt"], config["ignore_label"], config["t_loss_scaler"])


def single_path(config: Mapping[str, Any]) -> SinglePathEncoder:
    return build_single_path_encoder(config["encoder"], config["precision"] == "bf16", config["coordinates"])


BUILDERS: dict[str, Callable[[Mapping[str, Any]], FewShotModel]] = {
    "qnet": _qnet,
    "adnet": lambda config: ADNet(single_path(config), config["bg_wt"], config["ignore_label"], config["t_loss_scaler"]),
    "alpnet": lambda config: ALPNet(single_path(config), config["prototype_windows"], config["bg_wt"], config["ignore_label"]),
    "panet": lambda config: PANet(single_path(config), config["bg_wt"], config["ignore_label"]),
}
