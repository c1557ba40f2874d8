"""Backbones of timm (the package of PyTorch image models), by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qnet.util.base.errors import InputError

PREFIX = "timm/"                   # of the encoders' names
FINE, COARSE = 8, 16               # pixels of the doubled image per cell of the two feature maps


def create(name: str, **options: Any) -> Any:
    """Return timm's model of the name that follows "timm/".

    Raises:
        InputError: timm has no such model.
    """
    import timm  # here, as it takes seconds that other encoders need not wait for

    model = name.removeprefix(PREFIX)
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), 5, 0.4)
        raise InputError(f"encoder: got {name!r}, allowed: 'timm/' and a name of timm.list_models(), such as {', '.join(near)}")
    return timm.create_model(model, **options)


class TimmBackbone(nn.Module):
    """The stages of a timm model that give maps of 1/4 and 1/8 of the image's resolution, the image being doubled before.

    Doubled, because the stages of 1/8 and 1/16 are deeper and have more channels than those of 1/4 and 1/8. What comes after
    them is cut off. The weights are random, from torch's global generator.

    Args:
        name: "timm/…".
        fine_only: cut off the coarse stage, too; `forward` then returns None for it.
    Attributes:
        fine_channels, coarse_channels: of the maps.
        fc: linear layer on the averaged coarse map, for the threshold.
    Raises:
        InputError: timm has no such model, or the model has no stages at 1/8 and 1/16.
    """

    def __init__(self, name: str, fine_only: bool = False):
        super().__init__()
        self.net = create(name)
        stages = [(info["reduction"], info["num_chs"]) for info in getattr(self.net, "feature_info", [])]
        last = {reduction: k for k, (reduction, _) in enumerate(stages)}
        if not {FINE, COARSE} <= set(last) or not hasattr(self.net, "forward_intermediates"):
            raise InputError(f"encoder: got {name!r}, which has stages at 1/{', 1/'.join(map(str, sorted(last))) or '?'} of the "
                             f"image's resolution, allowed: models that have some at 1/{FINE} and 1/{COARSE}")
        self.indices = [last[FINE]] + ([] if fine_only else [last[COARSE]])
        self.fine_channels, self.coarse_channels = stages[last[FINE]][1], stages[last[COARSE]][1]
        self.net.prune_intermediate_layers(self.indices, prune_head=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.coarse_channels, 64)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return (B, C, H/4, W/4) and (B, C', H/8, W/8) maps of (B, 3, H, W) images."""
        doubled = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
        maps = self.net.forward_intermediates(doubled, indices=self.indices, intermediates_only=True, stop_early=True)
        return maps[0], maps[1] if len(maps) > 1 else None


def rename_by_order(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return weights of other names under timm's, if number, order and shapes agree with those of timm's whole model.

    Files of other authors' copies of a network have such weights. Where they do not agree, `given` comes back as it is.
    """
    wanted = create(name).state_dict()
    same = len(given) == len(wanted) and all(
        getattr(a, "shape", None) == b.shape for a, b in zip(given.values(), wanted.values(), strict=True))
    return dict(zip(wanted, given.values(), strict=True)) if same and not set(given) & set(wanted) else given


def own_weights(name: str) -> dict[str, Tensor]:
    """Return the weights that timm has for a model, from its cache or downloaded.

    Raises:
        RuntimeError, OSError: there are none, or they cannot be had.
    """
    with torch.random.fork_rng(devices=[]):
        return create(name, pretrained=True).state_dict()
