"""A student of `guided`: what it learns from, how it is trained and tried, and when it is heard. By hand."""

import io
from dataclasses import replace

import pytest
import torch

from qnet.models.carrying import CARRIED, GuidedModel, heard, voice_share
from qnet.models.guided import Trial
from qnet.models.registration import PreparedScan
from qnet.models.sampling import column
from qnet.models.settings import Search, Searches, StudentSettings
from qnet.models.student import (
    CARRIED as CARRIED_OVER,
)
from qnet.models.student import (
    FOUND,
    OUTLINED,
    Slicing,
    Student,
    Training,
    dices,
    gains_anywhere,
    lessons_of,
    lessons_sha256,
    loss_of,
    neighbours,
    probabilities,
    restyled,
    tried,
)
from qnet.models.volume import STUDENT, Guide, Outlines, Route, Voice, corners, region
from tests.models.test_carrying import MM, SHAPE, SMALL, WHOLE, bar, moved_by, support_of
from tests.settings import GUIDED, REGISTRATION

ROUGH = replace(REGISTRATION, zoom=False, searches=Searches(wide=Search(2000, cell=4, reach=1)))
FEW = StudentSettings(n_steps=9, batch_size=2, lr=0.002, share=0.3)


def scan(spacing_mm=(4.0, 1.0, 1.0), shape=(6, 40, 44), levels=(0.9, 0.2), seed=0):
    """A bright and a dark block on noise, and their masks, as a support of a model."""
    noise = 0.03 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    image = 0.5 + noise
    masks = torch.zeros(2, *shape, dtype=torch.bool)
    D, H, W = shape
    masks[0, D // 4:-(D // 4), H // 5:H // 2, W // 5:W // 2] = True
    masks[1, D // 4:-(D // 4), H // 2:-(H // 5), W // 2:-(W // 5)] = True
    for mask, level in zip(masks, levels, strict=True):
        image[mask] = level + noise[mask]
    model = GuidedModel(ROUGH, GUIDED)
    return model, model.support(model.prepared(image, spacing_mm), masks)


def stone_of(support, mm=0.0):
    """A stone that shows what the support shows, `mm` further along W, with that registration, and the right outlines."""
    of_stone = PreparedScan(support.scan.image.roll(-int(mm / support.scan.spacing_mm[2]), -1), support.scan.spacing_mm, ROUGH)
    whole = tuple(slice(0, n) for n in support.scan.image.shape)
    maps = support.masks.roll(-int(mm / support.scan.spacing_mm[2]), -1).byte() * 255
    zoomed = replace(moved_by(mm), query_spacing_mm=of_stone.spacing_mm, support_spacing_mm=support.scan.spacing_mm)
    return Outlines(of_stone, maps, whole, (zoomed,))


def trials(*gains):
    return [[Trial(0.9, {STUDENT: gain}), Trial(0.5, {STUDENT: gain})] for gain in gains]


def test_slices_lie_along_the_thick_axis_and_no_spacing_is_finer_than_the_voxels():
    thick, even, sagittal = (Slicing.of(scan(mm, shape)[1]) for mm, shape in (
        ((4.0, 1.0, 1.0), (6, 40, 44)), ((1.0, 1.0, 1.2), (20, 24, 22)), ((1.0, 1.0, 4.0), (40, 44, 8))))
    assert (thick.axis, even.axis, sagittal.axis) == (0, 0, 2)
    assert thick.spacing_mm == (4.0, 1.0, 1.0) and sagittal.spacing_mm == (1.0, 1.0, 4.0)
    box = torch.tensor([-0.5, -0.5, -0.5]), torch.tensor([7.5, 9.5, 39.5])
    assert thick.shape(box) == [2, 32, 40]         # a network needs 32 pixels
    places = thick.points(box, thick.shape(box), torch.device("cpu"))
    assert places[0, :, 0, 0].tolist() == [1.5, 5.5] and places[2, 0, 0, [0, -1]].tolist() == [0.0, 39.0]
    maps = torch.rand(3, 4, 5, 6)
    assert torch.equal(sagittal.joined(sagittal.cut(maps)), maps) and sagittal.cut(maps).shape == (6, 3, 4, 5)


def test_a_slice_has_its_neighbours():
    slices = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert [neighbours(slices, z)[:, 0, 0].tolist() for z in range(3)] == [[0, 0, 1], [0, 1, 2], [1, 2, 2]]


def test_the_carried_scan_fits_its_outlines_and_has_the_contrast_of_the_stone():
    _, support = scan()
    stone = stone_of(support, 3.0)
    darker = replace(stone, scan=PreparedScan(1000 * stone.scan.image.square(), stone.scan.spacing_mm, ROUGH))
    outlined, carried, styled, found = lessons_of(support, [darker], Slicing.of(support))
    assert [lesson.kind for lesson in (outlined, carried, styled, found)] == [OUTLINED, CARRIED_OVER, CARRIED_OVER, FOUND]
    assert len({lesson.slices.shape[1:] for lesson in (outlined, carried, styled, found)}) == 1      # they make up batches
    assert torch.equal(carried.classes, styled.classes) and torch.equal(carried.classes, found.classes)
    for lesson in (outlined, carried, styled, found):
        means = [lesson.slices[:, 0][lesson.classes == k].mean() for k in range(3)]
        assert means[1] - 1 > means[0] > means[2] + 0.3       # bright, around, dark
    of_styled, of_found = (lesson.slices.flatten().sort().values for lesson in (styled, found))
    assert (of_styled - of_found).abs().mean() < 0.1 < (carried.slices.flatten().sort().values - of_found).abs().mean()
    assert outlined.weights.tolist() == [1, 1, 1] and found.weights.tolist() == [1, 1, 1]        # both registrations agree


def test_a_restyled_image_has_the_others_values_and_its_own_order():
    image, other = torch.linspace(0.1, 0.9, 50).view(1, 1, 5, 10), torch.full((1, 1, 5, 10), 0.3)
    other[..., 5:] = 0.7
    found = restyled(image, other)
    assert found.flatten().diff().min() >= 0 and found.min() >= 0.29 and found.max() <= 0.71 and found.median() > 0.29
    assert torch.equal(restyled(torch.zeros_like(image), other), torch.zeros_like(image))        # nothing has no histogram


def test_what_is_not_trusted_counts_nothing():
    target = torch.zeros(1, 4, 4, dtype=torch.int64)
    target[:, 2:] = 1
    right = torch.stack([9.0 - 18 * target, 18 * target - 9.0], dim=1)
    all_background = torch.stack([9.0 + 0 * target, -9.0 + 0 * target], dim=1)
    sure, unsure = torch.ones(1, 2), torch.tensor([[1.0, 0.0]])
    assert loss_of(right, target, sure) < 0.01 and loss_of(all_background, target, sure) > 5
    assert loss_of(all_background, target, unsure) < 0.01


@pytest.mark.whole
def test_an_interrupted_training_ends_as_one_that_was_not():
    _, support = scan()
    lessons = lessons_of(support, [stone_of(support)], Slicing.of(support))
    whole, first, second, another = (Training(lessons, FEW, seed) for seed in (1, 1, 1, 2))
    before = torch.get_rng_state()
    for _ in range(FEW.n_steps):
        whole.step()
    assert whole.n_alone == 3
    for n_done in (2, 3, 5):        # before, at and after the second part
        while first.n_done < n_done:
            first.step()
        content = io.BytesIO()
        torch.save(first.state(), content)
        content.seek(0)
        second.go_on(torch.load(content, weights_only=True))
        assert second.n_done == n_done
        while second.n_done < FEW.n_steps:
            second.step()
        assert all(torch.equal(*pair) for pair in zip(whole.network.parameters(), second.network.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), before)       # nobody else's random numbers are touched
    assert not all(torch.equal(*pair) for pair in zip(whole.network.parameters(), another.network.parameters(), strict=True))
    assert lessons_sha256(lessons) == lessons_sha256(lessons_of(support, [stone_of(support)], Slicing.of(support)))
    assert lessons_sha256(lessons) != lessons_sha256(lessons[:-1])


class Threshold(torch.nn.Module):
    """In the place of a network: class 1 is what is bright, class 2 what is dark, in the middle slice."""

    def forward(self, slices):
        middle = slices[:, 1]
        return 30 * torch.stack([torch.full_like(middle, 0.5), middle - 0.5, -middle - 0.5], dim=1)


@pytest.mark.parametrize(("mm", "shape"), [((4.0, 1.0, 1.0), (6, 40, 44)), ((1.0, 1.0, 3.0), (30, 40, 9))])
def test_probabilities_lie_where_the_voxels_are(mm, shape):
    _, support = scan(mm, shape)
    box = corners(support.scan, (slice(1, shape[0]), slice(2, 38), slice(0, shape[2] - 1)))
    voxels, _ = region(support.scan, box)
    found = probabilities(Threshold(), Slicing.of(support), support.scan, box, 4)
    truth = support.masks[(slice(None), *voxels)]
    assert found.shape == truth.shape and dices(found, truth).min() > 0.9


def test_who_knows_the_truth_gains_where_it_is_displaced_and_who_knows_nothing_does_not():
    model, support = scan()
    truth = support.masks[(slice(None), *region(support.scan, support.around)[0])].float()
    knows, mixed = tried(model, support, truth, 0.5), tried(model, support, torch.stack([truth[0], 0 * truth[1]]), 0.5)
    assert len(knows) == 2 and [trial.before for trial in knows[0]] == sorted((trial.before for trial in knows[0]), reverse=True)
    assert min(of_class[-1].gains[STUDENT] for of_class in knows) > 0.02 and gains_anywhere(knows)
    assert mixed[0] == knows[0] and max(trial.gains[STUDENT] for trial in mixed[1]) <= 0
    assert not gains_anywhere(mixed[1:]) and not gains_anywhere(tried(model, support, truth, 0.0))


def test_a_voice_is_heard_where_it_gains_and_changes_no_bit_elsewhere():
    torch.manual_seed(0)
    drawn, said = 0.9 + 0.1 * torch.rand(2, 3, 4, 5), torch.full((2, 3, 4, 5), 255, dtype=torch.uint8)
    sure = torch.tensor([0.8, 0.8])
    mixed, borders = heard([Voice(said, trials(0.1, 0.0), 0.3)], drawn, (CARRIED, CARRIED), sure)
    torch.testing.assert_close(mixed[0], 0.7 * drawn[0] + 0.3)
    assert torch.equal(mixed[1], drawn[1]) and borders == (f"{CARRIED}, {STUDENT}", CARRIED)
    both = [Voice(said, trials(0.1, 0.1), 0.2), Voice(said // 5 * 4, trials(-0.09, -0.2), 0.4)]      # two supports: their mean
    mixed, borders = heard(both, drawn, (CARRIED, CARRIED), sure)
    torch.testing.assert_close(mixed[0], 0.7 * drawn[0] + 0.3 * 0.9)
    assert torch.equal(mixed[1], drawn[1]) and borders[1] == CARRIED
    assert torch.equal(heard([], drawn, (CARRIED, CARRIED), sure)[0], drawn)
    by_dice = [[Trial(0.9, {STUDENT: -0.1}), Trial(0.5, {STUDENT: 0.1})]] * 2        # it gains only where the map is bad
    _, borders = heard([Voice(said, by_dice, 0.3)], drawn, (CARRIED, CARRIED), torch.tensor([0.9, 0.5]))
    assert borders == (CARRIED, f"{CARRIED}, {STUDENT}")


def test_a_voice_that_says_something_else_altogether_counts_less_and_then_nothing():
    here, half, there = torch.zeros(3, 1, 10, 30)
    here[:, :, :10], half[:, :, 5:15], there[:, :, 20:] = 1, 1, 1         # soft Dice of the first two: 101 / 201
    assert voice_share(here, here, 0.3, 0.9) == 0.3 and voice_share(half, here, 0.3, 0.4) == 0.3      # as the routes agree
    assert voice_share(half, here, 0.3, 101 / 201 / 0.7) == pytest.approx(0.3 * 0.7 ** 3)
    assert voice_share(half, here, 0.3, 101 / 201 / 0.4) == voice_share(there, here, 0.3, 0.9) == 0.0
    voice = Voice((255 * torch.stack([here, there])).byte(), trials(0.1, 0.1), 0.3)
    mixed, borders = heard([voice], torch.stack([here, here]), (CARRIED, CARRIED), torch.tensor([0.9, 0.9]))
    assert torch.equal(mixed[1], here) and borders == (f"{CARRIED}, {STUDENT}", CARRIED)


def test_a_student_that_gains_nowhere_leaves_all_as_guided_has_it():
    torch.manual_seed(0)
    image = torch.rand(SHAPE)
    masks = torch.cat([bar(2, 6), bar(9, 13)])
    support, query = support_of(image, masks), PreparedScan(image, MM, SMALL)
    plain = Guide(support, [Route(support.outlines, moved_by(0.0))], moved_by(0.0))
    narrower = 255 * (masks & torch.cat([bar(2, 6), bar(10, 13)])).byte()
    voices = None, Voice(narrower, trials(0.0, -0.1), 0.3), Voice(narrower, trials(0.0, 0.1), 1.0)
    alone, with_none, with_one = (GuidedModel(SMALL, GUIDED).segment(query, [plain._replace(voice=voice)], WHOLE)
                                  for voice in voices)
    assert torch.equal(alone.probs, with_none.probs) and torch.equal(alone.confidence, with_none.confidence)
    assert alone.borders == with_none.borders and torch.equal(alone.probs[0], with_one.probs[0])
    assert (with_one.probs[1] > 0.5).sum() < (alone.probs[1] > 0.5).sum()
    assert with_one.confidence[1] < alone.confidence[1]       # what is told is of what comes out
    one = plain._replace(voice=voices[2]).of_classes([1])
    assert one.voice.maps.shape[0] == 1 and one.voice.trials == trials(0.1)


def test_a_voice_is_of_the_box_that_is_segmented():
    _, support = scan()
    voice = Student(Threshold(), Slicing.of(support), trials(0.1, 0.1), 0.3).voice(support.scan, support.around, 4)
    voxels, points = region(support.scan, support.around)
    assert voice.maps.dtype == torch.uint8 and voice.maps.shape[1:] == points.shape[1:] and voice.share == 0.3
    low, high = corners(support.scan, voxels)
    assert (low <= support.around[0] + 0.5 * column(support.scan.spacing_mm, points).flatten()).all() and (high > low).all()
