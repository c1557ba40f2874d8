"""A network that is trained on each support, through the segmenter and through test.py."""

import csv

import numpy as np
import pytest
import torch

from qnet.models.lowshot_unet import LowShotUNet
from qnet.models.settings import UNetSettings
from qnet.util.engine.fitted import FittedSegmenter
from qnet.util.engine.task import Task
from qnet.util.options.sections import EvaluationOptions, WholeVolumeOptions
from tests.programs import run
from tests.toy import toy_volume

WHOLE = WholeVolumeOptions(0, 0, 0, False, 1)


class Remembers(LowShotUNet):
    """In the place of a U-Net: class k is where the query is k."""

    def __init__(self):
        super().__init__(UNetSettings(3, 2, 0.1), 0, torch.device("cpu"))
        self.trained_on = []

    def trained(self, image, classes, n_classes, each_step=lambda: None):
        self.trained_on.append((tuple(image.shape), classes.unique().tolist(), n_classes))
        return torch.nn.Identity()

    def probabilities(self, network, image):
        return torch.stack([(image == k).float() for k in (1, 2, 3)])


def test_each_support_is_trained_on_once_for_all_queries_and_its_labels_come_back():
    support, empty = toy_volume(1), toy_volume(3)
    support.label_map[support.label_map == 2] = 0        # 1, 3 and 4 are left, which the network knows as 1, 2, 3
    empty.label_map[:] = 0
    model = Remembers()
    segmenter = FittedSegmenter(model, WHOLE)
    segmenter.prepare([(support, []), (empty, [])], [toy_volume(10)])
    for query in (toy_volume(2), toy_volume(12)):
        query.image[:] = np.arange(query.image.size).reshape(query.image.shape) % 4
        task = Task(query, (support, empty), (1, 2, 4))
        first, second = segmenter.members(task)
        assert set(first.probs) == {1, 4} and not second.probs and not first.confidence
        assert np.array_equal(first.probs[1], query.image == 1) and np.array_equal(first.probs[4], query.image == 3)
        assert [p.label for p in segmenter.over_whole_volume(task)] == [1, 4] and segmenter.joint(task) is None
        segmenter.release(query)
    assert model.trained_on == [(support.image.shape, [0, 1, 2, 3], 3)]
    assert segmenter.n_units(task, EvaluationOptions((1,), "published", "all", 3, 1, True, 3.0)) == 2 * len(query.image)


@pytest.mark.whole
def test_evaluated_by_the_same_protocol_as_all_others(toy_data, tmp_path):
    folder = run("test", tmp_path, toy_data, "chaost2_setting1", "unet", supp_idx=0, test_label=[1, 4],
                 unet={"n_steps": 20, "batch_size": 4, "lr": 0.01})
    assert folder.parent.name == "UNet_test_CHAOST2_cv0"
    rows = list(csv.DictReader((folder / "scores_whole_volume.csv").open(encoding="utf-8")))
    assert len(rows) == 2 and np.mean([float(row["dice"]) for row in rows]) > 0.3
    assert all(row["confidence"] == "" for row in rows)
