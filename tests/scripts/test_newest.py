"""scripts/newest.py on made-up runs: which snapshot, and which evaluations stand in one table."""

import shutil

import pytest

from qnet.scripts import compare
from qnet.scripts.newest import comparisons, main
from qnet.util.base.errors import InputError
from tests.runs import write_run


def test_the_newest_snapshot_of_a_config_and_fold(trained, tmp_path, capsys):
    runs = tmp_path / "QNet_train_CMR_cv3"
    for run, step in ((1, 7), (2, 3), (10, 5)):
        (runs / f"{run}/snapshots").mkdir(parents=True)
        shutil.copy(trained / "snapshots/3.pth", runs / f"{run}/snapshots/{step}.pth")
    arguments = ["snapshot", "cmr_setting1", "--folds", "3", "--options", f"path.log_dir={tmp_path}"]
    assert main([*arguments, "seed=1"]) == 0
    assert capsys.readouterr().out == f"{runs / '10/snapshots/5.pth'}\n"
    assert main([*arguments, "adnet"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: {tmp_path}/ADNet_train_CMR_cv3: no snapshot of cmr_setting1, fold 3; train it first\n"


@pytest.fixture
def configs(tmp_path):
    """Write a config with evaluations of two folds; an older one of each is not compared."""
    def write(name, model="qnet", shift=0.0, **more):
        config = tmp_path / f"{name}.json5"
        config.write_text(f'{{model: "{model}", path: {{log_dir: "{tmp_path / name}"}}}}', encoding="utf-8")
        for fold in (0, 1):
            for run in (1, 2):
                method = {"qnet": "QNet", "adnet": "ADNet"}[model]
                write_run(tmp_path / name / f"{method}_test_CHAOST2_cv{fold}/{run}", shift, model=model, eval_fold=fold, **more)
        return str(config)

    return write


def folders(words):
    return [word.split("/")[-3:] for word in words if "/" in word and "=" in word]


def test_methods_are_compared_and_settings_apart(configs):
    names = [configs("q"), configs("two", exclude_label=[1, 4]), configs("a", "adnet", -0.05)]
    first, second = comparisons(names, [0, 1], [])
    assert folders(first) == [[name, f"{method}_test_CHAOST2_cv{fold}", "2"]
                              for name, method in (("q", "QNet"), ("a", "ADNet")) for fold in (0, 1)]
    assert first[0].startswith("QNet=") and first[2].startswith("ADNet=")
    assert first[-4:-1] == ["--baseline", "QNet", "--output"] and first[-1].endswith("runs/comparison_q_a")
    assert len(folders(second)) == 2 and second[-4:-1] == ["--baseline", "none", "--output"]
    assert comparisons(names[:1], [0], ["seed=1"])[0][-1].endswith("runs/comparison_q")


def test_configs_with_one_method_are_told_apart_by_their_names(configs, tmp_path, capsys):
    (words,) = comparisons([configs("mine"), configs("yours", shift=-0.1)], [0, 1], [])
    assert [word.split("=")[0] for word in words[:4:2]] == ["QNet, mine", "QNet, yours"] and "QNet, mine" in words[-3]
    assert compare.main([*words[:-1], str(tmp_path / "out")]) == 0
    assert "QNet, yours" in capsys.readouterr().out


def test_an_evaluation_that_is_missing(configs, capsys):
    name = configs("q")
    with pytest.raises(InputError, match="QNet_test_CHAOST2_cv2: no run folder in it"):
        comparisons([name], [0, 1, 2], [])
    assert main(["compare", name]) == 2 and capsys.readouterr().err.count("\n") == 1


def test_the_exit_status_is_the_worst_of_all_tables(configs):
    names = [configs("q"), configs("two", exclude_label=[1, 4])]
    called = []
    assert main(["compare", *names, "--folds", "0", "1"], call=lambda words: called.append(words) or len(called) - 1) == 1
    assert len(called) == 2
