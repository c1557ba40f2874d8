"""A student through the segmenter and through the programs: what it changes, and how a killed training goes on."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from qnet.models.carrying import GuidedModel
from qnet.models.guided import Trial
from qnet.models.settings import StudentSettings
from qnet.models.student import Training, as_in
from qnet.models.volume import STUDENT
from qnet.util.base.errors import InputError
from qnet.util.engine.segmenters import VolumeSegmenter
from qnet.util.engine.student import StudentSegmenter
from qnet.util.engine.task import Task
from qnet.util.options.sections import WholeVolumeOptions
from tests.programs import predict, run
from tests.settings import GUIDED, REGISTRATION
from tests.toy import thin_volume

WHOLE, CPU = WholeVolumeOptions(0, 0, 0, False, 1), torch.device("cpu")
MODEL = GuidedModel(replace(REGISTRATION, finest=1.5, n_steps=10), GUIDED)
FEW = StudentSettings(n_steps=9, batch_size=2, lr=0.002, share=0.3)
TASK = Task(thin_volume(2), (thin_volume(1),), (1, 3), (thin_volume(3), thin_volume(10)))
KEPT = "student of 1.pth"


class AlwaysGains(StudentSegmenter):
    """Hears its student for every class."""

    def _tried(self, support, network, slicing):
        super()._tried(support, network, slicing)
        return [[Trial(1.0, {STUDENT: 1.0})]] * len(support.masks)


class NeverGains(StudentSegmenter):
    """Hears its student for no class."""

    def _tried(self, support, network, slicing):
        return [[Trial(1.0, {STUDENT: 0.0})]] * len(support.masks)


class Levels(torch.nn.Module):
    """In the place of a network: each pixel has the class whose brightness is nearest to its own."""

    def __init__(self, support):
        super().__init__()
        image = as_in(support.scan, support.scan.images)[0]
        outside = ~support.masks.any(dim=0)
        self.levels = torch.stack([image[mask].mean() for mask in (outside, *support.masks)])

    def forward(self, slices):
        return -20 * (slices[:, 1:2] - self.levels.view(1, -1, 1, 1)).square()


class Sees(AlwaysGains):
    """Is trained, and then given another network."""

    def _learned(self, volume, stones):
        student = super()._learned(volume, stones)
        return None if student is None else replace(student, network=Levels(self._support(volume)))


def segmenter(kind=AlwaysGains, folder=None, settings=FEW):
    return kind(MODEL, settings, 0, CPU, WHOLE, folder)


def found_by(one):
    (member,) = one.members(TASK)
    one.release(TASK.query)
    return member


@pytest.fixture(scope="module")
def of_guided():
    one = VolumeSegmenter(MODEL, CPU, WHOLE)
    one.prepare([(TASK.supports[0], [])], TASK.stones)
    return found_by(one)


@pytest.mark.whole
def test_a_killed_training_goes_on_and_ends_the_same(tmp_path, monkeypatch, capsys):
    step, steps, kill_at = Training.step, [], [5]

    def counted(self):
        if self.n_done in kill_at:
            raise KeyboardInterrupt
        step(self)
        steps.append(self.n_done)

    monkeypatch.setattr(Training, "step", counted)
    with pytest.raises(KeyboardInterrupt):
        segmenter(folder=tmp_path).prepare([(TASK.supports[0], [])], TASK.stones[:1])
    assert steps == [1, 2, 3, 4, 5] and (tmp_path / KEPT).is_file()       # what is kept is of the third, before it was tried
    kill_at.clear()
    weights = []
    for folder, done in ((tmp_path, range(4, 10)), (None, range(1, 10)), (tmp_path, ())):       # goes on; begins; all is there
        steps.clear()
        one = segmenter(folder=folder)
        one.prepare([(TASK.supports[0], [])], TASK.stones[:1])
        assert steps == list(done)
        weights.append(list(one._students[TASK.supports[0]][1].network.parameters()))
    for others in weights[1:]:
        assert all(torch.equal(*pair) for pair in zip(weights[0], others, strict=True))
    assert "student of 1: 9 steps, about 0.0 minutes" in capsys.readouterr().out
    steps.clear()
    one = segmenter(folder=tmp_path, settings=replace(FEW, lr=0.003))
    one.prepare([(TASK.supports[0], [])], TASK.stones[:1])
    assert steps == list(range(1, 10))      # another training is not continued
    one.finish()
    assert [path.name for path in tmp_path.iterdir()] == [".made.jsonl"]


@pytest.mark.whole
def test_where_it_gains_nothing_all_is_as_guided_has_it_to_the_bit(tmp_path, capsys, of_guided):
    one = segmenter(NeverGains, tmp_path)
    one.prepare([(TASK.supports[0], [])], TASK.stones)
    found = found_by(one)
    assert all(np.array_equal(found.probs[label], of_guided.probs[label]) for label in TASK.labels)
    assert found.confidence == of_guided.confidence and found.borders == of_guided.borders
    assert "student of 1: no class gains by it" in capsys.readouterr().out


@pytest.mark.whole
def test_it_is_heard_beside_guided_and_without_stones_there_is_none(capsys, of_guided):
    one = segmenter(Sees)
    found = found_by(one)        # without `prepare`: the first query has it trained
    assert all(", student" in border for border in found.borders.values())
    assert not any(np.array_equal(found.probs[label], of_guided.probs[label]) for label in TASK.labels)
    trained = one._students[TASK.supports[0]][1]
    (again,) = one.members(replace(TASK, stones=TASK.stones[:1]))
    assert one._students[TASK.supports[0]][1] is trained and again.borders[1] == found.borders[1]     # a stone is outlined itself
    alone = segmenter(Sees)
    (plain,) = alone.members(replace(TASK, stones=()))
    assert "no stepping stone shows the classes of 1" in capsys.readouterr().out
    (direct,) = VolumeSegmenter(MODEL, CPU, WHOLE).members(replace(TASK, stones=()))
    assert all(np.array_equal(plain.probs[label], direct.probs[label]) for label in TASK.labels)


def test_the_file_of_somebody_else_stays(tmp_path):
    (tmp_path / KEPT).write_bytes(b"mine")
    with pytest.raises(InputError, match=f"{KEPT}: is there and was not made by this program"):
        segmenter(folder=tmp_path).prepare([(TASK.supports[0], [])], TASK.stones[:1])
    segmenter(folder=tmp_path).finish()
    assert (tmp_path / KEPT).read_bytes() == b"mine"


@pytest.mark.whole
def test_evaluated_and_asked_for_as_guided_is(toy_data, tmp_path):
    options = {"registration": {"n_steps": 5, "finest": 2.0, "stones": 2}, "student": {**vars(FEW), "share": 0.2}}
    folder = run("test", tmp_path, toy_data, "chaost2_setting1", "student", supp_idx=0, test_label=[1, 2], **options)
    assert folder.parent.name == "Student_test_CHAOST2_cv0" and not (folder / "unfinished").exists()
    rows = list(csv.DictReader((folder / "scores_whole_volume.csv").open(encoding="utf-8")))
    assert len(rows) == 2 and np.mean([float(row["dice"]) for row in rows]) > 0.5
    with pytest.raises(SystemExit, match=r"^error: registration.stones: got 0, allowed with model 'student'"):
        run("test", tmp_path, toy_data, "chaost2_setting1", "student", supp_idx=0, registration={"stones": 0})
    images, queries = toy_data / "chaos_MR_T2_normalized", tmp_path / "queries"
    queries.mkdir()
    for number in (2, 3):
        shutil.copy(images / f"image_{number}.nii.gz", queries)
    predict(model="student", reload_model_path=None, support_image=images / "image_1.nii.gz",
            support_label=images / "label_1.nii.gz", query=queries, output=tmp_path / "out", **options)
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"image_2.nii.gz", "image_3.nii.gz", "cases.csv"} <= made and not any(name.endswith(".pth") for name in made)
