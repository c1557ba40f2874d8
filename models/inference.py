"""A copy of a model for inference alone. It gives the same results faster."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

STEM = (("conv1", "bn1"),)
BLOCK = (*STEM, ("conv2", "bn2"), ("downsample.0", "downsample.1"))
# In these modules the BatchNorm reads the convolution's output and nothing else reads it. Subclasses may differ, so a class is
# known by its full name; that also leaves torchvision unimported where no encoder is of it.
FOLDED = {
    "qnet.models.encoder.SmallBackbone": STEM,
    "qnet.models.encoder.DilatedBlock": BLOCK,
    "torchvision.models.resnet.ResNet": STEM,
    "torchvision.models.resnet.BasicBlock": BLOCK,
    "torchvision.models.resnet.Bottleneck": (*BLOCK, ("conv3", "bn3")),
}


def for_inference(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode with channels-last weights. BatchNorms listed in FOLDED are folded into convolutions.

    Nothing else changes, as nothing is known about other encoders. Results change by rounding alone. The copy shares the
    tensors that stay the same.
    """
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    model = copy.deepcopy(model, shared | {id(buffer): buffer for buffer in model.buffers()}).eval()
    for block in list(model.modules()):
        pairs = FOLDED.get(f"{type(block).__module__}.{type(block).__qualname__}", ())
        parts = dict(block.named_modules()) if pairs else {}
        for conv_name, norm_name in pairs:
            conv, norm = parts.get(conv_name), parts.get(norm_name)
            # A subclass may do more than its name says: timm's BatchNormAct2d is an activation as well.
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None and not norm.training:
                _fold(norm, conv)
                block.set_submodule(norm_name, nn.Identity())
    return model.to(memory_format=torch.channels_last)


def _fold(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight,
                                        norm.bias)
    conv.weight, conv.bias = (nn.Parameter(tensor.detach(), requires_grad=False) for tensor in (weight, bias))
