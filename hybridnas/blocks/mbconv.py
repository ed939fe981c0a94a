"""MBConv, the inverted residual with a depthwise convolution.

MobileNetV2 (Sandler et al., 2018, arXiv:1801.04381, table 1); squeeze-excite as in EfficientNet (Tan and Le, 2019,
arXiv:1905.11946, section 4) or MobileNetV3 (Howard et al., 2019, arXiv:1905.02244, section 5.3); pre-norm as in
CoAtNet (Dai et al., 2021, arXiv:2106.04803, appendix A.1), with the stride in the depthwise convolution as in timm.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from timm.layers import get_act_layer, make_divisible
from timm.models import efficientvit_mit
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual, SqueezeExcite
from timm.models._efficientnet_builder import round_channels
from timm.models.maxxvit import MaxxVitConvCfg, MbConvBlock
from torch import nn

from hybridnas.blocks.options import check_act, check_expand, check_kernel, check_one_of, rates_for
from hybridnas.blocks.row import Row

STYLES = ("efficientnet", "mobilenetv3", "efficientvit", "coatnet", "coatnet_0_rw")


def inverted_residual(
    in_width: int,
    width: int,
    *,
    stride: int,
    kernel: int,
    expand: float,
    se: bool,
    act: str,
    style: str,
    drop_path: float = 0.0,
) -> nn.Module:
    """One block, (B, in_width, H, W) -> (B, width, ceil(H / stride), ceil(W / stride)); `MBConv` tells the options."""
    check_inverted_residual(in_width, stride, kernel=kernel, expand=expand, se=se, act=act, style=style)
    if style.startswith("coatnet"):
        return _pre_norm(in_width, width, stride, kernel, expand, se, act, style, drop_path)
    if style == "efficientvit":
        return fewer_norms(in_width, width, stride=stride, kernel=kernel, expand=expand, act=act)
    squeeze = None
    if se and style == "mobilenetv3":
        squeeze = partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round_channels)
    elif se:
        squeeze = partial(SqueezeExcite, rd_ratio=0.25 / expand)
    common = {"dw_kernel_size": kernel, "stride": stride, "act_layer": get_act_layer(act), "se_layer": squeeze}
    block: nn.Module
    if expand == 1:  # nothing to expand: no first convolution (MobileNetV2, table 2)
        block = DepthwiseSeparableConv(in_width, width, **common, drop_path_rate=drop_path)
    else:
        block = InvertedResidual(in_width, width, **common, exp_ratio=expand, drop_path_rate=drop_path)
    return block


def check_inverted_residual(
    in_width: int, stride: int, *, kernel: int, expand: float, se: bool, act: str, style: str
) -> None:
    """Refuse what cannot be built."""
    check_kernel(kernel)
    check_expand(expand)
    check_act(act)
    check_one_of("style", style, STYLES)
    if style == "efficientvit" and (se or stride == 1):
        raise ValueError("style efficientvit is for strided blocks without se")
    if style == "efficientvit" and round(in_width * expand) < 1:
        raise ValueError(f"expand {expand:g} leaves no channel of {in_width}")
    if se and round(make_divisible(in_width * expand) * 0.25 / expand) < 1:
        raise ValueError(f"se squeezes to a quarter of the width, which leaves no channel of {in_width}")


def fewer_norms(in_width: int, width: int, *, stride: int = 1, kernel: int = 3, expand: float, act: str) -> nn.Module:
    """EfficientViT's form (Cai et al., 2023, arXiv:2205.14756): only the last convolution has a batch norm."""
    act_layer = get_act_layer(act)
    block: nn.Module = efficientvit_mit.MBConv(
        in_width,
        width,
        kernel_size=kernel,
        stride=stride,
        expand_ratio=expand,
        use_bias=(True, True, False),
        norm_layer=(None, None, nn.BatchNorm2d),
        act_layer=(act_layer, act_layer, None),
    )
    return block


def _pre_norm(
    in_width: int,
    width: int,
    stride: int,
    kernel: int,
    expand: float,
    se: bool,
    act: str,
    style: str,
    drop_path: float,
) -> nn.Module:
    early = style == "coatnet_0_rw"
    block: nn.Module = MbConvBlock(
        in_width,
        width,
        stride,
        cfg=MaxxVitConvCfg(
            expand_ratio=expand,
            expand_output=False,
            kernel_size=kernel,
            pre_norm_act=True,
            output_bias=False,
            stride_mode="pool" if early else "dw",
            attn_early=early,
            attn_layer="se" if se else "",
            attn_act_layer="relu" if early else "silu",
            act_layer=act,
        ),
        drop_path=drop_path,
    )
    if stride == 1 and in_width != width:
        block.shortcut = nn.Conv2d(in_width, width, 1, bias=False)
    round_up(block)
    return block


def round_up(module: nn.Module) -> None:
    """Let every 2x2 pooling inside turn a side r into ceil(r / 2), as strided convolutions do."""
    for part in module.modules():
        if isinstance(part, nn.AvgPool2d) and part.stride in (2, (2, 2)):
            part.ceil_mode = True
            part.count_include_pad = False


class MBConv(Row):
    """A stage of inverted residuals: expand 1x1, depthwise, squeeze-excite, project 1x1, each with batch norm.

    Args:
        width: C.
        depth: Number of blocks.
        resolution: H = W.
        drop_path: One rate a block.
        kernel: Of the depthwise convolution.
        expand: Inner width over the width that comes in, rounded to a multiple of 8; 1 leaves the expansion out.
        se: Squeeze-excite, with a quarter of the block's input width; in CoAtNet's styles of the inner width, as timm.
        act: The activation, by timm's name.
        style: Compat. `mobilenetv3`: squeeze-excite with a quarter of the inner width and a hard sigmoid.
            `efficientvit`: batch norm after the last convolution only; for transitions. `coatnet`: norm and activation
            before the block. `coatnet_0_rw`: squeeze-excite before the norm besides, and pooling instead of a strided
            convolution, as timm trained coatnet_0_rw_224.
    """

    COMPAT = ("style",)

    def __init__(
        self,
        width: int,
        depth: int,
        resolution: int,
        drop_path: Sequence[float] = (),
        *,
        kernel: int = 3,
        expand: float = 4.0,
        se: bool = False,
        act: str = "silu",
        style: str = "efficientnet",
    ) -> None:
        super().__init__(
            *(
                inverted_residual(
                    width,
                    width,
                    stride=1,
                    kernel=kernel,
                    expand=expand,
                    se=se,
                    act=act,
                    style=style,
                    drop_path=rate,
                )
                for rate in rates_for(depth, drop_path)
            )
        )

    @staticmethod
    def check(
        width: int, resolution: int, *, kernel: int, expand: float, se: bool, act: str, style: str, **_: object
    ) -> None:
        """Refuse what cannot be built."""
        check_inverted_residual(width, 1, kernel=kernel, expand=expand, se=se, act=act, style=style)
