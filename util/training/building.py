"""Builds the model that the option `model` names. Display names are in `util.options.table.MODELS`.

`precision` is "bf16" or "float32" here, as a run has resolved it. "auto" builds the same model as "float32".
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch

from models.adnet import ADNet
from models.alpnet import ALPNet
from models.base import FewShotModel
from models.encoder import SinglePathEncoder, build_encoder, build_single_path_encoder
from models.panet import PANet
from models.qnet import QNet, SupportThresholdQNet
from util.options.sections import ModelOptions
from util.training.weights import load_pretrained


def build_model(options: ModelOptions) -> FewShotModel:
    """Return the model with random weights from the option `seed`, without pretrained weights."""
    seed_everything(options.seed)
    return BUILDERS[options.model](options)


def initialise(model: FewShotModel, options: ModelOptions) -> str:
    """Load the pretrained weights that the options name into the encoder, and return a sentence about them.

    Raises:
        InputError: there are no such weights, or they do not fit.
    """
    return load_pretrained(model.encoder.get_submodule("backbone"), options.encoder, options.pretrained, options.weights_dir)


def seed_everything(seed: int) -> None:
    """Seed the global random generators. Only initial weights depend on them; each episode has its own generator."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _qnet(options: ModelOptions) -> QNet:
    encoder = build_encoder(options.encoder, options.precision == "bf16", options.paths, options.threshold != "learned",
                            options.coordinates)
    alpha = options.alpha if options.paths == "both" else (1.0,)
    method = SupportThresholdQNet if options.threshold == "support" else QNet
    return method(encoder, alpha, options.n_iters, options.bg_wt, options.ignore_label, options.t_loss_scaler)


def single_path(options: ModelOptions) -> SinglePathEncoder:
    """Return the encoder of ADNet, SSL-ALPNet and PANet."""
    return build_single_path_encoder(options.encoder, options.precision == "bf16", options.coordinates)


BUILDERS: dict[str, Callable[[ModelOptions], FewShotModel]] = {
    "qnet": _qnet,
    "adnet": lambda options: ADNet(single_path(options), options.bg_wt, options.ignore_label, options.t_loss_scaler),
    "alpnet": lambda options: ALPNet(single_path(options), options.prototype_windows, options.bg_wt, options.ignore_label),
    "panet": lambda options: PANet(single_path(options), options.bg_wt, options.ignore_label),
}
