"""Scans with several channels, by the methods that register whole volumes."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from qnet.dataloaders.volumes import Volume, normalise
from qnet.models.carrying import GuidedModel
from qnet.util.engine.metrics import dice
from qnet.util.engine.segmenters import VolumeSegmenter
from qnet.util.engine.task import Task
from qnet.util.options.config import base_config
from qnet.util.options.sections import WholeVolumeOptions, section
from tests.settings import GUIDED, REGISTRATION
from tests.two_channels import MM, patient

QUICK = replace(REGISTRATION, finest=1.0, n_steps=20)
OUTLINED, QUERY = patient(), patient(down=7.0, seed=1)


def volume(scan, channels):
    first, *others = (normalise(scan[0][k]) for k in channels)
    return Volume("scan", first, scan[1], MM, others=tuple(others))


def outlined(query, support):
    segmenter = VolumeSegmenter(GuidedModel(QUICK, GUIDED), torch.device("cpu"), section(WholeVolumeOptions, base_config()))
    (member,) = segmenter.members(Task(query, (support,), (1, 2)))
    return {label: probs > 0.5 for label, probs in member.probs.items()}


@cache
def outlined_by(*channels):
    return outlined(volume(QUERY, channels), volume(OUTLINED, channels))


def found(*channels):
    return [dice(mask, QUERY[1] == label) for label, mask in outlined_by(*channels).items()]


@pytest.mark.whole
def test_two_channels_outline_what_each_of_them_shows_alone():
    first, second, both = found(0), found(1), found(0, 1)
    assert first[0] > 0.9 > 0.7 > first[1] and second[1] > 0.9 > 0.8 > second[0]       # each shows one organ
    assert min(both) > 0.9
    assert np.mean(both) > max(np.mean(first), np.mean(second)) + 0.1


@pytest.mark.whole
def test_a_channel_that_is_given_twice_tells_nothing_more():
    assert dice(outlined_by(0, 0)[1], outlined_by(0)[1]) > 0.98


def test_channels_of_another_shape_or_number_are_refused():
    with pytest.raises(ValueError, match=r"others: expected the image's shape \(14, 40, 44\), got \(13, 40, 44\)"):
        replace(volume(QUERY, [0]), others=(QUERY[0][1][1:],))
    with pytest.raises(ValueError, match="support: expected 2 channels, as the query, got 1"):
        outlined(volume(QUERY, [0, 1]), volume(OUTLINED, [0]))
