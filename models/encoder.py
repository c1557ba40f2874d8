"""Encoders: a backbone, whose last two stages give feature maps and a threshold per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from qnet.models.timm_backbone import PREFIX, TimmBackbone
from qnet.util.base.shapes import expect_shape


@dataclass(frozen=True)
class Features:
    """The features of B images.

    Attributes:
        maps: one (B, C, h, w) feature map per path. The fine one (1/4 of the image's resolution) comes before the coarse (1/8).
        threshold: (B, 1) threshold T on the anomaly score, or None for methods without one.
        image_size: (H, W) of the images.
        positions: (B, 1) place of each slice in its volume, from 0 (the first) to 1 (the last); None where nobody said.
    """

    maps: tuple[Tensor, ...]
    threshold: Tensor | None
    image_size: tuple[int, int]
    positions: Tensor | None = None

    def __len__(self) -> int:
        return len(self.maps[0])

    def __getitem__(self, images: slice | Tensor) -> Features:
        threshold, positions = (None if of_all is None else of_all[images] for of_all in (self.threshold, self.positions))
        return Features(tuple(feature_map[images] for feature_map in self.maps), threshold, self.image_size, positions)

    @staticmethod
    def cat(parts: list[Features]) -> Features:
        """Join the features of several batches, of equal paths and image size, along B."""
        maps = tuple(torch.cat(same_path) for same_path in zip(*(part.maps for part in parts), strict=True))
        thresholds, positions = (_joined(of_parts) for of_parts in zip(*((part.threshold, part.positions) for part in parts),
                                                                       strict=True))
        return Features(maps, thresholds, parts[0].image_size, positions)


def _joined(of_parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [of_part for of_part in of_parts if of_part is not None]
    return torch.cat(known) if known else None


class Backbone(nn.Module):
    """The parts of a backbone that an encoder uses, named as in torchvision's ResNet, which need not be derived from this."""

    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module
    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module
    avgpool: nn.Module
    fc: nn.Linear


class Encoder(nn.Module):
    """A backbone, whose last two stages the subclasses make features from.

    Args:
        backbone: has the parts of Backbone, or is of timm.
        bf16: run the convolutions under bfloat16 autocast. The features are float32 all the same.
        coordinates: replace the second and third channel of the images, copies of the first, by row and column.
    """

    predicts_threshold = False

    def __init__(self, backbone: Backbone | TimmBackbone, bf16: bool, coordinates: bool):
        super().__init__()
        self.backbone = backbone
        self.coarse_channels = backbone.fc.in_features
        self.fine_channels = backbone.fine_channels if isinstance(backbone, TimmBackbone) else self.coarse_channels // 2
        self.bf16 = bf16
        self.coordinates = coordinates

    def _initialise_convolutions(self) -> None:
        """Draw the weights of all convolutions, except those of timm, which draws its own."""
        own = set(self.backbone.modules()) if isinstance(self.backbone, TimmBackbone) else set()
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module not in own:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stages(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the fine and the coarse map. The coarse one is None where a backbone of timm has none."""
        net = self.backbone
        if isinstance(net, TimmBackbone):
            return net(images)
        fine = net.layer3(net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(images)))))))
        return fine, net.layer4(fine)

    def forward(self, images: Tensor) -> Features:
        """Encode (B, 3, H, W) z-scored images.

        Raises:
            ValueError: the axes are wrong.
        """
        size = expect_shape("images", images, "B C H W", C=3)
        if self.coordinates:
            images = with_coordinates(images)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            maps, threshold = self._heads(*self._stages(images))
        return Features(tuple(feature_map.float() for feature_map in maps),
                        None if threshold is None else threshold.float(), (size["H"], size["W"]))

    def _heads(self, fine: Tensor, coarse: Any) -> tuple[list[Tensor], Tensor | None]:
        raise NotImplementedError


def with_coordinates(images: Tensor) -> Tensor:
    """Return (B, 3, H, W) images whose second and third channel are row and column, each from −1.5 to 1.5.

    The idea is that of CoordConv (Liu et al. 2018, arXiv 1807.03247).

    Raises:
        ValueError: the axes are wrong.
    """
    B, _, H, W = expect_shape("images", images, "B C H W", C=3).values()
    rows, columns = (torch.linspace(-1.5, 1.5, n, dtype=images.dtype, device=images.device) for n in (H, W))
    return torch.stack([images[:, 0], rows[:, None].expand(B, H, W), columns.expand(B, H, W)], dim=1)


class DualPathEncoder(Encoder):
    """Q-Net's encoder (Shen et al. 2022, section 2.2): `layer3` gives the fine path, `layer4` the coarse one.

    Args:
        backbone, bf16, coordinates: Encoder explains them.
        n_channels: C, the channels of a path.
        paths: "both", "fine" or "coarse".
        predicts_threshold: predict a threshold per image. Without it the features carry none.
    """

    reduce1: nn.Conv2d | None      # of the fine path
    reduce2: nn.Conv2d | None      # of the coarse path
    reduce1d: nn.Linear | None     # of the threshold

    def __init__(self, backbone: Backbone | TimmBackbone, n_channels: int, bf16: bool, paths: str,
                 predicts_threshold: bool, coordinates: bool):
        super().__init__(backbone, bf16, coordinates)
        self.predicts_threshold = predicts_threshold
        self.reduce1 = self.reduce2 = self.reduce1d = None
        if paths != "coarse":
            self.reduce1 = nn.Conv2d(self.fine_channels, n_channels, kernel_size=1, bias=False)
        if paths != "fine":
            self.reduce2 = nn.Conv2d(self.coarse_channels, n_channels, kernel_size=1, bias=False)
        if predicts_threshold:
            self.reduce1d = nn.Linear(backbone.fc.out_features, 1)
        else:
            del backbone.fc
        if paths == "fine" and not predicts_threshold and not isinstance(backbone, TimmBackbone):
            backbone.layer4.requires_grad_(False)      # its output is not used
        self._initialise_convolutions()

    def _heads(self, fine: Tensor, coarse: Any) -> tuple[list[Tensor], Tensor | None]:
        maps = [reduce(stage) for reduce, stage in ((self.reduce1, fine), (self.reduce2, coarse)) if reduce is not None]
        return maps, None if self.reduce1d is None else self.predicted_threshold(coarse)

    def predicted_threshold(self, coarse: Tensor) -> Tensor:
        """Return the (B, 1) threshold of each image, which Q-Net predicts from the query (section 2.3).

        It is average pooling → `fc` → `reduce1d`. There is nothing between these two linear layers.

        Args:
            coarse: (B, C, h, w), the coarse stage.
        """
        assert self.reduce1d is not None
        return self.reduce1d(self.backbone.fc(self.backbone.avgpool(coarse).flatten(1)))


class SinglePathEncoder(Encoder):
    """The encoder of ADNet and SSL-ALPNet: the coarse stage, 1/8 of the image's resolution, reduced to C channels.

    Args:
        backbone, bf16, coordinates: Encoder explains them. `fc` is removed from the backbone.
        n_channels: C.
    """

    def __init__(self, backbone: Backbone | TimmBackbone, n_channels: int, bf16: bool, coordinates: bool):
        super().__init__(backbone, bf16, coordinates)
        del backbone.fc
        self.localconv = nn.Conv2d(self.coarse_channels, n_channels, kernel_size=1, bias=False)
        self._initialise_convolutions()

    @override
    def _heads(self, fine: Tensor, coarse: Any) -> tuple[list[Tensor], Tensor | None]:
        return [self.localconv(coarse)], None


class DilatedBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut: torchvision's BasicBlock does not support dilation."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1, dilation: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Identity() if n_in == n_out and stride == 1 else nn.Sequential(
            nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, n_in, h, w) into (B, n_out, h/stride, w/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class SmallBackbone(Backbone):
    """A narrow residual network for work on a CPU, with the strides and part names of the dilated ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = DilatedBlock(32, 32)
        self.layer2 = DilatedBlock(32, 64)
        self.layer3 = nn.Sequential(DilatedBlock(64, 128, dilation=2), DilatedBlock(128, 128, dilation=2))
        self.layer4 = DilatedBlock(128, 256, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(256, 64)


DUAL_PATH_CHANNELS = {"resnet101": 512, "resnet50": 512, "small": 128}
SINGLE_PATH_CHANNELS = {"resnet101": 256, "resnet50": 256, "small": 128}
TIMM_CHANNELS = 128


def _backbone(name: str, dilated: list[bool], fine_only: bool = False) -> Backbone | TimmBackbone:
    if name == "small":
        return SmallBackbone()
    if name.startswith(PREFIX):
        return TimmBackbone(name, fine_only)
    import torchvision  # here, as it takes a second and a half that other encoders need not wait for

    return cast(Backbone, torchvision.models.get_model(name, weights=None, replace_stride_with_dilation=dilated))


def n_channels_of(name: str) -> int:
    """Return C of the encoder that `build_encoder` makes on the named backbone."""
    return DUAL_PATH_CHANNELS.get(name, TIMM_CHANNELS)


def build_encoder(name: str, bf16: bool, paths: str, predicts_threshold: bool, coordinates: bool) -> DualPathEncoder:
    """Return Q-Net's encoder on the named backbone ("resnet101", "resnet50", "small" or "timm/…").

    Its weights are random, from torch's global generator. DualPathEncoder explains the other arguments.

    Raises:
        InputError: timm has no such model, or none of the right strides.
    """
    backbone = _backbone(name, [True, True, False], paths == "fine" and not predicts_threshold)
    return DualPathEncoder(backbone, n_channels_of(name), bf16, paths, predicts_threshold, coordinates)


def build_single_path_encoder(name: str, bf16: bool, coordinates: bool) -> SinglePathEncoder:
    """Return the encoder of ADNet and SSL-ALPNet on the named backbone, as `build_encoder` does."""
    n_channels = SINGLE_PATH_CHANNELS.get(name, TIMM_CHANNELS)
    return SinglePathEncoder(_backbone(name, [False, True, True]), n_channels, bf16, coordinates)
