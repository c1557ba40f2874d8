"""The streamed evaluation against the published procedure, slice by slice and class by class."""

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from qnet.dataloaders.folds import parts
from qnet.dataloaders.volumes import Volume
from qnet.models.qnet import QNet
from qnet.util.engine.evaluate import evaluate_query
from qnet.util.engine.metrics import dice
from qnet.util.engine.predictions import QueryResult
from qnet.util.engine.protocol import segment_by_protocol, slices_of_support
from qnet.util.engine.segmenters import SliceSegmenter
from qnet.util.engine.slice_encoder import SliceEncoder
from qnet.util.options.sections import EvaluationOptions, WholeVolumeOptions
from tests.networks import make_qnet
from tests.reference import qnet as reference
from tests.toy import tasks_of, toy_volume, volumes_of

LABELS = [1, 2, 3, 4]
WHOLE = WholeVolumeOptions(0, 0, 0, False, 3)


def all_of(result: QueryResult) -> list[Any]:
    """The predictions of a query, of the protocol and of whole volumes."""
    return [*result.by_protocol, *result.whole]


class CountingQNet(QNet):
    """Counts the slices that pass through the encoder."""

    counted: ClassVar[list[int]] = []

    def encode(self, images):
        self.counted.append(len(images))
        return super().encode(images)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = make_qnet(method=CountingQNet, n_iters=2)
    with torch.no_grad():
        model.encoder.reduce1d.bias.fill_(-18)
    return model.eval()


def evaluate(model, pairs, labels=LABELS, n_part=3, batch_size=3):
    tasks = tasks_of(pairs, labels)
    encoder = SliceEncoder(model, torch.device("cpu"), batch_size, **volumes_of(tasks))
    return [prediction for task in tasks for prediction in segment_by_protocol(encoder, task, n_part)]


def plain(model, support, query, label, n_part=3):
    """The published procedure, one slice at a time."""
    mask = np.zeros(query.label_map.shape, bool)
    for part in parts(support.label_map, query.label_map, label, n_part):
        support_mask = support.label_map[part.support_slice] == label
        for z in part.query_slices:
            mask[z] = reference.segment_slice(model, support.image[part.support_slice], support_mask, query.image[z])
    return mask


@pytest.mark.whole
def test_equal_to_the_plain_procedure(model):
    volumes = [toy_volume(number) for number in (1, 2, 3)]
    pairs = [(volumes[0], volumes[1:]), (volumes[1], volumes[:1])]      # the second is a query, too
    predictions = evaluate(model, pairs)
    assert len(predictions) == 3 * len(LABELS)
    for prediction in predictions:
        want = plain(model, prediction.support, prediction.query, prediction.label)
        assert dice(prediction.mask, want) > 0.99
        assert want.any() and not want.all()


@pytest.mark.parametrize("whole", [False, True])
def test_supports_that_are_prepared_give_the_same_and_are_encoded_once(model, whole):
    """Also of a support that is a query: its slices are encoded in the same batches, before the others."""
    volumes = [toy_volume(number) for number in (1, 2, 3)]
    tasks = tasks_of([(support, [query for query in volumes if query is not support]) for support in volumes[:2]], LABELS)
    options, found, counted = EvaluationOptions(LABELS, "published", "all", 3, 3, whole, 3.0), [], []
    for prepares in (False, True):
        model.counted.clear()
        segmenter = SliceSegmenter(SliceEncoder(model, torch.device("cpu"), 3, whole=whole, **volumes_of(tasks)), WHOLE)
        if prepares:
            segmenter.prepare([(support, slices_of_support(support, LABELS, 3)) for support in volumes[:2]])
        results = [evaluate_query(segmenter, task, options) for task in tasks]
        found.append([prediction.mask for result in results for prediction in all_of(result)])
        counted.append(sorted(model.counted))
        assert not segmenter.encoder.slices
    assert len(found[0]) == len(found[1]) == 4 * len(LABELS) * (1 + whole) and counted[0] == counted[1]
    assert all(np.array_equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("labels", [[1], LABELS])
@pytest.mark.parametrize("n_supports", [1, 3])
def test_cost_grows_with_slices_and_not_with_classes_and_supports(model, labels, n_supports):
    volumes = [toy_volume(number) for number in (1, 2, 3)]
    pairs = [(support, [query for query in volumes if query is not support]) for support in volumes[:n_supports]]
    model.counted.clear()
    evaluate(model, pairs, labels)
    queries = volumes if n_supports > 1 else volumes[1:]
    slices = {(id(query), z) for query in queries for z in np.flatnonzero(np.isin(query.label_map, labels).any((1, 2)))}
    for support, _ in pairs:
        for label in labels:
            slices |= {(id(support), part.support_slice) for part in parts(support.label_map, support.label_map, label, 3)}
    assert sum(model.counted) == len(slices)


def test_whole_volumes_beside_the_protocol_encode_no_slice_twice(model):
    volumes = [toy_volume(number) for number in (1, 2, 3)]
    pairs = [(support, [query for query in volumes if query is not support]) for support in volumes[:2]]
    model.counted.clear()
    tasks = tasks_of(pairs, LABELS)
    encoder = SliceEncoder(model, torch.device("cpu"), 3, whole=True, **volumes_of(tasks))
    options = EvaluationOptions(LABELS, "published", "all", 3, 3, True, 3.0)
    results = [evaluate_query(SliceSegmenter(encoder, WHOLE), task, options) for task in tasks]
    assert sum(len(result.by_protocol) for result in results) == sum(len(result.whole) for result in results) == 4 * len(LABELS)
    assert sum(model.counted) == sum(len(v.image) for v in volumes)
    assert encoder.volumes.keys() == set(volumes[:2])      # the supports; the query that is none is let go


@pytest.mark.whole
def test_a_query_gives_the_same_alone_and_among_others(model):
    volumes = [toy_volume(number) for number in (1, 2, 3)]
    pairs = [(support, [query for query in volumes if query is not support]) for support in volumes]
    options, whole = EvaluationOptions(LABELS, "published", "all", 3, 3, True, 3.0), WholeVolumeOptions(0, 25.0, 0, True, 3)
    tasks = tasks_of(pairs, LABELS)
    together = SliceSegmenter(SliceEncoder(model, torch.device("cpu"), 3, whole=True, **volumes_of(tasks)), whole)
    for task in tasks:
        encoder = SliceEncoder(model, torch.device("cpu"), 3, whole=True, **volumes_of([task]))
        alone = evaluate_query(SliceSegmenter(encoder, whole), task, options)
        among = evaluate_query(together, task, options)
        for one, other in zip(all_of(alone), all_of(among), strict=True):
            assert (one.label, one.support.name) == (other.label, other.support.name)
            np.testing.assert_array_equal(one.mask, other.mask)


def test_class_that_the_query_or_the_support_lacks_is_left_out(model):
    support, query = toy_volume(1), toy_volume(2)
    query.label_map[query.label_map == 3] = 0
    support.label_map[support.label_map == 4] = 0
    assert {prediction.label for prediction in evaluate(model, [(support, [query])])} == {1, 2}


def test_one_slice_volume(model):
    support = toy_volume(1)
    query = Volume("one", support.image[4:5], support.label_map[4:5], support.spacing_mm)
    predictions = evaluate(model, [(support, [query])])
    assert [prediction.mask.shape for prediction in predictions] == [(1, 64, 64)] * 4
    for prediction in predictions:
        assert np.array_equal(prediction.mask, plain(model, support, query, prediction.label))


def test_mask_touching_the_border_and_odd_size(model):
    support, query = (Volume(v.name, v.image[:, :51, :37], v.label_map[:, :51, :37], v.spacing_mm)
                      for v in (toy_volume(1), toy_volume(2)))
    assert support.label_map[:, -1].any() or support.label_map[:, :, -1].any()
    for prediction in evaluate(model, [(support, [query])]):
        assert dice(prediction.mask, plain(model, support, query, prediction.label)) > 0.99


def test_class_of_one_pixel_and_gap_in_the_query(model):
    support, query = toy_volume(1), toy_volume(2)
    support.label_map[support.label_map == 2] = 0
    support.label_map[3, -1, -1] = 2
    held = np.flatnonzero((query.label_map == 2).any(axis=(1, 2)))
    query.label_map[held[1:3]] = 0
    prediction, = evaluate(model, [(support, [query])], labels=[2])
    assert dice(prediction.mask, plain(model, support, query, 2)) > 0.99
