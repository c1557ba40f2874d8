"""Segmenters: they segment a query from its supports, by slices with a network or by whole volumes without training.

Both give one member per support: the probability of each class over the whole query.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import torch
import tqdm

from dataloaders.folds import Part, parts
from dataloaders.volumes import Volume
from models.guided import GuidedSettings
from models.registration import Registration
from models.spatial_prior import prior_logits, with_prior
from models.volume import VolumeModel
from util.base.distributed import share, shared
from util.base.pool import side_by_side
from util.base.progress import progress
from util.options.sections import EvaluationOptions, WholeVolumeOptions
from util.segment.predictions import Prediction, WholePrediction
from util.segment.protocol import query_slices, segment_by_protocol
from util.segment.slice_encoder import SliceEncoder
from util.segment.task import Task, label_map_of
from util.segment.whole_volume import largest_components, probabilities, smooth_along_z, to_label_map


@dataclass(frozen=True)
class Member:
    """The segmentation of a query from one support.

    Attributes:
        support: the support.
        probs: by label that the support holds, the (D, H, W) probability.
        confidence: by label, 0 to 1; empty if the model has none.
        warped: (D, H, W) uint8 image of the support, registered to the query; None if the model registers nothing.
    """

    support: Volume
    probs: Mapping[int, np.ndarray]
    confidence: Mapping[int, float] = field(default_factory=dict)
    warped: np.ndarray | None = None


class Segmenter(ABC):
    """Segments tasks with a model. Results depend only on the task and the options.

    Attributes:
        unit: name of the unit of work in progress bars.
    """

    unit: str

    @abstractmethod
    def n_units(self, task: Task, options: EvaluationOptions) -> int:
        """Return the number of units of work in a task, for a progress bar. What `prepare` did is not among them."""

    @abstractmethod
    def by_protocol(self, task: Task, options: EvaluationOptions, whole: WholeVolumeOptions,
                    bar: tqdm.tqdm | None = None) -> list[Prediction]:
        """Return the protocol's prediction for every support and every class that support and query both hold."""

    @abstractmethod
    def members(self, task: Task, whole: WholeVolumeOptions, bar: tqdm.tqdm | None = None) -> list[Member]:
        """Return the member of each support, over the whole query and without the query's labels."""

    def over_whole_volume(self, task: Task, whole: WholeVolumeOptions, bar: tqdm.tqdm | None = None) -> list[WholePrediction]:
        """Return the prediction for every support and every class that it holds, over the whole query.

        Where several classes claim a voxel, the most probable one gets it.
        """
        return [prediction for member in self.members(task, whole, bar)
                for prediction in whole_predictions(task.query, member, whole)]

    def warped_supports(self, task: Task, whole: WholeVolumeOptions) -> dict[str, np.ndarray]:
        """Return the (D, H, W) uint8 image of each support, registered to the query; empty if the model registers nothing."""
        return {}

    @abstractmethod
    def keep(self, support: Volume) -> None:
        """Announce a support of several queries, so that what is computed from it once is kept."""

    @abstractmethod
    def prepare(self, supports: Sequence[tuple[Volume, Sequence[int]]], stones: Sequence[Volume] = ()) -> None:
        """Compute now what is computed once for all queries. Otherwise the first query does so.

        Several processes share out this work, and all get the results. Every process must call this, with the same volumes.

        Args:
            supports: each with the slices of it that are needed.
            stones: the stepping stones of all queries.
        """

    @abstractmethod
    def release(self, query: Volume) -> None:
        """Drop what was kept of a query."""


def whole_predictions(query: Volume, member: Member, whole: WholeVolumeOptions) -> list[WholePrediction]:
    """Return the prediction for each class of a member: smoothed, joined into one label map, and cleaned."""
    probs = {label: smooth_along_z(class_probs, whole.smooth_z) for label, class_probs in member.probs.items()}
    label_map = to_label_map(probs.items(), query.image.shape)
    if whole.largest_component:
        label_map = largest_components(label_map)
    return [WholePrediction(label, member.support, query, probs[label], label_map == label, member.confidence.get(label))
            for label in probs]


class SliceSegmenter(Segmenter):
    """Segments slices with a network. Every slice is encoded once.

    Args:
        encoder: holds the network.
    """

    unit = "slice"

    def __init__(self, encoder: SliceEncoder):
        self.encoder = encoder

    def n_units(self, task: Task, options: EvaluationOptions) -> int:
        """Return the number of slices of the query that are encoded, now or before."""
        return len(task.query.image) if self.encoder.whole else len(query_slices(task, options.every_slice))

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

    def prepare(self, supports: Sequence[tuple[Volume, Sequence[int]]], stones: Sequence[Volume] = ()) -> None:
        """Encode the supports."""
        self.encoder.encode_supports(supports)

    def release(self, query: Volume) -> None:
        """Drop the features of a query, unless it is also a support."""
        self.encoder.release(query)


class VolumeSegmenter(Segmenter):
    """Segments whole volumes without training. The protocol's slices are taken from the same label map.

    A support is registered to the stepping stones once for all queries, and the stones to a query once for all supports.

    Args:
        model: segments a volume from a volume.
        device: where the model computes.
    """

    unit = "registration"

    def __init__(self, model: VolumeModel, device: torch.device):
        self.model, self.device = model.to(device).eval(), device
        self._last: tuple[Task, list[Member]] | None = None
        self._predicted: tuple[Task, list[WholePrediction]] | None = None
        self._registered: dict[tuple[str, str], Registration] = {}      # by names, from a scan to another

    def n_units(self, task: Task, options: EvaluationOptions) -> int:
        """Return the number of registrations to the query."""
        return len(task.supports) + len(task.stones)

    def by_protocol(self, task: Task, options: EvaluationOptions, whole: WholeVolumeOptions,
                    bar: tqdm.tqdm | None = None) -> list[Prediction]:
        """See Segmenter."""
        found = []
        for prediction in self.over_whole_volume(task, whole, bar):
            of_query = parts(label_map_of(prediction.support), label_map_of(task.query), prediction.label, options.n_part,
                             options.every_slice)
            if of_query:
                found.append(Prediction.scored(prediction.label, prediction.support, task.query, of_query,
                                               only_slices(prediction.mask, of_query)))
        return found

    def members(self, task: Task, whole: WholeVolumeOptions, bar: tqdm.tqdm | None = None) -> list[Member]:
        """See Segmenter. Those of the last task are kept until `release`: protocol and whole volume both need them."""
        if self._last is None or self._last[0] is not task:
            onto = [(task.query, task.supports + task.stones), *((stone, task.supports) for stone in task.stones)]
            new = {(fixed.name, moving.name): (fixed, moving) for fixed, others in onto for moving in others
                   if (fixed.name, moving.name) not in self._registered}
            self._registered |= zip(new, self._registrations(new.values(), bar), strict=True)
            self._last = task, [self._member(task, support) for support in task.supports]
        return self._last[1]

    def over_whole_volume(self, task: Task, whole: WholeVolumeOptions, bar: tqdm.tqdm | None = None) -> list[WholePrediction]:
        """See Segmenter. Kept as the members are."""
        if self._predicted is None or self._predicted[0] is not task:
            self._predicted = task, super().over_whole_volume(task, whole, bar)
        return self._predicted[1]

    def warped_supports(self, task: Task, whole: WholeVolumeOptions) -> dict[str, np.ndarray]:
        """See Segmenter."""
        return {member.support.name: member.warped for member in self.members(task, whole) if member.warped is not None}

    def keep(self, support: Volume) -> None:
        """Do nothing: nothing is kept of supports."""

    def prepare(self, supports: Sequence[tuple[Volume, Sequence[int]]], stones: Sequence[Volume] = ()) -> None:
        """Register the supports to the stepping stones. Of several processes, each does so for its share of the stones."""
        pairs = [(stone, support) for stone in stones for support, _ in supports]
        own = share(pairs)      # which each process takes in turn, as `shared` asks for them
        with progress(total=len(own), desc="stepping stones", unit=self.unit, disable=not own) as bar:
            found = self._registrations(own, bar)
            for (stone, support), registration in zip(pairs, shared([found.__next__] * len(pairs), self.device), strict=True):
                self._registered[stone.name, support.name] = registration

    def release(self, query: Volume) -> None:
        """Drop what was found of a query, and its registrations."""
        self._last = self._predicted = None
        self._registered = {names: found for names, found in self._registered.items() if names[0] != query.name}

    @torch.no_grad()
    def _member(self, task: Task, support: Volume) -> Member:
        label_map = label_map_of(support)
        labels = [label for label in task.labels if (label_map == label).any()]
        if not labels:
            return Member(support, {})
        chains = [[task.query, support], *([task.query, stone, support] for stone in task.stones)]
        ways = [[self._registered[one.name, other.name] for one, other in pairwise(chain)] for chain in chains]
        masks = torch.from_numpy(np.stack([label_map == label for label in labels]))
        found = self.model.segment_volume(self._tensor(task.query), self._tensor(support), masks.to(self.device),
                                          task.query.spacing_mm, ways)
        return Member(support, dict(zip(labels, found.probs.cpu().numpy(), strict=True)),
                      dict(zip(labels, found.confidence.tolist(), strict=True)),
                      (255 * found.warped).round().to(torch.uint8).cpu().numpy())

    def _registrations(self, pairs: Iterable[tuple[Volume, Volume]], bar: tqdm.tqdm | None) -> Iterator[Registration]:
        """Yield the registration of the second scan of each pair to the first. Pairs of the same first follow one another."""
        registrations = (job() for job in self._jobs(pairs)) if self.device.type != "cpu" else side_by_side(self._jobs(pairs))
        for registration in registrations:
            if bar is not None:
                bar.update(1)
            yield registration

    def _jobs(self, pairs: Iterable[tuple[Volume, Volume]]) -> Iterator[Callable[[], Registration]]:
        last = None
        for first, moving in pairs:
            if first is not last:
                fixed, last = self.model.fixed(self._tensor(first), first.spacing_mm), first
            yield partial(fixed.register, self._tensor(moving), moving.spacing_mm)

    def _tensor(self, volume: Volume) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(volume.image, np.float32)).to(self.device)


class PriorSegmenter(SliceSegmenter):
    """Segments slices with a network, and adds a spatial prior: the support's label map, registered to the query.

    Args:
        encoder: holds the network.
        registration: registers supports to queries.
        settings: how the prior is blurred and weighed.
    """

    def __init__(self, encoder: SliceEncoder, registration: VolumeSegmenter, settings: GuidedSettings):
        super().__init__(encoder)
        self.registration, self.settings = registration, settings

    def by_protocol(self, task: Task, options: EvaluationOptions, whole: WholeVolumeOptions,
                    bar: tqdm.tqdm | None = None) -> list[Prediction]:
        """See Segmenter."""
        priors = {(member.support.name, label): logits for member in self.registration.members(task, whole)
                  for label, logits in self._logits(member, task.query).items()}
        return segment_by_protocol(self.encoder, task, options.n_part, options.every_slice, bar, priors)

    def members(self, task: Task, whole: WholeVolumeOptions, bar: tqdm.tqdm | None = None) -> list[Member]:
        """See Segmenter. The confidence is that of the registration."""
        registered = {member.support.name: member for member in self.registration.members(task, whole)}
        found = []
        for member in super().members(task, whole, bar):
            of_registration = registered[member.support.name]
            logits = self._logits(of_registration, task.query)
            probs = {label: with_prior(torch.from_numpy(of_label), logits[label].cpu()).numpy()
                     for label, of_label in member.probs.items()}
            found.append(Member(member.support, probs, of_registration.confidence, of_registration.warped))
        return found

    def warped_supports(self, task: Task, whole: WholeVolumeOptions) -> dict[str, np.ndarray]:
        """See Segmenter."""
        return self.registration.warped_supports(task, whole)

    def prepare(self, supports: Sequence[tuple[Volume, Sequence[int]]], stones: Sequence[Volume] = ()) -> None:
        """Encode the supports, and register them to the stepping stones."""
        super().prepare(supports, stones)
        self.registration.prepare(supports, stones)

    def release(self, query: Volume) -> None:
        """Drop the features of a query, unless it is also a support, and what was registered to it."""
        super().release(query)
        self.registration.release(query)

    def _logits(self, member: Member, query: Volume) -> dict[int, torch.Tensor]:
        """Return the (D, H, W) logits of the prior of each label, on the device."""
        if not member.probs:
            return {}
        registered = torch.from_numpy(np.stack(list(member.probs.values()))).to(self.encoder.device)
        return dict(zip(member.probs, prior_logits(registered, query.spacing_mm, self.settings), strict=True))


def only_slices(mask: np.ndarray, of_query: Sequence[Part]) -> np.ndarray:
    """Return a (D, H, W) mask that is False outside the query slices of some parts."""
    result = np.zeros_like(mask)
    segmented = [z for part in of_query for z in part.query_slices]
    result[segmented] = mask[segmented]
    return result
