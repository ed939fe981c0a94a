"""RepMixer: token mixing by a depthwise convolution whose training branches fuse into one for inference.

FastViT (Vasu et al., 2023, arXiv:2303.14189, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.models.fastvit import RepMixerBlock

from hybridnas.blocks.options import LAYER_SCALE_INIT, check_expand, check_kernel, rates_for
from hybridnas.blocks.row import Row


class RepMixer(Row):
    """A stage of RepMixer blocks: the reparameterised mixer, then a feed-forward with a 7x7 depthwise convolution."""

    def __init__(
        self,
        width: int,
        depth: int,
        resolution: int,
        drop_path: Sequence[float] = (),
        *,
        kernel: int = 3,
        expand: float = 3.0,
    ) -> None:
        check_kernel(kernel)
        check_expand(expand, width)
        super().__init__(
            *(
                RepMixerBlock(
                    width,
                    kernel_size=kernel,
                    mlp_ratio=expand,
                    layer_scale_init_value=LAYER_SCALE_INIT,
                    drop_path=rate,
                )
                for rate in rates_for(depth, drop_path)
            )
        )
