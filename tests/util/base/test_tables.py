"""CSV files: nothing in them is a formula, and everything is read back as it was."""

import csv
import io

import pytest

from qnet.scripts.compare import as_csv
from qnet.util.base.tables import read_rows, write_rows
from qnet.util.predict.cases import COLUMNS, read_cases
from qnet.util.results.comparison import Scored
from qnet.util.results.report import read_rows as read_scores
from qnet.util.results.scores import SCORE_COLUMNS

FORMULAS = ["=1+1", "=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''=1", "-", "=",
            "\uff1d1+1", "\uff20a"]
HARMLESS = ["scan 1", "'quoted'", "a=b", "1-2", "", "-1.5", "+3", "1e-05", "-2.5E+3", "'", "liver, right"]


@pytest.mark.parametrize("text", [*FORMULAS, *HARMLESS])
def test_texts_are_read_back_as_they_were_and_none_is_a_formula(text, tmp_path):
    write_rows([{"name": text, text or "x": 1}], ["name", text or "x"], tmp_path / "a.csv")
    assert read_rows(tmp_path / "a.csv") == (("name", text or "x"), [{"name": text, text or "x": "1"}])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not any(cell.startswith(tuple("=+-@\t\r\n\uff1d\uff20")) for cell in cells if text in FORMULAS)
    if text in HARMLESS:
        assert cells[2] == text


def test_numbers_stay_numbers(tmp_path):
    write_rows([{"a": -1.5, "b": -3, "c": None}], ["a", "b", "c"], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "a,b,c\n-1.5,-3,\n"


def test_a_row_that_is_too_short_has_nothing_there(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1\n\n2,3,4\n", encoding="utf-8")
    assert read_rows(tmp_path / "a.csv") == (("a", "b"), [{"a": "1", "b": None}, {"a": "2", "b": "3"}])


@pytest.mark.parametrize("name", FORMULAS[:6])
def test_cases_and_scores_are_found_again_by_name(name, tmp_path):
    row = dict.fromkeys(COLUMNS, "x") | {"query": name, "label": 1, "label_name": name, "confidence": 0.5}
    write_rows([row], COLUMNS, tmp_path / "cases.csv")
    assert list(read_cases(tmp_path / "cases.csv")) == [name]
    scores = dict.fromkeys(SCORE_COLUMNS, 0.5) | {"label_name": name, "label": 1, "support_case": name, "query_case": name}
    write_rows([scores], SCORE_COLUMNS, tmp_path / "scores.csv")
    (read,) = read_scores(tmp_path / "scores.csv", SCORE_COLUMNS)
    assert read["query_case"] == read["label_name"] == read["support_case"] == name
    table = as_csv({name: {Scored(0, "1", "2", name): 0.5}}, [name], {}, [])
    _, *rows = csv.reader(io.StringIO(table, newline=""))
    assert [row[:2] for row in rows] == [[f"'{name}", f"'{name}"], [f"'{name}", "mean"]]


@pytest.mark.parametrize("damage", [{"label": "x"}, {"confidence": "high"}, {"label": ""}])
def test_a_row_of_cases_that_is_none_is_told(damage, tmp_path, capsys):
    write_rows([dict.fromkeys(COLUMNS, "1") | {"problem": ""} | damage], COLUMNS, tmp_path / "cases.csv")
    assert read_cases(tmp_path / "cases.csv") == {} and "damaged" in capsys.readouterr().out
