"""The supervoxels equal the published method's, and a plain reference that sorts every edge."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from qnet.data.supervoxels.felzenszwalb import (
    generate_supervoxels,
    largest_filled_component,
    mask_background,
    segment_volume,
)
from qnet.dataloaders.nifti import read_array

SHARED = Path(__file__).resolve().parents[4] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared (goldens, real data) is absent")

# "Higher minus lower" steps (z, y, x) in the order of the method's definition.
STEPS = [(0, 1, 0), (0, 1, 1), (0, 0, 1), (0, 1, -1),
         (1, 1, 0), (1, 1, 1), (1, 0, 1), (1, -1, 0), (1, -1, -1), (1, 0, -1), (1, 1, -1), (1, -1, 1), (1, 0, 0)]


def golden(name):
    numbers = np.load(SHARED / "goldens" / "supervoxels.npz")
    if f"{name}_image" in numbers:
        image = numbers[f"{name}_image"]
    else:
        source = json.loads(str(numbers[f"{name}_source"]))
        folder = SHARED / "data" / source["dataset"] / "chaos_MR_T2_normalized"
        image = read_array(folder / f"image_{source['case']}.nii.gz")[tuple(slice(*source[axis]) for axis in "zyx")]
    return (image, numbers[f"{name}_spacing_zxy"], int(numbers[f"{name}_min_size"]),
            numbers[f"{name}_segments"], numbers[f"{name}_supervoxels"])


@needs_shared
@pytest.mark.parametrize("name", ["chaos1_crop", "noise", "blobs"])
def test_both_stages_equal_the_goldens(name):
    image, spacing_mm, min_size, segments, supervoxels = golden(name)
    np.testing.assert_array_equal(segment_volume(image, spacing_mm, min_size), segments)
    np.testing.assert_array_equal(mask_background(segments, image), supervoxels)
    result = generate_supervoxels(image, spacing_mm, min_size)
    np.testing.assert_array_equal(result, supervoxels)
    assert result.dtype == np.int32


def edges_by_cost(image, anisotropy):
    scaled = 255 * (image - image.min()) / (image.max() - image.min()) if np.ptp(image) else np.zeros(image.shape)
    index, ends, costs = np.arange(image.size).reshape(image.shape), [], []
    for step in STEPS:
        lower = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, image.shape, strict=True))
        higher = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(step, image.shape, strict=True))
        in_plane = abs(step[1]) + abs(step[2])
        weight = (in_plane + anisotropy ** 2) / (in_plane + 1) if step[0] else 1
        ends.append(np.stack([index[higher].ravel(), index[lower].ravel()], axis=1))
        costs.append(math.sqrt(weight) * np.abs(scaled[higher] - scaled[lower]).ravel())
    ends, costs = np.concatenate(ends), np.concatenate(costs)
    order = np.argsort(costs, kind="stable")
    return ends[order].tolist(), costs[order].tolist()


def reference(image, spacing_mm, min_size, scale):
    """Felzenszwalb's two passes, word for word, with each voxel's component found by name."""
    ends, costs = edges_by_cost(image.astype(np.float64), spacing_mm[0] / spacing_mm[1])
    component = np.arange(image.size)
    size, internal = [1] * image.size, [0.0] * image.size

    def join(a, b):
        component[component == max(a, b)] = min(a, b)
        size[min(a, b)] += size[max(a, b)]

    def bound(a):
        return float(np.float32(internal[a] + scale / 255 / size[a]))

    for (first, second), cost in zip(ends, costs, strict=True):
        a, b = component[first], component[second]
        if a != b and cost < min(bound(a), bound(b)):
            join(a, b)
            internal[min(a, b)] = cost
    for first, second in ends:
        a, b = component[first], component[second]
        if a != b and (size[a] < min_size or size[b] < min_size):
            join(a, b)
    return np.unique(component, return_inverse=True)[1].reshape(image.shape)


def volume(kind, shape, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.random(shape)
    if kind == "integers":
        image = rng.integers(-3, 9, shape).astype(np.int16)
    elif kind == "float32":
        image = image.astype(np.float32) * 1e-3
    elif kind == "outlier":          # leaves hardly any of the range to the other voxels
        image.flat[image.size // 2] = 1e15
    elif kind == "constant":
        image = np.full(shape, 7)
    return image


@pytest.mark.parametrize("kind", ["floats", "float32", "integers", "outlier", "constant"])
@pytest.mark.parametrize(("shape", "spacing_mm"), [
    ((5, 9, 8), (7.7, 1.25, 1.25)), ((6, 7, 11), (1, 1, 1)), ((1, 13, 17), (8, 1.5, 1.5)), ((7, 1, 9), (2, 3, 3)),
    ((4, 6, 1), (0.5, 1, 1)), ((1, 1, 1), (1, 1, 1))])
@pytest.mark.parametrize(("min_size", "scale"), [(1, 1), (12, 1), (5, 4000), (1, 60000), (10000, 1)])
def test_equals_a_plain_reference(kind, shape, spacing_mm, min_size, scale):
    image = volume(kind, shape)
    expected = reference(image, spacing_mm, min_size, scale)
    np.testing.assert_array_equal(segment_volume(image, spacing_mm, min_size, scale), expected)


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_edges_of_cost_0_are_opened_in_pieces_that_change_nothing(piece, monkeypatch):
    image = np.where(volume("floats", (5, 9, 8)) < 0.8, 0, volume("integers", (5, 9, 8)))
    expected = reference(image, (7.7, 1.25, 1.25), 12, 1)
    monkeypatch.setattr("qnet.data.supervoxels.felzenszwalb.PIECE", piece)
    np.testing.assert_array_equal(segment_volume(image, (7.7, 1.25, 1.25), 12), expected)


@pytest.mark.parametrize(("row", "scale", "expected"), [
    # The tolerance is scale / 255. Pairs join at 10 < 11; then 12 is more than 11, but less than 10 + 11 / 2.
    ([0, 10, 22, 32, 255], 11 * 255, [0, 0, 0, 0, 1]),
    ([0, 10, 26, 36, 255], 11 * 255, [0, 0, 1, 1, 2]),
    # The bound is a C float: 0.1 becomes 0.1000000015, and 0.7 becomes 0.699999988.
    ([0, 0.1000000007, 255], 0.1 * 255, [0, 0, 1]),
    ([0, 0.6999999950, 255], 0.7 * 255, [0, 1, 2]),
])
def test_first_pass_by_hand(row, scale, expected):
    segments = segment_volume(np.array([[row]]), (1, 1, 1), 1, scale)
    np.testing.assert_array_equal(segments, [[expected]])


def test_a_volume_with_many_equal_costs_equals_the_reference():
    image = volume("integers", (6, 16, 16), seed=3)
    np.testing.assert_array_equal(segment_volume(image, (3, 1, 1), 40), reference(image, (3, 1, 1), 40, 1))


def test_segments_are_large_enough_and_numbered_by_first_voxel():
    segments = segment_volume(volume("floats", (10, 40, 30)), (4, 1, 1), 100)
    numbers, first, counts = np.unique(segments, return_index=True, return_counts=True)
    np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
    assert len(numbers) > 1 and (np.diff(first) > 0).all() and counts.min() >= 100


def test_neither_memory_layout_nor_a_second_call_changes_the_result():
    image = volume("floats", (6, 20, 18))
    expected = segment_volume(image, (4, 1, 1), 30)
    np.testing.assert_array_equal(segment_volume(np.asfortranarray(image), (4, 1, 1), 30), expected)
    np.testing.assert_array_equal(segment_volume(image, (4, 1, 1), 30), expected)


def test_background_by_hand():
    image = np.zeros((2, 5, 7))
    image[0, 0:4, 0:4] = 100                # the body, 4 × 4 …
    image[0, 1:3, 1:3] = 0                  # … with a hole
    image[0, 4, 4] = 100                    # joined by a corner
    image[0, 0:3, 6] = 100                  # a smaller component: no body
    image[0, 4, 0] = 100 * 10 / 255         # not above 10 of 255
    segments = np.zeros(image.shape, np.int32)
    segments[:, :, 2:] = 3
    expected = np.zeros(image.shape, np.int32)
    expected[0, 0:4, 0:2] = 4               # segment 0 is renamed to max + 1
    expected[0, 0:4, 2:4] = 3
    expected[0, 4, 4] = 3
    np.testing.assert_array_equal(mask_background(segments, image), expected)   # the empty slice stays empty


def test_constant_image_is_one_segment_without_body():
    image = np.full((2, 3, 4), 9.0)
    assert not segment_volume(image, (1, 1, 1), 1).any()
    assert not generate_supervoxels(image, (1, 1, 1), 1).any()


def test_empty_mask_has_no_component():
    assert not largest_filled_component(np.zeros((3, 4), bool)).any()


@pytest.mark.parametrize(("changes", "message"), [
    ({"image": np.zeros((3, 4))}, "image: expected axes"),
    ({"image": np.zeros((0, 3, 4))}, "image: expected axes"),
    ({"image": np.full((2, 3, 4), np.nan)}, "image: expected finite"),
    ({"spacing_mm": (1, 1)}, "spacing_mm: expected three"),
    ({"spacing_mm": (1, 0, 1)}, "spacing_mm: expected three"),
    ({"spacing_mm": (1, 1, 1.5)}, "spacing_mm: y and x"),
    ({"min_size": 0}, "min_size and scale"),
    ({"scale": 0}, "min_size and scale"),
])
def test_bad_arguments_are_named(changes, message):
    arguments = {"image": np.zeros((2, 3, 4)), "spacing_mm": (1, 1, 1), "min_size": 1, **changes}
    with pytest.raises(ValueError, match=message):
        segment_volume(**arguments)
