"""Pooling as the token mixer, with convolutions of 1x1 as the feed-forward network.

EfficientFormer's 4D block (Li et al., 2022, arXiv:2206.01191, section 4.1), after PoolFormer (Yu et al., 2022,
arXiv:2111.11418, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.models.efficientformer import MetaBlock2d

from hybridnas.blocks.options import LAYER_SCALE_INIT, check_expand, check_kernel, rates_for
from hybridnas.blocks.row import Row


class Pool(Row):
    """A stage of blocks that mix positions by average pooling of `kernel` x `kernel`."""

    def __init__(
        self,
        width: int,
        depth: int,
        resolution: int,
        drop_path: Sequence[float] = (),
        *,
        kernel: int = 3,
        expand: float = 4.0,
    ) -> None:
        check_kernel(kernel)
        check_expand(expand, width)
        super().__init__(
            *(
                MetaBlock2d(
                    width,
                    pool_size=kernel,
                    mlp_ratio=expand,
                    drop_path=rate,
                    layer_scale_init_value=LAYER_SCALE_INIT,
                )
                for rate in rates_for(depth, drop_path)
            )
        )
