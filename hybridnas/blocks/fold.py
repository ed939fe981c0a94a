"""Batch norm before a layer: a pointwise layer after it can do its work."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def fold_into_next(norm: nn.Module, layer: nn.Conv2d | nn.Linear) -> None:
    """Let a 1x1 convolution or linear layer with bias do the work of `norm` before it, in place and in eval mode.

    Anything but a batch norm has no work to hand over.
    """
    if isinstance(norm, _BatchNorm):
        assert norm.running_mean is not None and norm.running_var is not None and layer.bias is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        layer.bias += layer.weight.flatten(1) @ shift
        layer.weight *= scale.view(1, -1, *(1,) * (layer.weight.ndim - 2))
