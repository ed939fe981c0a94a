"""MBConv, the inverted residual with a depthwise convolution.

MobileNetV2 (Sandler et al., 2018, arXiv:1801.04381, table 1); squeeze-excite as in EfficientNet
(Tan and Le, 2019, arXiv:1905.11946, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from timm.layers import SqueezeExcite
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn

from hybridnas.blocks.options import check_act, check_expand, check_kernel, rates_for


def inverted_residual(
    in_width: int, width: int, *, stride: int, kernel: int, expand: float, se: bool, act: str, drop_path: float = 0.0
) -> InvertedResidual:
    """One block, (B, in_width, H, W) -> (B, width, ceil(H / stride), ceil(W / stride)).

    The squeeze-excite bottleneck is a quarter of the block's input width, EfficientNet's choice.
    """
    check_kernel(kernel)
    check_expand(expand)
    check_act(act)
    return InvertedResidual(
        in_width,
        width,
        dw_kernel_size=kernel,
        stride=stride,
        exp_ratio=expand,
        act_layer=act,
        se_layer=partial(SqueezeExcite, rd_ratio=0.25 / expand) if se else None,
        drop_path_rate=drop_path,
    )


class MBConv(nn.Sequential):
    """A stage of inverted residuals: expand 1x1, depthwise, squeeze-excite, project 1x1, each with batch norm."""

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
    ) -> None:
        super().__init__(
            *(
                inverted_residual(width, width, stride=1, kernel=kernel, expand=expand, se=se, act=act, drop_path=rate)
                for rate in rates_for(depth, drop_path)
            )
        )
