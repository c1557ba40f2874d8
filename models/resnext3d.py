"""A 3D ResNeXt that keeps every slice: the encoder of ADNet's 3D form. Parts are named as in Hara et al.'s Kinetics weights.

No library that is kept has this network with these names: torchvision's and MONAI's 3D ResNets have no groups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qnet.models.encoder import Features
from qnet.util.base.shapes import expect_shape

GROUPS_PER_WIDTH = 2       # 64 channels of the first layer go with 32 groups


class Block(nn.Module):
    """1×1×1, grouped 3×3×3 and 1×1×1 convolutions with a shortcut.

    Args:
        n_in: channels of the input.
        n_inner: channels in between; twice as many come out.
        groups: of the 3×3×3 convolution.
        stride: in the plane; slices are never left out.
    """

    def __init__(self, n_in: int, n_inner: int, groups: int, stride: int):
        super().__init__()
        steps, n_out = (1, stride, stride), 2 * n_inner
        self.conv1 = nn.Conv3d(n_in, n_inner, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(n_inner)
        self.conv2 = nn.Conv3d(n_inner, n_inner, 3, steps, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm3d(n_inner)
        self.conv3 = nn.Conv3d(n_inner, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Identity() if n_in == n_out and stride == 1 else nn.Sequential(
            nn.Conv3d(n_in, n_out, 1, steps, bias=False), nn.BatchNorm3d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, n_in, D, h, w) into (B, 2·n_inner, D, h/stride, w/stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class ResNeXt3D(nn.Module):
    """Four stages of blocks on 1/4, 1/8, 1/8 and 1/8 of the resolution in the plane, and on every slice.

    Args:
        n_blocks: of each stage.
        width: channels of the first layer.
    """

    def __init__(self, n_blocks: tuple[int, int, int, int], width: int):
        super().__init__()
        self.n_channels = width
        self.groups = width // GROUPS_PER_WIDTH
        self.conv1 = nn.Conv3d(3, width, 7, (1, 2, 2), 3, bias=False)
        self.bn1 = nn.BatchNorm3d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(n_blocks[0], 2 * width, 1)
        self.layer2 = self._stage(n_blocks[1], 4 * width, 2)
        self.layer3 = self._stage(n_blocks[2], 8 * width, 1)
        self.layer4 = self._stage(n_blocks[3], 16 * width, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def _stage(self, n_blocks: int, n_inner: int, stride: int) -> nn.Sequential:
        blocks = []
        for k in range(n_blocks):
            blocks.append(Block(self.n_channels, n_inner, self.groups, stride if k == 0 else 1))
            self.n_channels = 2 * n_inner
        return nn.Sequential(*blocks)

    def forward(self, stacks: Tensor) -> Tensor:
        """Turn (B, 3, D, H, W) into (B, n_channels, D, H/8, W/8)."""
        out = self.relu(self.bn1(self.conv1(stacks)))
        slices = F.max_pool2d(out.transpose(1, 2).flatten(0, 1), 3, 2, 1)     # in 3D it is not deterministic on CUDA
        out = slices.unflatten(0, (len(out), -1)).transpose(1, 2)
        return self.layer4(self.layer3(self.layer2(self.layer1(out))))


# by encoder: blocks of each stage, width, channels of the features
STACK_ENCODERS = {"resnext101_3d": ((3, 4, 23, 3), 64, 256), "small": ((1, 1, 1, 1), 8, 64)}


class StackEncoder(nn.Module):
    """Encodes stacks of slices with 3D convolutions.

    Args:
        name: one of STACK_ENCODERS.
        bf16: compute in bfloat16 (autocast).
    """

    predicts_threshold = False

    def __init__(self, name: str, bf16: bool):
        super().__init__()
        n_blocks, width, n_channels = STACK_ENCODERS[name]
        self.backbone = ResNeXt3D(n_blocks, width)
        self.localconv = nn.Conv3d(self.backbone.n_channels, n_channels, 1, bias=False)
        self.bf16 = bf16

    def forward(self, stacks: Tensor) -> Features:
        """Encode (B, 3, D, H, W) z-scored stacks. The map is (B, C, D, h, w).

        Raises:
            ValueError: the axes are wrong.
        """
        n = expect_shape("images", stacks, "B C D H W", C=3)
        with torch.autocast(stacks.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.localconv(self.backbone(stacks))
        return Features((features.float(),), None, (n["H"], n["W"]))
