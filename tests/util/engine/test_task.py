"""Queries are read in their turn, so memory does not grow with their number."""

import csv
import weakref
from types import SimpleNamespace

import pytest

from qnet.dataloaders.datasets import find_cases
from qnet.dataloaders.folds import supports_of_queries
from qnet.dataloaders.volumes import Volume
from qnet.util.engine.task import TaskReader
from qnet.util.engine.unfinished import Unfinished
from qnet.util.options.config import base_config
from qnet.util.options.sections import dataset_spec
from qnet.util.results.evaluation import saved_queries
from tests.programs import TOY_GRID, run


@pytest.fixture
def living(monkeypatch):
    """At each volume that is made: its name, and the names of all volumes that are alive."""
    made, seen, check = [], [], Volume.__post_init__

    def counted(volume):
        check(volume)
        made.append(weakref.ref(volume))
        seen.append((volume.name, sorted(one.name for ref in made if (one := ref()) is not None)))

    monkeypatch.setattr(Volume, "__post_init__", counted)
    return seen


@pytest.mark.whole
@pytest.mark.parametrize("model", ["qnet", "registration"])
def test_an_evaluation_holds_the_supports_and_one_query(model, toy_data, tmp_path, living):
    small = {"affine": False, "zoom": False, "finest": 3.0, "n_steps": 1, "stones": 0}
    weights = {"reload_model_path": "untrained"} if model == "qnet" else {}
    folder = run("test", tmp_path, toy_data, model=model, supp_idx=0, n_iters=1, registration=small, test_label=[1],
                 datasets={"CHAOST2": {**TOY_GRID["CHAOST2"], "n_folds": 1}}, **weights)
    assert [name for name, _ in living[:5]] == ["1", "2", "3", "10", "12"] and len(living) == 5 + 3      # and three to be drawn
    assert [alive for _, alive in living[:5]] == [["1"], ["1", "2"], ["1", "3"], ["1", "10"], ["1", "12"]]
    assert all(len(alive) == 2 for _, alive in living[5:])
    rows = list(csv.DictReader((folder / "scores.csv").open(encoding="utf-8")))
    assert sorted(row["query_case"] for row in rows) == ["10", "12", "2", "3"]


def test_a_query_that_is_a_support_is_read_once(toy_data, living):
    spec = dataset_spec("CHAOST2", base_config()["datasets"]["CHAOST2"])
    cases = find_cases(spec, toy_data, 5000)
    reader = TaskReader(cases, spec, supports_of_queries([(0, [1, 2]), (1, [0, 2])]), (1, 2), stones=[4])
    assert reader.queries == ["1", "2", "3"] and [name for name, _ in living] == ["1", "2", "12"]
    task = reader.read("1")
    assert task.query is reader.supports[0] and task.supports == (reader.supports[1],) and task.labels == (1, 2)
    assert task.stones[0].name == "12" and task.stones[0].label_map is None and len(living) == 3
    assert reader.read("3").supports == reader.supports and len(living) == 4
    assert reader.key("3") == {"query": "3", "supports": ["1", "2"], "labels": [1, 2], "stones": ["12"]}


def test_a_finished_query_counts_while_its_files_are_there(tmp_path):
    reader = SimpleNamespace(queries=["a", "b", "c"], key=lambda query: {"query": query, "labels": [1]})
    unfinished = Unfinished(tmp_path / "unfinished")
    rows = [{"dice": 0.1 + 0.2, "hd95_mm": float("inf"), "label": 1, "agreement": None}]
    for query in "ab":
        files = [f"predictions/{query}.nii.gz"]
        unfinished.write(reader.key(query), {"rows": rows, "whole_rows": [], "slices": [], "files": files})
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions/b.nii.gz").touch()
    found = saved_queries(reader, unfinished, tmp_path)
    assert list(found) == ["b"] and found["b"].rows == rows
    assert unfinished.read({"query": "b", "labels": [2]}) is None
