"""The two ways from supports to a query: slice by slice with a network, and whole volumes without training.

A Segmenter gives for each support the members of a query: each class's probability over the whole volume.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import tqdm

from dataloaders.folds import Part, parts
from dataloaders.volumes import Volume
from models.volume import VolumeModel
from util.base.progress import progress
from util.options.sections import EvaluationOptions, WholeVolumeOptions
from util.segment.predictions import Prediction, WholePrediction
from util.segment.protocol import query_slices, segment_by_protocol, slices_of_support
from util.segment.slice_encoder import SliceEncoder
from util.segment.task import Task
from util.segment.whole_volume import largest_components, probabilities, smooth_along_z, to_label_map


@dataclass(frozen=True)
class Member:
    """What one support says of a query.

    Attributes:
        probs: (D, H, W) probability of each label that the support holds.
        confidence: of each label, 0…1, where the method has one.
        registered: (D, H, W) probability of each label as carried over from the support, where the method does that.
    """

    support: Volume
    probs: Mapping[int, np.ndarray]
    confidence: Mapping[int, float] = field(default_factory=dict)
    registered: Mapping[int, np.ndarray] = field(default_factory=dict)


class Segmenter(ABC):
    """A method, ready for tasks. Results depend on the task and the options alone."""

    unit: str

    @abstractmethod
    def n_units(self, tasks: Sequence[Task], options: EvaluationOptions) -> int:
        """Return how many units of work some tasks are, for a progress bar."""

    @abstractmethod
    def by_protocol(self, task: Task, options: EvaluationOptions, whole: WholeVolumeOptions,
                    bar: tqdm.tqdm | None = None) -> list[Prediction]:
        """Return the protocol's prediction of every support and class that both the support and the query hold."""

    @abstractmethod
    def members(self, task: Task, whole: WholeVolumeOptions, bar: tqdm.tqdm | None = None) -> list[Member]:
        """Return what each support says of the whole query, without a look at its labels."""

    def over_whole_volume(self, task: Task, whole: WholeVolumeOptions, bar: tqdm.tqdm | None = None) -> list[WholePrediction]:
        """Return the prediction of every support and every class that it holds, over the whole query.

        A voxel that several classes claim goes to the likeliest.
        """
        return [prediction for member in self.members(task, whole, bar)
                for prediction in whole_predictions(task.query, member, whole)]

    @abstractmethod
    def keep(self, support: Volume) -> None:
        """Say that a volume will be a support of several queries. What is made of it once is then kept."""

    @abstractmethod
    def prepare(self, supports: Sequence[Volume]) -> None:
        """Do now what is done once for a support, which otherwise the first query does."""

    @abstractmethod
    def release(self, query: Volume) -> None:
        """Let go of what was kept of a query."""


def whole_predictions(query: Volume, member: Member, whole: WholeVolumeOptions) -> list[WholePrediction]:
    """Turn a member into a mask for each class: smoothed, joined into one label map, the largest part of each kept."""
    probs = {label: smooth_along_z(class_probs, whole.smooth_z) for label, class_probs in member.probs.items()}
    label_map = to_label_map(probs.items(), query.image.shape)
    if whole.largest_component:
        label_map = largest_components(label_map)
    return [WholePrediction(label, member.support, query, probs[label], label_map == label, member.confidence.get(label))
            for label in probs]


class SliceSegmenter(Segmenter):
    """A network that segments slices; every slice is encoded once.

    Args:
        encoder: holds the network.
    """

    unit = "slice"

    def __init__(self, encoder: SliceEncoder):
        self.encoder = encoder

    def n_units(self, tasks: Sequence[Task], options: EvaluationOptions) -> int:
        """Return how many slices have to be encoded."""
        return self.encoder.n_new(needed_slices(tasks, options))

    def by_protocol(self, task: Task, options: EvaluationOptions, whole: WholeVolumeOptions,
                    bar: tqdm.tqdm | None = None) -> list[Prediction]:
        """See Segmenter."""
        return segment_by_protocol(self.encoder, task, options.n_part, options.every_slice, bar)

    def members(self, task: Task, whole: WholeVolumeOptions, bar: tqdm.tqdm | None = None) -> list[Member]:
        """See Segmenter."""
        return [Member(support, probs) for support, probs in probabilities(self.encoder, task, whole, bar)]

    def keep(self, support: Volume) -> None:
        """See Segmenter."""
        self.encoder.supports.add(support.name)

    def prepare(self, supports: Sequence[Volume]) -> None:
        """Encode some supports."""
        with progress(total=sum(len(support.image) for support in supports), desc="supports", unit="slice") as bar:
            for support in supports:
                self.encoder.encode_whole(support, bar)

    def release(self, query: Volume) -> None:
        """Forget a query's features, unless it is a support as well."""
        self.encoder.release(query)


class VolumeSegmenter(Segmenter):
    """A method that segments whole volumes. The protocol scores the slices that it asks for, of the same label map.

    Args:
        device: where it computes.
    """

    unit = "pair"

    def __init__(self, model: VolumeModel, device: torch.device):
        self.model, self.device = model.to(device).eval(), device
        self._last: tuple[str, list[Member]] | None = None      # of the last query

    def n_units(self, tasks: Sequence[Task], options: EvaluationOptions) -> int:
        """Return the number of pairs of support and query."""
        return sum(len(task.supports) for task in tasks)

    def by_protocol(self, task: Task, options: EvaluationOptions, whole: WholeVolumeOptions,
                    bar: tqdm.tqdm | None = None) -> list[Prediction]:
        """See Segmenter."""
        found = []
        for prediction in self.over_whole_volume(task, whole, bar):
            of_query = parts(prediction.support.label_map, task.query.label_map, prediction.label, options.n_part,
                             options.every_slice)
            if of_query:
                found.append(Prediction.scored(prediction.label, prediction.support, task.query, of_query,
                                               only_slices(prediction.mask, of_query)))
        return found

    def members(self, task: Task, whole: WholeVolumeOptions, bar: tqdm.tqdm | None = None) -> list[Member]:
        """See Segmenter. Those of the last query are kept, as the protocol and the whole volume ask for the same."""
        if self._last is None or self._last[0] != task.query.name:
            self._last = task.query.name, [self._member(task, support, bar) for support in task.supports]
        return self._last[1]

    def keep(self, support: Volume) -> None:
        """Nothing is kept of supports."""

    def prepare(self, supports: Sequence[Volume]) -> None:
        """Nothing is made of a support alone."""

    def release(self, query: Volume) -> None:
        """Let go of a query's members."""
        self._last = None

    @torch.no_grad()
    def _member(self, task: Task, support: Volume, bar: tqdm.tqdm | None) -> Member:
        labels = [label for label in task.labels if (support.label_map == label).any()]
        if bar is not None:
            bar.update(1)
        if not labels:
            return Member(support, {})
        masks = torch.from_numpy(np.stack([support.label_map == label for label in labels]))
        found = self.model.segment_volume(self._tensor(task.query), self._tensor(support), masks.to(self.device),
                                          task.query.spacing_mm, support.spacing_mm)
        return Member(support, dict(zip(labels, found.probs.cpu().numpy(), strict=True)),
                      dict(zip(labels, found.confidence.tolist(), strict=True)),
                      dict(zip(labels, found.registered.cpu().numpy(), strict=True)))

    def _tensor(self, volume: Volume) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(volume.image, np.float32)).to(self.device)


def only_slices(mask: np.ndarray, of_query: Sequence[Part]) -> np.ndarray:
    """Return a (D, H, W) mask that is False in the slices that the protocol does not ask for."""
    result = np.zeros_like(mask)
    segmented = [z for part in of_query for z in part.query_slices]
    result[segmented] = mask[segmented]
    return result


def needed_slices(tasks: Sequence[Task], options: EvaluationOptions) -> list[tuple[Volume, set[int]]]:
    """Return the slices of each volume that the protocol looks at."""
    volumes: dict[str, Volume] = {}
    slices: dict[str, set[int]] = {}
    for task in tasks:
        wanted = {task.query.name: set(query_slices(task, options.every_slice))}
        for support in task.supports:
            of_label = slices_of_support(support, task.labels, options.n_part)
            wanted[support.name] = {z for of_one in of_label.values() for z in of_one}
        volumes |= {volume.name: volume for volume in (task.query, *task.supports)}
        for name, chosen in wanted.items():
            slices.setdefault(name, set()).update(chosen)
    return [(volumes[name], chosen) for name, chosen in slices.items()]
