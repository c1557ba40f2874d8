"""A segmenter with a network that reads whole volumes at once, in 3D."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import tqdm
from torch import Tensor
from typing_extensions import override

from qnet.dataloaders.folds import parts
from qnet.dataloaders.volumes import Volume
from qnet.models.base import FewShotModel
from qnet.util.engine.predictions import Prediction
from qnet.util.engine.segmenters import Member, WholeSegmenter, only_slices
from qnet.util.engine.task import Task, label_map_of
from qnet.util.options.sections import EvaluationOptions, WholeVolumeOptions


class StackSegmenter(WholeSegmenter):
    """Segments a query volume from the prototypes of whole support volumes. Each volume is one stack of all its slices.

    Args:
        model: reads stacks.
        device: where it computes.
        whole: how whole volumes are segmented.
    """

    unit = "volume"

    def __init__(self, model: FewShotModel, device: torch.device, whole: WholeVolumeOptions):
        super().__init__(whole)
        self.model, self.device = model.to(device).eval(), device
        self._prototypes: dict[Volume, dict[int, Tensor]] = {}      # each by label

    @override
    def n_units(self, task: Task, options: EvaluationOptions) -> int:
        """Return 1: the query is encoded once for all supports."""
        return 1

    @override
    def by_protocol(self, task: Task, options: EvaluationOptions, bar: tqdm.tqdm | None = None) -> list[Prediction]:
        """See Segmenter. Each class is segmented by itself, as by networks that read slices."""
        found = []
        for member in self.members(task, bar):
            for label, probs in member.probs.items():
                of_query = parts(label_map_of(member.support), label_map_of(task.query), label, options.n_part,
                                 options.every_slice)
                if of_query:
                    found.append(Prediction.scored(label, member.support, task.query, of_query,
                                                   only_slices(probs > 0.5, of_query)))
        return found

    @override
    def keep(self, support: Volume) -> None:
        """Do nothing: prototypes are kept anyway."""

    @override
    def preparing(self, supports: Sequence[tuple[Volume, Sequence[int]]], stones: Sequence[Volume] = ()) -> Iterator[Volume]:
        """Make the prototypes of the supports. Stones are of no use."""
        for support, _ in supports:
            self._of_support(support)
        yield from ()

    def _members(self, task: Task, bar: tqdm.tqdm | None) -> list[Member]:
        query = self.model.encode(self._stack(task.query))
        if bar is not None:
            bar.update()
        return [Member(support, {label: self.model.segment(query, prototypes)[0, 1].float().cpu().numpy()
                                 for label, prototypes in self._of_support(support).items() if label in task.labels})
                for support in task.supports]

    @torch.no_grad()
    def _of_support(self, support: Volume) -> dict[int, Tensor]:
        """Return the prototypes of each class that a support holds."""
        if support not in self._prototypes:
            label_map = label_map_of(support)
            features = self.model.encode(self._stack(support))
            self._prototypes[support] = {
                label: self.model.prototypes(features, torch.from_numpy((label_map == label)[None, None]).to(self.device))
                for label in np.unique(label_map[label_map > 0]).tolist()}
        return self._prototypes[support]

    def _stack(self, volume: Volume) -> Tensor:
        """Return a volume as (1, 3, D, H, W)."""
        image = torch.from_numpy(np.ascontiguousarray(volume.image, np.float32)).to(self.device)
        return image.expand(1, 3, *image.shape)
