"""MobileViT's block: a convolution, then a transformer over the positions that share a place in their patch.

Mehta and Rastegari, 2022, arXiv:2110.02178, section 3.1 and figure 1b.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from timm.layers import ConvNormAct, get_act_layer
from timm.models.byobnet import LayerFn
from timm.models.mobilevit import MobileVitBlock

from hybridnas.blocks.options import check_act, check_count, check_expand, check_kernel, check_ratio, rates_for
from hybridnas.blocks.row import Row

NUM_HEADS = 4


class MobileViT(Row):
    """A stage of MobileViT blocks.

    Args:
        width: C.
        depth: Number of blocks, each with a transformer of its own.
        resolution: H = W; a map that the patch does not divide is stretched for the transformer and shrunk again.
        drop_path: One rate a block.
        kernel: Of the convolutions.
        patch: Side of a patch.
        inner_ratio: Width of the transformer over C, rounded to a multiple of its four heads.
        inner_depth: Layers of each block's transformer.
        expand: Hidden width of the transformer's network over its own.
        act: The activation, by timm's name.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        resolution: int,
        drop_path: Sequence[float] = (),
        *,
        kernel: int = 3,
        patch: int = 2,
        inner_ratio: float = 1.5,
        inner_depth: int = 2,
        expand: float = 2.0,
        act: str = "silu",
    ) -> None:
        self.check(
            width,
            resolution,
            kernel=kernel,
            patch=patch,
            inner_ratio=inner_ratio,
            inner_depth=inner_depth,
            expand=expand,
            act=act,
        )
        act_layer = get_act_layer(act)
        super().__init__(
            *(
                MobileVitBlock(
                    width,
                    kernel_size=kernel,
                    mlp_ratio=expand,
                    transformer_dim=transformer_width(width, inner_ratio),
                    transformer_depth=inner_depth,
                    patch_size=patch,
                    num_heads=NUM_HEADS,
                    drop_path_rate=rate,
                    layers=LayerFn(conv_norm_act=partial(ConvNormAct, act_layer=act_layer), act=act_layer),
                )
                for rate in rates_for(depth, drop_path)
            )
        )

    @staticmethod
    def check(
        width: int,
        resolution: int,
        *,
        kernel: int,
        patch: int,
        inner_ratio: float,
        inner_depth: int,
        expand: float,
        act: str,
        **_: object,
    ) -> None:
        """Refuse what cannot be built."""
        check_kernel(kernel)
        check_count("patch", patch)
        check_ratio("inner_ratio", inner_ratio)
        check_count("inner_depth", inner_depth)
        check_expand(expand, transformer_width(width, inner_ratio))
        check_act(act)


def transformer_width(width: int, inner_ratio: float) -> int:
    """`inner_ratio` times the width, as a multiple of the heads."""
    return max(NUM_HEADS, round(width * inner_ratio / NUM_HEADS) * NUM_HEADS)
