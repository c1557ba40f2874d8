import numpy as np
import pytest

from qnet.scripts.tables.outlined_scans import MEAN, TOGETHER, of_set, queries_of, scores, table, task_of
from qnet.util.predict.predictor import Predictor
from tests.toy import toy_case, write


def test_each_case_is_a_query_of_one_fold():
    assert queries_of(20, [0]) == [0, 1, 2, 3] and queries_of(20, [4]) == [16, 17, 18, 19]
    assert sorted(queries_of(20, range(5))) == list(range(20))


def test_scores_and_table_by_hand():
    truth = np.zeros((2, 2, 4), int)
    truth[0, 0] = 1                                     # 4 voxels in one of two slices
    probs = {1: np.zeros(truth.shape, np.float32)}
    probs[1][:, 0] = 1                                  # these, and as many in the other slice
    found = scores(probs, truth, [1])
    assert found.tolist() == [[100.0, pytest.approx(200 / 3)]]
    rows = [{(1, MEAN): np.array([[80.0, 70.0]]), (2, TOGETHER): np.array([[90.0, 86.0]])},
            {(1, MEAN): np.array([[84.0, 71.0]]), (2, TOGETHER): np.array([[91.0, 87.0]])}]
    lines = [line.split() for line in table(rows, ["liver"]).splitlines()]
    assert lines[2] == ["1,", "mean", "of", "each", "82.0", "82.0", "70.5"]
    assert lines[3] == ["2,", "together", "90.5", "90.5", "86.5"] and "2 queries" in table(rows, ["liver"])


def test_a_set_has_its_cases_as_queries_and_a_class_that_a_case_lacks_is_not_scored(tmp_path):
    for number in range(1, 5):
        image, label_map, *_ = toy_case(number)
        write(tmp_path / f"images/{number}.nii.gz", image)
        write(tmp_path / f"labels/{number}.nii.gz", label_map)
    predictor = Predictor.untrained("guided", device="cpu")
    scans = of_set(predictor, tmp_path)
    assert list(scans.queries) == [0, 1, 2, 3] and scans.labels == {label: f"label {label}" for label in range(1, 5)}
    task = task_of(scans.volumes, 3, list(scans.labels), 2)
    assert task.query is scans.volumes[3] and task.supports == tuple(scans.volumes[:2]) and task.stones == (scans.volumes[2],)
    lacking = np.where(scans.volumes[0].labels == 1, 1, 0)
    of_both = scores({1: (lacking == 1).astype(np.float32), 2: np.zeros(lacking.shape, np.float32)}, lacking, [1, 2])
    assert of_both[0].tolist() == [100, 100] and np.isnan(of_both[1]).all()
