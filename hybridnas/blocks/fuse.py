"""The inference form of a network: training branches fused, batch norm folded into the layer before it."""

from __future__ import annotations

import torch
from timm.layers import ConvNormAct
from timm.models import efficientformer, efficientvit_mit, levit, maxxvit
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

# Which batch norm directly follows which layer, by the block classes that we use.
FOLDS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    ConvNormAct: (("conv", "bn"),),
    InvertedResidual: (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    DepthwiseSeparableConv: (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    maxxvit.MbConvBlock: (("conv1_1x1", "norm1"), ("conv2_kxk", "norm2")),
    efficientformer.ConvMlpWithNorm: (("fc1", "norm1"), ("fc2", "norm2")),
    efficientvit_mit.ConvNormAct: (("conv", "norm"),),
    levit.ConvNorm: (("linear", "bn"),),
    levit.LinearNorm: (("linear", "bn"),),
}


def fuse(module: nn.Module) -> None:
    """Bring `module`, in eval mode, into its inference form, in place.

    A module with a form of its own has a `reparameterize` method, as timm's have.
    """
    device = next((parameter.device for parameter in module.parameters()), torch.get_default_device())
    for part in list(module.modules()):
        for layer_name, norm_name in next((folds for kind, folds in FOLDS.items() if isinstance(part, kind)), ()):
            if isinstance(part, maxxvit.MbConvBlock) and norm_name == "norm2" and part.se_early is not None:
                continue  # squeeze-excite stands between the two
            layer, norm = getattr(part, layer_name), getattr(part, norm_name)
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                fold = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
                setattr(part, layer_name, fold(layer, norm))
                # timm's batch norm holds the activation that follows it.
                setattr(part, norm_name, getattr(norm, "act", nn.Identity()))
        reparameterize = getattr(part, "reparameterize", None)
        if callable(reparameterize) and getattr(part, "reparam_conv", None) is None:
            with device:  # timm makes the fused convolution on the default one
                reparameterize()
