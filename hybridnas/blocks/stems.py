"""Stems: what turns the image into the first feature map.

    stem(width, image_size, in_chans=3, **options): (B, 3, H, W) -> (B, width, ceil(H / stride), ceil(W / stride))

with H = W = `image_size`, `in_chans` channels and the class attribute `stride`. The keyword-only arguments are
options. `first_conv` names the convolutions that take the image.
"""

from __future__ import annotations

import math

import torch
from timm.layers import (
    ConvNormAct,
    LayerNorm2d,
    get_act_layer,
    register_notrace_module,
    resample_abs_pos_embed_nhwc,
    trunc_normal_,
)
from timm.models.fastvit import convolutional_stem
from torch import Tensor, nn

from hybridnas.blocks.options import check_act, check_count, check_eps
from hybridnas.blocks.pad import PadTo


class ConvStem(nn.Sequential):
    """Two 3x3 convolutions, the first with stride 2 (CoAtNet, arXiv:2106.04803, table 3, stage S0).

    `inner` is compat: the width of the first, where it is another (coatnet_0_rw_224); 0 stands for the same.
    """

    stride = 2
    first_conv = ("0.conv",)
    COMPAT = ("inner",)

    def __init__(self, width: int, image_size: int, in_chans: int = 3, *, act: str = "gelu", inner: int = 0) -> None:
        check_act(act)
        check_count("inner", inner, least=0)
        inner = inner or width
        super().__init__(
            ConvNormAct(in_chans, inner, kernel_size=3, stride=2, act_layer=act),
            nn.Conv2d(inner, width, kernel_size=3, padding=1),
        )


class Conv3x3Stem(nn.Sequential):
    """One 3x3 convolution with stride 2 (MobileNetV2, arXiv:1801.04381, table 2)."""

    stride = 2
    first_conv = ("0.conv",)

    def __init__(self, width: int, image_size: int, in_chans: int = 3, *, act: str = "silu") -> None:
        check_act(act)
        super().__init__(ConvNormAct(in_chans, width, kernel_size=3, stride=2, act_layer=act))


class ResNetStem(nn.Sequential):
    """A 7x7 convolution with stride 2, then 3x3 maximum pooling with stride 2 (ResNet, arXiv:1512.03385, table 1)."""

    stride = 4
    first_conv = ("0.conv",)

    def __init__(self, width: int, image_size: int, in_chans: int = 3) -> None:
        super().__init__(
            ConvNormAct(in_chans, width, kernel_size=7, stride=2, act_layer=nn.ReLU),
            nn.MaxPool2d(3, stride=2, padding=1),
        )


class DoublingStem(nn.Sequential):
    """3x3 convolutions with stride 2 that double the width each time, the last to `width`."""

    stride: int
    first_conv = ("0.conv",)
    default_act: str
    last_act: bool

    def __init__(self, width: int, image_size: int, in_chans: int = 3) -> None:
        count = int(math.log2(self.stride))
        widths = [in_chans, *(max(1, width // 2**i) for i in reversed(range(count)))]
        act = get_act_layer(self.default_act)
        super().__init__(
            *(
                ConvNormAct(
                    widths[i], widths[i + 1], 3, stride=2, act_layer=act, apply_act=self.last_act or i + 1 < count
                )
                for i in range(count)
            )
        )


class EfficientFormerStem(DoublingStem):
    """Two strided convolutions (EfficientFormer, arXiv:2206.01191, section 4.1)."""

    stride, default_act, last_act = 4, "relu", True


class LevitStem(DoublingStem):
    """Four strided convolutions (LeViT, arXiv:2104.01136, section 4.1 and figure 4)."""

    stride, default_act, last_act = 16, "hard_swish", False


class MobileOneStem(nn.Sequential):
    """Three reparameterised convolutions: 3x3, 3x3 depthwise, 1x1 (FastViT, arXiv:2303.14189, figure 2)."""

    stride = 4
    first_conv = ("0.conv_kxk.0.conv", "0.conv_scale.conv")

    def __init__(self, width: int, image_size: int, in_chans: int = 3) -> None:
        super().__init__(*convolutional_stem(in_chans, width))


class MixFormerStem(nn.Sequential):
    """Three 3x3 convolutions at half the width, then patches of 2x2 and a layer norm (MixFormer, arXiv:2204.02557)."""

    stride = 4
    first_conv = ("0.conv",)

    def __init__(self, width: int, image_size: int, in_chans: int = 3) -> None:
        if width % 2:
            raise ValueError(f"width must be even, got {width}")
        half = width // 2
        super().__init__(
            ConvNormAct(in_chans, half, kernel_size=3, stride=2, act_layer=nn.GELU),
            ConvNormAct(half, half, kernel_size=3, act_layer=nn.GELU),
            ConvNormAct(half, half, kernel_size=3, act_layer=nn.GELU),
            PadTo(2),
            nn.Conv2d(half, width, 2, stride=2),
            LayerNorm2d(width, eps=1e-5),
        )


@register_notrace_module  # what it does depends on the size of the image
class PatchStem(nn.Module):
    """Non-overlapping patches (ViT, arXiv:2010.11929, section 3.1; ConvNeXt, arXiv:2201.03545, section 2.2).

    Args:
        width: Channels out.
        image_size: H = W.
        in_chans: Channels of the image.
        norm: Whether a layer norm follows.
        position: Whether each position gets a learned vector added.
        eps: Compat. Of the norm.
    """

    stride: int
    first_conv = ("proj",)
    COMPAT = ("eps",)

    def __init__(
        self,
        width: int,
        image_size: int,
        in_chans: int = 3,
        *,
        norm: bool = True,
        position: bool = False,
        eps: float = 1e-6,
    ) -> None:
        check_eps(eps)
        super().__init__()
        self.pad = PadTo(self.stride)
        self.proj = nn.Conv2d(in_chans, width, self.stride, stride=self.stride)
        self.norm = LayerNorm2d(width, eps=eps) if norm else nn.Identity()
        side = math.ceil(image_size / self.stride)
        self.position = nn.Parameter(torch.zeros(1, width, side, side)) if position else None
        if self.position is not None:
            trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.proj(self.pad(x)))
        if self.position is None:
            return x
        position: Tensor = self.position
        if x.shape[2:] != position.shape[2:]:
            position = resample_positions(position, *x.shape[2:])
        return x + position


def resample_positions(position: Tensor, height: int, width: int) -> Tensor:
    """Learned vectors of a map's positions for a map of another size: (1, C, H, W) -> (1, C, height, width)."""
    resized: Tensor = resample_abs_pos_embed_nhwc(position.permute(0, 2, 3, 1), [height, width])
    return resized.permute(0, 3, 1, 2)


class Patch2Stem(PatchStem):
    """Patches of 2x2 pixels."""

    stride = 2


class Patch4Stem(PatchStem):
    """Patches of 4x4 pixels."""

    stride = 4


class Patch14Stem(PatchStem):
    """Patches of 14x14 pixels, with learned positions unless told otherwise."""

    stride = 14

    def __init__(
        self,
        width: int,
        image_size: int,
        in_chans: int = 3,
        *,
        norm: bool = False,
        position: bool = True,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(width, image_size, in_chans, norm=norm, position=position, eps=eps)


class Patch16Stem(Patch14Stem):
    """Patches of 16x16 pixels, with learned positions unless told otherwise."""

    stride = 16


#: By the name that an architecture gives them.
STEMS: dict[str, type[nn.Module]] = {
    "conv": ConvStem,
    "conv3x3": Conv3x3Stem,
    "resnet": ResNetStem,
    "efficientformer": EfficientFormerStem,
    "levit": LevitStem,
    "mobileone": MobileOneStem,
    "mixformer": MixFormerStem,
    "patch2": Patch2Stem,
    "patch4": Patch4Stem,
    "patch14": Patch14Stem,
    "patch16": Patch16Stem,
}
