import csv
import json

from qnet.scripts.tables.guided import GUIDED, finished, tables


def make_run(output, name, model, fold, protocol, whole, rows=(), number=1):
    folder = output / name / f"{model}_test_CHAOST2_cv{fold}" / str(number)
    folder.mkdir(parents=True)
    with (folder / "scores_whole_volume.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["support_case", "query_case", "dice", "confidence", "agreement", "margin"])
        writer.writerows(rows)
    summary, of_whole = ({"mean": {"dice_mean": dice, "hd95_mm_mean": 20 * dice}, "classes": {"liver": {"dice_mean": dice / 2}}}
                         for dice in (protocol, whole))
    summary["whole_volume"] = of_whole
    (folder / "results.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def test_tables_by_hand(tmp_path):
    # Two volumes of two classes. Confidence ranks the four classes as Dice does, margin the other way round.
    rows = [(1, 2, 0.9, 0.8, 0.1, 1), (1, 2, 0.8, 0.7, 0.3, 2), (1, 3, 0.6, 0.5, 0.2, 3), (1, 3, 0.5, 0.4, 0.4, 4)]
    make_run(tmp_path, "guided", "Guided", 0, 0.8, 0.75, rows)
    make_run(tmp_path, "guided", "Guided", 3, 0.7, 0.65)
    make_run(tmp_path, "guided", "Guided", 1, 0.9, 0.85)
    make_run(tmp_path, "no stones", "Guided", 0, 0.75, 0.7)
    make_run(tmp_path, "registration", "Registration", 0, 0.7, 0.6)
    make_run(tmp_path, "no guided filter", "Guided", 0, 0.79, 0.74)
    lines = [line.split() for line in tables(tmp_path).splitlines()]
    assert ["fold", "0", "70.0", "60.0", "75.0", "70.0", "80.0", "75.0"] in lines
    assert ["fold", "1", *"––––", "90.0", "85.0"] in lines
    assert ["mean,", "chosen", "on", *"––––", "90.0", "85.0"] in lines
    assert ["mean,", "others", "70.0", "60.0", "75.0", "70.0", "75.0", "70.0"] in lines
    assert ["mean,", "all", "70.0", "60.0", "75.0", "70.0", "80.0", "75.0"] in lines
    assert ["Dice,", "liver", "35.0", "30.0", "37.5", "35.0", "40.0", "37.5"] in lines
    assert ["HD95,", "mm", "14.0", "12.0", "15.0", "14.0", "16.0", "15.0"] in lines
    assert ["no", "guided", "filter", "79.0", "74.0"] in lines
    assert ["confidence", "1.00", "1.00"] in lines and ["margin", "-1.00", "-1.00"] in lines
    assert "4 classes  2 volumes" in tables(tmp_path)


def test_an_unfinished_run_does_not_count(tmp_path):
    first = make_run(tmp_path, "guided", "Guided", 0, 0.8, 0.7)
    (make_run(tmp_path, "guided", "Guided", 0, 0.8, 0.7, number=2) / "results.json").unlink()
    assert finished(GUIDED, 0, tmp_path) == first
    assert finished(GUIDED, 1, tmp_path) is None
