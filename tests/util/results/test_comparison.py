import numpy as np
import pytest
from scipy.stats import wilcoxon

from qnet.util.base.errors import InputError
from qnet.util.results.comparison import (
    ALL,
    Scored,
    by_method,
    common_config,
    find_runs,
    group_means,
    holm,
    mean_and_std,
    p_values_against,
)
from tests.runs import write_run


def volumes(values, label="liver", support="1", fold=0):
    return {Scored(fold, support, query, label): value for query, value in zip("abcdefghij", values, strict=False)}


def test_holm_by_hand():
    # ordered 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1 and never falling
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.02}) == pytest.approx({"a": 0.06, "b": 0.04, "c": 0.06, "d": 0.06})
    corrected = holm({"a": 0.4, "b": 0.9, "c": np.nan})
    assert corrected["a"] == pytest.approx(0.8) and corrected["b"] == pytest.approx(0.9) and np.isnan(corrected["c"])
    assert holm({"a": 0.9, "b": 0.8})["a"] == 1.0
    assert holm({}) == {}


def test_group_means_by_hand():
    scores = {**volumes([0.2, 0.4], "liver", "1"), **volumes([0.6], "spleen", "1"), **volumes([1.0], "liver", "2"),
              **volumes([0.0], "liver", "1", fold=3)}
    table = group_means(scores, ["liver", "spleen"])
    assert table == pytest.approx(np.array([[0.3, 0.6, 0.45], [1.0, np.nan, 1.0], [0.0, np.nan, 0.0]]), nan_ok=True)
    assert mean_and_std(table[:, 0]) == pytest.approx((1.3 / 3, np.std([0.3, 1, 0], ddof=1)))
    assert mean_and_std(table[:, 1]) == pytest.approx((0.6, np.nan), nan_ok=True)


def test_p_values_are_scipys_corrected_over_the_methods():
    rng = np.random.default_rng(0)
    base = {**volumes(rng.random(8), "liver"), **volumes(rng.random(8), "spleen")}
    others = {name: {volume: score + 0.3 * rng.random() - 0.05 for volume, score in base.items()} for name in "BC"}
    got = p_values_against("A", {"A": base, **others}, ["liver", "spleen"])

    def plain(name, label):
        pairs = np.array([(others[name][v], base[v]) for v in sorted(base) if label in (v.label, ALL)])
        return wilcoxon(pairs[:, 0], pairs[:, 1]).pvalue

    for label in ("liver", "spleen", ALL):
        small, large = sorted(plain(name, label) for name in "BC")
        assert sorted(got[name, label] for name in "BC") == pytest.approx([min(2 * small, 1), max(2 * small, large)])


def test_p_value_of_equal_scores_is_one_and_of_few_is_refused():
    same, few = volumes([0.1] * 7), volumes([0.1, 0.2, 0.3, 0.4, 0.5])
    assert p_values_against("A", {"A": same, "B": dict(same)}, ["liver"])["B", "liver"] == 1.0
    assert np.isnan(p_values_against("A", {"A": few, "B": dict(few)}, ["liver"])["B", ALL])


def test_unpaired_volumes_are_refused():
    with pytest.raises(InputError, match=r"B and A cannot be paired: 1 volumes .* fold 0, support 1, query g, label liver"):
        p_values_against("A", {"A": volumes([0.1] * 7), "B": volumes([0.2] * 6)}, ["liver"])


def test_runs_are_found_named_and_pooled(tmp_path):
    write_run(tmp_path / "runs/QNet_test/1")
    write_run(tmp_path / "runs/QNet_test/2", eval_fold=1)
    write_run(tmp_path / "runs/ADNet_test/1", model="adnet", reload_model_path="untrained")
    write_run(tmp_path / "other", n_iters=0)
    runs = find_runs([str(tmp_path / "runs"), f"no refinement={tmp_path / 'other'}"])
    assert [run.method for run in runs] == ["ADNet (untrained)", "QNet", "QNet", "no refinement"]
    methods = by_method(runs)
    assert {name: len(scores) for name, scores in methods.items()} == {
        "ADNet (untrained)": 16, "QNet": 32, "no refinement": 16}
    assert runs[1].scores[Scored(0, "1", "3", "liver")] == 0.5
    assert find_runs([str(tmp_path / "other")], "iou")[0].scores[Scored(0, "1", "3", "liver")] == pytest.approx(1 / 3)
    assert common_config(runs)["setting"] == "1"


@pytest.mark.parametrize(("changes", "message"), [
    ({"n_part": 1}, "b: n_part is 1, but in .*a it is 3; such scores do not compare"),
    ({"protocol": "ep2"}, "b: protocol is 'ep2'"),
    ({"dataset": "CMR"}, "b: dataset is 'CMR'"),
    ({"exclude_label": [1, 4]}, "b: setting is '2', but"),
])
def test_runs_that_do_not_compare(tmp_path, changes, message):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", **changes)
    with pytest.raises(InputError, match=message):
        common_config(find_runs([str(tmp_path)]))


def test_the_same_volumes_twice_are_refused(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", shift=-0.1)
    with pytest.raises(InputError, match=r"b: scores case 3 from support 1 as QNet, as .*a does; leave one out, or name them"):
        by_method(find_runs([str(tmp_path)]))


def test_folders_without_runs(tmp_path):
    with pytest.raises(InputError, match=r"no finished evaluation"):
        find_runs([str(tmp_path)])
    (tmp_path / "scores.csv").write_text("dice\n0.5\n", encoding="utf-8")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"config.json: dataset: got nothing, allowed: a non-empty text"):
        find_runs([str(tmp_path)])
    with pytest.raises(InputError, match="expected a folder, or NAME=FOLDER"):
        find_runs([f"={tmp_path}"])
