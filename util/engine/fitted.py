"""A segmenter that trains a network on each support when scans are segmented, and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import tqdm
from torch import nn
from typing_extensions import override

from qnet.dataloaders.volumes import Volume
from qnet.models.lowshot_unet import LowShotUNet
from qnet.util.base.progress import progress
from qnet.util.engine.segmenters import Member, WholeSegmenter
from qnet.util.engine.task import Task, label_map_of
from qnet.util.options.sections import EvaluationOptions, WholeVolumeOptions


class FittedSegmenter(WholeSegmenter):
    """Segments whole volumes with a network that is trained on the support alone. It is trained once for all queries.

    Args:
        model: trains networks.
        whole: how whole volumes are segmented.
    """

    unit = "slice"

    def __init__(self, model: LowShotUNet, whole: WholeVolumeOptions):
        super().__init__(whole)
        self.model = model
        self._networks: dict[Volume, tuple[list[int], nn.Module | None]] = {}       # each with its labels

    @override
    def n_units(self, task: Task, options: EvaluationOptions) -> int:
        """Return the number of slices of the query, once for each support."""
        return len(task.query.image) * len(task.supports)

    @override
    def keep(self, support: Volume) -> None:
        """Do nothing: networks are kept anyway."""

    @override
    def preparing(self, supports: Sequence[tuple[Volume, Sequence[int]]], stones: Sequence[Volume] = ()) -> Iterator[Volume]:
        """Train a network on each support. Stones are of no use."""
        for support, _ in supports:
            self._network(support)
        yield from ()

    def _members(self, task: Task, bar: tqdm.tqdm | None) -> list[Member]:
        return [self._member(task, support, bar) for support in task.supports]

    def _member(self, task: Task, support: Volume, bar: tqdm.tqdm | None) -> Member:
        labels, network = self._network(support)
        if bar is not None:
            bar.update(len(task.query.image))
        if network is None:
            return Member(support, {})
        image = torch.from_numpy(np.ascontiguousarray(task.query.image, np.float32))
        probs = self.model.probabilities(network, image).numpy()
        return Member(support, {label: of_label for label, of_label in zip(labels, probs, strict=True) if label in task.labels})

    def _network(self, support: Volume) -> tuple[list[int], nn.Module | None]:
        """Return the labels that a support holds, and the network; None if it holds none."""
        if support not in self._networks:
            label_map = label_map_of(support)
            labels = np.unique(label_map[label_map > 0]).tolist()
            classes = torch.from_numpy(np.searchsorted([0, *labels], label_map).astype(np.int64))
            image = torch.from_numpy(np.ascontiguousarray(support.image, np.float32))
            network = None
            if labels:
                with progress(total=self.model.settings.n_steps, desc=f"training on {support.name}", unit="step") as bar:
                    network = self.model.trained(image, classes, len(labels), bar.update)
            self._networks[support] = labels, network
        return self._networks[support]
