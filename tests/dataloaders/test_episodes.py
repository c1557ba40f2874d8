import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from qnet.dataloaders.episodes import EpisodeDataset, TrainingVolume, _single_slices, _windows, allowed_slices
from qnet.util.base.errors import InputError
from tests.settings import EPISODES


def volume(seed=0, depth=10, allowed=None, case="1"):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(depth, 32, 32)).astype(np.float32)
    classes = np.zeros((depth, 32, 32), np.int32)
    classes[1:4, :16, :16] = 1                 # a run of 3
    classes[6:9, :16, :16] = 1                 # and another of 3
    classes[2:7, 20:30, 20:30] = 2             # a run of 5, 100 pixels
    classes[5, :4, 20:24] = 3                  # one slice only: never an episode
    return TrainingVolume.of(case, image, classes, allowed)


def episodes(**changes):
    return EpisodeDataset(**{"volumes": [volume()], "length": 50, "seed": 7, **EPISODES, "min_size": 50, **changes})


def test_windows_have_the_chances_of_the_published_procedure():
    windows = _windows(volume(), 2, 50)
    chances = np.diff(windows.cumulative, prepend=0)
    got = {(int(c), int(s)): float(p) for c, s, p in zip(windows.classes, windows.starts, chances, strict=True)}
    # two classes, each 1/2; class 1 has two runs with two starts each, class 2 one run with four starts
    assert got == pytest.approx({(1, 1): 1 / 8, (1, 2): 1 / 8, (1, 6): 1 / 8, (1, 7): 1 / 8,
                                 **{(2, start): 1 / 8 for start in (2, 3, 4, 5)}})


def test_min_size_asks_the_larger_of_the_first_two_slices():
    assert set(_windows(volume(), 2, 101).classes.tolist()) == {1}
    small_then_large = volume()
    classes = small_then_large.classes.copy()
    classes[2, 20:30, 20:30] = 0
    classes[2, 20, 20] = 2
    small_then_large = TrainingVolume.of("1", small_then_large.image, classes)
    assert (2, 2) in {(int(c), int(s)) for c, s in zip(*(getattr(_windows(small_then_large, 2, 100), k)
                                                       for k in ("classes", "starts")), strict=True)}


def test_excluded_slices_cut_runs():
    allowed = np.ones(10, bool)
    allowed[4] = False
    windows = _windows(volume(allowed=allowed), 2, 0)
    assert sorted(windows.starts[windows.classes == 2].tolist()) == [2, 5]


def test_exclude_rules():
    label_map = np.zeros((4, 2, 2), np.uint8)
    label_map[1, 0, 0], label_map[2, 0, 0], label_map[2, 1, 1] = 1, 1, 4
    assert allowed_slices(label_map, [1, 4], "any").tolist() == [True, False, False, True]
    assert allowed_slices(label_map, [1, 4], "all").tolist() == [True, True, False, True]


def test_episode_is_a_function_of_seed_and_index():
    dataset, again = episodes(), episodes()
    for other in (3, 17, 0):
        dataset[other]
    for got, want in zip(dataset[5], again[5], strict=True):
        assert torch.equal(got, want)
    assert not torch.equal(dataset[5].query_images, episodes(seed=8)[5].query_images)


def test_worker_count_changes_nothing():
    one, two = (list(DataLoader(episodes(), batch_size=2, sampler=range(8), num_workers=n)) for n in (0, 2))
    for left, right in zip(one, two, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("n_shot", [1, 2, 3])
def test_slices_are_neighbours_and_hold_the_class(n_shot):
    dataset = episodes(n_shot=n_shot)
    for index in range(40):
        case, label, slices = dataset.draw(index)
        steps = np.diff(slices)
        assert case == "1" and len(slices) == n_shot + 1 and abs(steps.sum()) == n_shot and len(set(steps)) == 1
        assert all((volume().classes[z] == label).any() for z in slices)


def test_both_orders_and_both_augmented_roles_occur():
    dataset = episodes()
    order = {tuple(np.sign(np.diff(dataset.draw(i)[2]))) for i in range(50)}
    assert order == {(1,), (-1,)}
    untouched = {"support": 0, "query": 0}
    for index in range(50):
        _, _label, (support, query) = dataset.draw(index)
        episode = dataset[index]
        untouched["support"] += np.array_equal(episode.support_images[0, 0], volume().image[support])
        untouched["query"] += np.array_equal(episode.query_images[0], volume().image[query])
    assert 5 <= untouched["support"] <= 25 and 5 <= untouched["query"] <= 25   # a quarter each is expected


def test_the_querys_place_is_that_of_its_slice():
    data = episodes(n_shot=2)
    for index in range(5):
        volume = next(volume for volume, _ in data.volumes if volume.case == data.draw(index)[0])
        assert data[index].query_positions.item() == pytest.approx(data.draw(index)[2][-1] / (len(volume.image) - 1))


def test_shapes_and_mask_values():
    episode = episodes(n_shot=2)[0]
    assert [tuple(t.shape) for t in episode] == [(2, 3, 32, 32), (2, 32, 32), (3, 32, 32), (32, 32), ()]
    assert set(episode.support_masks.unique().tolist()) <= {0.0, 1.0}
    assert set(episode.query_masks.unique().tolist()) <= {0.0, 1.0}


def test_volume_without_a_usable_class_is_left_out_and_none_at_all_is_an_error():
    empty = TrainingVolume.of("2", np.ones((4, 32, 32), np.float32), np.zeros((4, 32, 32), np.int32))
    dataset = episodes(volumes=[empty, volume(case="3")])
    assert {dataset.draw(i)[0] for i in range(20)} == {"3"}
    with pytest.raises(InputError, match=r"no training volume \(of 1\).*min_size = 50"):
        episodes(volumes=[empty])


# ---- superpixels: support and query are augmentations of one slice ----

def test_superpixels_any_slice_is_as_likely_then_any_of_its_superpixels():
    windows = _single_slices(volume(), 50)
    chances = np.diff(windows.cumulative, prepend=0)
    got = {(int(c), int(z)): float(p) for c, z, p in zip(windows.classes, windows.starts, chances, strict=True)}
    # slices 1, 4, 5, 7, 8 hold one of 50 pixels, slices 2, 3, 6 two
    assert got == pytest.approx({(1, 1): 1 / 8, (2, 4): 1 / 8, (2, 5): 1 / 8, (1, 7): 1 / 8, (1, 8): 1 / 8,
                                 **{(label, z): 1 / 16 for label in (1, 2) for z in (2, 3, 6)}})


@pytest.mark.parametrize("n_shot", [1, 3])
def test_superpixel_episodes_show_one_slice_augmented_each_time_otherwise(n_shot):
    dataset = episodes(same_slice=True, n_shot=n_shot)
    for index in range(20):
        _, label, slices = dataset.draw(index)
        assert len(slices) == n_shot + 1 and len(set(slices)) == 1
        episode = dataset[index]
        views = [*episode.support_images[:, 0], episode.query_images[0]]
        original = torch.from_numpy(volume().image[slices[0]])
        assert not any(torch.equal(view, original) for view in views)
        assert not torch.equal(views[0], views[-1])
        assert (episode.query_masks.sum() > 0) and (volume().classes[slices[0]] == label).any()
    again = episodes(same_slice=True, n_shot=n_shot)
    assert all(torch.equal(a, b) for a, b in zip(dataset[7], again[7], strict=True))


def test_superpixels_too_small_or_excluded():
    with pytest.raises(InputError, match=r"no training volume \(of 1\) has a superpixel of min_size = 257 pixels"):
        episodes(same_slice=True, min_size=257)
    only_five = episodes(volumes=[volume(allowed=np.arange(10) == 5)], same_slice=True)
    assert all(only_five.draw(index) == ("1", 2, [5, 5]) for index in range(9))
