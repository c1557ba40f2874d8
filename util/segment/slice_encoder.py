"""Encodes the slices of volumes, each of them once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch
import tqdm
from torch import nn

from dataloaders.volumes import LabelledVolume
from models.encoder import Features
from models.inference import for_inference


class SliceEncoder:
    """Encodes slices with an inference copy of a model, and keeps the features that will be asked for again.

    Args:
        model: in the four-call interface; `self.model` is the copy, on `device` and in evaluation mode.
        batch_size: slices encoded at once.
        keep_all: encode all of a volume at the first look at it and keep that until `release`. ResNet-101's features of a
            256×256 slice take 10 MB.
    """

    def __init__(self, model: nn.Module, device: torch.device, batch_size: int, keep_all: bool = False):
        self.model = for_inference(model.to(device))
        self.device, self.batch_size, self.keep_all = device, batch_size, keep_all
        self.kept: dict[tuple[str, int], Features] = {}

    def n_new(self, wanted: Iterable[tuple[LabelledVolume, Collection[int]]]) -> int:
        """Return how many slices have still to be encoded for a look at some slices of each volume."""
        return sum(len(self._new(volume, slices)) for volume, slices in wanted if slices)

    def _new(self, volume: LabelledVolume, slices: Collection[int]) -> list[int]:
        """With `keep_all` slices come in the same batches, and are rounded alike, whatever else is evaluated."""
        chosen = range(len(volume.image)) if self.keep_all else slices
        return [z for z in chosen if (volume.case.name, z) not in self.kept]

    def encode(self, volume: LabelledVolume, slices: Sequence[int], bar: tqdm.tqdm | None = None,
               reused: Collection[int] = ()) -> Features:
        """Return the features of some slices in their order, and keep those of `reused` for the next call.

        `bar` is moved on by every slice that passes through the network.
        """
        name = volume.case.name
        new = self._new(volume, slices)
        features = {z: self.kept.pop((name, z)) for z in slices if (name, z) in self.kept}
        for batch in batches(new, self.batch_size):
            images = torch.from_numpy(volume.image[batch]).unsqueeze(1).expand(-1, 3, -1, -1)
            encoded = self.model.encode(images.to(self.device))
            features |= {z: encoded[k:k + 1] for k, z in enumerate(batch)}
            if bar is not None:
                bar.update(len(batch))
        self.kept |= {(name, z): feature for z, feature in features.items() if self.keep_all or z in reused}
        return Features.cat([features[z] for z in slices])

    def release(self, volume: LabelledVolume) -> None:
        """Forget a volume's features."""
        self.kept = {(name, z): features for (name, z), features in self.kept.items() if name != volume.case.name}


def batches(items: Sequence[int], size: int) -> list[list[int]]:
    """Cut items into lists of `size`, the last one shorter."""
    return [list(items[start:start + size]) for start in range(0, len(items), size)]
