"""Episodes of stacks: what is drawn, where it is cut, and the affine map by hand."""

import numpy as np
import pytest
import torch

from qnet.dataloaders.episodes import TrainingVolume
from qnet.dataloaders.stacks import Affine, StackDataset, _cut
from qnet.util.base.errors import InputError


def volume(name="1", allowed=None):
    """Eight slices of 40×44; class 7 in slices 2 to 5, class 9 of one voxel."""
    generator = np.random.default_rng(0)
    classes = np.zeros((8, 40, 44), np.uint16)
    classes[2:6, 10:22, 8:20], classes[0, 0, 0] = 7, 9
    return TrainingVolume.of(name, generator.normal(size=classes.shape).astype(np.float32), classes, allowed)


def dataset(volumes=None, **changes):
    options = {"length": 20, "seed": 3, "n_shot": 1, "min_size": 20, "n_slices": 3, "size_px": 30, **changes}
    return StackDataset([volume()] if volumes is None else volumes, **options)


def test_an_episode_depends_on_its_number_alone():
    episodes = dataset()
    first = [episodes[k] for k in range(6)]
    again = [dataset()[k] for k in reversed(range(6))][::-1]
    for one, other in zip(first, again, strict=True):
        assert all(a.equal(b) for a, b in zip(one, other, strict=True))
    assert not first[0].query_images.equal(dataset(seed=4)[0].query_images)


def test_stacks_hold_enough_of_the_class_in_allowed_slices():
    """Slice by slice class 7 has 144 pixels: with at least 200, a stack of 3 needs two of its slices."""
    drawn = [dataset(length=200, min_size=200).draw(k) for k in range(200)]
    assert {label for _, label, _ in drawn} == {7} and {z for _, _, starts in drawn for z in starts} == {1, 2, 3, 4}
    allowed = np.ones(8, bool)
    allowed[1] = False
    drawn = [dataset([volume(allowed=allowed)], min_size=200, length=200).draw(k) for k in range(200)]
    assert {z for _, _, starts in drawn for z in starts} == {2, 3, 4}
    assert {dataset(min_size=0).draw(k)[1] for k in range(20)} == {7, 9}
    with pytest.raises(InputError, match=r"no training volume \(of 1\) has a supervoxel or class of min_size = 1000 voxels"):
        dataset(min_size=1000)


def test_one_side_is_as_it_is_and_shapes_are_those_of_stacks():
    source, unchanged = volume(), 0
    for k in range(20):
        episodes = dataset([source], n_shot=2)
        episode = episodes[k]
        assert episode.support_images.shape == (2, 3, 3, 30, 30) and episode.query_images.shape == (3, 3, 30, 30)
        assert episode.support_masks.shape == (2, 3, 30, 30) and episode.query_masks.shape == (3, 30, 30)
        assert set(torch.cat([episode.support_masks, episode.query_masks[None]]).unique().tolist()) == {0, 1}
        assert episode.support_masks.flatten(1).any(dim=1).all()
        starts = episodes.draw(k)[2]
        assert episode.query_positions.item() == pytest.approx((starts[-1] + 1) / 7)
        windows = np.lib.stride_tricks.sliding_window_view(source.image[starts[-1]:starts[-1] + 3], (30, 30), axis=(1, 2))
        unchanged += bool((windows == episode.query_images[0].numpy()[:, None, None]).all(axis=(0, 3, 4)).any())
    assert 1 <= unchanged <= 12      # neither contrast nor geometry: a quarter of the time


def test_stacks_are_no_larger_than_the_smallest_volume():
    small = TrainingVolume.of("2", np.zeros((2, 16, 44), np.float32), np.full((2, 16, 44), 4, np.uint16))
    assert {tuple(dataset([volume(), small], n_slices=9, size_px=99)[k].query_masks.shape) for k in range(8)} == {(2, 16, 44)}


def test_a_cut_has_the_class_inside_or_lies_in_it():
    rng, places = np.random.default_rng(0), np.array([9, 6, 7, 6])
    assert {_cut(places, 20, 8, rng) for _ in range(200)} == set(range(2, 7))
    assert {_cut(places, 20, 2, rng) for _ in range(200)} == {6, 7, 8}
    assert {_cut(places, 11, 8, rng) for _ in range(200)} == {2, 3}
    assert _cut(np.array([]), 20, 8, rng) == 0
    assert _cut(places, 20, 20, rng) == 0


def test_the_affine_map_by_hand():
    image = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)
    shifted = Affine(np.eye(3), np.array([1.0, 0, -2]), image.shape)
    np.testing.assert_allclose(shifted.apply(image, (0, 1, 3), (2, 3, 2), 1), image[1:3, 1:4, 1:3])
    turned = Affine(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), np.zeros(3), (5, 7, 7))
    square = np.arange(5 * 49).reshape(5, 7, 7)
    np.testing.assert_array_equal(turned.apply(square, (0, 0, 0), (5, 7, 7), 0), np.rot90(square, -1, axes=(1, 2)))
    rng = np.random.default_rng(1)
    whole = Affine.sample(rng, image.shape)
    part = whole.apply(image, (1, 2, 3), (2, 3, 4), 1)
    np.testing.assert_allclose(part, whole.apply(image, (0, 0, 0), image.shape, 1)[1:3, 2:5, 3:7], rtol=1e-5)
    stretch = [np.linalg.svd(Affine.sample(rng, image.shape).matrix)[1] for _ in range(50)]
    assert 0.75 < np.min(stretch) < 0.95 and 1.1 < np.max(stretch) < 1.4
