"""Segmenters: they segment a query from its supports, by slices with a network or by whole volumes without training.

Both give one member per support: the probability of each class over the whole query.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
import tqdm
from typing_extensions import override

from qnet.dataloaders.folds import Part, parts
from qnet.dataloaders.volumes import Volume
from qnet.models.registration import PreparedScan, Registration
from qnet.models.settings import GuidedSettings
from qnet.models.spatial_prior import prior_logits, with_prior
from qnet.models.volume import Box, Guide, Outlines, Route, Support, VolumeModel, VolumeSegmentation, join_boxes
from qnet.util.base.distributed import share, shared
from qnet.util.base.pool import side_by_side
from qnet.util.base.progress import progress
from qnet.util.engine.predictions import Prediction, WholePrediction
from qnet.util.engine.protocol import query_slices, segment_by_protocol
from qnet.util.engine.slice_encoder import SliceEncoder
from qnet.util.engine.task import Task, label_map_of
from qnet.util.engine.whole_volume import largest_components, probabilities, smooth_along_z, to_label_map
from qnet.util.options.sections import EvaluationOptions, WholeVolumeOptions

T = TypeVar("T")


@dataclass(frozen=True)
class Member:
    """The segmentation of a query from one support.

    Attributes:
        support: the support.
        probs: by label that the support holds, the (D, H, W) probability.
        confidence: by label, 0 to 1; empty if the model has none.
        warped: (D, H, W) uint8 image of the support, registered to the query; None if the model registers nothing.
        borders: by label, how the border was drawn; empty unless the model registers scans.
        evidence: by label, the numbers that the confidence is made of (`qnet.models.confidence.EVIDENCE`).
        wide_mm: spacing of the grid on which the whole query was registered.
        carried: by label, (D, H, W) uint8, 255 times the probability that registration carried over, before borders were drawn;
            empty unless the model registers scans.
    """

    support: Volume
    probs: Mapping[int, np.ndarray]
    confidence: Mapping[int, float] = field(default_factory=dict)
    warped: np.ndarray | None = None
    borders: Mapping[int, str] = field(default_factory=dict)
    evidence: Mapping[int, Sequence[float]] = field(default_factory=dict)
    wide_mm: float | None = None
    carried: Mapping[int, np.ndarray] = field(default_factory=dict)


def joined(members: Sequence[Member]) -> Member:
    """Return one member with the classes of several, which have no class in common."""
    first, *others = members
    for other in others:
        first = replace(first, probs={**first.probs, **other.probs}, confidence={**first.confidence, **other.confidence},
                        borders={**first.borders, **other.borders}, evidence={**first.evidence, **other.evidence},
                        carried={**first.carried, **other.carried})
    return first


class Segmenter(ABC):
    """Segments tasks with a model. Results depend only on the task and the options.

    Attributes:
        unit: name of the unit of work in progress bars.
        whole: how whole volumes are segmented.
    """

    unit: str
    whole: WholeVolumeOptions

    @abstractmethod
    def n_units(self, task: Task, options: EvaluationOptions) -> int:
        """Return the number of units of work in a task, for a progress bar. What `prepare` did is not among them."""

    @abstractmethod
    def by_protocol(self, task: Task, options: EvaluationOptions,
                    bar: tqdm.tqdm | None = None) -> list[Prediction]:
        """Return the protocol's prediction for every support and every class that support and query both hold."""

    @abstractmethod
    def members(self, task: Task, bar: tqdm.tqdm | None = None) -> list[Member]:
        """Return the member of each support, over the whole query and without the query's labels."""

    def joint(self, task: Task, supports: Sequence[Volume] = ()) -> Member | None:      # noqa: ARG002 - for those that fuse
        """Return the member of several supports of a task together; None: the mean of their members takes its place.

        Args:
            supports: some of the task's; none given: all of them.
        """
        return None

    def over_whole_volume(self, task: Task, bar: tqdm.tqdm | None = None) -> list[WholePrediction]:
        """Return the prediction for every support and every class that it holds, over the whole query.

        Where several classes claim a voxel, the most probable one gets it.
        """
        return [prediction for member in self.members(task, bar)
                for prediction in whole_predictions(task.query, member, self.whole)]

    def warped_supports(self, task: Task) -> dict[str, np.ndarray]:       # noqa: ARG002 - for those that register
        """Return the (D, H, W) uint8 image of each support, registered to the query; empty if the model registers nothing."""
        return {}

    @abstractmethod
    def keep(self, support: Volume) -> None:
        """Announce a support of several queries, so that what is computed from it once is kept."""

    def prepare(self, supports: Sequence[tuple[Volume, Sequence[int]]], stones: Sequence[Volume] = ()) -> None:
        """Do all of `preparing`, with a progress bar."""
        with progress(total=len(stones), desc="stepping stones", unit="stone", disable=not stones) as bar:
            for _ in self.preparing(supports, stones):
                bar.update()

    @abstractmethod
    def preparing(self, supports: Sequence[tuple[Volume, Sequence[int]]], stones: Sequence[Volume] = ()) -> Iterator[Volume]:
        """Compute now what is computed once for all queries, and yield each stone that is outlined. Else the first query does so.

        Several processes share out this work, and all get the results. Every process must call this with the same volumes, and
        take all stones.

        Args:
            supports: each with the slices of it that are needed.
            stones: the stepping stones of all queries.
        """

    @abstractmethod
    def release(self, query: Volume) -> None:
        """Drop what was kept of a query."""

    def finish(self) -> None:       # noqa: B027 - for those that keep something
        """Remove what was kept on disk in case of a kill. Called when all queries are done."""


def whole_predictions(query: Volume, member: Member, whole: WholeVolumeOptions) -> list[WholePrediction]:
    """Return the prediction for each class of a member: smoothed, joined into one label map, and cleaned.

    A class of which nothing is left has the confidence 0, if the member has confidences.
    """
    probs = {label: smooth_along_z(class_probs, whole.smooth_z) for label, class_probs in member.probs.items()}
    label_map = to_label_map(probs.items(), query.image.shape)
    if whole.largest_component:
        label_map = largest_components(label_map, [label_map_of(member.support)])
    masks = {label: label_map == label for label in probs}
    return [WholePrediction(label, member.support, query, probs[label], mask,
                            member.confidence.get(label) if mask.any() or not member.confidence else 0.0)
            for label, mask in masks.items()]


class SliceSegmenter(Segmenter):
    """Segments slices with a network. Every slice is encoded once.

    Args:
        encoder: holds the network.
        whole: how whole volumes are segmented.
    """

    unit = "slice"

    def __init__(self, encoder: SliceEncoder, whole: WholeVolumeOptions):
        self.encoder, self.whole = encoder, whole

    def n_units(self, task: Task, options: EvaluationOptions) -> int:
        """Return the number of slices of the query that are encoded, now or before."""
        return len(task.query.image) if self.encoder.whole else len(query_slices(task, options.every_slice))

    def by_protocol(self, task: Task, options: EvaluationOptions,
                    bar: tqdm.tqdm | None = None) -> list[Prediction]:
        """See Segmenter."""
        return segment_by_protocol(self.encoder, task, options.n_part, options.every_slice, bar)

    def members(self, task: Task, bar: tqdm.tqdm | None = None) -> list[Member]:
        """See Segmenter."""
        return [Member(support, probs) for support, probs in probabilities(self.encoder, task, self.whole, bar)]

    def keep(self, support: Volume) -> None:
        """See Segmenter."""
        self.encoder.supports.add(support)

    @override
    def preparing(self, supports: Sequence[tuple[Volume, Sequence[int]]], stones: Sequence[Volume] = ()) -> Iterator[Volume]:
        """Encode the supports. Stones are of no use to slices."""
        self.encoder.encode_supports(supports)
        yield from ()

    def release(self, query: Volume) -> None:
        """Drop the features of a query, unless it is also a support."""
        self.encoder.release(query)


class WholeSegmenter(Segmenter):
    """Segments whole volumes. The protocol's slices are taken from the same label map.

    Args:
        whole: how whole volumes are segmented.
    """

    def __init__(self, whole: WholeVolumeOptions):
        self.whole = whole
        self._last: tuple[Task, list[Member]] | None = None
        self._predicted: tuple[Task, list[WholePrediction]] | None = None

    @abstractmethod
    def _members(self, task: Task, bar: tqdm.tqdm | None) -> list[Member]:
        """Return what `members` does. It is called once for a task."""

    def by_protocol(self, task: Task, options: EvaluationOptions,
                    bar: tqdm.tqdm | None = None) -> list[Prediction]:
        """See Segmenter."""
        found = []
        for prediction in self.over_whole_volume(task, bar):
            of_query = parts(label_map_of(prediction.support), label_map_of(task.query), prediction.label, options.n_part,
                             options.every_slice)
            if of_query:
                found.append(Prediction.scored(prediction.label, prediction.support, task.query, of_query,
                                               only_slices(prediction.mask, of_query)))
        return found

    @torch.no_grad()
    def members(self, task: Task, bar: tqdm.tqdm | None = None) -> list[Member]:
        """See Segmenter. Those of the last task are kept until `release`: protocol and whole volume both need them."""
        if self._last is None or self._last[0] is not task:
            self._last = task, self._members(task, bar)
        return self._last[1]

    def over_whole_volume(self, task: Task, bar: tqdm.tqdm | None = None) -> list[WholePrediction]:
        """See Segmenter. Kept as the members are."""
        if self._predicted is None or self._predicted[0] is not task:
            self._predicted = task, super().over_whole_volume(task, bar)
        return self._predicted[1]

    @override
    def release(self, query: Volume) -> None:
        """Drop what was found of a query."""
        self._last = self._predicted = None


class VolumeSegmenter(WholeSegmenter):
    """Segments whole volumes without training.

    What concerns supports and stepping stones alone is computed once for all queries, and what concerns a query once for all
    supports.

    Args:
        model: segments a volume from a volume.
        device: where the model computes.
        whole: how whole volumes are segmented.
    """

    unit = "registration"

    def __init__(self, model: VolumeModel, device: torch.device, whole: WholeVolumeOptions):
        super().__init__(whole)
        self.model, self.device = model.to(device).eval(), device
        self._registered: tuple[Task, dict[Volume, Guide], Box | None] | None = None    # guides by supports
        self._scans: dict[Volume, PreparedScan] = {}
        self._supports: dict[Volume, tuple[list[int], Support | None]] = {}      # each with its labels
        self._stones: dict[tuple[Volume, Volume], Outlines | None] = {}          # by stone and support

    @override
    def n_units(self, task: Task, options: EvaluationOptions) -> int:
        """Return the number of registrations with the query: wide and zoomed ones to it, and those back to the supports."""
        return 2 * (len(task.supports) + len(task.stones)) + len(task.supports)

    def warped_supports(self, task: Task) -> dict[str, np.ndarray]:
        """See Segmenter."""
        return {member.support.name: member.warped for member in self.members(task) if member.warped is not None}

    def keep(self, support: Volume) -> None:
        """Do nothing: supports are kept anyway."""

    def preparing(self, supports: Sequence[tuple[Volume, Sequence[int]]], stones: Sequence[Volume] = ()) -> Iterator[Volume]:
        """Outline the stepping stones. Of several processes, each does so for its share of them."""
        for support, _ in supports:
            self._support(support)
        pairs = [(stone, support) for stone in stones for support, _ in supports]
        found = self._together(partial(self._on_stone, *pair) for pair in share(pairs))     # in turn, as `shared` asks for them
        jobs = [found.__next__] * len(pairs)
        for (stone, support), outlines in zip(pairs, shared(jobs, self.device), strict=True):
            self._stones[stone, support] = outlines
            if support is supports[-1][0]:
                yield stone

    def release(self, query: Volume) -> None:
        """Drop what was found of a query."""
        super().release(query)
        self._registered = None
        if query not in self._supports:
            self._scans.pop(query, None)

    @torch.no_grad()
    def joint(self, task: Task, supports: Sequence[Volume] = ()) -> Member | None:
        """See Segmenter. Each class comes from those supports that hold it, by all their routes."""
        all_guides, box = self._guides(task)
        guides = {support: guide for support, guide in all_guides.items() if support in (supports or task.supports)}
        if len(guides) < 2 or box is None:
            return None
        held = {support: self._supports[support][0] for support in guides}
        groups: dict[tuple[Volume, ...], list[int]] = {}
        for label in task.labels:
            if holders := tuple(support for support in guides if label in held[support]):
                groups.setdefault(holders, []).append(label)
        parts = []
        for holders, labels in groups.items():
            of_labels = [guides[support].of_classes([held[support].index(label) for label in labels]) for support in holders]
            found = self.model.segment(self._scan(task.query), of_labels, box)
            parts.append(self._member(task, holders[0], labels, found))
        return joined(parts)

    def _members(self, task: Task, bar: tqdm.tqdm | None) -> list[Member]:
        guides, box = self._guides(task, bar)
        return [self._member(task, volume, self._supports[volume][0],
                             self.model.segment(self._scan(task.query), [guides[volume]], box))
                if box is not None and volume in guides else self._nothing(task, volume) for volume in task.supports]

    def _guides(self, task: Task, bar: tqdm.tqdm | None = None) -> tuple[dict[Volume, Guide], Box | None]:
        """Return how each support with classes reaches the query, and the box of the query that holds all.

        The box is None, and there are no guides, if nothing reaches it. Those of the last task are kept until `release`.
        """
        if self._registered is None or self._registered[0] is not task:
            self._registered = (task, *self._register(task, bar))
        return self._registered[1:]

    def _register(self, task: Task, bar: tqdm.tqdm | None) -> tuple[dict[Volume, Guide], Box | None]:
        query, supports = self._scan(task.query), [self._support(support, task.labels) for support in task.supports]
        known = [(volume, support) for volume, support in zip(task.supports, supports, strict=True) if support is not None]
        missing = [(stone, volume) for volume, _ in known for stone in task.stones
                   if (stone, volume) not in self._stones]
        self._stones |= zip(missing, self._together(partial(self._on_stone, *pair) for pair in missing), strict=True)
        others = [volume for volume, _ in known] + list(task.stones)
        wide = self._found(others, (partial(query.register, self._scan(other)) for other in others), bar)
        boxes = [box for volume, _ in known if (box := self.model.box(query, self._routes(volume, task.stones, wide)))]
        if not boxes:
            return {}, None
        box = join_boxes(boxes)
        zoomed = self._found(others, (partial(query.zoom, self._scan(other), wide[other], box) for other in others), bar)
        back = self._found([volume for volume, _ in known],
                             (partial(self.model.back, query, support) for _, support in known), bar)
        query.release()
        return {volume: Guide(support, self._routes(volume, task.stones, zoomed), back[volume])
                for volume, support in known}, box

    def _found(self, volumes: Sequence[Volume], jobs: Iterable[Callable[[], Registration]],
                 bar: tqdm.tqdm | None) -> dict[Volume, Registration]:
        return dict(zip(volumes, self._together(jobs, bar), strict=True))

    def _routes(self, support: Volume, stones: Sequence[Volume], found: Mapping[Volume, Registration]) -> list[Route]:
        """Return the routes from a query to a support, by its registrations to the scans: the direct one, and all over stones."""
        direct = self._support(support)
        assert direct is not None
        over = [(stone, self._stones[stone, support]) for stone in stones]
        return [Route(direct.outlines, found[support]),
                *(Route(outlines, found[stone]) for stone, outlines in over if outlines is not None)]

    def _on_stone(self, stone: Volume, support: Volume) -> Outlines | None:
        outlined, scan = self._support(support), self._scan(stone)
        if outlined is None:
            return None
        try:
            return self.model.on_stone(scan, outlined, scan.register(outlined.scan))
        finally:
            scan.release()

    def _support(self, volume: Volume, labels: Sequence[int] | None = None) -> Support | None:
        """Return an outlined scan, as it was asked for first; None if it has none of the labels. Without labels: with all."""
        if volume not in self._supports:
            label_map = label_map_of(volume)
            held = [label for label in (np.unique(label_map[label_map > 0]).tolist() if labels is None else labels)
                    if (label_map == label).any()]
            masks = torch.from_numpy(np.stack([label_map == label for label in held])).to(self.device) if held else None
            self._supports[volume] = (held, None if masks is None else self.model.support(self._scan(volume), masks))
        return self._supports[volume][1]

    def _scan(self, volume: Volume) -> PreparedScan:
        if volume not in self._scans:
            image = np.stack([volume.image, *volume.others]) if volume.others else np.ascontiguousarray(volume.image)
            tensor = torch.from_numpy(image.astype(np.float32, copy=False)).to(self.device)
            self._scans[volume] = self.model.prepared(tensor, volume.spacing_mm)
        return self._scans[volume]

    def _member(self, task: Task, support: Volume, labels: Sequence[int], found: VolumeSegmentation) -> Member:
        def by_label(values: Iterable[T]) -> dict[int, T]:
            return {label: value for label, value in zip(labels, values, strict=True) if label in task.labels}

        def bytes_of(maps: torch.Tensor) -> np.ndarray:
            return (255 * maps).round().to(torch.uint8).cpu().numpy()

        return Member(support, by_label(found.probs.cpu().numpy()), by_label(found.confidence.tolist()), bytes_of(found.warped),
                      by_label(found.borders), by_label(found.evidence.tolist()), self._scan(task.query).wide_mm,
                      by_label(bytes_of(found.registered)))

    def _nothing(self, task: Task, support: Volume) -> Member:
        """The member of a support whose outlines reach the query nowhere."""
        labels = [label for label in self._supports[support][0] if label in task.labels]
        empty = {label: np.zeros(task.query.image.shape, np.float32) for label in labels}
        return Member(support, empty, dict.fromkeys(labels, 0.0), wide_mm=self._scan(task.query).wide_mm)

    def _together(self, jobs: Iterable[Callable[[], T]], bar: tqdm.tqdm | None = None) -> Iterator[T]:
        """Do jobs, on a CPU side by side, and yield the results in their order."""
        for result in (job() for job in jobs) if self.device.type != "cpu" else side_by_side(jobs):
            if bar is not None:
                bar.update(1)
            yield result


class PriorSegmenter(SliceSegmenter):
    """Segments slices with a network, and adds a spatial prior: the support's label map, registered to the query.

    Args:
        encoder: holds the network.
        registration: registers supports to queries.
        settings: how the prior is blurred and weighed.
    """

    def __init__(self, encoder: SliceEncoder, registration: VolumeSegmenter, settings: GuidedSettings):
        super().__init__(encoder, registration.whole)
        self.registration, self.settings = registration, settings

    def by_protocol(self, task: Task, options: EvaluationOptions,
                    bar: tqdm.tqdm | None = None) -> list[Prediction]:
        """See Segmenter."""
        priors = {(member.support, label): logits for member in self.registration.members(task)
                  for label, logits in self._logits(member, task.query).items()}
        return segment_by_protocol(self.encoder, task, options.n_part, options.every_slice, bar, priors)

    def members(self, task: Task, bar: tqdm.tqdm | None = None) -> list[Member]:
        """See Segmenter. The confidence is that of the registration."""
        registered = {member.support: member for member in self.registration.members(task)}
        found = []
        for member in super().members(task, bar):
            of_registration = registered[member.support]
            logits = self._logits(of_registration, task.query)
            probs = {label: with_prior(torch.from_numpy(of_label), logits[label].cpu()).numpy()
                     for label, of_label in member.probs.items()}
            found.append(Member(member.support, probs, of_registration.confidence, of_registration.warped))
        return found

    def warped_supports(self, task: Task) -> dict[str, np.ndarray]:
        """See Segmenter."""
        return self.registration.warped_supports(task)

    def preparing(self, supports: Sequence[tuple[Volume, Sequence[int]]], stones: Sequence[Volume] = ()) -> Iterator[Volume]:
        """Encode the supports, and register them to the stepping stones."""
        yield from super().preparing(supports, stones)
        yield from self.registration.preparing(supports, stones)

    def release(self, query: Volume) -> None:
        """Drop the features of a query, unless it is also a support, and what was registered to it."""
        super().release(query)
        self.registration.release(query)

    def _logits(self, member: Member, query: Volume) -> dict[int, torch.Tensor]:
        """Return the (D, H, W) logits of the prior of each label, on the device."""
        if not member.probs:
            return {}
        assert member.wide_mm is not None      # a method that registers says it
        registered = torch.from_numpy(np.stack(list(member.probs.values()))).to(self.encoder.device)
        return dict(zip(member.probs, prior_logits(registered, query.spacing_mm, member.wide_mm, self.settings), strict=True))


def only_slices(mask: np.ndarray, of_query: Sequence[Part]) -> np.ndarray:
    """Return a (D, H, W) mask that is False outside the query slices of some parts."""
    result = np.zeros_like(mask)
    segmented = [z for part in of_query for z in part.query_slices]
    result[segmented] = mask[segmented]
    return result
