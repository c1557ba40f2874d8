"""Evaluations that are interrupted and run again."""

import json
import signal

import nibabel
import pytest

from qnet.util.base.signals import Interrupted
from qnet.util.engine.slice_encoder import SliceEncoder
from qnet.util.run.folders import newest_run
from tests.programs import run


@pytest.fixture(scope="module")
def options(trained):
    return {"supp_idx": "all", "test_label": [1, 4], "n_iters": 1, "reload_model_path": str(trained / "snapshots/3.pth")}


@pytest.fixture(scope="module")
def undisturbed(options, toy_data, tmp_path_factory):
    return run("test", tmp_path_factory.mktemp("undisturbed"), toy_data, **options)


def interrupt_after(n, monkeypatch, toy_data, log_dir, folder, **options):
    """Run test.py until it has written the nth volume into `folder` of its run, and return the run folder."""
    written, save = [], nibabel.save

    def counted(image, path):
        save(image, path)
        written.extend([path] * (path.parent.name == folder))
        if len(written) == n:
            raise Interrupted(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(nibabel, "save", counted)
        with pytest.raises(Interrupted):
            run("test", log_dir, toy_data, **options)
    return newest_run(log_dir / "QNet_test_CHAOST2_cv0")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if (path.is_file() and path.suffix in (".csv", ".gz", ".png")) or path.name == "results.json"}


@pytest.mark.whole
@pytest.mark.parametrize(("written", "n", "left"), [
    pytest.param("predictions", 3, ["2"], marks=pytest.mark.slow), ("predictions_whole_volume", 3, ["2"])])
def test_goes_on_after_the_finished_queries(written, n, left, options, undisturbed, toy_data, tmp_path, monkeypatch):
    """Two queries with two classes each; `left` says which queries are evaluated again."""
    folder = interrupt_after(n, monkeypatch, toy_data, tmp_path, written, **options)
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["status"] == "INTERRUPTED"
    evaluated = []
    monkeypatch.setattr(SliceEncoder, "release", lambda encoder, query, real=SliceEncoder.release: evaluated.append(
        query.name) or real(encoder, query))       # the last that is done for a query
    assert run("test", tmp_path, toy_data, **options) == folder and evaluated == left
    found, wanted = contents(folder), contents(undisturbed)
    assert [name for name in wanted if found.get(name) != wanted[name]] == [] and len(wanted) == 3 + 3 * 4 + 2
    assert not (folder / "unfinished").exists()


@pytest.mark.whole
def test_a_damaged_file_of_a_finished_query_costs_that_query_alone(options, toy_data, tmp_path, monkeypatch, capsys):
    options = {**options, "whole_volume": False}
    folder = interrupt_after(3, monkeypatch, toy_data, tmp_path, "predictions", **options)
    finished, = (folder / "unfinished").rglob("*.gz")
    finished.write_bytes(finished.read_bytes()[:-20])
    assert run("test", tmp_path, toy_data, **options) == folder
    assert f"warning: {finished}: is damaged" in capsys.readouterr().out
    undisturbed = run("test", tmp_path / "undisturbed", toy_data, **options)
    assert (folder / "scores.csv").read_bytes() == (undisturbed / "scores.csv").read_bytes()


@pytest.mark.whole
def test_what_another_snapshot_gave_is_not_taken(options, trained, toy_data, tmp_path, monkeypatch):
    weights = tmp_path / "weights.pth"
    weights.write_bytes((trained / "snapshots/2.pth").read_bytes())
    options = {**options, "reload_model_path": str(weights), "whole_volume": False}
    folder = interrupt_after(3, monkeypatch, toy_data, tmp_path, "predictions", **options)
    assert list((folder / "unfinished").rglob("*.gz"))
    weights.write_bytes((trained / "snapshots/3.pth").read_bytes())
    assert run("test", tmp_path, toy_data, **options) == folder
    again = run("test", tmp_path, toy_data, **options)
    assert again.name == "2"        # a finished evaluation is made anew
    assert (folder / "scores.csv").read_bytes() == (again / "scores.csv").read_bytes()
