import numpy as np
import pytest

from qnet.scripts.tables.outlined_scans import MEAN, TOGETHER, queries_of, scores, table


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
