"""Builds the model that the option `model` names. Display names are in `qnet.util.options.names.MODELS`.

`precision` is "bf16" or "float32" here, as a run has resolved it. "auto" builds the same model as "float32".
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from qnet.models.adnet import ADNet
from qnet.models.adnet3d import ADNet3D
from qnet.models.alpnet import ALPNet
from qnet.models.base import FewShotModel
from qnet.models.carrying import GuidedModel, RegistrationModel
from qnet.models.encoder import DualPathEncoder, SinglePathEncoder, build_encoder, build_single_path_encoder, n_channels_of
from qnet.models.gmrd import GMRD
from qnet.models.panet import PANet
from qnet.models.qnet import QNet, SupportThresholdQNet
from qnet.models.resnext3d import STACK_ENCODERS, StackEncoder
from qnet.models.rpt import RPT
from qnet.models.timm_backbone import PREFIX
from qnet.models.tpm import TPM, QNetTPM
from qnet.models.volume import VolumeModel
from qnet.util.base.errors import InputError
from qnet.util.options.sections import ModelOptions
from qnet.util.training.outside import load_outside, load_universeg
from qnet.util.training.snapshots import Snapshot, expect_model_fits, load_model, read_snapshot
from qnet.util.training.weights import load_pretrained


def build_model(options: ModelOptions) -> FewShotModel | VolumeModel:
    """Return the model, with random weights from the option `seed`. Pretrained weights are not loaded.

    Raises:
        InputError: the encoder is not one of the method's.
    """
    seed_everything(options.seed)
    expect_encoder_of_method(options)
    return BUILDERS[options.model](options)


def expect_encoder_of_method(options: ModelOptions) -> None:
    """Raise InputError if a method in 3D is given an encoder of slices or their coordinates, or another one an encoder in 3D."""
    in_3d = options.model == "adnet3d"
    if in_3d != (options.encoder in STACK_ENCODERS) and options.encoder != "small":
        allowed = ", ".join(map(repr, STACK_ENCODERS)) if in_3d else "an encoder of slices, as 'resnet101' or 'small'"
        raise InputError(f"encoder: got {options.encoder!r}, allowed with model {options.model!r}: {allowed}")
    if in_3d and options.coordinates:
        raise InputError(f"coordinates: got true, allowed with model {options.model!r}: false")


def initialise(model: FewShotModel, options: ModelOptions) -> str:
    """Load the pretrained weights that the options name into the encoder, and return a sentence about them.

    Raises:
        InputError: there are no such weights, or they do not fit.
    """
    return load_pretrained(model.encoder.get_submodule("backbone"), options.encoder, options.pretrained, options.weights_dir)


def expect_fitting(options: ModelOptions, weights: str | None) -> Snapshot | str | None:
    """Return a snapshot. One for an encoder of timm, which may be a giant, must fit before that network takes any memory.

    Args:
        weights: the path of a snapshot; "untrained" or None are returned as they are.
    Raises:
        InputError: the snapshot is missing, damaged, of another network, or claims more than its file has.
    """
    if weights is None or weights == "untrained":
        return weights
    snapshot = read_snapshot(weights)
    if options.encoder.startswith(PREFIX):      # the others are small enough
        with torch.device("meta"):      # shapes alone, so that a name from a file of others costs no gigabytes
            expect_model_fits(build_model(options), snapshot)
    return snapshot


def load_weights(model: FewShotModel, options: ModelOptions, weights: Snapshot | str | None) -> str:
    """Load weights into a model, and return a sentence about them.

    Args:
        weights: as `expect_fitting` returns it; "untrained" stands for the weights that training would start from.
    Raises:
        InputError: `weights` is None, or the snapshot is of another network.
    """
    if weights is None:
        raise InputError("reload_model_path: got null, allowed: a snapshot of a training, or 'untrained'")
    if isinstance(weights, str):
        return f"untrained network; {initialise(model, options)}"
    load_model(model, weights)
    return f"weights of {weights.path}" + (f", step {weights.step}" if weights.step else "")


def expect_no_weights(model: str, weights: str | None) -> None:
    """Raise InputError if weights are given for a model that has none."""
    if weights is not None:
        raise InputError(f"reload_model_path: got {weights!r}, allowed with model {model!r}, which needs no training: null")


def seed_everything(seed: int) -> None:
    """Seed the global random generators. Only initial weights depend on them; each episode has its own generator."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def dual_path(options: ModelOptions, paths: str, predicts_threshold: bool) -> DualPathEncoder:
    """Return Q-Net's encoder, or the one path of it that RPT and GMRD use. `build_encoder` explains the other arguments."""
    return build_encoder(options.encoder, options.precision == "bf16", paths, predicts_threshold, options.coordinates)


def _qnet(options: ModelOptions, method: Callable[..., FewShotModel]) -> FewShotModel:
    encoder = dual_path(options, options.encoder_paths, options.threshold != "learned")
    alpha = options.alpha if options.encoder_paths == "both" else (1.0,)
    return method(encoder, alpha, options.n_iters, options.bg_wt, options.ignore_label, options.t_loss_scaler)


def _rpt(options: ModelOptions) -> RPT:
    return RPT(dual_path(options, "fine", True), n_channels_of(options.encoder), options.rpt, options.bg_wt, options.ignore_label)


def single_path(options: ModelOptions) -> SinglePathEncoder:
    """Return the encoder of ADNet, SSL-ALPNet and PANet."""
    return build_single_path_encoder(options.encoder, options.precision == "bf16", options.coordinates)


BUILDERS: dict[str, Callable[[ModelOptions], FewShotModel | VolumeModel]] = {
    "qnet": lambda options: _qnet(options, SupportThresholdQNet if options.threshold == "support" else QNet),
    "qnet_tpm": lambda options: _qnet(options, partial(QNetTPM, class_prior=options.class_prior)),
    "tpm": lambda options: TPM(single_path(options), options.n_prototypes, options.bg_wt, options.ignore_label,
                               options.t_loss_scaler, options.class_prior),
    "rpt": _rpt,
    "gmrd": lambda options: GMRD(dual_path(options, "fine", False), options.gmrd, options.bg_wt, options.ignore_label),
    "outside": lambda options: load_outside(options.outside.network, options.outside.weights),
    "universeg": lambda options: load_universeg(options.outside.weights),
    "adnet": lambda options: ADNet(single_path(options), options.bg_wt, options.ignore_label, options.t_loss_scaler),
    "adnet3d": lambda options: ADNet3D(StackEncoder(options.encoder, options.precision == "bf16"), options.bg_wt,
                                       options.ignore_label, options.t_loss_scaler),
    "alpnet": lambda options: ALPNet(single_path(options), options.prototype_windows, options.bg_wt, options.ignore_label),
    "panet": lambda options: PANet(single_path(options), options.bg_wt, options.ignore_label),
    "registration": lambda options: RegistrationModel(options.registration),
    "guided": lambda options: GuidedModel(options.registration, options.guided),
    "student": lambda options: GuidedModel(options.registration, options.guided),     # the segmenter trains its student
}
