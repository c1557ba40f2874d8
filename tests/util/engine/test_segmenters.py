"""Methods without training, by the same evaluation, prediction and files as the networks."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
import tqdm

from qnet.models.volume import VolumeModel, VolumeSegmentation
from qnet.util.engine.evaluate import evaluate_query
from qnet.util.engine.segmenters import VolumeSegmenter
from qnet.util.engine.task import Task
from qnet.util.options.sections import EvaluationOptions, WholeVolumeOptions
from tests.programs import entry_point, predict, run
from tests.toy import toy_volume, write

WHOLE = WholeVolumeOptions(0, 0, 0, False, 1)


class Scan:
    """A scan that tells a model what is registered to it."""

    def __init__(self, model, volume, spacing_mm):
        self.model, self.image, self.spacing_mm, self.wide_mm = model, volume, spacing_mm, 1.0

    @property
    def sum(self):
        return float(self.image.sum())

    def register(self, support):
        assert self.image.shape == support.image.shape and self.spacing_mm == support.spacing_mm
        self.model.wide.append((self.sum, support.sum))
        return "wide", self.sum, support.sum

    def zoom(self, support, found, box):
        assert found == ("wide", self.sum, support.sum) and box is not None
        self.model.zoomed.append((self.sum, support.sum))
        return "zoomed", self.sum, support.sum

    def release(self):
        self.model.released.append(self.sum)


class Outlined(SimpleNamespace):
    """What a support is to the segmenter. Outlines on stones are (sum of the stone, sum of the support)."""

    def __init__(self, scan, masks):
        super().__init__(scan=scan, masks=masks, outlines=Sum(scan.sum))

    def of_classes(self, which):
        return Outlined(self.scan, self.masks[list(which)])


class Sum(float):
    """In the place of outlines."""

    def of_classes(self, which):
        return self


class Copies(VolumeModel):
    """Says that the query's classes are where the support's are; remembers what was registered, and the routes."""

    def __init__(self, reaches=True):
        super().__init__()
        self.reaches, self.wide, self.zoomed, self.turned, self.released, self.routes = reaches, [], [], [], [], []

    def prepared(self, volume, spacing_mm):
        return Scan(self, volume, spacing_mm)

    def support(self, scan, masks):
        return Outlined(scan, masks)

    def on_stone(self, stone, support, found):
        assert found == ("wide", stone.sum, support.scan.sum)
        return (stone.sum, support.scan.sum) if self.reaches else None

    def box(self, scan, routes):
        assert all(kind == "wide" for _, (kind, *_) in routes)
        return (torch.zeros(3), torch.ones(3)) if self.reaches else None

    def back(self, query, support):
        self.turned.append((query.sum, support.scan.sum))
        return self.turned[-1]

    def segment(self, query, guides, box):
        assert torch.equal(torch.stack(box), torch.tensor([[0.0] * 3, [1.0] * 3]))
        for support, routes, back, _ in guides:
            assert back == (query.sum, support.scan.sum)
            self.routes.append(routes)
        masks = torch.stack([guide.support.masks.float() for guide in guides]).mean(dim=0)
        n = len(masks)
        return VolumeSegmentation(masks, masks, torch.linspace(0.2, 0.8, n), query.image.clamp(0, 1), ("as it was",) * n,
                                  torch.arange(2 * n).view(n, 2))


def evaluated(model, *supports, labels=(1, 2, 3, 4), stones=()):
    options = EvaluationOptions(labels, "published", "all", 3, 1, True, 3.0)
    task = Task(toy_volume(2), supports, labels, stones)
    segmenter = VolumeSegmenter(model, torch.device("cpu"), WHOLE)
    segmenter.prepare([(support, []) for support in supports], stones)
    before = len(model.wide)
    assert before == len(supports) * len(stones) and not model.zoomed
    bar = tqdm.tqdm(disable=None)
    result = evaluate_query(segmenter, task, options, bar)
    done = len(model.wide) - before + len(model.zoomed) + len(model.turned)
    assert done == (segmenter.n_units(task, options) if result.whole else 0)
    return task, result


def test_stepping_stones():
    """The query is registered to each stone once, a stone to each support once, and for the next query the latter are kept."""
    model, queries = Copies(), [toy_volume(2), toy_volume(12)]
    supports, stones = (toy_volume(1), toy_volume(3)), tuple(replace(toy_volume(n), label_map=None) for n in (10, 11))
    segmenter = VolumeSegmenter(model, torch.device("cpu"), WHOLE)
    tasks = [Task(query, supports, (1, 2), stones) for query in queries]
    for task in tasks:
        segmenter.members(task)
        segmenter.release(task.query)
    sums = {volume.name: float(torch.from_numpy(volume.image).float().sum()) for volume in (*queries, *supports, *stones)}
    for routes, (query, support) in zip(model.routes, [("2", "1"), ("2", "3"), ("12", "1"), ("12", "3")], strict=True):
        q, s, a, b = (sums[name] for name in (query, support, "10", "11"))
        assert routes == [(s, ("zoomed", q, s)), ((a, s), ("zoomed", q, a)), ((b, s), ("zoomed", q, b))]
    assert len(model.wide) == len(set(model.wide)) == 2 * (2 + 2) + 2 * 2
    assert len(model.zoomed) == len(set(model.zoomed)) == 2 * (2 + 2)
    assert len(model.turned) == len(set(model.turned)) == 2 * 2
    assert {sums[name] for name in ("2", "12", "10", "11")} <= set(model.released)      # supports are registered to nothing here
    assert [segmenter.n_units(task, None) for task in tasks] == [2 * 4 + 2] * 2
    _, result = evaluated(Copies(), *supports, stones=stones)
    assert len(result.by_protocol) == 8 and set(result.warped) == {"1", "3"}


def test_outlines_that_reach_the_query_nowhere_are_empty_with_confidence_0():
    model = Copies(reaches=False)
    segmenter = VolumeSegmenter(model, torch.device("cpu"), WHOLE)
    task = Task(toy_volume(2), (toy_volume(1),), (1, 2), (toy_volume(10),))
    member, = segmenter.members(task)
    nothing = task.query.image.shape, False
    assert {label: (probs.shape, probs.any()) for label, probs in member.probs.items()} == {1: nothing, 2: nothing}
    assert member.confidence == {1: 0.0, 2: 0.0} and member.warped is None and not model.zoomed and not model.routes
    assert not any(prediction.mask.any() for prediction in segmenter.over_whole_volume(task))


def test_several_supports_together_give_each_class_from_those_that_hold_it():
    supports = [toy_volume(number) for number in (1, 3, 10)]
    for support, lacking in zip(supports, ((), (2,), (2, 4)), strict=True):
        support.label_map[np.isin(support.label_map, lacking)] = 0
    model = Copies()
    segmenter, task = VolumeSegmenter(model, torch.device("cpu"), WHOLE), Task(toy_volume(2), tuple(supports), (1, 2, 4))
    segmenter.members(task)
    registered = len(model.wide)
    found = segmenter.joint(task)
    assert set(found.probs) == set(found.borders) == set(found.confidence) == {1, 2, 4}
    for label, holders in ((1, supports), (2, supports[:1]), (4, supports[:2])):
        np.testing.assert_allclose(found.probs[label], np.mean([s.label_map == label for s in holders], axis=0), rtol=1e-6)
    of_two = segmenter.joint(task, supports[1:])
    np.testing.assert_allclose(of_two.probs[1], np.mean([s.label_map == 1 for s in supports[1:]], axis=0))
    assert set(of_two.probs) == {1, 4} and len(model.wide) == registered      # nothing is registered once more
    assert segmenter.joint(task, supports[:1]) is None
    assert VolumeSegmenter(Copies(reaches=False), torch.device("cpu"), WHOLE).joint(task) is None


def test_a_member_tells_how_borders_were_drawn_and_what_the_confidence_is_made_of():
    member, = VolumeSegmenter(Copies(), torch.device("cpu"), WHOLE).members(Task(toy_volume(2), (toy_volume(1),), (1, 4)))
    assert member.borders == {1: "as it was", 4: "as it was"} and member.wide_mm == 1.0
    assert member.evidence == {1: [0, 1], 4: [2, 3]}


def test_the_protocol_scores_its_slices_of_the_whole_volumes_label_map():
    model = Copies()
    task, result = evaluated(model, toy_volume(1), toy_volume(3))
    assert len(model.routes) == 2      # once a pair, for the protocol and the whole volume
    assert [(p.support.name, p.label) for p in result.by_protocol] == [(s, label) for s in "13" for label in (1, 2, 3, 4)]
    for by_protocol, whole in zip(result.by_protocol, result.whole, strict=True):
        np.testing.assert_array_equal(whole.mask, whole.support.label_map == whole.label)
        slices = [z for part in by_protocol.parts for z in part.query_slices]
        assert slices == np.flatnonzero((task.query.label_map == whole.label).any(axis=(1, 2))).tolist()
        np.testing.assert_array_equal(by_protocol.mask[slices], whole.mask[slices])
        assert by_protocol.mask.sum() == whole.mask[slices].sum() and 0 < by_protocol.dice <= 1
    assert [p.confidence for p in result.whole[:4]] == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_a_class_that_the_support_lacks_is_left_out():
    support = toy_volume(1)
    support.label_map[support.label_map == 3] = 0
    _, result = evaluated(Copies(), support)
    assert [p.label for p in result.whole] == [p.label for p in result.by_protocol] == [1, 2, 4]
    support.label_map[:] = 0
    assert evaluated(Copies(), support)[1][1:] == ([], [], {})


LEAST_DICE = {"registration": 0.6, "guided": 0.75}      # the query's own contrast is what draws borders
SMALL = {"registration": {"n_steps": 20, "stones": 0, "finest": 1.5}}      # for toy volumes
ROUGH = {"n_steps": 5, "finest": 2.0}      # where nobody asks how good it is


@pytest.mark.whole
# guided registers, too
@pytest.mark.parametrize("model", [pytest.param("registration", marks=pytest.mark.slow), "guided"])
def test_evaluated_without_a_snapshot(model, toy_data, tmp_path):
    """`test.py with chaost2_setting1 guided`: named configs alone."""
    folder = run("test", tmp_path, toy_data, "chaost2_setting1", model, supp_idx="all", test_label=[1, 4], **SMALL)
    assert folder.parent.name == f"{model.capitalize()}_test_CHAOST2_cv0"
    rows = {name: list(csv.DictReader((folder / f"scores{name}.csv").open(encoding="utf-8"))) for name in ("", "_whole_volume")}
    assert len(rows[""]) == len(rows["_whole_volume"]) == 4
    assert np.mean([float(row["dice"]) for row in rows["_whole_volume"]]) > LEAST_DICE[model]
    assert all(0 < float(row["confidence"]) <= 1 for row in rows["_whole_volume"])
    again = run("test", tmp_path, toy_data, "chaost2_setting1", model, supp_idx=0, test_label=[1, 4], **SMALL)
    of_first = [row for row in rows[""] if row["support_case"] == "1"]
    assert list(csv.DictReader((again / "scores.csv").open(encoding="utf-8"))) == of_first != []


def heart(number):
    """Image and label file, each (8, 64, 64), of a heart: a bright pool in a dark ring, a bright ventricle beside it."""
    rng = np.random.default_rng(number)
    z, y, x = np.indices((8, 64, 64))
    cy, cx, size = 32 + rng.integers(-3, 4), 36 + rng.integers(-3, 4), rng.uniform(0.9, 1.1) * (1 - 0.06 * np.abs(z - 3.5))
    left, right = np.hypot(y - cy, x - cx) / size, np.hypot((y - cy) / 1.5, x - cx + 17) / size
    labels = np.select([left < 8, left < 13, right < 7], [500, 200, 600], 0)       # as files of CMR number them
    levels = {0: 250, 200: 120, 500: 700 * rng.uniform(0.8, 1.2), 600: 620}
    body = np.hypot(y - 32, x - 32) < 31
    image = sum((labels == value) * level for value, level in levels.items()) * body + rng.normal(0, 15, labels.shape)
    return image.astype(np.float32), labels.astype(np.int16)


@pytest.mark.whole
def test_guided_on_hearts_in_the_layout_of_cmr(tmp_path):
    """`test.py with cmr_setting1 guided supp_idx=0`: other labels, numbers in files, folder and spacing than CHAOST2's."""
    for number in range(1, 6):
        for name, values in zip(("image", "label"), heart(number), strict=True):
            write(tmp_path / f"data/cmr_MR_normalized/{name}_{number}.nii.gz", values, np.diag([-2.5, 2.5, 7.99, 1]))
    places = {"log_dir": str(tmp_path / "runs"), "CMR": {"data_dir": str(tmp_path / "data")}}
    ran = entry_point("test").experiment.run(named_configs=["cmr_setting1", "guided"], config_updates={
        **SMALL, "device": "cpu", "supp_idx": 0, "path": places})
    table = Path(ran.observers[0].dir) / "scores_whole_volume.csv"
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert {row["label_name"] for row in rows} == {"LV myocardium", "LV blood pool", "right ventricle"}
    assert np.mean([float(row["dice"]) for row in rows]) > 0.75


@pytest.mark.whole
def test_stepping_stones_of_evaluation_and_predict(thin_data, tmp_path):
    """Unlabelled cases of no fold, and scans of the folder; one that cannot be read is no stone."""
    options = {"registration": {**ROUGH, "stones": 2}, "supp_idx": 0, "test_label": [1, 2]}
    folder = run("test", tmp_path, thin_data, "chaost2_setting1", "guided", **options)
    files = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))[-1]["data"]
    assert {name.rpartition("image_")[2] for name in files if "image_" in name} == {f"{k}.nii.gz" for k in (1, 2, 3, 12)}
    direct = run("test", tmp_path / "direct", thin_data, "chaost2_setting1", "guided",
                 **{**options, "registration": {**ROUGH, "stones": 0}})
    assert (direct / "scores.csv").read_bytes() != (folder / "scores.csv").read_bytes()
    images, queries = thin_data / "chaos_MR_T2_normalized", tmp_path / "queries"
    queries.mkdir()
    for name, number in (("a", 2), ("c", 3)):
        shutil.copy(images / f"image_{number}.nii.gz", queries / f"{name}.nii.gz")
    (queries / "b.nii.gz").write_bytes(b"no scan")
    maps = {}
    for stones in (0, 3):
        with pytest.raises(SystemExit, match=r"^error: query b.nii.gz: [^\n]*$"):
            entry_point("test").experiment.run("predict", named_configs=["guided"], config_updates={
                "support_image": str(images / "image_1.nii.gz"), "support_label": str(images / "label_1.nii.gz"), "device": "cpu",
                "query": str(queries), "output": str(tmp_path / str(stones)),
                "registration": {**ROUGH, "stones": stones}})
        maps[stones] = [(tmp_path / f"{stones}/{name}.nii.gz").read_bytes() for name in "ac"]
    assert maps[0][0] != maps[3][0] and maps[0][1] != maps[3][1]


@pytest.mark.whole
def test_predict_without_a_snapshot(toy_data, tmp_path):
    images = toy_data / "chaos_MR_T2_normalized"
    entry_point("test").experiment.run("predict", named_configs=["guided"], config_updates={
        "support_image": str(images / "image_1.nii.gz"), "support_label": str(images / "label_1.nii.gz"), "device": "cpu",
        "query": str(images / "image_2.nii.gz"), "output": str(tmp_path / "out"), **SMALL})
    files = tmp_path / "out/image_2.nii.gz", images / "label_2.nii.gz"
    found, truth = (np.asarray(nibabel.load(path).dataobj) for path in files)
    assert [2 * np.sum((found == k) & (truth == k)) / (np.sum(found == k) + np.sum(truth == k)) > 0.7 for k in (1, 2, 3, 4)]
    rows = list(csv.DictReader((tmp_path / "out/cases.csv").open(encoding="utf-8")))
    assert sorted(row["label_name"] for row in rows) == [f"label {k}" for k in (1, 2, 3, 4)]
    assert all(0 < float(row["confidence"]) <= 1 for row in rows)


@pytest.mark.whole
def test_a_spatial_prior_for_a_network(trained, toy_data, tmp_path):
    """By the protocol, over whole volumes and in predict; the network alone, hardly trained, finds little."""
    options = {"supp_idx": 0, "n_iters": 1, "reload_model_path": str(trained / "snapshots/3.pth"), **SMALL}
    dice = {}
    for prior in ("none", "registration"):
        folder = run("test", tmp_path / prior, toy_data, spatial_prior=prior, test_label=[1, 4], **options)
        for name in ("", "_whole_volume"):
            rows = list(csv.DictReader((folder / f"scores{name}.csv").open(encoding="utf-8")))
            dice[prior, name] = np.mean([float(row["dice"]) for row in rows])
    assert (folder / "warped_supports/2_supp1.nii.gz").is_file() and all(0 < float(row["confidence"]) <= 1 for row in rows)
    for name in ("", "_whole_volume"):
        assert dice["none", name] + 0.2 < dice["registration", name], dice
    images = toy_data / "chaos_MR_T2_normalized"
    predict(support_image=images / "image_1.nii.gz", support_label=images / "label_1.nii.gz", query=images / "image_2.nii.gz",
            output=tmp_path / "out", spatial_prior="registration", **options)
    files = tmp_path / "out/image_2.nii.gz", images / "label_2.nii.gz"
    found, truth = (np.asarray(nibabel.load(path).dataobj) for path in files)
    assert 2 * ((found == truth) & (truth > 0)).sum() / ((found > 0).sum() + (truth > 0).sum()) > 0.45


@pytest.mark.parametrize(("program", "options", "message"), [
    ("test", {"spatial_prior": "registration", "supp_idx": 0}, "spatial_prior: got 'registration', allowed with model 'guided'"),
    ("train", {}, "model: got 'guided', which is not trained here"),
    ("test", {"reload_model_path": "untrained", "supp_idx": 0}, "reload_model_path: got 'untrained', allowed with model 'guided"),
])
def test_what_makes_no_sense_is_refused_in_one_line(program, options, message, toy_data, tmp_path):
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        run(program, tmp_path, toy_data, model="guided", **options)
