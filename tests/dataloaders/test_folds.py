import json

import numpy as np
import pytest

from qnet.dataloaders.folds import (
    extra_position,
    fold_positions,
    parts,
    query_chunks,
    slices_with,
    stepping_stones,
    support_slices,
    supports_and_queries,
)
from qnet.dataloaders.nifti import read_array
from qnet.util.base.errors import InputError
from tests.goldens import CHAOST2, GOLDENS, needs_chaost2, needs_goldens

CHAOST2_CASES = [1, 2, 3, 5, 8, 10, 13, 15, 19, 20, 21, 22, 31, 32, 33, 34, 36, 37, 38, 39]


@pytest.mark.parametrize(("n_cases", "folds"), [
    (20, [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11, 12], [12, 13, 14, 15, 16], [0, 16, 17, 18, 19]]),
    (35, [[*range(8)], [*range(7, 15)], [*range(14, 22)], [*range(21, 29)], [0, *range(28, 35)]]),
    (30, [[*range(7)], [*range(6, 13)], [*range(12, 19)], [*range(18, 25)], [0, *range(24, 30)]]),
])
def test_published_folds(n_cases, folds):
    assert [fold_positions(n_cases, 5, fold) for fold in range(5)] == folds


@pytest.mark.parametrize("n_cases", [5, 7, 20, 30, 35, 41])
def test_corrected_protocol_scores_every_case_once(n_cases):
    scored = []
    for fold in range(5):
        [(support, queries)] = supports_and_queries(n_cases, 5, fold, "corrected", 2)
        assert support == extra_position(n_cases, 5, fold) and support not in queries
        scored += queries
    assert sorted(scored) == list(range(n_cases))


def test_all_supports_and_lists():
    assert supports_and_queries(20, 5, 4, "published", 0) == [(0, [16, 17, 18, 19])]
    assert [s for s, _ in supports_and_queries(20, 5, 1, "published", "all")] == [4, 5, 6, 7, 8]
    assert [s for s, _ in supports_and_queries(20, 5, 1, "published", [3, 1])] == [7, 5]


@pytest.mark.parametrize(("arguments", "message"), [
    ((20, 5, 5, "published", 2), "eval_fold: got 5, allowed: 0 to 4"),
    ((20, 5, 0, "published", 5), "supp_idx: got 5, allowed for fold 0: 0 to 4"),
    ((3, 5, 0, "published", 0), "n_folds: got 5, but the data set has only 3 cases"),
    ((1, 1, 0, "published", 0), "a support and a query are needed"),
])
def test_out_of_range(arguments, message):
    with pytest.raises(InputError, match=message):
        supports_and_queries(*arguments)


def test_stepping_stones_are_spread_over_what_is_left():
    assert stepping_stones(10, {0, 1}, 3) == [2, 6, 9]
    assert stepping_stones(10, {3, 4, 5}, 20) == [0, 1, 2, 6, 7, 8, 9]
    assert stepping_stones(10, (), 0) == stepping_stones(2, {0, 1}, 3) == []


def test_slices_by_hand():
    slices = [4, 5, 6, 7, 8, 9, 10]
    assert support_slices(slices, 3) == [5, 7, 9]            # int(7/6)=1, int(7/2)=3, int(35/6)=5
    assert support_slices(slices, 1) == [7]
    assert query_chunks(slices, 3) == [(4, 5), (6, 7), (8, 9, 10)]
    assert query_chunks([3], 3) == [(), (), (3,)]


def test_class_absent_gives_no_parts():
    empty, full = np.zeros((4, 2, 2), np.uint8), np.ones((4, 2, 2), np.uint8)
    assert parts(empty, full, 1, 3) == parts(full, empty, 1, 3) == []


@needs_goldens
@needs_chaost2
def test_protocol_golden():
    golden = json.loads((GOLDENS / "protocol_chaost2.json").read_text(encoding="utf-8"))
    label_maps = {case: read_array(CHAOST2 / f"chaos_MR_T2_normalized/label_{case}.nii.gz") for case in CHAOST2_CASES}
    for fold in range(5):
        want = golden[f"fold{fold}"]
        supports = supports_and_queries(20, 5, fold, "published", "all")
        for index, (support, queries) in enumerate(supports):
            entry = want[f"supp{index}"]
            assert CHAOST2_CASES[support] == entry["support"]
            assert [CHAOST2_CASES[query] for query in queries] == entry["queries"]
            for label, slices in entry["support_slices"].items():
                assert support_slices(slices_with(label_maps[entry["support"]], int(label)), 3) == slices
        for case, classes in want["chunks"].items():
            for label, chunks in classes.items():
                got = query_chunks(slices_with(label_maps[int(case)], int(label)), 3)
                assert [list(chunk) for chunk in got] == chunks
