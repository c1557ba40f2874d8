"""Steps that are refused, because their loss or gradient is not finite."""

import copy

import pytest
import torch

from qnet.dataloaders.episodes import EpisodeDataset
from qnet.util.base.episode import Episode
from qnet.util.options.config import load_config
from qnet.util.options.record import Record
from qnet.util.options.sections import ModelOptions, TrainOptions
from qnet.util.training.building import build_model
from qnet.util.training.loop import Trainer
from qnet.util.training.snapshots import read_snapshot
from tests.programs import TINY, run


def episode(value=None):
    generator = torch.Generator().manual_seed(1)
    images, masks = torch.randn(2, 1, 3, 32, 32, generator=generator), torch.zeros(2, 1, 32, 32)
    masks[..., 8:24, 8:24] = 1
    if value is not None:
        images[1, 0, 0, 5, 5] = value
    return Episode(images[:1], masks[:1], images[1], masks[1])


@pytest.fixture
def trainer():
    config = {**load_config(), **TINY}
    return Trainer(build_model(ModelOptions.of(config)), TrainOptions.of(config), torch.device("cpu"), Record(config))


def everything(trainer):
    return copy.deepcopy((trainer.model.state_dict(), trainer.optimizer.state_dict()["state"]))


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_refused_step_changes_nothing_but_the_schedule(trainer, value):
    assert trainer.advance(episode()) is None
    before = everything(trainer)
    assert trainer.advance(episode(value)).keys() == {"query_loss", "align_loss", "gradient"}
    assert same(everything(trainer), before)
    assert trainer.step == 2 and trainer.scheduler.last_epoch == 2
    assert trainer.history[0].isfinite().all() and trainer.history[1].isnan().all()
    assert trainer.advance(episode()) is None
    assert not same(everything(trainer), before)


def test_a_finite_loss_with_a_gradient_that_is_not_finite_is_refused(trainer):
    trainer.model.encoder.reduce1.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = everything(trainer)
    losses = trainer.advance(episode())
    assert abs(losses["query_loss"]) < 100 and not losses["gradient"] < torch.inf
    assert same(everything(trainer), before)


@pytest.fixture
def poisoned(monkeypatch):
    """Makes the second and the third episode NaN."""
    drawn = EpisodeDataset.__getitem__
    monkeypatch.setattr(EpisodeDataset, "__getitem__", lambda self, index: drawn(self, index) if index not in (1, 2) else
                        drawn(self, index)._replace(query_images=drawn(self, index).query_images * torch.nan))


@pytest.mark.whole
def test_refused_steps_are_counted_across_interruptions_and_named(poisoned, toy_data, tmp_path, capsys):
    run("train", tmp_path, toy_data, n_steps=2)
    folder = run("train", tmp_path, toy_data, n_steps=4)
    snapshot = read_snapshot(folder / "snapshots/4.pth")
    assert [line.partition(" (")[0] for line in snapshot.refused] == ["step 2", "step 3"]
    assert snapshot.history.isnan().all(dim=1).tolist() == [False, True, True, False]
    assert "refused, as it is not finite: step 3 (query_loss nan" in capsys.readouterr().out
    assert all(value.isfinite().all() for value in snapshot.model.values())
    assert [entry["step"] for entry in snapshot.log] == [2, 4]


def test_too_many_refused_steps_end_the_training_with_all_of_them(poisoned, toy_data, tmp_path, capsys):
    run("train", tmp_path, toy_data, n_steps=2, max_refused_steps=1)
    with pytest.raises(SystemExit, match=r"^error: max_refused_steps: 2 steps had .* not finite, allowed: 1;"):
        run("train", tmp_path, toy_data, n_steps=4, max_refused_steps=1)
    steps = capsys.readouterr().out.partition("refused so far:")[2].splitlines()[1:]
    assert [line.split()[1] for line in steps] == ["2", "3"]
    assert all("case " in line and "supervoxel" in line and "query slice" in line for line in steps)
