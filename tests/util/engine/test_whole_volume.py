from dataclasses import replace

import numpy as np
import pytest
import torch

from qnet.dataloaders.volumes import Volume
from qnet.util.engine.segmenters import SliceSegmenter
from qnet.util.engine.slice_encoder import SliceEncoder
from qnet.util.engine.task import Task
from qnet.util.engine.whole_volume import largest_components, smooth_along_z, to_label_map
from qnet.util.options.sections import WholeVolumeOptions
from tests.networks import make_qnet
from tests.toy import toy_volume, volumes_of


def test_conflicts_go_to_the_likeliest_class_above_one_half():
    liver = np.array([[[0.6, 0.9, 0.5, 0.7]]], np.float32)
    spleen = np.array([[[0.7, 0.8, 0.5, 0.7]]], np.float32)
    assert to_label_map([(1, liver), (4, spleen)], (1, 1, 4)).tolist() == [[[4, 1, 0, 1]]]
    assert to_label_map([], (1, 1, 2)).tolist() == [[[0, 0]]]


def test_only_the_largest_part_of_each_label_stays():
    label_map = np.array([[[1, 1, 0, 1, 2, 0, 2]], [[0, 0, 0, 0, 2, 0, 0]]])
    assert largest_components(label_map).tolist() == [[[1, 1, 0, 0, 2, 0, 0]], [[0, 0, 0, 0, 2, 0, 0]]]
    assert not largest_components(np.zeros((2, 3, 3), int)).any()


def test_smoothing_along_z_fills_a_slice_that_was_missed():
    probs = np.ones((7, 2, 2), np.float32)
    probs[3] = 0
    assert smooth_along_z(probs, 0) is probs
    assert (smooth_along_z(probs, 1.0) > 0.5).all()
    assert smooth_along_z(probs, 1.0).shape == probs.shape


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = make_qnet(n_iters=1)
    with torch.no_grad():
        model.encoder.reduce1d.bias.fill_(-19)
    return model


def segmenter(model, task, options):
    return SliceSegmenter(SliceEncoder(model, torch.device("cpu"), 3, whole=True, **volumes_of([task])), options)


def evaluate(model, support, query, **options):
    defaults = {"slice_margin": 0, "location_mm": 0, "largest_component": False, "smooth_z": 0, "eval_batch_size": 3}
    options = WholeVolumeOptions(**{**defaults, **options})
    task = Task(query, (support,), (1, 2, 3, 4))
    return {p.label: p for p in segmenter(model, task, options).over_whole_volume(task)}


def test_the_querys_labels_are_never_looked_at(model):
    support, query = toy_volume(1), toy_volume(2)
    blind = Volume(query.name, query.image, np.zeros_like(query.label_map), query.spacing_mm)
    seen, unseen = evaluate(model, support, query), evaluate(model, support, blind)
    assert seen.keys() == {1, 2, 3, 4}
    for label, prediction in seen.items():
        np.testing.assert_array_equal(prediction.probs, unseen[label].probs)
        assert prediction.probs.min() >= 0 and prediction.probs.max() <= 1


def test_a_volume_that_is_its_own_support_is_segmented_where_the_class_is_and_nowhere_else(model):
    support = toy_volume(1)
    for label, prediction in evaluate(model, support, support).items():
        holds_class = (support.label_map == label).any(axis=(1, 2))
        assert not prediction.probs[~holds_class].any()
        assert prediction.probs[holds_class].any(axis=(1, 2)).all()


def test_a_class_that_the_support_lacks_has_no_prediction(model):
    support = toy_volume(1)
    without = Volume(support.name, support.image, np.where(support.label_map == 3, 0, support.label_map), support.spacing_mm)
    assert evaluate(model, without, toy_volume(2)).keys() == {1, 2, 4}


def test_batch_size_changes_nothing(model):
    support, query = toy_volume(1), toy_volume(2)
    one, many = evaluate(model, support, query, eval_batch_size=1), evaluate(model, support, query, eval_batch_size=8)
    for label in one:
        np.testing.assert_allclose(one[label].probs, many[label].probs, atol=2e-3)


@pytest.mark.whole
@pytest.mark.parametrize("order", [1, -1])
def test_every_support_counts_mm_in_its_own_spacing(model, order):
    """What a pair gives does not depend on the other volumes of the data set."""
    fine, coarse, query = (toy_volume(number, (7.7, pixel_mm, pixel_mm)) for number, pixel_mm in ((1, 0.5), (3, 2.0), (2, 1.0)))
    task = Task(query, (fine, coarse)[::order], (1, 2, 3, 4))
    together = segmenter(model, task, WholeVolumeOptions(0, 5, 0, False, 3)).over_whole_volume(task)
    for support in (fine, coarse):
        alone = evaluate(model, support, query, location_mm=5)
        in_pixels = evaluate(model, replace(support, spacing_mm=(1.0, 1.0, 1.0)), query, location_mm=5 / support.spacing_mm[2])
        anywhere = evaluate(model, support, query)
        found = {p.label: p.probs for p in together if p.support is support}
        assert found.keys() == {1, 2, 3, 4}
        for label, probs in found.items():
            np.testing.assert_array_equal(probs, alone[label].probs)
            np.testing.assert_array_equal(probs, in_pixels[label].probs)
            assert (probs != anywhere[label].probs).any()      # the location does count
