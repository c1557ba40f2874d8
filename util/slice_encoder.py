"""Encodes the slices of volumes, each of them once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

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
        keep_all: keep what was encoded until `release`, for a second look at the same slices. ResNet-101's features of a
            256×256 slice take 10 MB.
    """

    def __init__(self, model: nn.Module, device: torch.device, batch_size: int, keep_all: bool = False):
        self.model = for_inference(model.to(device))
        self.device, self.batch_size, self.keep_all = device, batch_size, keep_all
        self.kept: dict[tuple[str, int], Features] = {}

    def n_new(self, slices: dict[str, Collection[int]]) -> int:
        """Return how many of the slices, given by case, have still to be encoded."""
        return sum((name, z) not in self.kept for name, chosen in slices.items() for z in set(chosen))

    def encode(self, volume: LabelledVolume, slices: Sequence[int], bar: tqdm.tqdm, reused: Collection[int] = ()) -> Features:
        """Return the features of some slices in their order, and keep those of `reused` for the next call.

        `bar` is moved on by every slice that passes through the network.
        """
        name = volume.case.name
        features = {z: self.kept.pop((name, z)) for z in slices if (name, z) in self.kept}
        for batch in batches([z for z in slices if z not in features], self.batch_size):
            images = torch.from_numpy(volume.image[batch]).unsqueeze(1).expand(-1, 3, -1, -1)
            encoded = self.model.encode(images.to(self.device))
            features |= {z: encoded[k:k + 1] for k, z in enumerate(batch)}
            bar.update(len(batch))
        self.kept |= {(name, z): features[z] for z in slices if self.keep_all or z in reused}
        return Features.cat([features[z] for z in slices])

    def release(self, volume: LabelledVolume) -> None:
        """Forget a volume's features."""
        self.kept = {(name, z): features for (name, z), features in self.kept.items() if name != volume.case.name}


def batches(items: Sequence[int], size: int) -> list[list[int]]:
    """Cut items into lists of `size`, the last one shorter."""
    return [list(items[start:start + size]) for start in range(0, len(items), size)]
