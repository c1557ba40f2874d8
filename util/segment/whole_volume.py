"""Segments whole volumes without a look at their labels; every slice is encoded once, for all classes and supports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import tqdm
from scipy import ndimage
from torch import Tensor, nn

from dataloaders.volumes import LabelledVolume
from models.encoder import Features
from util.base.progress import progress
from util.segment.location import body_box, location_weight
from util.segment.slice_encoder import SliceEncoder
from util.segment.slice_matching import align_slices, choose_support_slices, describe_slices


@dataclass(frozen=True)
class WholeVolumeOptions:
    """The options of base.json5 that begin with `whole_` or say how a label map is cleaned."""

    margin: int
    location_mm: float
    largest_component: bool
    smooth_z: float
    batch_size: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> WholeVolumeOptions:
        return cls(config["slice_margin"], config["location_mm"], config["largest_component"], config["smooth_z"],
                   config["eval_batch_size"])


@dataclass(frozen=True)
class WholePrediction:
    """One class of one query volume, segmented from one support volume without a look at the query's labels."""

    label: int
    support: LabelledVolume
    query: LabelledVolume
    probs: np.ndarray     # (D, H, W)
    mask: np.ndarray      # (D, H, W) bool


class EncodedVolume:
    """A volume's features, its (D, H, W) image, and for a support its label map."""

    def __init__(self, features: Features, image: np.ndarray, label_map: np.ndarray | None = None):
        self.features, self.image, self.label_map = features, image, label_map

    @cached_property
    def box(self) -> tuple[int, int, int, int]:
        return body_box(self.image)

    @cached_property
    def descriptors(self) -> Tensor:
        return describe_slices(self.features)


@torch.inference_mode()
def encode_volume(model: nn.Module, image: np.ndarray, label_map: np.ndarray | None = None, *, device: torch.device,
                  batch_size: int, bar: tqdm.tqdm | None = None) -> EncodedVolume:
    """Encode all slices of a z-scored (D, H, W) image with a model that is on `device` and in evaluation mode.

    Args:
        label_map: (D, H, W), for a support.
        bar: moved on by every slice.
    """
    parts = []
    for start in range(0, len(image), batch_size):
        batch = torch.from_numpy(np.ascontiguousarray(image[start:start + batch_size])).to(device)
        parts.append(model.encode(batch.unsqueeze(1).expand(-1, 3, -1, -1)))
        if bar is not None:
            bar.update(len(batch))
    return EncodedVolume(Features.cat(parts), image, label_map)


@torch.inference_mode()
def segment_whole(model: nn.Module, query: EncodedVolume, support: EncodedVolume, labels: Sequence[int],
                  options: WholeVolumeOptions, pixel_mm: float) -> dict[int, np.ndarray]:
    """Return the (D, H, W) foreground probability of each class that the support holds; 0 where it is not expected.

    Args:
        pixel_mm: width of a pixel, of the query and of the support.
    """
    matches = align_slices(query.descriptors, support.descriptors)
    result = {}
    for label in labels:
        masks = support.label_map == label
        chosen = choose_support_slices(matches, masks.any(axis=(1, 2)), options.margin)
        if masks.any():
            result[label] = _segment_class(model, query.features, support.features, masks, chosen, options.batch_size)
            if options.location_mm:
                _weigh_by_location(result[label], chosen, masks, support.box, query.box, options.location_mm / pixel_mm)
    return result


@torch.inference_mode()
def evaluate_whole(encoder: SliceEncoder, pairs: Sequence[tuple[LabelledVolume, Sequence[LabelledVolume]]],
                   labels: Sequence[int], options: WholeVolumeOptions, pixel_mm: float) -> Iterator[WholePrediction]:
    """Yield the prediction of every class that the support holds, for each support and query, whole volumes throughout.

    Supports stay in memory with their features; queries come and go. A voxel that several classes claim goes to the likeliest.
    """
    queries = {query.case.name: query for _, volumes in pairs for query in volumes}

    def encoded(volume: LabelledVolume) -> EncodedVolume:
        features = encoder.encode(volume, range(len(volume.image)))
        encoder.release(volume)
        return EncodedVolume(features, volume.image, volume.label_map)

    supports = {support.case.name: encoded(support) for support, _ in pairs}
    for query in progress(queries.values(), desc="whole volumes", unit="volume"):
        as_query = supports.get(query.case.name) or encoded(query)
        for support in (support for support, volumes in pairs if any(query is volume for volume in volumes)):
            raw = segment_whole(encoder.model, as_query, supports[support.case.name], labels, options, pixel_mm)
            probs = {label: smooth_along_z(class_probs, options.smooth_z) for label, class_probs in raw.items()}
            label_map = to_label_map(probs.items(), query.image.shape)
            if options.largest_component:
                label_map = largest_components(label_map)
            yield from (WholePrediction(label, support, query, probs[label], label_map == label) for label in probs)


def _segment_class(model: nn.Module, query: Features, support: Features, masks: np.ndarray, chosen: np.ndarray,
                   batch_size: int) -> np.ndarray:
    """Segment each slice from its support slice and the neighbours of that one, as shots."""
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


def _weigh_by_location(probs: np.ndarray, chosen: np.ndarray, masks: np.ndarray, support_box: tuple[int, int, int, int],
                       query_box: tuple[int, int, int, int], sigma_px: float) -> None:
    for z in np.unique(chosen[chosen >= 0]):
        probs[chosen == z] *= location_weight(masks, int(z), support_box, query_box, probs.shape[1:], sigma_px)


def smooth_along_z(probs: np.ndarray, n_slices: float) -> np.ndarray:
    """Smooth (D, H, W) probabilities along z with a Gaussian whose standard deviation is `n_slices`; 0 changes nothing."""
    return ndimage.gaussian_filter1d(probs, n_slices, axis=0, mode="nearest") if n_slices else probs


def to_label_map(probs: Iterable[tuple[int, np.ndarray]], shape: Sequence[int]) -> np.ndarray:
    """Return the int16 label map of pairs of label and (D, H, W) probability: the likeliest label above 1/2, else 0.

    Of equally likely labels the first one stays.
    """
    best = np.full(shape, 0.5, np.float32)
    label_map = np.zeros(shape, np.int16)
    for label, class_probs in probs:
        wins = class_probs > best
        label_map[wins], best[wins] = label, class_probs[wins]
    return label_map


def largest_components(label_map: np.ndarray) -> np.ndarray:
    """Keep of each label the largest part that hangs together by faces of voxels; the others become 0."""
    result = np.zeros_like(label_map)
    for label in np.unique(label_map[label_map > 0]):
        parts, _ = ndimage.label(label_map == label)
        result[parts == np.bincount(parts.ravel())[1:].argmax() + 1] = label
    return result
