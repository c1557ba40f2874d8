"""The evaluation protocol for one query: in parts (EP1, Ouyang et al. 2020) or every slice (EP2, Hansen et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import tqdm

from qnet.dataloaders.folds import parts, slices_with, support_slices
from qnet.dataloaders.volumes import Volume
from qnet.models.base import FewShotModel, hard_mask
from qnet.models.encoder import Features
from qnet.models.spatial_prior import with_prior
from qnet.util.engine.predictions import Prediction
from qnet.util.engine.slice_encoder import SliceEncoder, batches
from qnet.util.engine.task import Task, label_map_of

Priors = Mapping[tuple[Volume, int], torch.Tensor]


@torch.inference_mode()
def segment_by_protocol(encoder: SliceEncoder, task: Task, n_part: int, every_slice: bool = False,
                        bar: tqdm.tqdm | None = None, priors: Priors | None = None) -> list[Prediction]:
    """Return the prediction for every support and class. A class that the support or the query lacks is left out.

    The supports' slices become prototypes, once for all tasks. Then the query's slices are encoded in batches. The features
    of a slice serve all classes and supports, and are then dropped.

    Args:
        encoder: holds the model.
        n_part: number of parts, 3 or 1.
        every_slice: segment all slices of the query, and not only those that hold the class.
        bar: advances by one for every slice that is encoded.
        priors: by support and label, (D, H, W) logits that are added to what the network finds.
    """
    jobs = []
    for support in task.supports:
        of_label = prototypes_of(encoder, support, task.labels, n_part, bar)
        jobs += [_Job(label, support, task.query, of_label[label], n_part, every_slice,
                      None if priors is None else priors[support, label]) for label in task.labels if label in of_label]
    if task.query in encoder.supports:      # now, while its slices are not yet dropped
        prototypes_of(encoder, task.query, task.labels, n_part, bar)
    for slices in batches(query_slices(task, every_slice), encoder.batch_size):
        features = encoder.encode(task.query, slices, bar)
        for k, z in enumerate(slices):
            _segment_slice(encoder.model, features[k:k + 1], z, jobs)
    return [job.prediction() for job in jobs if job.parts]


def query_slices(task: Task, every_slice: bool) -> list[int]:
    """Return the slices of the query that hold one of the labels; all slices if `every_slice`."""
    return np.flatnonzero(every_slice | np.isin(label_map_of(task.query), task.labels).any(axis=(1, 2))).tolist()


def slices_of_support(support: Volume, labels: Sequence[int], n_part: int) -> list[int]:
    """Return the slices of a support that the protocol needs, ascending."""
    return sorted({z for slices in _slices_of_label(support, labels, n_part).values() for z in slices})


def _slices_of_label(support: Volume, labels: Sequence[int], n_part: int) -> dict[int, list[int]]:
    """Return for each class that the support holds the support slice of each part."""
    present = {label: slices_with(label_map_of(support), label) for label in labels}
    return {label: support_slices(slices, n_part) for label, slices in present.items() if slices}


def prototypes_of(encoder: SliceEncoder, support: Volume, labels: Sequence[int], n_part: int,
                  bar: tqdm.tqdm | None = None) -> dict[int, list[Any]]:
    """Return the model's prototypes of each part, for each class that the support holds. They are made once per support."""
    return encoder.once(("prototypes", support, tuple(labels), n_part),
                        lambda: _prototypes(encoder, support, labels, n_part, bar))


def _prototypes(encoder: SliceEncoder, support: Volume, labels: Sequence[int], n_part: int,
                bar: tqdm.tqdm | None) -> dict[int, list[Any]]:
    slices = slices_of_support(support, labels, n_part)
    if not slices:
        return {}
    features = encoder.encode_support(support, slices, bar)
    of_label: dict[int, list[Any]] = {}
    for label, chosen in _slices_of_label(support, labels, n_part).items():
        masks = torch.from_numpy((label_map_of(support)[chosen] == label).astype(np.float32)).to(encoder.device)
        positions = [slices.index(z) for z in chosen]
        of_label[label] = [encoder.model.prototypes(features[k:k + 1], mask[None, None])
                           for k, mask in zip(positions, masks, strict=True)]
    return of_label


class _Job:
    """One class of one query volume, segmented from one support volume."""

    def __init__(self, label: int, support: Volume, query: Volume, prototypes: list[Any], n_part: int, every_slice: bool,
                 prior: torch.Tensor | None):
        self.label, self.support, self.query, self.prototypes, self.prior = label, support, query, prototypes, prior
        self.parts = parts(label_map_of(support), label_map_of(query), label, n_part, every_slice)
        self.mask = np.zeros(query.image.shape, bool)

    def prototypes_at(self, z: int) -> Any | None:
        """Return the prototypes for query slice z; None if the protocol does not segment it."""
        of_parts = zip(self.parts, self.prototypes, strict=False)
        return next((prototypes for part, prototypes in of_parts if z in part.query_slices), None)

    def n_pixels_at(self, z: int) -> int:
        """Return how many pixels of query slice z truly are of the class."""
        return int((label_map_of(self.query)[z] == self.label).sum())

    def prediction(self) -> Prediction:
        """Return the mask so far, with its scores."""
        return Prediction.scored(self.label, self.support, self.query, self.parts, self.mask)


def _segment_slice(model: FewShotModel, features: Features, z: int, jobs: Sequence[_Job]) -> None:
    """Segment one query slice for every class and support for which the protocol does so."""
    asking = [(job, prototypes) for job in jobs if (prototypes := job.prototypes_at(z)) is not None]
    if asking:
        if model.reads_truth:
            asking = [(job, model.told(prototypes, job.n_pixels_at(z))) for job, prototypes in asking]
        soft_masks = model.segment_each(features, [prototypes for _, prototypes in asking])
        for (job, _), soft_mask in zip(asking, soft_masks, strict=True):
            if job.prior is not None:
                foreground = with_prior(soft_mask[1].float(), job.prior[z])
                soft_mask = torch.stack([1 - foreground, foreground])
            job.mask[z] = hard_mask(soft_mask[None])[0].cpu().numpy()
