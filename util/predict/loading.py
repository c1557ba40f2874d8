"""Makes the segmenter that the options ask for: network, registration, or both."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from qnet.dataloaders.volumes import Volume
from qnet.models.carrying import RegistrationModel
from qnet.models.lowshot_unet import LowShotUNet
from qnet.models.volume import STUDENT, VolumeModel
from qnet.util.base.errors import InputError
from qnet.util.engine.fitted import FittedSegmenter
from qnet.util.engine.segmenters import PriorSegmenter, Segmenter, SliceSegmenter, VolumeSegmenter
from qnet.util.engine.slice_encoder import SliceEncoder
from qnet.util.engine.stacks import StackSegmenter
from qnet.util.engine.student import StudentSegmenter
from qnet.util.options.names import FITTED_MODELS, OUTSIDE_MODELS, UNTRAINED_MODELS
from qnet.util.options.sections import ModelOptions, WholeVolumeOptions
from qnet.util.training.building import (
    build_model,
    expect_fitting,
    expect_no_weights,
    load_weights,
)


def load_segmenter(options: ModelOptions, weights: str | None, device: torch.device, whole: WholeVolumeOptions, *,
                   encode_whole: bool, queries: Collection[Volume] = (),
                   supports: Collection[Volume] = (), folder: Path | None = None) -> tuple[Segmenter, str]:
    """Return the segmenter of a model, and a sentence about its weights.

    Args:
        weights: the path of a snapshot, or "untrained" for the weights that training would start from; None for a model that
            needs no training here.
        whole: how whole volumes are segmented.
        encode_whole, queries, supports: SliceEncoder explains them.
        folder: where a training that takes minutes is kept until all is done, so that it goes on after a kill; None: nowhere.
    Raises:
        InputError: weights are missing, cannot be read, do not fit, or are given for a model without weights; a spatial
            prior is asked for from a model that is one, or an oracle over whole volumes; or a student has nothing to learn from.
    """
    if options.model in FITTED_MODELS:
        expect_no_weights(options.model, weights)
        expect_no_prior(options)
        network = LowShotUNet(options.unet, options.seed, device)
        return FittedSegmenter(network, whole), f"{options.model}: trained on each outlined scan"
    trained = weights if options.model in UNTRAINED_MODELS else expect_fitting(options, weights)
    model = build_model(options)
    if isinstance(model, VolumeModel):
        expect_no_weights(options.model, weights)
        expect_no_prior(options)
        if options.model == STUDENT:
            expect_stones(options)
            assert isinstance(model, RegistrationModel)
            segmenter = StudentSegmenter(model, options.student, options.seed, device, whole, folder)
            return segmenter, f"{STUDENT}: trained for these scans"
        return VolumeSegmenter(model, device, whole), f"{options.model}: needs no training"
    if model.reads_truth and encode_whole:
        raise InputError("class_prior: got 'oracle', which reads the query's labels; allowed for predict and with "
                         "whole_volume=true: 'none', 'average' or 'linear'")
    if options.model in OUTSIDE_MODELS:
        expect_no_weights(options.model, weights)
        said = f"{options.model}: trained elsewhere"
    else:
        said = load_weights(model, options, trained)
    if model.reads_stacks:
        expect_no_prior(options)
        return StackSegmenter(model, device, whole), said
    encoder = SliceEncoder(model, device, whole.eval_batch_size, whole=encode_whole, queries=queries, supports=supports)
    if options.spatial_prior == "none":
        return SliceSegmenter(encoder, whole), said
    registration = VolumeSegmenter(RegistrationModel(options.registration), device, whole)
    return PriorSegmenter(encoder, registration, options.guided), f"{said}; with a spatial prior by registration"


def expect_no_prior(options: ModelOptions) -> None:
    """Raise InputError if a spatial prior is asked for from a model that takes none."""
    if options.spatial_prior != "none":
        raise InputError(f"spatial_prior: got {options.spatial_prior!r}, allowed with model {options.model!r}: 'none'")


def expect_stones(options: ModelOptions) -> None:
    """Raise InputError if there will be no stepping stones, from which a student learns."""
    if not options.n_stones:
        raise InputError(f"registration.stones: got 0, allowed with model {options.model!r}, which learns from them: 1 or more")
