"""Dual-path encoders: one backbone, feature maps from its last two stages, and a threshold per image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from util.checks import expect_shape


@dataclass(frozen=True)
class Features:
    """What is kept of B encoded images.

    Attributes:
        maps: one (B, C, h, w) feature map per path: fine (1/4 of the image's resolution), then coarse (1/8).
        threshold: (B, 1) query-informed threshold T.
        image_size: (H, W) of the images.
    """

    maps: tuple[Tensor, ...]
    threshold: Tensor
    image_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.threshold)

    def __getitem__(self, images: slice | Tensor) -> Features:
        return Features(tuple(feature_map[images] for feature_map in self.maps), self.threshold[images], self.image_size)

    @staticmethod
    def cat(parts: list[Features]) -> Features:
        maps = tuple(torch.cat(same_path) for same_path in zip(*(part.maps for part in parts), strict=True))
        return Features(maps, torch.cat([part.threshold for part in parts]), parts[0].image_size)


class DualPathEncoder(nn.Module):
    """Q-Net's encoder (Shen et al. 2022, section 2.2): `layer3` gives the fine path, `layer4` the coarse one.

    The threshold is `layer4` → average pooling → `fc` → `reduce1d`, two linear layers with nothing between them.

    Args:
        backbone: has conv1, bn1, relu, maxpool, layer1…layer4, avgpool and fc, as torchvision's ResNet.
        n_channels: C, the channels of both paths.
        bf16: run the convolutions under bfloat16 autocast; the features come out as float32 all the same.
    """

    def __init__(self, backbone: nn.Module, n_channels: int, bf16: bool = False):
        super().__init__()
        self.backbone = backbone
        coarse_channels = backbone.fc.in_features
        self.reduce1 = nn.Conv2d(coarse_channels // 2, n_channels, kernel_size=1, bias=False)
        self.reduce2 = nn.Conv2d(coarse_channels, n_channels, kernel_size=1, bias=False)
        self.reduce1d = nn.Linear(backbone.fc.out_features, 1)
        self.bf16 = bf16
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Features:
        """Encode (B, 3, H, W) z-scored images.

        Raises:
            ValueError: the axes are wrong.
        """
        size = expect_shape("images", images, "B C H W", C=3)
        net = self.backbone
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            shallow = net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(images))))))
            fine = net.layer3(shallow)
            coarse = net.layer4(fine)
            maps = self.reduce1(fine), self.reduce2(coarse)
            threshold = self.reduce1d(net.fc(net.avgpool(coarse).flatten(1)))
        return Features(tuple(feature_map.float() for feature_map in maps), threshold.float(), (size["H"], size["W"]))


class DilatedBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut: torchvision's BasicBlock, which refuses dilation."""

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
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class SmallBackbone(nn.Module):
    """A narrow residual network with the strides and the part names of the dilated ResNets, for work on a CPU."""

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


def _resnet(name: str) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None, replace_stride_with_dilation=[True, True, False])


BACKBONES: dict[str, tuple[Callable[[], nn.Module], int]] = {   # name: backbone, channels of a path
    "resnet101": (_resnet("resnet101"), 512),
    "resnet50": (_resnet("resnet50"), 512),
    "small": (SmallBackbone, 128),
}


def build_encoder(name: str, bf16: bool = False) -> DualPathEncoder:
    """Return the encoder of that name (a key of BACKBONES) with random weights from torch's global generator."""
    backbone, n_channels = BACKBONES[name]
    return DualPathEncoder(backbone(), n_channels, bf16)
