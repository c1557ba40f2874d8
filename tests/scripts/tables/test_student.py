import numpy as np
import pytest
import torch

from qnet.models.settings import StudentSettings
from qnet.scripts.tables.student import ALONE, BOTH, GUIDED, UNCHECKED, Choice, Compared, config_with, of_cases, of_fold, table
from qnet.util.base.errors import InputError
from tests.util.engine.test_student import CPU, MODEL, TASK, WHOLE, AlwaysGains


def test_a_fold_has_the_choice_of_test_py_and_a_set_those_that_follow():
    assert of_fold(20, 1, 1, 3) == Choice(5, [4, 6, 7], [0, 3, 11, 13, 16, 19])
    assert of_cases(12, 10, 3) == Choice(10, [11, 0, 1], [0, 2, 4, 6, 8, 11])
    for choose in (lambda: of_fold(20, 1, 5, 8), lambda: of_cases(12, 12, 3)):
        with pytest.raises(InputError, match="--support: got"):
            choose()


def test_table_and_options_by_hand():
    rows = [{GUIDED: np.array([[80.0, 70.0]]), BOTH: np.array([[82.0, 73.0]])},
            {GUIDED: np.array([[84.0, 71.0]]), BOTH: np.array([[83.0, 72.0]])}]
    lines = [line.split() for line in table(rows, ["liver"]).splitlines()]
    assert lines[2] == ["guided", "82.0", "82.0", "70.5"] and lines[3] == ["student", "82.5", "82.5", "72.5"]
    config = config_with({"student.n_steps": 7, "registration.stones": 2})
    assert config["student"]["n_steps"] == 7 and config["registration"]["stones"] == 2 and config["model"] == "student"


class Tiny(Compared, AlwaysGains):
    pass


@pytest.mark.whole
def test_what_is_compared_is_made_of_the_same_registrations():
    segmenter = Tiny(MODEL, StudentSettings(3, 2, 0.002, 0.25), 0, CPU, WHOLE, None)
    segmenter.prepare([(TASK.supports[0], [])], TASK.stones)
    found, borders = segmenter.found(TASK)
    assert set(found) == {GUIDED, BOTH, ALONE, UNCHECKED} and len(borders) == 4
    for label, of_both in found[BOTH].items():
        torch.testing.assert_close(found[UNCHECKED][label], of_both)
        of_guided = found[GUIDED][label]
        share = (of_both - of_guided).sum() / (found[ALONE][label] - of_guided).sum()    # 0.25, or less
        assert 0 <= share <= 0.2501
        torch.testing.assert_close((1 - share) * of_guided + share * found[ALONE][label], of_both, rtol=0, atol=1e-4)
    assert segmenter.training_s > 0
