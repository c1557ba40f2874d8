"""The worked example of docs/extending.md does what the page says."""

import csv
import re

import pytest

from qnet.models.base import FewShotModel
from qnet.util.base.root import ROOT
from qnet.util.base.rules import one_of
from qnet.util.options.names import MODELS
from qnet.util.options.sections import RULES
from qnet.util.training import building as methods
from qnet.util.training.snapshots import read_snapshot
from tests.programs import run


@pytest.fixture
def example(monkeypatch):
    """Do what the page says: the file, and a line in each of two tables. Returns the code."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(encoding="utf-8"), re.DOTALL)
    source, display_name, builder = blocks
    names = dict(vars(methods))
    exec(compile(source, "models/cosnet.py", "exec"), names)
    for table, line in ((MODELS, display_name), (methods.BUILDERS, builder)):
        for key, value in eval("{" + line + "}", names).items():
            monkeypatch.setitem(table, key, value)
    monkeypatch.setitem(RULES, "model", one_of(*MODELS))   # what a restart does
    return "".join(blocks), names["CosNet"]


@pytest.mark.whole
def test_example_trains_and_scores_by_the_same_commands(example, toy_data, tmp_path):
    code, method = example
    assert issubclass(method, FewShotModel) and len(code.splitlines()) < 60
    trained = run("train", tmp_path, toy_data, model="cosnet", n_steps=6)
    assert trained.parent.name == "CosNet_train_CHAOST2_cv0"
    snapshot = read_snapshot(trained / "snapshots/6.pth")
    assert snapshot.model["scale"] != 20 and snapshot.model["bias"] != -10
    assert snapshot.history.isfinite().all()
    folder = run("test", tmp_path, toy_data, model="cosnet", supp_idx="all", reload_model_path=str(trained / "snapshots/6.pth"))
    rows = list(csv.DictReader((folder / "scores.csv").open(encoding="utf-8")))
    assert len(rows) == 8 and any(float(row["dice"]) > 0 for row in rows)
