"""A copy of a model that gives the same results faster, for inference alone."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def for_inference(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode, each BatchNorm folded into the convolution before it, weights channels-last.

    A BatchNorm that is registered right after a convolution in the same module is taken to follow it in the forward pass, as it
    does in residual networks. Results change by rounding alone.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in list(model.modules()):
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return model.to(memory_format=torch.channels_last)
