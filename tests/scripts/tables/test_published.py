import pytest

from qnet.dataloaders.folds import supports_and_queries
from qnet.scripts.tables.published import EVERY, GUIDED, UNET, Run, choices, finished_runs, spread, support_option, tables
from qnet.util.base.errors import InputError
from qnet.util.base.tables import write_rows

NAMES = [str(100 + k) for k in range(20)]
CLASSES = ["left kidney", "right kidney", "spleen", "liver"]


def run_on_fold(folder, fold, dice, model="Guided", supp_idx="all"):
    """A run folder in which cases of a fold are support of every other one; `dice` is a function of support and query."""
    run = folder / f"{model.lower()}/{model}_test_CHAOST2_cv{fold}/1"
    run.mkdir(parents=True)
    pairs = supports_and_queries(len(NAMES), 5, fold, "published", supp_idx)
    rows = [{"label_name": label, "support_case": NAMES[s], "query_case": NAMES[q], "dice": dice(s, q) / (1 + k),
             "hd95_mm": 10 * k, "assd_mm": 1.0} for s, queries in pairs for q in queries for k, label in enumerate(CLASSES)]
    for file in ("scores.csv", "scores_whole_volume.csv"):
        write_rows(rows, list(rows[0]), run / file)
    (run / "results.json").write_text("{}", encoding="utf-8")


def test_supports_are_those_of_the_papers():
    every, last, index_2 = choices(NAMES, ["last", 2, "last"])
    assert (every.name, last.name, index_2.name) == (EVERY, "last scan", "index 2")
    assert every.supports[4] == ["100", "116", "117", "118", "119"]       # case 0 comes first in fold 4
    assert last.supports == {0: ["104"], 1: ["108"], 2: ["112"], 3: ["116"], 4: ["100"]}
    assert index_2.supports == {0: ["102"], 1: ["106"], 2: ["110"], 3: ["114"], 4: ["117"]}


def test_table_by_hand(tmp_path):
    for fold, base in ((0, 0.5), (1, 0.7)):
        run_on_fold(tmp_path, fold, lambda s, q, base=base: base + 0.01 * (s % 4))
    runs = finished_runs(tmp_path, "CHAOST2")
    assert [run.fold for run in runs[GUIDED]] == [0, 1] and runs[UNET] == []
    text = tables(runs, "CHAOST2", NAMES)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    # index 2 is support 2 of fold 0 (0.52) and 6 of fold 1 (0.72): 62 % in the mean, 14.1 apart from it over √2
    assert "guided index 2 62.0 ± 14.1 31.0 ± 7.1 20.7 ± 4.7 15.5 ± 3.5 32.3 ± 7.4" in lines
    assert "guided last scan 60.0 ± 14.1 30.0 ± 7.1 20.0 ± 4.7 15.0 ± 3.5 31.2 ± 7.4" in lines      # supports 4 and 8
    assert "CAT-Net, published index 3 – – – – –" in lines and "PONet, published – 85.96" in lines
    assert "guided index 2 32.3 ± 7.4 15.0 ± 0.0 1.0 ± 0.0 15.0 ± 0.0 1.0 ± 0.0" in lines           # whole volumes and distances


def test_the_unet_stands_there_with_the_last_scan_alone(tmp_path):
    for fold, dice in ((0, 0.6), (4, 0.8)):
        run_on_fold(tmp_path, fold, lambda s, q, dice=dice: dice, "UNet", support_option(UNET, len(NAMES), fold))
    text = tables(finished_runs(tmp_path, "CHAOST2"), "CHAOST2", NAMES)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "unet last scan 70.0 ± 14.1 35.0 ± 7.1 23.3 ± 4.7 17.5 ± 3.5 36.5 ± 7.4" in lines
    assert sum(line.startswith("unet ") for line in lines) == 3 and not any(line.startswith("guided ") for line in lines)
    assert text.startswith("CHAOST2, guided in 0, unet in 2 of 5 folds: ")


def test_each_method_is_run_with_its_supports():
    assert support_option(GUIDED, 20, 4) == "all"
    assert [support_option(UNET, 20, fold) for fold in range(5)] == [4, 4, 4, 4, 0]      # fold 4 shares case 0


def test_a_class_that_a_support_lacks_is_left_out_of_its_mean():
    assert spread([{"liver": 0.5, "spleen": 0.7}, {"liver": 0.9}], None) == "75.0 ± 21.2"
    assert spread([{"liver": 0.5, "spleen": 0.7}, {"liver": 0.9}], "spleen") == "70.0"


def test_a_run_without_a_support_is_refused(tmp_path):
    run_on_fold(tmp_path, 0, lambda s, q: 0.5)
    run = finished_runs(tmp_path, "CHAOST2")[GUIDED][0]
    choice = choices(NAMES, [2])[1]
    with pytest.raises(InputError, match="holds no score of support 106, which is in fold 1"):
        Run(1, run.folder).values(choice, "scores.csv", "dice")
