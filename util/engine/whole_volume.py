"""Segments whole volumes without their labels. Every slice is encoded once, for all classes and supports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import torch
import tqdm
from scipy import ndimage
from torch import Tensor

from qnet.dataloaders.volumes import Volume
from qnet.models.base import FewShotModel
from qnet.models.encoder import Features
from qnet.util.engine.location import body_box, location_weight
from qnet.util.engine.slice_encoder import SliceEncoder
from qnet.util.engine.slice_matching import align_slices, choose_support_slices, describe_slices
from qnet.util.engine.task import Task, label_map_of
from qnet.util.options.sections import WholeVolumeOptions


class EncodedVolume:
    """A volume with the features of all its slices."""

    def __init__(self, volume: Volume, features: Features):
        self.volume, self.features = volume, features

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        """First row, last row, first column and last column of the body."""
        return body_box(self.volume.image)

    @cached_property
    def descriptors(self) -> Tensor:
        """(D, K) descriptors of the slices, for slice matching."""
        return describe_slices(self.features)


@torch.inference_mode()
def probabilities(encoder: SliceEncoder, task: Task, options: WholeVolumeOptions,
                  bar: tqdm.tqdm | None = None) -> list[tuple[Volume, dict[int, np.ndarray]]]:
    """Return for each support the (D, H, W) foreground probability of each class that it holds.

    The probability is 0 in slices where the class is not expected.

    Args:
        encoder: holds the model; it must encode whole volumes.
        bar: advances by one for every slice that is encoded.
    """
    def encoded(volume: Volume) -> EncodedVolume:
        return encoder.once(("whole", volume), lambda: EncodedVolume(volume, encoder.encode_whole(volume, bar)))

    of_supports = [encoded(support) for support in task.supports]
    query = encoded(task.query) if task.query in encoder.supports else \
        EncodedVolume(task.query, encoder.encode_whole(task.query, bar))
    return [(support.volume, _of_support(encoder.model, query, support, task.labels, options)) for support in of_supports]


def _of_support(model: FewShotModel, query: EncodedVolume, support: EncodedVolume, labels: Sequence[int],
                options: WholeVolumeOptions) -> dict[int, np.ndarray]:
    matches = align_slices(query.descriptors, support.descriptors)
    result = {}
    for label in labels:
        masks = label_map_of(support.volume) == label
        chosen = choose_support_slices(matches, masks.any(axis=(1, 2)), options.slice_margin)
        if masks.any():
            result[label] = _segment_class(model, query.features, support.features, masks, chosen, options.eval_batch_size)
            if options.location_mm:
                _weigh_by_location(result[label], chosen, masks, support, query, options.location_mm)
    return result


def _segment_class(model: FewShotModel, query: Features, support: Features, masks: np.ndarray, chosen: np.ndarray,
                   batch_size: int) -> np.ndarray:
    """Return the (D, H, W) probability of a class.

    Each query slice is segmented from its chosen support slice and that slice's neighbours, as shots.
    """
    probs = np.zeros((len(chosen), *query.image_size), np.float32)
    device = query.maps[0].device
    for z in np.unique(chosen[chosen >= 0]).tolist():
        shots = [n for n in (z - 1, z, z + 1) if 0 <= n < len(masks) and masks[n].any()]
        shot_masks = torch.from_numpy(masks[shots].astype(np.float32)).to(device)
        prototypes = model.prototypes(support[torch.tensor(shots, device=device)], shot_masks[None])
        slices = np.flatnonzero(chosen == z)
        for start in range(0, len(slices), batch_size):
            batch = slices[start:start + batch_size]
            soft_masks = model.segment(query[torch.from_numpy(batch).to(device)], prototypes)
            probs[batch] = soft_masks[:, 1].float().cpu().numpy()
    return probs


def _weigh_by_location(probs: np.ndarray, chosen: np.ndarray, masks: np.ndarray, support: EncodedVolume, query: EncodedVolume,
                       sigma_mm: float) -> None:
    for z in np.unique(chosen[chosen >= 0]):
        probs[chosen == z] *= location_weight(masks, int(z), support.box, query.box, probs.shape[1:], sigma_mm,
                                              support.volume.spacing_mm[1:])


def smooth_along_z(probs: np.ndarray, n_slices: float) -> np.ndarray:
    """Smooth (D, H, W) probabilities along z by a Gaussian of standard deviation `n_slices`; 0 changes nothing."""
    return ndimage.gaussian_filter1d(probs, n_slices, axis=0, mode="nearest") if n_slices else probs


def to_label_map(probs: Iterable[tuple[int, np.ndarray]], shape: Sequence[int]) -> np.ndarray:
    """Return the (D, H, W) int16 label map: in each voxel the label of the highest probability above 1/2, else 0.

    Args:
        probs: pairs of a label and its (D, H, W) probability. The first of equally probable labels wins.
        shape: (D, H, W).
    """
    best = np.full(shape, 0.5, np.float32)
    label_map = np.zeros(shape, np.int16)
    for label, class_probs in probs:
        wins = class_probs > best
        label_map[wins], best[wins] = label, class_probs[wins]
    return label_map


def largest_components(label_map: np.ndarray, outlined: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Remove stray parts (6-connected) of each label of a (D, H, W) label map; they become 0.

    The largest part stays. Others stay where the outlined scans have the label in several parts (both halves of a brain,
    ventricles): those that hold at least half as much of the label as the smallest part there. Parts of less than 1 % are none.

    Args:
        outlined: (D, H, W) label maps of the supports.
    """
    result = np.zeros_like(label_map)
    for label in np.unique(label_map[label_map > 0]):
        parts, _ = ndimage.label(label_map == label)
        sizes = np.bincount(parts.ravel())[1:]
        least = min((_least_share(of_support == label) for of_support in outlined), default=1.0)
        kept = (sizes >= least * sizes.sum()) | (np.arange(len(sizes)) == sizes.argmax())
        result[np.append(False, kept)[parts]] = label
    return result


def _least_share(mask: np.ndarray) -> float:
    """Return half the share of the smallest part of a mask, without parts of less than 1 %; 1 if it has one part or none."""
    sizes = np.bincount(ndimage.label(mask)[0].ravel())[1:]
    shares = sizes[sizes >= 0.01 * sizes.sum()] / max(1, sizes.sum())
    return float(shares.min()) / 2 if len(shares) > 1 else 1.0
