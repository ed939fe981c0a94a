"""Transitions: the joint before a stage, which changes width and resolution.

    transition(in_width, width, stride, resolution, **options): (B, in_width, H, W) -> (B, width, H/stride, W/stride)

with H = W = `resolution` as it comes in; the quotients are rounded up. The keyword-only arguments are the options.
"""

from __future__ import annotations

import math

from timm.layers import ConvNormAct, LayerNorm2d, Mlp, get_act_layer, register_notrace_module
from timm.models.fastvit import MobileOneBlock, ReparamLargeKernelConv
from timm.models.levit import LevitMlp
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from hybridnas.blocks.attention import RelativeBias, SelfAttention, check_heads, to_map
from hybridnas.blocks.bottleneck import bottleneck, check_bottleneck
from hybridnas.blocks.levit import LevitAttention
from hybridnas.blocks.mbconv import check_inverted_residual, inverted_residual
from hybridnas.blocks.options import check_act, check_count, check_expand, check_kernel, check_one_of, check_ratio
from hybridnas.blocks.pad import PadTo

PATCH_NORMS = ("layer", "layer_after", "batch")


class Keep(nn.Identity):
    """No transition: the same width and resolution go on."""

    def __init__(self, in_width: int, width: int, stride: int, resolution: int) -> None:
        if in_width != width or stride != 1:
            raise ValueError(
                f"transition none keeps width and resolution, got width {in_width} to {width} and stride {stride}"
            )
        super().__init__()


class ConvTransition(nn.Sequential):
    """A 3x3 convolution with batch norm (EfficientFormer, arXiv:2206.01191, section 4.1)."""

    def __init__(self, in_width: int, width: int, stride: int, resolution: int) -> None:
        super().__init__(ConvNormAct(in_width, width, kernel_size=3, stride=stride, apply_act=False))


class PatchTransition(nn.Sequential):
    """Non-overlapping patches and a norm.

    Args:
        in_width: Channels in.
        width: Channels out.
        stride: Side of a patch.
        resolution: H = W.
        norm: `layer` norm before the patches (ConvNeXt, arXiv:2201.03545, section 2.6) or `layer_after` them (EdgeViT,
            arXiv:2205.03436), or `batch` norm before them (MixFormer, arXiv:2204.02557).
    """

    def __init__(self, in_width: int, width: int, stride: int, resolution: int, *, norm: str = "layer") -> None:
        check_one_of("norm", norm, PATCH_NORMS)
        before: nn.Module = nn.BatchNorm2d(in_width) if norm == "batch" else LayerNorm2d(in_width)
        patches = nn.Conv2d(in_width, width, kernel_size=stride, stride=stride)
        if norm == "layer_after":
            super().__init__(PadTo(stride), patches, LayerNorm2d(width, eps=1e-5))
        else:
            super().__init__(before, PadTo(stride), patches)


class MergeTransition(nn.Module):
    """Patch merging (Swin, arXiv:2103.14030, section 3.1): 2x2 neighbours concatenated, normed, projected."""

    def __init__(self, in_width: int, width: int, stride: int, resolution: int) -> None:
        super().__init__()
        if stride != 2:
            raise ValueError(f"transition merge halves the resolution: its stride must be 2, got {stride}")
        self.merge = PatchMerging(in_width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.merge(x.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)


class MBConvTransition(nn.Sequential):
    """An inverted residual that changes width and resolution; the options are those of the family `mbconv`.

    Without shortcut (MobileNetV2, arXiv:1801.04381), or in CoAtNet's style with a pooled one (arXiv:2106.04803,
    appendix A.1).
    """

    COMPAT = ("style",)

    def __init__(
        self,
        in_width: int,
        width: int,
        stride: int,
        resolution: int,
        *,
        kernel: int = 3,
        expand: float = 4.0,
        se: bool = False,
        act: str = "silu",
        style: str = "efficientnet",
    ) -> None:
        super().__init__(
            inverted_residual(in_width, width, stride=stride, kernel=kernel, expand=expand, se=se, act=act, style=style)
        )

    @staticmethod
    def check(
        in_width: int,
        width: int,
        stride: int,
        resolution: int,
        *,
        kernel: int,
        expand: float,
        se: bool,
        act: str,
        style: str,
        **_: object,
    ) -> None:
        """Refuse what cannot be built."""
        check_inverted_residual(in_width, stride, kernel=kernel, expand=expand, se=se, act=act, style=style)


class BottleneckTransition(nn.Sequential):
    """A bottleneck with a projected shortcut (ResNet, arXiv:1512.03385, section 3.3, option B)."""

    def __init__(
        self,
        in_width: int,
        width: int,
        stride: int,
        resolution: int,
        *,
        kernel: int = 3,
        ratio: float = 0.25,
        act: str = "relu",
    ) -> None:
        super().__init__(bottleneck(in_width, width, stride=stride, kernel=kernel, ratio=ratio, act=act))

    @staticmethod
    def check(
        in_width: int, width: int, stride: int, resolution: int, *, kernel: int, ratio: float, act: str, **_: object
    ) -> None:
        """Refuse what cannot be built."""
        check_bottleneck(kernel, ratio, act)


@register_notrace_module  # what it does depends on the size of the map
class TransformerTransition(nn.Module):
    """Global attention on the normed and pooled map, its shortcut pooled as it is, then a feed-forward network.

    CoAtNet (Dai et al., 2021, arXiv:2106.04803, appendix A.1); attention as wide as what comes in, as in timm's
    coatnet_*_rw.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        stride: int,
        resolution: int,
        *,
        head_dim: int = 32,
        expand: float = 4.0,
    ) -> None:
        super().__init__()
        self.check(in_width, width, stride, resolution, head_dim=head_dim, expand=expand)
        num_heads = in_width // head_dim
        bias = RelativeBias(math.ceil(resolution / stride), num_heads)
        self.pool = halve() if stride == 2 else nn.Identity()
        self.shortcut = nn.Conv2d(in_width, width, 1) if in_width != width else nn.Identity()
        self.norm1 = LayerNorm2d(in_width, eps=1e-6)
        self.attention = SelfAttention(in_width, num_heads, head_dim, bias, out_width=width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(width * expand), act_layer=nn.GELU)

    @staticmethod
    def check(
        in_width: int, width: int, stride: int, resolution: int, *, head_dim: int, expand: float, **_: object
    ) -> None:
        """Refuse what cannot be built."""
        check_expand(expand, width)
        check_heads(in_width, head_dim)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(self.pool(x)).flatten(2).transpose(1, 2)  # (B, N, C)
        x = self.pool(self.norm1(x))
        height, width = x.shape[2:]
        x = shortcut + self.attention(x.flatten(2).transpose(1, 2).unsqueeze(1), height, width).squeeze(1)
        x = x + self.mlp(self.norm2(x))
        return to_map(x, height, width)


class PoolTransition(nn.Sequential):
    """Average pooling, then a 1x1 convolution with batch norm."""

    def __init__(self, in_width: int, width: int, stride: int, resolution: int) -> None:
        pool = halve() if stride == 2 else nn.Identity()
        super().__init__(pool, ConvNormAct(in_width, width, kernel_size=1, apply_act=False))


class ReparamTransition(nn.Sequential):
    """Overlapping patches by a large grouped convolution with training branches, then a 1x1 convolution.

    FastViT (Vasu et al., 2023, arXiv:2303.14189, section 3.2). Its widths are multiples of each other and the
    convolution is depthwise; else as many groups as divide both widths.
    """

    def __init__(self, in_width: int, width: int, stride: int, resolution: int, *, kernel: int = 7) -> None:
        self.check(in_width, width, stride, resolution, kernel=kernel)
        groups = math.gcd(in_width, width)
        super().__init__(
            ReparamLargeKernelConv(in_width, width, kernel, stride, group_size=in_width // groups, small_kernel=3),
            MobileOneBlock(width, width, 1),
        )

    @staticmethod
    def check(in_width: int, width: int, stride: int, resolution: int, *, kernel: int, **_: object) -> None:
        """Refuse what cannot be built."""
        check_kernel(kernel)
        check_count("kernel", kernel, least=3)


@register_notrace_module  # what it does depends on the size of the map
class LevitTransition(nn.Module):
    """Attention that shrinks the map, then a residual feed-forward network (LeViT, arXiv:2104.01136, figure 5)."""

    def __init__(
        self,
        in_width: int,
        width: int,
        stride: int,
        resolution: int,
        *,
        key_dim: int = 16,
        value_ratio: float = 4.0,
        expand: float = 2.0,
        act: str = "hard_swish",
    ) -> None:
        super().__init__()
        self.check(
            in_width, width, stride, resolution, key_dim=key_dim, value_ratio=value_ratio, expand=expand, act=act
        )
        self.attention = LevitAttention(
            in_width, width, in_width // key_dim, key_dim, int(value_ratio * key_dim), resolution, act, stride
        )
        self.mlp = LevitMlp(width, int(width * expand), act_layer=get_act_layer(act))

    @staticmethod
    def check(
        in_width: int,
        width: int,
        stride: int,
        resolution: int,
        *,
        key_dim: int,
        value_ratio: float,
        expand: float,
        act: str,
        **_: object,
    ) -> None:
        """Refuse what cannot be built."""
        check_count("key_dim", key_dim)
        check_ratio("value_ratio", value_ratio, of=key_dim)
        check_expand(expand, width)
        check_act(act)
        if stride != 2:
            raise ValueError(f"transition levit halves the resolution: its stride must be 2, got {stride}")
        if key_dim > in_width:
            raise ValueError(f"key_dim must be at most the width that comes in, {in_width}, got {key_dim}")

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = self.attention(x.flatten(2).transpose(1, 2), height, width)
        x = x + self.mlp(x)
        return to_map(x, math.ceil(height / 2), math.ceil(width / 2))


def halve() -> nn.Module:
    """2x2 average pooling that turns a side r into ceil(r / 2)."""
    return nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)


#: By the name that an architecture gives them.
TRANSITIONS: dict[str, type[nn.Module]] = {
    "none": Keep,
    "conv": ConvTransition,
    "patch": PatchTransition,
    "merge": MergeTransition,
    "mbconv": MBConvTransition,
    "bottleneck": BottleneckTransition,
    "transformer": TransformerTransition,
    "pool": PoolTransition,
    "reparam": ReparamTransition,
    "levit": LevitTransition,
}
