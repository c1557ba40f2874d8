"""Encodes the slices of volumes, each of them once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any

import torch
import tqdm
from torch import nn

from dataloaders.volumes import Volume
from models.encoder import Features
from models.inference import for_inference
from util.segment.task import Task


class SliceEncoder:
    """Encodes slices with an inference copy of a model, and keeps what will be asked for again.

    Args:
        model: in the four-call interface; `self.model` is the copy, on `device` and in evaluation mode.
        batch_size: slices encoded at once.
        whole: encode all of a volume at the first look at it, and keep that until `release`. ResNet-101's features of a 256×256
            slice take 10 MB.
        tasks: what is going to be evaluated, which says what will be asked for again.
    """

    def __init__(self, model: nn.Module, device: torch.device, batch_size: int, *, whole: bool = False,
                 tasks: Sequence[Task] = ()):
        self.model = for_inference(model.to(device))
        self.device, self.batch_size, self.whole = device, batch_size, whole
        self.queries = {task.query.name for task in tasks}
        self.supports = {support.name for task in tasks for support in task.supports}
        self.slices: dict[tuple[str, int], Features] = {}       # of supports that are to be queries
        self.volumes: dict[str, Features] = {}                  # with `whole`
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what `make` gives, which is called once for each key: for what a support volume is turned into."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def n_new(self, wanted: Iterable[tuple[Volume, Collection[int]]]) -> int:
        """Return how many slices have still to be encoded for a look at some slices of each volume."""
        return sum(len(volume.image) * (volume.name not in self.volumes) if self.whole else len(self._new(volume, slices))
                   for volume, slices in wanted if slices)

    def _new(self, volume: Volume, slices: Collection[int]) -> list[int]:
        return [z for z in slices if (volume.name, z) not in self.slices]

    def encode(self, volume: Volume, slices: Sequence[int], bar: tqdm.tqdm | None = None) -> Features:
        """Return the features of some slices in their order; `bar` is moved on by every slice that passes through the network.

        With `whole`, slices come in the same batches, and are rounded alike, whatever else is evaluated.
        """
        if self.whole:
            features = self.encode_whole(volume, bar)
            return Features.cat([features[z:z + 1] for z in slices])
        new = self._new(volume, slices)
        encoded = dict(zip(new, self._through_network(volume, new, bar), strict=True))
        found = [self.slices.pop((volume.name, z)) if z not in encoded else encoded[z] for z in slices]
        return Features.cat(found)

    def encode_support(self, volume: Volume, slices: Sequence[int], bar: tqdm.tqdm | None = None) -> Features:
        """The same for slices of a support, which are kept where it is to be a query too."""
        features = self.encode(volume, slices, bar)
        if volume.name in self.queries and not self.whole:
            self.slices |= {(volume.name, z): features[k:k + 1] for k, z in enumerate(slices)}
        return features

    def encode_whole(self, volume: Volume, bar: tqdm.tqdm | None = None) -> Features:
        """Return the features of all slices, and keep them until `release`."""
        if volume.name not in self.volumes:
            self.volumes[volume.name] = Features.cat(self._through_network(volume, range(len(volume.image)), bar))
        return self.volumes[volume.name]

    def _through_network(self, volume: Volume, slices: Sequence[int], bar: tqdm.tqdm | None) -> list[Features]:
        features = []
        for batch in batches(slices, self.batch_size):
            images = torch.from_numpy(volume.image[batch]).unsqueeze(1).expand(-1, 3, -1, -1)
            encoded = self.model.encode(images.to(self.device))
            features += [encoded[k:k + 1] for k in range(len(batch))]
            if bar is not None:
                bar.update(len(batch))
        return features

    def release(self, volume: Volume) -> None:
        """Forget a query's features, unless it is a support as well."""
        if volume.name not in self.supports:
            self.volumes.pop(volume.name, None)


def batches(items: Sequence[int], size: int) -> list[list[int]]:
    """Cut items into lists of `size`, the last one shorter."""
    return [list(items[start:start + size]) for start in range(0, len(items), size)]
