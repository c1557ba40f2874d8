"""Episodes in 3D: support and query are stacks of consecutive slices of one volume that hold the same supervoxel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from typing_extensions import override

from qnet.dataloaders.episodes import EpisodeDataset, TrainingVolume
from qnet.dataloaders.transforms import GAMMA, gamma_transform
from qnet.util.base.episode import Episode
from qnet.util.base.errors import InputError

MAX_ANGLE = np.deg2rad(5.0)               # of the rotation about each axis, in voxels; the shear has the same range
MAX_SHIFT = (1.0, 5.0, 5.0)               # voxels along z, y and x
SCALE = (0.9, 1.2)
Corner = tuple[int, int, int]


@dataclass(frozen=True)
class Affine:
    """One draw of the geometric augmentation of a volume, about its centre; trilinear, with a reflecting border."""

    matrix: np.ndarray   # 3×3, from an output voxel to its input voxel, both from the centre
    shift: np.ndarray    # (3,) added to the input voxel
    shape: Corner        # of the volume

    @classmethod
    def sample(cls, rng: np.random.Generator, shape: Corner) -> Affine:
        """Draw the parameters for a volume of shape (D, H, W)."""
        turn = Rotation.from_euler("XYZ", rng.uniform(-MAX_ANGLE, MAX_ANGLE, 3)).as_matrix()
        slant = np.eye(3)
        slant[[1, 1, 2], [2, 0, 1]] = rng.uniform(-MAX_ANGLE, MAX_ANGLE, 3)       # y by x and z, x by y
        matrix = turn @ slant
        return cls(matrix * rng.uniform(*SCALE, 3), matrix @ (rng.uniform(-1, 1, 3) * MAX_SHIFT), shape)

    def apply(self, volume: np.ndarray, corner: Corner, size: Corner, order: int) -> np.ndarray:
        """Return a box of the warped volume.

        Args:
            corner, size: first voxel and shape of the box.
            order: 1 for images, 0 for classes.
        """
        centre = (np.array(self.shape) - 1) / 2
        offset = centre + self.shift + self.matrix @ (corner - centre)
        return ndimage.affine_transform(volume, self.matrix, offset, size, order=order, mode="reflect")


@dataclass(frozen=True)
class _Stacks:
    """All stacks of a volume that may be in an episode: rows (class, first slice), and where the rows of a class begin."""

    rows: np.ndarray         # (n, 2), by class
    begins: np.ndarray       # (classes + 1,)


def _stacks(volume: TrainingVolume, n_slices: int, min_size: int) -> _Stacks | None:
    """Enumerate the stacks of allowed slices with at least `min_size` voxels of a class. None if there are none."""
    labels, slices, areas = volume.areas.T
    sizes = np.zeros((labels.max(initial=0) + 1, len(volume.allowed) + 1), np.int64)
    sizes[labels, slices + 1] = areas
    total = sizes.cumsum(axis=1)
    forbidden = np.cumsum([0, *~volume.allowed])
    in_stack = total[:, n_slices:] - total[:, :-n_slices]
    usable = (in_stack >= max(min_size, 1)) & (forbidden[n_slices:] == forbidden[:-n_slices])
    rows = np.argwhere(usable)
    return _Stacks(rows, np.flatnonzero(np.diff(rows[:, 0], prepend=-1, append=-1))) if len(rows) else None


class StackDataset(EpisodeDataset):
    """Item i is the i-th episode of stacks. It depends on (seed, i) alone, not on earlier episodes or on the process.

    Volumes are equally likely, so are the classes of one, and so are the stacks of a class. The contrast of one side, support or
    query, is changed, and one side is warped in 3D.

    Args:
        volumes: the source of episodes. Those without a usable class are left out.
        length: number of episodes.
        seed: the only source of chance besides the item's number.
        n_shot: support stacks of an episode.
        min_size: smallest size in voxels of a class in a stack.
        n_slices: slices of a stack; fewer where a volume has fewer.
        size_px: height and width that stacks are cut to, around the class; less where slices are smaller.
    Raises:
        InputError: no class is large enough in a stack.
    """

    def __init__(self, volumes: Sequence[TrainingVolume], length: int, seed: int, n_shot: int, min_size: int,
                 n_slices: int, size_px: int):
        self.n_shot, self.length, self.seed, self.same_slice = n_shot, length, seed, False
        shapes = [(len(volume.image), *volume.image[0].shape) for volume in volumes]
        depth, height, width = np.minimum(np.min(shapes, axis=0), (n_slices, size_px, size_px)).tolist()
        self.size: Corner = depth, height, width
        indexed = [(volume, _stacks(volume, depth, min_size)) for volume in volumes]
        self.volumes = [(volume, stacks) for volume, stacks in indexed if stacks is not None]
        if not self.volumes:
            raise InputError(f"no training volume (of {len(volumes)}) has a supervoxel or class of min_size = {min_size} voxels "
                             f"in {depth} consecutive allowed slices (stack.n_slices)")

    @override
    def _draw(self, index: int) -> tuple[TrainingVolume, int, list[int], np.random.Generator]:
        """Return volume, class, first slices of the stacks (the query's is last), and the generator."""
        rng = self._generator(index)
        volume, stacks = self.volumes[rng.integers(len(self.volumes))]
        kind = rng.integers(len(stacks.begins) - 1)
        of_class = stacks.rows[stacks.begins[kind]:stacks.begins[kind + 1]]
        return volume, int(of_class[0, 0]), of_class[rng.integers(len(of_class), size=self.n_shot + 1), 1].tolist(), rng

    @override
    def __getitem__(self, index: int) -> Episode:
        volume, label, starts, rng = self._draw(index)
        places = range(len(volume.allowed))
        image = np.stack([volume.image[z] for z in places])
        mask = np.stack([volume.classes[z] == label for z in places])
        contrasts = {k: rng.uniform(*GAMMA) for k in self._to_transform(rng)}
        affines = {k: Affine.sample(rng, image.shape) for k in self._to_transform(rng)}
        pairs = [self._stack(gamma_transform(image, contrasts[k]) if k in contrasts else image, mask, start, affines.get(k),
                             rng, k == self.n_shot) for k, start in enumerate(starts)]
        images = torch.from_numpy(np.stack([image for image, _ in pairs])).unsqueeze(1).expand(-1, 3, -1, -1, -1)
        masks = torch.from_numpy(np.stack([mask for _, mask in pairs], dtype=np.float32))
        position = torch.tensor((starts[-1] + (self.size[0] - 1) / 2) / max(len(image) - 1, 1))       # of the stack's middle
        return Episode(images[:-1], masks[:-1], images[-1], masks[-1], position)

    def _stack(self, image: np.ndarray, mask: np.ndarray, start: int, affine: Affine | None, rng: np.random.Generator,
               is_query: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return image and mask of a stack, cut in the plane so that the class is inside. A support is not warped out of it."""
        depth, height, width = self.size
        within = mask[start:start + depth]
        if affine is not None:
            warped = affine.apply(mask.view(np.uint8), (start, 0, 0), (depth, *mask.shape[1:]), 0) > 0
            if is_query or warped.any():
                within = warped
            else:
                affine = None
        _, rows, columns = np.nonzero(within)
        y, x = _cut(rows, mask.shape[1], height, rng), _cut(columns, mask.shape[2], width, rng)
        box = (slice(start, start + depth), slice(y, y + height), slice(x, x + width))
        cut = image[box] if affine is None else affine.apply(image, (start, y, x), self.size, 1)
        return np.ascontiguousarray(cut, np.float32), within[:, box[1], box[2]]


def _cut(places: np.ndarray, length: int, size: int, rng: np.random.Generator) -> int:
    """Return where a cut of `size` begins along an axis, so that it has all places or, if it is too short, lies among them."""
    last = length - size
    if not len(places):
        return 0
    low, high = places.min(), places.max() + 1 - size      # begin at the first place; end at the last one
    return int(rng.integers(np.clip(min(low, high), 0, last), np.clip(max(low, high), 0, last) + 1))
