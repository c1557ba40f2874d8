"""Training episodes: support and query slices of one volume that share a supervoxel (or an organ, or a superpixel)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from qnet.dataloaders.datasets import Case, DatasetSpec
from qnet.dataloaders.store import Arrays, Slices, Store
from qnet.dataloaders.transforms import GAMMA, Geometry, gamma_transform
from qnet.dataloaders.volumes import expect_same_shape, read_supervoxels, read_volume
from qnet.util.base.distributed import of_main, share
from qnet.util.base.episode import Episode
from qnet.util.base.errors import InputError
from qnet.util.base.progress import progress


@dataclass(frozen=True)
class TrainingVolume:
    """A volume for episodes: z-scored image, class of each voxel (0: none), and the slices that may be used."""

    case: str
    image: np.ndarray | Slices      # (D, H, W) float32
    classes: np.ndarray | Slices    # (D, H, W) supervoxels or superpixels, or organs with use_gt
    allowed: np.ndarray             # (D,) bool
    areas: np.ndarray               # `areas_of(classes)`

    @classmethod
    def of(cls, case: str, image: np.ndarray, classes: np.ndarray, allowed: np.ndarray | None = None) -> TrainingVolume:
        """Make one of arrays in memory. `allowed` None: all slices may be used."""
        return cls(case, image, classes, np.ones(len(image), bool) if allowed is None else allowed, areas_of(classes))


def areas_of(classes: np.ndarray) -> np.ndarray:
    """Return (n, 3) int32 rows (class, slice, area in pixels) of every class above 0 in every slice, in this order."""
    n_classes = int(classes.max()) + 1
    areas = np.stack([np.bincount(slice_.ravel(), minlength=n_classes) for slice_ in classes], axis=1)
    areas[0] = 0
    labels, slices = np.nonzero(areas)
    return np.stack([labels, slices, areas[labels, slices]], axis=1).astype(np.int32)


def allowed_slices(label_map: np.ndarray, exclude_label: Sequence[int], exclude_rule: str) -> np.ndarray:
    """Return the slices that stay in training in setting 2, (D,) bool.

    Args:
        label_map: (D, H, W).
        exclude_label: the test classes.
        exclude_rule: "any" removes a slice that holds any of them (Roy et al. 2020; Ouyang et al. 2020). "all" removes a slice
            only if it holds all of them, as in the published Q-Net code.
    """
    present = np.stack([(label_map == label).any(axis=(1, 2)) for label in exclude_label])
    return np.logical_not(present.any(axis=0) if exclude_rule == "any" else present.all(axis=0))


def load_training_volumes(cases: Sequence[Case], spec: DatasetSpec, store: Store, *, exclude_label: Sequence[int] | None,
                          exclude_rule: str, use_gt: bool, test_label: Sequence[int], pseudo_labels: str) -> list[TrainingVolume]:
    """Prepare the training cases in a store, from which episodes read single slices.

    Of several processes, each makes its share of the missing volumes. Every process must call this.
    Labels are read only in setting 2 (`exclude_label`) and with `use_gt`.

    Args:
        cases: their files.
        spec: the dataset.
        store: keeps the prepared volumes.
        exclude_label, exclude_rule: `allowed_slices` explains them. None: all slices stay.
        use_gt: organs are the classes, without those of `test_label`.
        test_label: label values.
        pseudo_labels: "supervoxels" or "superpixels", the classes without `use_gt`.

    Raises:
        InputError: a file is missing or broken, or its shape (for a label also its place) differs from its image.
    """
    needs_labels = bool(exclude_label or use_gt)
    settings = {"kind": "organs" if use_gt else pseudo_labels, "exclude_label": list(exclude_label or ()),
                "exclude_rule": exclude_rule, "test_label": list(test_label) if use_gt else [],
                "file_values": {str(value): label for value, label in spec.file_values.items()} if needs_labels else {}}

    def arrays(case: Case) -> Arrays:
        volume = read_volume(case, spec, labels=needs_labels)
        classes = (np.where(np.isin(volume.labels, test_label), 0, volume.labels) if use_gt
                   else _pseudo_labels(case, getattr(case, pseudo_labels), volume.image))
        allowed = (allowed_slices(volume.labels, exclude_label, exclude_rule) if exclude_label
                   else np.ones(len(volume.image), bool))
        return {"image": volume.image, "classes": classes.astype(np.uint16), "allowed": allowed, "areas": areas_of(classes)}

    def prepared(case: Case) -> TrainingVolume:
        sources = [case.image, *([case.label] if needs_labels else []), *([] if use_gt else [getattr(case, pseudo_labels)])]
        folder = store.get(case.name, sources, settings, lambda: arrays(case))
        allowed = np.load(folder / "allowed.npy")
        image, classes = (Slices(folder / f"{name}.npy", len(allowed)) for name in ("image", "classes"))
        return TrainingVolume(case.name, image, classes, allowed, np.load(folder / "areas.npy"))

    made = {case: prepared(case) for case in progress(share(cases), desc="reading training volumes", unit="volume")}
    of_main(None)       # now the other processes have made theirs
    store.sums.read()
    return [made[case] if case in made else prepared(case) for case in cases]


def _pseudo_labels(case: Case, path: Path, image: np.ndarray) -> np.ndarray:
    expect_same_shape(case, image, path)
    return read_supervoxels(path)


@dataclass(frozen=True)
class _Windows:
    """All runs of slices that may become an episode, with their chances."""

    classes: np.ndarray      # (n,) class of the window
    starts: np.ndarray       # (n,) its first slice
    cumulative: np.ndarray   # (n,) cumulative chance, up to 1


def _windows(volume: TrainingVolume, n_slices: int, min_size: int) -> _Windows | None:
    """Enumerate the windows that the published procedure draws by trial.

    That procedure draws a class, one of its runs and a start in the run, until the class is large enough there. Here each window
    has the same chance: 1/(runs of the class · starts of the run), divided by the sum over all accepted windows.
    """
    labels, slices, areas = volume.areas[volume.allowed[volume.areas[:, 1]]].T
    if not len(labels):
        return None
    begins = np.concatenate([[True], (np.diff(labels) != 0) | (np.diff(slices) != 1)])     # of runs of a class
    run = np.cumsum(begins) - 1
    first, length = np.flatnonzero(begins), np.bincount(run)
    n_starts = np.maximum(length - n_slices + 1, 0)
    n_runs = np.bincount(labels[first], weights=n_starts > 0)
    place = np.arange(len(labels)) - first[run]
    largest = np.maximum(areas, np.append(areas[1:], 0)) if n_slices > 1 else areas
    found = (place < n_starts[run]) & (largest >= min_size)
    return _as_windows(labels[found], slices[found], 1 / (n_runs[labels[found]] * n_starts[run[found]]))


def _single_slices(volume: TrainingVolume, min_size: int) -> _Windows | None:
    """Enumerate superpixels, whose numbers restart in each slice. Slices are equally likely, and so are those of one slice."""
    labels, slices, areas = volume.areas.T
    large = volume.allowed[slices] & (areas >= max(min_size, 1))
    order = np.flatnonzero(large)[np.argsort(slices[large], kind="stable")]
    return _as_windows(labels[order], slices[order], 1 / np.bincount(slices[order])[slices[order]])


def _as_windows(labels: np.ndarray, starts: np.ndarray, chances: np.ndarray) -> _Windows | None:
    """Return windows with chances up to a factor. None if there are none."""
    return _Windows(labels, starts, np.cumsum(chances) / chances.sum()) if len(labels) else None


class EpisodeDataset(Dataset):
    """Item i is the i-th episode. It depends on (seed, i) alone, not on earlier episodes or on the process.

    Args:
        volumes: the source of episodes. Those without a usable class are left out.
        length: number of episodes.
        seed: the only source of chance besides the item's number.
        n_shot: support slices of an episode.
        min_size: smallest area in pixels of the larger of an episode's first two masks.
        same_slice: support and query are augmentations of one slice (SSL-ALPNet), not neighbouring slices.
    Raises:
        InputError: no class is large enough in n_shot + 1 consecutive slices, or with same_slice in one slice.
    """

    def __init__(self, volumes: Sequence[TrainingVolume], length: int, seed: int, n_shot: int, min_size: int,
                 same_slice: bool):
        self.n_shot, self.length, self.seed, self.same_slice = n_shot, length, seed, same_slice
        indexed = [(volume, _single_slices(volume, min_size) if same_slice else _windows(volume, n_shot + 1, min_size))
                   for volume in volumes]
        self.volumes: list[tuple[TrainingVolume, Any]] = [(volume, windows) for volume, windows in indexed if windows is not None]
        if not self.volumes:
            wanted = (f"superpixel of min_size = {min_size} pixels in an allowed slice" if same_slice else
                      f"supervoxel or class that fills {n_shot + 1} consecutive allowed slices (n_shot + n_query) with "
                      f"min_size = {min_size} pixels in one of the first two")
            raise InputError(f"no training volume (of {len(volumes)}) has a {wanted}")

    def __len__(self) -> int:
        return self.length

    def draw(self, index: int) -> tuple[str, int, list[int]]:
        """Return the case, the class and the slices of an episode. The support slices come first, the query is last."""
        volume, label, slices, _ = self._draw(index)
        return volume.case, label, slices

    def _generator(self, index: int) -> np.random.Generator:
        """Return the source of chance of an episode."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, index]))

    def _draw(self, index: int) -> tuple[TrainingVolume, int, list[int], np.random.Generator]:
        rng = self._generator(index)
        volume, windows = self.volumes[rng.integers(len(self.volumes))]
        window = int(np.searchsorted(windows.cumulative, rng.random(), side="right"))
        start, step = int(windows.starts[window]), 0 if self.same_slice else 1
        slices = [start + k * step for k in range(self.n_shot + 1)]
        return volume, int(windows.classes[window]), slices[::-1] if rng.random() < 0.5 else slices, rng

    def __getitem__(self, index: int) -> Episode:
        volume, label, slices, rng = self._draw(index)
        images = np.stack([volume.image[z] for z in slices])
        masks = [volume.classes[z] == label for z in slices]
        for k in self._to_transform(rng):
            images[k] = gamma_transform(images[k], rng.uniform(*GAMMA))
        for k in self._to_transform(rng):
            geometry = Geometry.sample(rng, images[k].shape)
            images[k], masks[k] = geometry.apply(images[k]), geometry.apply_to_mask(masks[k])
        stacked = torch.from_numpy(images).unsqueeze(1).expand(-1, 3, -1, -1)
        stacked_masks = torch.from_numpy(np.stack(masks, dtype=np.float32))
        position = torch.tensor(slices[-1] / max(len(volume.image) - 1, 1))
        return Episode(stacked[:-1], stacked_masks[:-1], stacked[-1], stacked_masks[-1], position)

    def _to_transform(self, rng: np.random.Generator) -> range:
        """Return the positions of the slices to transform: query or support, each half of the time, or all with `same_slice`."""
        if self.same_slice:
            return range(self.n_shot + 1)
        return range(self.n_shot, self.n_shot + 1) if rng.random() < 0.5 else range(self.n_shot)
