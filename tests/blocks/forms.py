"""What the tests of the blocks share: every family with its variants, and modules brought into one form or another."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hybridnas.blocks import BLOCKS
from hybridnas.blocks.fuse import fuse

WIDTH = 32
DEPTH = 2

# Beside the defaults: what changes the shape of the computation.
VARIANTS = {
    "mbconv": [
        {"se": True},
        {"kernel": 5, "expand": 2, "act": "relu"},
        {"expand": 1, "se": True},
        {"style": "mobilenetv3", "se": True, "act": "hard_swish"},
        {"style": "coatnet", "se": True},
        {"style": "coatnet_0_rw", "se": True},
        {"style": "coatnet_0_rw"},
    ],
    "convnext": [{"kernel": 3, "expand": 2}],
    "bottleneck": [{"kernel": 5, "ratio": 0.5, "act": "silu"}],
    "repmixer": [{"kernel": 5, "expand": 2}],
    "pool": [{"kernel": 5, "expand": 2}],
    "window": [{"window": 4, "head_dim": 8, "expand": 2}],
    "global": [
        {"head_dim": 8, "expand": 2},
        {"position": "distance", "num_heads": 3, "value_ratio": 4, "layer_scale": True},
        {"position": "conv"},
        {"position": "none", "class_token": True},
        {"position": "conv", "class_token": True, "layer_scale": True},
        {"position": "conv", "fastvit": True},
        {"position": "none", "fastvit": True},
    ],
    "linear": [{"head_dim": 8, "scale": 3, "expand": 2, "act": "relu"}],
    "mobilevit": [{"kernel": 5, "patch": 4, "inner_ratio": 0.5, "inner_depth": 1, "expand": 1, "act": "relu"}],
    "levit": [{"num_heads": 3, "key_dim": 8, "value_ratio": 1, "expand": 1, "act": "gelu"}],
    "lgl": [{"sample": 1}, {"sample": 4, "num_heads": 4, "kernel": 3, "expand": 2}],
    "parallel": [{"interact": False}, {"window": 3, "head_dim": 4, "kernel": 5, "expand": 2}],
}


def cases(*names, variants=None):
    """Parameters (name, options): each family with its defaults and its first few variants."""
    return [
        pytest.param(name, options, id="-".join([name, *(f"{key}={value}" for key, value in options.items())]))
        for name in names or BLOCKS
        for options in [{}, *VARIANTS.get(name, [])[:variants]]
    ]


def make(name, resolution=7, *, seed=0, drop_path=(), depth=DEPTH, **options):
    torch.manual_seed(seed)
    return BLOCKS[name](WIDTH, depth, resolution, drop_path, **options)


def features(resolution=7, *, batch=2, seed=1):
    return torch.randn(batch, WIDTH, resolution, resolution, generator=torch.Generator().manual_seed(seed))


def randomise(module, seed=2):
    """Draw every parameter and running statistic anew: what starts at 0 or 1 hides what a wrong fusion does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            added = name.endswith(("class_token", "position"))  # to the features, not multiplied with them
            fan_in = 1 if added or parameter.ndim == 1 else parameter[0].numel()
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(fan_in))
        for part in module.modules():
            if isinstance(part, _BatchNorm):
                part.running_mean.copy_(torch.randn(part.num_features, generator=generator))
                part.running_var.copy_(0.5 + torch.rand(part.num_features, generator=generator))
    return module


def deployed(module):
    module = copy.deepcopy(module).eval()
    fuse(module)
    return module.eval()


def batch_norms(module):
    return [name for name, part in module.named_modules() if isinstance(part, _BatchNorm)]


def num_params(module):
    return sum(parameter.numel() for parameter in module.parameters())


def silent(module):
    """The parameters that no gradient reaches, after a backward pass through every output."""
    return [
        key for key, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all() or not p.grad.any()
    ]


class FromImage(nn.Module):
    """Feeds a part from an image, by repeating the image's channels: no multiply-adds of its own."""

    def __init__(self, part, width=WIDTH):
        super().__init__()
        self.part = part
        self.width = width

    def forward(self, image):
        return self.part(torch.cat([image] * -(-self.width // 3), dim=1)[:, : self.width])
