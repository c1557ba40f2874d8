"""3D Felzenszwalb supervoxels: the pseudo-labels that Q-Net and ADNet train on.

The method is that of Felzenszwalb and Huttenlocher (IJCV 2004) on the 26-neighbour grid, with the anisotropic edge
costs of ADNet (Hansen et al. 2022). A *stable* sort of all edges by their float64 cost defines its result. The code here
gives exactly that result, but never sorts or stores all costs:

- An edge is one uint32 (its lower voxel and one of 13 directions); its cost is computed again when needed.
- The leading bits of a cost choose one of 65,536 buckets, filled in the order of the edges: a counting sort, so stable.
- Buckets are opened from the lowest. Most edges can no longer merge anything and are dropped at once. Only the rest of a
  bucket is sorted, by a stable merge sort. The edges of cost 0, most of them in the background, are opened in pieces.
- The first pass ends at the first cost that no component of any size could accept. The second pass ends when no component
  is smaller than `min_size`.

So a run reads the edges a few times in sequence, and memory is about 80 bytes per voxel, 52 of them for edges. NumPy makes the
large arrays: it asks Linux for huge pages, which Numba does not. Numba compiles the code on first use and keeps it in
`__pycache__`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from scipy.ndimage import binary_fill_holes
from skimage.measure import label

# Steps (z, y, x) from an edge's lower voxel to its higher one, in the order in which edges of equal cost are visited.
DIRECTIONS = np.array([(0, 1, 0), (0, 1, 1), (0, 0, 1), (0, 1, -1), (1, 1, 0), (1, 1, 1), (1, 0, 1), (1, -1, 0),
                       (1, -1, -1), (1, 0, -1), (1, 1, -1), (1, -1, 1), (1, 0, 0)])
MAX_VOXELS = 2 ** 28         # a voxel index and a direction (4 bits) share a uint32
N_BUCKETS = 2 ** 16
BUCKET_SHIFT = 40            # sign, exponent and 12 leading bits of a float64's fraction remain
PIECE = 2 ** 16              # edges of cost 0 that are opened at a time
BODY_INTENSITY = 10          # of 255
_Grid = tuple[np.ndarray, np.ndarray, np.ndarray]     # intensities, and per direction the step in voxels and √w


def generate_supervoxels(image: np.ndarray, spacing_mm: Sequence[float], min_size: int) -> np.ndarray:
    """Return supervoxels 1, 2, … inside the body and 0 outside, int32 (D, H, W).

    The arguments and errors are those of `segment_volume`.
    """
    return mask_background(segment_volume(image, spacing_mm, min_size), image)


def segment_volume(image: np.ndarray, spacing_mm: Sequence[float], min_size: int, scale: float = 1.0) -> np.ndarray:
    """Cut a volume into segments of at least `min_size` voxels.

    Args:
        image: (D, H, W) finite numbers of any range and type; scaled to 0 … 255 here.
        spacing_mm: (z, y, x). y and x agree within 1 %, as the method uses one in-plane spacing.
        min_size: in voxels. A smaller volume is one segment.
        scale: above 0. Larger values give larger segments before small ones are merged.
    Returns:
        int32 (D, H, W), segments 0, 1, … in the order of their first voxels. A constant image is one segment.
    Raises:
        ValueError: an argument is not as described above.
    """
    _check(image, spacing_mm, min_size, scale)
    intensities = _scaled(image)
    root_weights = _root_weights(spacing_mm[0] / ((spacing_mm[1] + spacing_mm[2]) / 2))
    return _segment(intensities, root_weights, int(min_size), scale / 255).reshape(image.shape)


def mask_background(segments: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Set segments to 0 outside the body, slice by slice. Before that, segment 0 is renamed to one more than the largest.

    The body is the slice's largest 8-connected component (the first of equal ones) of intensities above 10, scaled to
    0 … 255 over the volume. Its holes are filled. A slice without such a voxel becomes 0 everywhere.

    Args:
        segments: (D, H, W) from `segment_volume`.
        image: (D, H, W), from which they were made.
    Returns:
        int32 (D, H, W).
    """
    bright = _scaled(image) > BODY_INTENSITY
    body = np.stack([largest_filled_component(bright_slice) for bright_slice in bright])
    renamed = np.where(segments == 0, segments.max() + 1, segments)
    return np.where(body, renamed, 0).astype(np.int32)


def largest_filled_component(mask: np.ndarray) -> np.ndarray:
    """Return the largest 8-connected component of a boolean (H, W) mask, with holes filled. An empty mask stays empty."""
    components = label(mask, connectivity=2)
    if components.max() == 0:
        return np.zeros(mask.shape, bool)
    return binary_fill_holes(components == np.bincount(components.ravel())[1:].argmax() + 1)


def _check(image: np.ndarray, spacing_mm: Sequence[float], min_size: int, scale: float) -> None:
    if image.ndim != 3 or not 0 < image.size <= MAX_VOXELS:
        raise ValueError(f"image: expected axes (D, H, W) and 1 to {MAX_VOXELS} voxels, got shape {image.shape}")
    if not np.isfinite(image).all():
        raise ValueError("image: expected finite values, got NaN or infinity")
    if len(spacing_mm) != 3 or not all(0 < step < np.inf for step in spacing_mm):
        raise ValueError(f"spacing_mm: expected three positive numbers (z, y, x), got {tuple(spacing_mm)}")
    if abs(spacing_mm[1] - spacing_mm[2]) > 0.01 * spacing_mm[2]:
        raise ValueError(f"spacing_mm: y and x must agree within 1 %, got {tuple(spacing_mm)}; resample the image")
    if min_size < 1 or scale <= 0:
        raise ValueError(f"min_size and scale: expected at least 1 and above 0, got {min_size} and {scale}")


def _scaled(image: np.ndarray) -> np.ndarray:
    """Return float64 from 0 to 255, zeros for a constant image.

    The order of the operations matters: the last bit of scaled differences decides ties between integers.
    """
    scaled = image.astype(np.float64, order="C")
    low, high = scaled.min(), scaled.max()
    scaled -= low
    scaled *= 255
    if high > low:
        scaled /= high - low
    return scaled


def _root_weights(anisotropy: float) -> np.ndarray:
    """Return √w per direction. w is 1 in-plane. With a step along z it is the mean of s² and a 1 per in-plane step."""
    steps_in_plane = np.abs(DIRECTIONS[:, 1:]).sum(axis=1)
    across = (steps_in_plane + anisotropy ** 2) / (steps_in_plane + 1)
    return np.sqrt(np.where(DIRECTIONS[:, 0] == 1, across, 1.0))


def _segment(intensities: np.ndarray, root_weights: np.ndarray, min_size: int, tolerance: float) -> np.ndarray:
    shape, n_voxels = intensities.shape, intensities.size
    grid = intensities.ravel(), DIRECTIONS @ (shape[1] * shape[2], shape[2], 1), root_weights
    edges = np.empty(np.prod(np.maximum(shape - np.abs(DIRECTIONS), 0), axis=1).sum(), np.uint32)
    starts = _fill_buckets(edges, shape, DIRECTIONS, grid)
    bounds = np.concatenate([np.arange(0, starts[1], PIECE), starts[1:]])      # an edge of cost 0 is in the first bucket
    parent, size = np.arange(n_voxels, dtype=np.int32), np.ones(n_voxels, np.int32)
    _merge_similar(edges, bounds, grid, parent, size, np.zeros(n_voxels), tolerance)
    _merge_small(edges, bounds, grid, parent, size, min_size)
    return _labels(parent, np.empty(n_voxels, np.int32))


@njit(cache=True)
def _bucket(cost: float, last: np.int64) -> Any:
    """Return the bucket of a cost. It rises with the cost: 0 for a cost of 0, 1 for all costs too small to be distinguished."""
    if cost == 0:
        return 0
    return max(1, N_BUCKETS - 1 + (np.float64(cost).view(np.int64) >> BUCKET_SHIFT) - last)


@njit(cache=True)
def _fill_buckets(edges: np.ndarray, shape: tuple[int, int, int], directions: np.ndarray, grid: _Grid) -> np.ndarray:
    """Set `edges` to all edges (voxel << 4 | direction), buckets in ascending order; return the start and end of each bucket."""
    flat, offsets, root_weights = grid
    depth, height, width = shape
    last = np.float64(flat.max() * root_weights.max()).view(np.int64) >> BUCKET_SHIFT
    position = np.zeros(N_BUCKETS + 1, np.int64)
    for filling in (False, True):        # first count, then fill
        for d in range(len(directions)):
            dz, dy, dx = directions[d]
            for z in range(depth - dz):
                for y in range(max(0, -dy), height - max(0, dy)):
                    row = (z * height + y) * width
                    for voxel in range(row + max(0, -dx), row + width - max(0, dx)):
                        bucket = _bucket(root_weights[d] * abs(flat[voxel + offsets[d]] - flat[voxel]), last)
                        if filling:
                            edges[position[bucket]] = voxel << 4 | d
                            position[bucket] += 1
                        else:
                            position[bucket + 1] += 1
        if not filling:
            position = np.cumsum(position)
    starts = np.zeros(N_BUCKETS + 1, np.int64)
    starts[1:] = position[:-1]
    return starts


@njit(cache=True)
def _find(parent: np.ndarray, voxel: int | np.int64) -> Any:
    while parent[voxel] != voxel:
        parent[voxel] = parent[parent[voxel]]
        voxel = parent[voxel]
    return voxel


@njit(cache=True)
def _open_edges(edges: np.ndarray, grid: _Grid, parent: np.ndarray, size: np.ndarray,
                min_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges between two components of which one is smaller than `min_size`, in stable order of cost.

    They are their ends (n, 2) and costs (n,).
    """
    flat, offsets, root_weights = grid
    ends, costs, n, in_order = np.empty((len(edges), 2), np.int32), np.empty(len(edges)), 0, True
    for edge in edges:
        d, low = np.int64(edge & 15), np.int64(edge >> 4)
        high = low + offsets[d]
        a, b = _find(parent, low), _find(parent, high)
        if a != b and (size[a] < min_size or size[b] < min_size):
            ends[n, 0], ends[n, 1] = a, b
            costs[n] = root_weights[d] * abs(flat[high] - flat[low])
            in_order = in_order and (n == 0 or costs[n - 1] <= costs[n])
            n += 1
    ends, costs = ends[:n], costs[:n]
    if in_order:
        return ends, costs
    order = np.argsort(costs, kind="mergesort")
    return ends[order], costs[order]


@njit(cache=True)
def _join(parent: np.ndarray, size: np.ndarray, a: int, b: int) -> int:
    """Join two roots. The smaller index becomes the root of both and is returned."""
    root, other = min(a, b), max(a, b)
    parent[other] = root
    size[root] += size[other]
    return root


@njit(cache=True)
def _merge_similar(edges: np.ndarray, bounds: np.ndarray, grid: _Grid, parent: np.ndarray, size: np.ndarray,
                   internal: np.ndarray, tolerance: float) -> None:
    """First pass: join two components if an edge costs less than the internal difference (at first 0) and tolerance of each."""
    largest = 0.0
    for k in range(len(bounds) - 1):
        ends, costs = _open_edges(edges[bounds[k]:bounds[k + 1]], grid, parent, size, len(parent) + 1)
        for i in range(len(costs)):
            if not costs[i] < np.float32(largest + tolerance):
                return
            a, b = _find(parent, ends[i, 0]), _find(parent, ends[i, 1])
            if a != b and costs[i] < min(np.float32(internal[a] + tolerance / size[a]),
                                         np.float32(internal[b] + tolerance / size[b])):
                internal[_join(parent, size, a, b)] = largest = costs[i]


@njit(cache=True)
def _merge_small(edges: np.ndarray, bounds: np.ndarray, grid: _Grid, parent: np.ndarray, size: np.ndarray,
                 min_size: int) -> None:
    """Second pass: join two components along the same edges if either is smaller than `min_size`."""
    n_small = 0
    for voxel in range(len(parent)):
        parent[voxel] = _find(parent, voxel)
        n_small += parent[voxel] == voxel and size[voxel] < min_size
    for k in range(len(bounds) - 1):
        if n_small == 0:
            return
        ends, costs = _open_edges(edges[bounds[k]:bounds[k + 1]], grid, parent, size, min_size)
        for i in range(len(costs)):
            a, b = _find(parent, ends[i, 0]), _find(parent, ends[i, 1])
            if a != b and (size[a] < min_size or size[b] < min_size):
                n_small -= (size[a] < min_size) + (size[b] < min_size)
                n_small += size[_join(parent, size, a, b)] < min_size


@njit(cache=True)
def _labels(parent: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Number the roots 0, 1, … in ascending order, in `labels`. A root is its component's smallest voxel, so it comes first."""
    n = 0
    for voxel in range(len(parent)):
        root = _find(parent, voxel)
        if root == voxel:
            labels[voxel] = n
            n += 1
        else:
            labels[voxel] = labels[root]
    return labels
