"""ConvNeXt's block: depthwise convolution, layer norm, inverted bottleneck, layer scale.

Liu et al., 2022, arXiv:2201.03545, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.models.convnext import ConvNeXtBlock

from hybridnas.blocks.options import LAYER_SCALE_INIT, check_expand, check_kernel, rates_for
from hybridnas.blocks.row import Row


class ConvNeXt(Row):
    """A stage of ConvNeXt blocks; the inverted bottleneck runs on (B, H, W, C)."""

    def __init__(
        self,
        width: int,
        depth: int,
        resolution: int,
        drop_path: Sequence[float] = (),
        *,
        kernel: int = 7,
        expand: float = 4.0,
    ) -> None:
        check_kernel(kernel)
        check_expand(expand, width)
        super().__init__(
            *(
                ConvNeXtBlock(
                    width, kernel_size=kernel, mlp_ratio=expand, ls_init_value=LAYER_SCALE_INIT, drop_path=rate
                )
                for rate in rates_for(depth, drop_path)
            )
        )
