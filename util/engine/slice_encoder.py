"""Encodes the slices of volumes, each slice once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
import tqdm

from qnet.dataloaders.volumes import Volume
from qnet.models.base import FewShotModel
from qnet.models.encoder import Features
from qnet.models.inference import for_inference
from qnet.util.base.distributed import rank, shared, world_size
from qnet.util.base.progress import progress


class SliceEncoder:
    """Encodes slices with an inference copy of a model, and keeps the features that are needed again.

    Args:
        model: a few-shot model. `self.model` is the copy, on `device` and in evaluation mode.
        batch_size: number of slices encoded at once.
        whole: at the first request, encode the whole volume, and keep its features until `release`. ResNet-101's features of a
            256×256 slice take 10 MB.
        queries: those that will come, as far as they are supports too: the features of their support slices are kept.
        supports: those of several queries. What is computed from them is kept.
    """

    def __init__(self, model: FewShotModel, device: torch.device, batch_size: int, *, whole: bool = False,
                 queries: Collection[Volume] = (), supports: Collection[Volume] = ()):
        self.model = cast(FewShotModel, for_inference(model.to(device)))
        self.device, self.batch_size, self.whole = device, batch_size, whole
        self.queries, self.supports = set(queries), set(supports)
        self.slices: dict[tuple[Volume, int], Features] = {}    # of supports: those prepared, and those that will be queries
        self.volumes: dict[Volume, Features] = {}               # if `whole`
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the result of `make`, which is called once for each key. Used for what is computed from a support."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @torch.inference_mode()
    def encode_supports(self, supports: Iterable[tuple[Volume, Sequence[int]]]) -> None:
        """Encode some slices of each support, all slices if `whole`, and keep their features until they are used.

        Of several processes, each encodes its share of the supports, and all get the features. Every process must call this.
        """
        wanted = [(volume, range(len(volume.image)) if self.whole else slices) for volume, slices in supports]
        wanted = [(volume, slices) for volume, slices in wanted if len(slices) and volume not in self.volumes]
        own = wanted[rank()::world_size()]
        with progress(total=sum(len(slices) for _, slices in own), desc="supports", unit="slice", disable=not own) as bar:
            jobs = [partial(self._joined, volume, slices, bar) for volume, slices in wanted]
            for (volume, slices), features in zip(wanted, shared(jobs, self.device), strict=True):
                if self.whole:
                    self.volumes[volume] = features
                else:
                    self.slices |= {(volume, z): features[k:k + 1] for k, z in enumerate(slices)}

    def _joined(self, volume: Volume, slices: Sequence[int], bar: tqdm.tqdm | None) -> Features:
        return Features.cat(self._through_network(volume, slices, bar))

    def encode(self, volume: Volume, slices: Sequence[int], bar: tqdm.tqdm | None = None) -> Features:
        """Return the features of some slices, in the order of `slices`.

        If `whole`, the batches, and with them the rounding, do not depend on what else is evaluated.

        Args:
            bar: advances by one for every slice that is encoded.
        """
        if self.whole:
            features = self.encode_whole(volume, bar)
            return Features.cat([features[z:z + 1] for z in slices])
        new = [z for z in slices if (volume, z) not in self.slices]
        encoded = dict(zip(new, self._through_network(volume, new, bar), strict=True))
        found = [self.slices.pop((volume, z)) if z not in encoded else encoded[z] for z in slices]
        return Features.cat(found)

    def encode_support(self, volume: Volume, slices: Sequence[int], bar: tqdm.tqdm | None = None) -> Features:
        """Return the features of a support's slices as `encode` does. They are kept if the support is also a query."""
        features = self.encode(volume, slices, bar)
        if volume in self.queries and not self.whole:
            self.slices |= {(volume, z): features[k:k + 1] for k, z in enumerate(slices)}
        return features

    def encode_whole(self, volume: Volume, bar: tqdm.tqdm | None = None) -> Features:
        """Return the features of all slices of a volume, and keep them until `release`."""
        if volume not in self.volumes:
            self.volumes[volume] = self._joined(volume, range(len(volume.image)), bar)
        return self.volumes[volume]

    def _through_network(self, volume: Volume, slices: Sequence[int], bar: tqdm.tqdm | None) -> list[Features]:
        features = []
        for batch in batches(slices, self.batch_size):
            images = torch.from_numpy(volume.image[batch]).unsqueeze(1).expand(-1, 3, -1, -1)
            positions = torch.tensor(batch, dtype=torch.float32, device=self.device)[:, None] / max(len(volume.image) - 1, 1)
            encoded = replace(self.model.encode(images.to(self.device)), positions=positions)
            features += [encoded[k:k + 1] for k in range(len(batch))]
            if bar is not None:
                bar.update(len(batch))
        return features

    def release(self, volume: Volume) -> None:
        """Drop the features of a query, unless it is also a support."""
        if volume not in self.supports:
            self.volumes.pop(volume, None)


def batches(items: Sequence[int], size: int) -> list[list[int]]:
    """Split items into lists of `size`. The last list may be shorter."""
    return [list(items[start:start + size]) for start in range(0, len(items), size)]
