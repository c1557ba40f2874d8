import json

import numpy as np
import pytest

from qnet.dataloaders.transforms import (
    Geometry,
    affine_matrix,
    affine_source_points,
    elastic_source_points,
    gamma_transform,
    uniform_noise,
)
from qnet.dataloaders.volumes import read_image
from tests.goldens import CHAOST2, GOLDENS, needs_chaost2, needs_goldens


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDENS / "transforms.npz"))


@pytest.fixture(scope="module")
def image(golden):
    source = json.loads(str(golden["affine_source"]))
    slice_ = read_image(CHAOST2 / f"chaos_MR_T2_normalized/image_{source['case']}.nii.gz")[source["z"]]
    return ((slice_ - slice_.mean()) / slice_.std()).astype(np.float32)


STILL = np.zeros((2, 256, 256))


def only_elastic(noise):
    return Geometry(np.eye(3), noise)


@needs_goldens
@needs_chaost2
@pytest.mark.parametrize("k", range(4))
def test_affine_golden(golden, image, k):
    matrix = affine_matrix(*golden["affine_params_rot_tx_ty_shear_zoom"][k], size=image.shape)
    assert np.abs(matrix - golden["affine_matrices"][k]).max() < 1e-5
    geometry = Geometry(matrix, STILL)
    assert np.abs(geometry.apply(image)[::4, ::4] - golden["affine_outputs_image"][k]).max() < 1e-3
    assert (geometry.apply_to_mask(image > 0.5) == golden["affine_outputs_mask"][k]).mean() >= 0.999


@needs_goldens
@needs_chaost2
def test_elastic_golden(golden, image):
    noise = np.random.default_rng(int(golden["elastic_noise_seed"])).random((2, 256, 256)) * 2 - 1
    assert np.abs(only_elastic(noise).apply(image)[::4, ::4] - golden["elastic_image"]).max() < 1e-3
    assert (only_elastic(noise).apply_to_mask(image > 0.5) == golden["elastic_mask"]).mean() >= 0.999


@needs_goldens
@needs_chaost2
def test_gamma_golden(golden, image):
    for gamma, want in zip(golden["gamma_values"], golden["gamma_images"], strict=True):
        assert np.abs(gamma_transform(image, gamma)[::4, ::4] - want).max() < 1e-3


def test_parameters_that_change_nothing_change_nothing():
    image = np.random.default_rng(0).random((48, 64)).astype(np.float32)
    still = Geometry(affine_matrix(0, 0, 0, 0, 1, image.shape), np.zeros((2, 48, 64)))
    assert np.array_equal(still.apply(image), image)
    assert np.allclose(gamma_transform(image, 1.0), image, atol=2e-5)


def test_shift_by_hand():
    x, y = affine_source_points(affine_matrix(0, 3, -2, 0, 1, (8, 8)), (8, 8))
    assert np.array_equal(x[0], np.arange(8) - 3) and np.array_equal(y[:, 0], np.arange(8) + 2)


def test_constant_noise_is_a_constant_shift():
    x, y = elastic_source_points(np.stack([np.full((8, 8), 0.3), np.full((8, 8), -0.1)]))
    assert np.allclose(x, np.arange(8)[None] + 3, atol=1e-5)
    assert np.allclose(y, np.arange(8)[:, None] - 1, atol=1e-5)


def test_gamma_keeps_the_range_and_survives_a_constant_slice():
    image = np.random.default_rng(1).normal(size=(20, 20)).astype(np.float32)
    for gamma in (0.5, 1.5):
        out = gamma_transform(image, gamma)
        assert out.min() == pytest.approx(image.min(), abs=1e-2) and out.max() == pytest.approx(image.max(), abs=1e-3)
    assert np.isfinite(gamma_transform(np.full((4, 4), 2.0, np.float32), 0.5)).all()


def test_only_the_part_that_a_mask_can_reach_is_warped_but_nothing_is_missed():
    for seed in range(300):
        rng = np.random.default_rng(seed)
        size = tuple(int(n) for n in rng.integers(8, 90, 2))
        geometry = Geometry.sample(rng, size)
        if seed % 3 == 0:   # as far as the elastic transform can go
            geometry = Geometry(geometry.matrix, np.broadcast_to(rng.choice([-1.0, 1.0], (2, 1, 1)), (2, *size)).copy())
        mask = np.zeros(size, bool)
        if seed % 10:       # of any size, often at the border
            (top, left), (height, width) = rng.integers(-5, size), rng.integers(1, 30, 2)
            mask[max(0, top):top + height, max(0, left):left + width] = True
            mask &= rng.random(size) < rng.choice([0.3, 1.0])
        assert np.array_equal(geometry.apply_to_mask(mask), np.round(geometry.apply(mask))), seed


@pytest.mark.parametrize("shape", [(2, 256, 256), (2, 5, 7)])
def test_noise_is_uniform_and_independent_and_a_function_of_the_seed(shape):
    draws = [uniform_noise(np.random.default_rng(seed), shape) for seed in range(200_000 // np.prod(shape) + 1)]
    noise = np.stack(draws).ravel()
    assert noise.dtype == np.float32 and noise.min() >= -1 and noise.max() <= 1
    shares = np.histogram(noise, bins=20, range=(-1, 1))[0] / len(noise)
    assert np.abs(shares - 0.05).max() < 5 * np.sqrt(0.05 / len(noise))
    assert max(abs(np.corrcoef(noise[:-step], noise[step:])[0, 1]) for step in (1, 2, 3, 4)) < 5 / np.sqrt(len(noise))
    again, other = (uniform_noise(np.random.default_rng(seed), shape) for seed in (7, 8))
    assert np.array_equal(again, uniform_noise(np.random.default_rng(7), shape)) and not np.array_equal(again, other)
