"""What the attention families share: multi-head self-attention with a relative bias, and the pre-norm block.

Shapes: B batch, N tokens of a group that attends to itself, G such groups, C = heads * head_dim channels.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath, Mlp, RelPosBias
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from hybridnas.blocks.options import check_expand


class SelfAttention(nn.Module):
    """Self-attention inside each group of tokens: (B, G, N, C) -> (B, G, N, C).

    The relative position bias (Swin, arXiv:2103.14030, equation 4; CoAtNet, arXiv:2106.04803, section 2.1) has one
    entry a head and offset. `mask` (G, N, N) is added to it: zero where a token may look, -inf where not.
    Groups and heads share one dimension in the product, so that the mask broadcasts over the batch.
    """

    bias: Tensor | None
    mask: Tensor | None

    def __init__(self, width: int, head_dim: int, side: int, mask: Tensor | None = None) -> None:
        super().__init__()
        if head_dim < 1 or width % head_dim:
            raise ValueError(f"width {width} is not a multiple of head_dim {head_dim}")
        self.num_heads = width // head_dim
        self.head_dim = head_dim
        self.qkv = nn.Linear(width, 3 * width)
        self.relative: Any = RelPosBias((side, side), self.num_heads)
        self.proj = nn.Linear(width, width)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("bias", None, persistent=False)

    def attention_bias(self) -> Tensor:
        """(G * heads, N, N), or (heads, N, N) where nothing is masked and one group's bias serves all."""
        relative: Tensor = self.relative.get_bias()[0]  # (heads, N, N)
        if self.mask is None:
            return relative
        return (self.mask.unsqueeze(1) + relative).flatten(0, 1)

    def reparameterize(self) -> None:
        """Deploy form: keep the gathered bias instead of gathering it at each call."""
        if self.bias is not None:
            return
        self.bias = self.attention_bias().detach().contiguous()
        self.relative = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        B, G, N, C = x.shape  # noqa: N806 (shapes are capitals)
        qkv = self.qkv(x).view(B, G, N, 3, self.num_heads, self.head_dim)
        bias = self.attention_bias() if self.bias is None else self.bias
        if self.mask is None:  # every group alike: groups join the batch
            qkv = qkv.permute(3, 0, 1, 4, 2, 5).reshape(3, B * G, self.num_heads, N, self.head_dim)
        else:
            qkv = qkv.permute(3, 0, 1, 4, 2, 5).reshape(3, B, G * self.num_heads, N, self.head_dim)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        x = x.view(B, G, self.num_heads, N, self.head_dim).transpose(2, 3).reshape(B, G, N, C)
        out: Tensor = self.proj(x)
        return out


class PreNormBlock(nn.Module):
    """x + mix(norm(x)), then x + mlp(norm(x)), over the last dimension, which holds the channels."""

    def __init__(self, width: int, mix: nn.Module, expand: float, drop_path: float) -> None:
        super().__init__()
        check_expand(expand)
        self.norm1 = nn.LayerNorm(width)
        self.mix = mix
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * expand), act_layer=nn.GELU)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.mix(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


def visibility(groups: Tensor) -> Tensor:
    """Additive mask (G, N, N) from region numbers (G, N): tokens see those of their own region only."""
    apart = groups.unsqueeze(1) != groups.unsqueeze(2)
    return torch.zeros(apart.shape, device=groups.device).masked_fill(apart, float("-inf"))
