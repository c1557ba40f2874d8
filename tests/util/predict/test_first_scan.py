"""Which scan is outlined first, and which next."""

import json

import numpy as np
import pytest

from qnet.models import likeness
from qnet.util.base.errors import InputError
from qnet.util.predict.comparing import compared
from qnet.util.predict.first_scan import MOST, Comparison, first_of, next_of, sample_of
from tests.settings import FEW_POINTS
from tests.toy import toy_case, write

UNLIKE = [[0, 1, 2, 9], [1, 0, 2, 9], [2, 2, 0, 9], [9, 9, 9, 0]]      # d is the odd one out


def test_the_scan_most_like_the_others_stands_first_and_an_odd_one_last():
    comparison = Comparison(list("cabd"), [[0, 2, 2, 9], [2, 0, 1, 8], [2, 1, 0, 9], [9, 8, 9, 0]], 4)
    assert [(one.name, one.unlike, one.is_odd) for one in comparison.standings()] == [
        ("a", pytest.approx(11 / 3), False), ("b", pytest.approx(4), False), ("c", pytest.approx(13 / 3), False),
        ("d", pytest.approx(26 / 3), True)]
    assert [one.name for one in comparison.standings(["a", "c", "d", "other"])] == ["a", "c", "d"]
    assert first_of(comparison) == ("a", "it looks most like the 3 others")
    assert comparison.lines()[-1] == "outline a first: it looks most like the 3 others"
    assert comparison.lines()[-2].endswith("d  (an odd one out)")


@pytest.mark.parametrize("usable", [[], ["a"], ["a", "b"]])
def test_one_or_two_scans_have_no_first(usable):
    assert first_of(Comparison(list("abcd"), UNLIKE, 4), usable) is None


def test_of_many_scans_a_sample_is_compared_and_that_is_said():
    names = [f"case {number}" for number in range(40)]
    sample = sample_of(names)
    assert len(sample) == MOST and sample[0] == names[0] and sample[-1] == names[-1]
    assert sample_of(names[:4]) == names[:4] and sample_of(names[:2]) == []
    comparison = Comparison(list("abcd"), UNLIKE, 40)
    assert first_of(comparison).why == "it looks most like the 3 others of a sample of 40 scans"
    assert not Comparison(list("abcd"), UNLIKE, 5, problems={"e": "cannot be read"}).is_sample


def test_a_comparison_is_kept_as_json():
    comparison = Comparison(list("abcd"), UNLIKE, 5, "made", {"e": "cannot be read"})
    assert Comparison.read(json.dumps(comparison.as_json()).encode(), "file") == comparison
    for damage in ({"unlike": UNLIKE[:3]}, {"unlike": [[0, -1, 0, 0], *UNLIKE[1:]]}, {"names": None}):
        with pytest.raises(InputError, match=r"^file: "):
            Comparison.read(json.dumps(comparison.as_json() | damage).encode(), "file")


def rows(*confidences):
    return [{"confidence": confidence} for confidence in confidences]


def test_after_a_run_the_least_certain_scan_that_is_like_the_others_would_teach_most():
    found = {"a": rows(0.9, "0.7"), "b": rows(0.8), "c": rows(None, ""), "d": rows(0.2)}
    assert next_of(found) == ("d", "its expected Dice is the lowest, 0.20")
    comparison = Comparison(list("abcd"), UNLIKE, 4)
    assert next_of(found, comparison) == ("a", "its expected Dice is the lowest, 0.70 among scans that look like the others")
    assert next_of({"d": rows(0.2)}, comparison).name == "d"
    assert next_of({"c": rows(None)}) is next_of({}) is None


@pytest.mark.whole
@pytest.mark.parametrize("odd", ["half of it is seen", pytest.param("noise", marks=pytest.mark.slow)])
def test_an_odd_scan_among_phantoms_is_never_the_first(odd, tmp_path, monkeypatch):
    monkeypatch.setattr(likeness, "COARSE", FEW_POINTS)
    random = np.random.default_rng(1)
    for number in range(1, 5):
        image = toy_case(number)[0]
        if number == 3:
            image = {"half of it is seen": image[:, :32], "noise": random.normal(size=image.shape).astype(np.float32)}[odd]
        write(tmp_path / f"{number}.nii.gz", image)
    (tmp_path / "5.nii.gz").write_bytes(b"no scan")
    pairs = []
    comparison = compared([(str(number), [tmp_path / f"{number}.nii.gz"]) for number in range(1, 6)], 5,
                          tell=lambda: pairs.append(1))
    standings = comparison.standings()
    assert len(pairs) == 6 and standings[-1].name == "3" and standings[-1].is_odd and not standings[-2].is_odd
    assert list(comparison.problems) == ["5"] and "cannot be read" in comparison.problems["5"] and not comparison.is_sample
    assert np.diag(comparison.unlike).tolist() == [0] * 4 and np.array_equal(comparison.unlike, np.transpose(comparison.unlike))
