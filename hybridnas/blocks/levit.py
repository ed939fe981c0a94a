"""LeViT's attention: batch norm instead of layer norm, narrow keys, wide values, a bias by absolute offset.

Graham et al., 2021, arXiv:2104.01136, section 4.1 and figures 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import DropPath, get_act_layer, register_notrace_module
from timm.models.levit import LevitMlp, LinearNorm
from torch import Tensor, nn

from hybridnas.blocks.attention import DistanceBias, attend, to_map
from hybridnas.blocks.options import check_act, check_count, check_expand, check_ratio, rates_for
from hybridnas.blocks.row import Row


class LevitAttention(nn.Module):
    """(B, H*W, in_width) -> (B, queries, width): every `stride`-th position of each side asks, all answer.

    The shrinking form (figure 5) has its queries from the positions that remain, and no shortcut.
    """

    def __init__(
        self,
        in_width: int,
        width: int,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        resolution: int,
        act: str,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dims = [key_dim, key_dim, value_dim] if stride == 1 else [key_dim, value_dim]
        self.stride = stride
        self.qkv = LinearNorm(in_width, num_heads * sum(self.dims))
        self.query = LinearNorm(in_width, num_heads * key_dim) if stride > 1 else None
        self.bias = DistanceBias(resolution, num_heads, stride)
        self.act = get_act_layer(act)()
        self.proj = LinearNorm(num_heads * value_dim, width, bn_weight_init=0 if stride == 1 else 1)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        # (B, heads, N, D) each
        parts = self.qkv(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2).split(self.dims, dim=-1)
        if self.query is None:
            q, k, v = parts
        else:
            k, v = parts
            remaining = x.unflatten(1, (height, width))[:, :: self.stride, :: self.stride].flatten(1, 2)
            q = self.query(remaining).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        x = attend(q, k, v, self.bias(height, width).to(q.dtype))
        out: Tensor = self.proj(self.act(x.transpose(1, 2).flatten(2)))
        return out


class LevitBlock(nn.Module):
    """x + attention(x), then x + mlp(x), on tokens (B, H*W, C)."""

    def __init__(self, width: int, attention: LevitAttention, expand: float, act: str, drop_path: float) -> None:
        super().__init__()
        self.attention = attention
        self.mlp = LevitMlp(width, int(width * expand), act_layer=get_act_layer(act))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.drop_path(self.attention(x, height, width))
        out: Tensor = x + self.drop_path(self.mlp(x))
        return out


@register_notrace_module  # what it does depends on the size of the map
class LeViT(nn.Module):
    """A stage of LeViT blocks, flattened to tokens once.

    Args:
        width: C.
        depth: Number of blocks.
        resolution: H = W.
        drop_path: One rate a block.
        num_heads: Has nothing to do with the width.
        key_dim: Channels of a head's queries and keys.
        value_ratio: Channels of a head's values over key_dim.
        expand: Hidden width of the network over C.
        act: The activation, by timm's name.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        resolution: int,
        drop_path: Sequence[float] = (),
        *,
        num_heads: int = 4,
        key_dim: int = 16,
        value_ratio: float = 2.0,
        expand: float = 2.0,
        act: str = "hard_swish",
    ) -> None:
        super().__init__()
        self.check(
            width,
            resolution,
            num_heads=num_heads,
            key_dim=key_dim,
            value_ratio=value_ratio,
            expand=expand,
            act=act,
        )
        value_dim = int(value_ratio * key_dim)
        self.blocks = Row(
            *(
                LevitBlock(
                    width,
                    LevitAttention(width, width, num_heads, key_dim, value_dim, resolution, act),
                    expand,
                    act,
                    rate,
                )
                for rate in rates_for(depth, drop_path)
            )
        )

    @staticmethod
    def check(
        width: int,
        resolution: int,
        *,
        num_heads: int,
        key_dim: int,
        value_ratio: float,
        expand: float,
        act: str,
        **_: object,
    ) -> None:
        """Refuse what cannot be built."""
        check_count("num_heads", num_heads)
        check_count("key_dim", key_dim)
        check_ratio("value_ratio", value_ratio, of=key_dim)
        check_expand(expand, width)
        check_act(act)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        tokens: Tensor = self.blocks(x.flatten(2).transpose(1, 2), height, width)  # (B, H*W, C)
        return to_map(tokens, height, width)
