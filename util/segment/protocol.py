"""The field's evaluation protocol for one fold, with every slice encoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tqdm
from torch import nn

from dataloaders.datasets import Case, DatasetSpec
from dataloaders.folds import Part, parts, slices_with, support_slices
from dataloaders.volumes import LabelledVolume, normalise, read_image, read_label_of
from models.base import hard_mask
from models.encoder import Features
from util.base.progress import progress
from util.segment.metrics import dice, iou
from util.segment.slice_encoder import SliceEncoder, batches


@dataclass(frozen=True)
class Prediction:
    """One class of one query volume, segmented from one support volume.

    `mask` is (D, H, W) and False in slices that were not segmented; the scores are those of the segmented slices, stacked.
    """

    label: int
    support: LabelledVolume
    query: LabelledVolume
    parts: tuple[Part, ...]
    mask: np.ndarray
    dice: float
    iou: float


def load_fold(cases: Sequence[Case], spec: DatasetSpec) -> list[LabelledVolume]:
    """Read the cases of a test fold; an InputError names the first file that is missing, broken, or of another shape or place."""
    volumes = []
    for case in progress(cases, desc="reading test volumes", unit="volume"):
        image = read_image(case.image)
        volumes.append(LabelledVolume(case, normalise(image), read_label_of(case, spec, image)))
    return volumes


@torch.inference_mode()
def evaluate_fold(encoder: SliceEncoder, pairs: Sequence[tuple[LabelledVolume, Sequence[LabelledVolume]]],
                  labels: Sequence[int], *, n_part: int, every_slice: bool = False) -> Iterator[Prediction]:
    """Yield the prediction of every class and support for each query volume, one query volume after the other.

    The support slices come first and become prototypes. Then each query volume is streamed, a batch of slices at a time; a
    slice's features serve all classes and supports before they are let go (unless the encoder is to keep them). Classes that
    the support or the query lacks are left out.

    Args:
        encoder: holds the model.
        pairs: (support, queries).
        labels: classes to segment.
        n_part: parts of the protocol, 3 or 1.
        every_slice: segment all slices of the queries, in place of those that hold the class.
    """
    queries = {query.case.name: query for _, volumes in pairs for query in volumes}
    query_slices = {name: np.flatnonzero(every_slice | np.isin(query.label_map, labels).any(axis=(1, 2))).tolist()
                    for name, query in queries.items()}
    support_work = {support.case.name: _support_slices(support, labels, n_part) for support, _ in pairs}
    needed = [(volume, {z for slices in support_work.get(name, {}).values() for z in slices} | set(query_slices.get(name, ())))
              for name, volume in ({support.case.name: support for support, _ in pairs} | queries).items()]
    with progress(total=encoder.n_new(needed), desc="segmenting", unit="slice") as bar:
        prototypes = {support.case.name: _prototypes(encoder, support, support_work[support.case.name], bar,
                                                     reused=query_slices.get(support.case.name, ()))
                      for support, _ in pairs}
        for name, query in queries.items():
            jobs = [_Job(label, support, query, prototypes[support.case.name][label], n_part, every_slice)
                    for support, volumes in pairs if any(query is volume for volume in volumes)
                    for label in labels if label in prototypes[support.case.name]]
            for slices in batches(query_slices[name], encoder.batch_size):
                features = encoder.encode(query, slices, bar)
                for k, z in enumerate(slices):
                    _segment_slice(encoder.model, features[k:k + 1], z, jobs)
            yield from (job.prediction() for job in jobs if job.parts)


def _support_slices(support: LabelledVolume, labels: Sequence[int], n_part: int) -> dict[int, list[int]]:
    """Support slice of each part, for each class that the support holds."""
    present = {label: slices_with(support.label_map, label) for label in labels}
    return {label: support_slices(slices, n_part) for label, slices in present.items() if slices}


def _prototypes(encoder: SliceEncoder, support: LabelledVolume, slices_of_label: dict[int, list[int]], bar: tqdm.tqdm,
                reused: Sequence[int]) -> dict[int, list[Any]]:
    """What the model keeps of each class, for each part."""
    slices = sorted({z for slices in slices_of_label.values() for z in slices})
    if not slices:
        return {}
    features = encoder.encode(support, slices, bar, reused)
    of_label: dict[int, list[Any]] = {}
    for label, chosen in slices_of_label.items():
        masks = torch.from_numpy((support.label_map[chosen] == label).astype(np.float32)).to(encoder.device)
        positions = [slices.index(z) for z in chosen]
        of_label[label] = [encoder.model.prototypes(features[k:k + 1], mask[None, None])
                           for k, mask in zip(positions, masks, strict=True)]
    return of_label


class _Job:
    """One class of one query volume, to be segmented from one support volume."""

    def __init__(self, label: int, support: LabelledVolume, query: LabelledVolume,
                 prototypes: list[Any], n_part: int, every_slice: bool):
        self.label, self.support, self.query, self.prototypes = label, support, query, prototypes
        self.parts = parts(support.label_map, query.label_map, label, n_part, every_slice)
        self.mask = np.zeros(query.label_map.shape, bool)

    def prototypes_at(self, z: int) -> Any | None:
        """What to segment query slice z from; None where the protocol does not ask for it."""
        of_parts = zip(self.parts, self.prototypes, strict=False)
        return next((prototypes for part, prototypes in of_parts if z in part.query_slices), None)

    def prediction(self) -> Prediction:
        segmented = [z for part in self.parts for z in part.query_slices]
        mask, truth = self.mask[segmented], self.query.label_map[segmented] == self.label
        return Prediction(self.label, self.support, self.query, tuple(self.parts), self.mask, dice(mask, truth), iou(mask, truth))


def _segment_slice(model: nn.Module, features: Features, z: int, jobs: Sequence[_Job]) -> None:
    """Segment one query slice for every class and support that ask for it."""
    asking = [(job, prototypes) for job in jobs if (prototypes := job.prototypes_at(z)) is not None]
    if asking:
        masks = hard_mask(model.segment_each(features, [prototypes for _, prototypes in asking])).cpu().numpy()
        for (job, _), mask in zip(asking, masks, strict=True):
            job.mask[z] = mask
