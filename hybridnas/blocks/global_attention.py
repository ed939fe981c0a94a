"""Global attention: every position attends to every other, with a relative position bias.

CoAtNet's transformer block (Dai et al., 2021, arXiv:2106.04803, section 2.1), in the pre-norm form.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from hybridnas.blocks.attention import PreNormBlock, SelfAttention
from hybridnas.blocks.options import rates_for


class GlobalAttention(nn.Module):
    """A stage of global-attention blocks, flattened to tokens once."""

    def __init__(
        self,
        width: int,
        depth: int,
        resolution: int,
        drop_path: Sequence[float] = (),
        *,
        head_dim: int = 32,
        expand: float = 4.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                PreNormBlock(width, SelfAttention(width, head_dim, resolution), expand, rate)
                for rate in rates_for(depth, drop_path)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape  # noqa: N806
        tokens: Tensor = x.flatten(2).transpose(1, 2).unsqueeze(1)  # (B, 1, H*W, C)
        tokens = self.blocks(tokens)
        return tokens.squeeze(1).transpose(1, 2).reshape(B, C, H, W)
