"""ResNet's bottleneck: 1x1 down, 3x3, 1x1 up, each with batch norm, and an activation after the sum.

He et al., 2016, arXiv:1512.03385, figure 5 right; the stride stands in the 3x3 convolution, as everybody trains it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from timm.layers import ConvNormAct, get_act_layer
from timm.models.byobnet import BottleneckBlock, LayerFn
from torch import nn

from hybridnas.blocks.options import check_act, check_kernel, check_ratio, rates_for
from hybridnas.blocks.row import Row


def check_bottleneck(kernel: int, ratio: float, act: str) -> None:
    """Refuse what cannot be built."""
    check_kernel(kernel)
    check_ratio("ratio", ratio)
    check_act(act)


def bottleneck(
    in_width: int, width: int, *, stride: int, kernel: int, ratio: float, act: str, drop_path: float = 0.0
) -> nn.Module:
    """One block, (B, in_width, H, W) -> (B, width, ceil(H / stride), ceil(W / stride)).

    Where width or resolution change, the shortcut is a strided 1x1 convolution (the paper's option B).
    """
    check_bottleneck(kernel, ratio, act)
    act_layer = get_act_layer(act)
    block: nn.Module = BottleneckBlock(
        in_width,
        width,
        kernel_size=kernel,
        stride=stride,
        bottle_ratio=ratio,
        downsample="conv1x1",
        layers=LayerFn(conv_norm_act=partial(ConvNormAct, act_layer=act_layer), act=act_layer),
        drop_path_rate=drop_path,
    )
    return block


class Bottleneck(Row):
    """A stage of bottlenecks of `ratio` times the width inside."""

    def __init__(
        self,
        width: int,
        depth: int,
        resolution: int,
        drop_path: Sequence[float] = (),
        *,
        kernel: int = 3,
        ratio: float = 0.25,
        act: str = "relu",
    ) -> None:
        super().__init__(
            *(
                bottleneck(width, width, stride=1, kernel=kernel, ratio=ratio, act=act, drop_path=rate)
                for rate in rates_for(depth, drop_path)
            )
        )
