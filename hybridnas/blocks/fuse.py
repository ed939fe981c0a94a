"""The inference form of a network: training branches fused, batch norm folded into the convolution before it."""

from __future__ import annotations

from timm.layers import ConvNormAct
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Which batch norm directly follows which convolution, by the block classes that we use.
FOLDS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    ConvNormAct: (("conv", "bn"),),
    InvertedResidual: (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
}


def fuse(module: nn.Module) -> None:
    """Bring `module`, in eval mode, into its inference form, in place.

    A module with a form of its own has a `reparameterize` method, as timm's have.
    """
    for part in list(module.modules()):
        for conv_name, norm_name in next((folds for kind, folds in FOLDS.items() if isinstance(part, kind)), ()):
            conv, norm = getattr(part, conv_name), getattr(part, norm_name)
            if isinstance(norm, nn.BatchNorm2d):
                setattr(part, conv_name, fuse_conv_bn_eval(conv, norm))
                # timm's batch norm holds the activation that follows it.
                setattr(part, norm_name, getattr(norm, "act", nn.Identity()))
        reparameterize = getattr(part, "reparameterize", None)
        if callable(reparameterize) and getattr(part, "reparam_conv", None) is None:
            reparameterize()
