"""What the attention families share: multi-head self-attention, its position bias, and the pre-norm block.

Shapes: B batch, N tokens of a group that attends to itself, G such groups, C channels, D channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import (
    DropPath,
    LayerScale,
    Mlp,
    register_notrace_module,
    resample_abs_pos_embed,
    trunc_normal_,
)
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own convention)

from hybridnas.blocks.options import LAYER_SCALE_INIT, check_expand


def to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W), without a copy.

    What stands as the stride between images where there is only one is arbitrary, and one that is not C*H*W keeps
    convolutions from taking channels that are last for that: they would copy, and all that follows would be computed in
    the other layout.
    """
    x = tokens[0] if tokens.shape[0] == 1 else tokens
    return x.view(tokens.shape[0], height, width, -1).permute(0, 3, 1, 2)


class PositionBias(nn.Module):
    """What is added to the attention of every pair of positions: a table, gathered by `index`, and a mask.

    A subclass says by `elsewhere` what the three are on a map of another size than the one that it is built for.

    Args:
        num_heads: One column of the table a head.
        side: Of the square map that it is built for.
        index: (queries, keys), the row of the table for each pair; from `relative_index` or `distance_index`.
        extent: Side of the square of offsets that are the rows of the table.
        mask: (G, queries, keys): zero where a token may look, -inf where not. Each group has its own.

    Gathering costs as much as a small attention, so without gradients the result is kept for as long as the table
    is the same memory in the same version; the deploy form keeps nothing else. A write through `table.data` leaves
    the version as it is: `train` or `eval` after it.
    """

    gathered: Tensor | None
    mask: Tensor | None
    index: Tensor

    def __init__(self, num_heads: int, side: int, index: Tensor, extent: int, mask: Tensor | None = None) -> None:
        super().__init__()
        self.side = side
        self.table = nn.Parameter(torch.zeros(extent**2, num_heads))
        trunc_normal_(self.table, std=0.02)
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("gathered", None, persistent=False)
        self._kept: tuple[Tensor, int, Tensor] | None = None  # table, its version, what was gathered from it

    def elsewhere(self, height: int, width: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Table, index and mask for a map of this size."""
        raise NotImplementedError

    def gather(self) -> Tensor:
        """(heads, queries, keys), or (G * heads, queries, keys) where there is a mask."""
        return gather(self.table, self.index, self.mask)

    def reparameterize(self) -> None:
        """Deploy form: the gathered bias instead of table and index."""
        if self.gathered is None:
            gathered = self.gather().detach()
            self._kept = None
            del self.table, self.index, self.mask, self.gathered
            self.register_buffer("gathered", gathered)  # now a weight like any other: part of the state dict

    def forward(self, *size: int) -> Tensor:
        """The bias for a map of `size`, height and width; without, for the one that it is built for.

        Raises:
            ValueError: another size, in deploy form.
        """
        if size and size != (self.side, self.side):
            if self.gathered is not None:
                at, built = (f"{height} x {width}" for height, width in (size, (self.side, self.side)))
                raise ValueError(
                    f"attention got a map of {at} and its deploy form is for {built} alone: "
                    "call set_input_size(img_size) before deploy()."
                )
            return gather(*self.elsewhere(*size))
        if self.gathered is not None:
            return self.gathered
        if torch.compiler.is_compiling() or torch._C._get_tracing_state():
            return self.gather()
        if torch.is_grad_enabled():  # an optimizer's step may follow, and torch's fused ones leave the version as it is
            self._kept = None
            return self.gather()
        if self.table.is_meta or self.table.is_inference():  # neither an address nor a version to tell a change by
            return self.gather()
        kept, version = self._kept, self.table._version
        if kept is None or kept[0].data_ptr() != self.table.data_ptr() or kept[1] != version:
            # Holding on to the memory keeps its address from becoming another table's.
            kept = self._kept = (self.table.detach(), version, self.gather())
        return kept[2]

    def train(self, mode: bool = True) -> PositionBias:
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}  # copies and pickles gather for themselves


class RelativeBias(PositionBias):
    """By offset with sign, among side x side tokens."""

    def __init__(self, side: int, num_heads: int) -> None:
        super().__init__(num_heads, side, relative_index(side, side), 2 * side - 1)

    def elsewhere(self, height: int, width: int) -> tuple[Tensor, Tensor, Tensor | None]:
        table = resample(self.table, 2 * height - 1, 2 * width - 1)
        return table, relative_index(height, width).to(table.device), None


class DistanceBias(PositionBias):
    """By absolute offset, among side x side tokens; only every `stride`-th token of each side asks."""

    def __init__(self, side: int, num_heads: int, stride: int = 1) -> None:
        super().__init__(num_heads, side, distance_index(side, side, stride), side)
        self.stride = stride

    def elsewhere(self, height: int, width: int) -> tuple[Tensor, Tensor, Tensor | None]:
        table = resample(self.table, height, width)
        return table, distance_index(height, width, self.stride).to(table.device), None


def gather(table: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
    """(heads, queries, keys), or (G * heads, queries, keys) where there is a mask."""
    bias = table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1).contiguous()
    return bias if mask is None else (mask.unsqueeze(1) + bias).flatten(0, 1)


def resample(table: Tensor, height: int, width: int) -> Tensor:
    """A table of a square of places, row by row, for a rectangle of them: (side^2, C) -> (height * width, C)."""
    resized: Tensor = resample_abs_pos_embed(table.unsqueeze(0), [height, width], num_prefix_tokens=0)
    return resized.squeeze(0)


def relative_index(height: int, width: int) -> Tensor:
    """Row of the offset between each two positions, (2 height - 1)(2 width - 1) of them: (keys, keys).

    Swin (Liu et al., 2021, arXiv:2103.14030, equation 4), CoAtNet (Dai et al., 2021, arXiv:2106.04803, section 2.1).
    """
    down, across = torch.arange(height), torch.arange(width)
    rows = (down.unsqueeze(1) - down.unsqueeze(0) + height - 1) * (2 * width - 1)  # (height, height)
    columns = across.unsqueeze(1) - across.unsqueeze(0) + width - 1  # (width, width), from 0 to 2 width - 2
    count = height * width
    return (rows[:, None, :, None] + columns[None, :, None, :]).reshape(count, count)


def distance_index(height: int, width: int, stride: int = 1) -> Tensor:
    """Row of the absolute offset between queries, every `stride`-th position, and keys: (queries, height * width).

    LeViT (Graham et al., 2021, arXiv:2104.01136, section 4.1, "attention bias"): the same bias to all four sides.
    """
    down, across = torch.arange(height), torch.arange(width)
    rows = (down[::stride].unsqueeze(1) - down.unsqueeze(0)).abs() * width
    columns = (across[::stride].unsqueeze(1) - across.unsqueeze(0)).abs()
    return (rows[:, None, :, None] + columns[None, :, None, :]).reshape(-1, height * width)


@register_notrace_module  # the ways through it depend on shapes and devices
class SelfAttention(nn.Module):
    """Self-attention inside each group of tokens: (B, G, N, C) -> (B, G, N, out_width).

    Queries and keys have num_heads * head_dim channels, values num_heads * value_dim; neither has to do with C.
    Groups and heads share one dimension in the product where a mask tells groups apart, so that it
    broadcasts over the batch. `size` is that of the map that the bias is for.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        head_dim: int,
        bias: PositionBias | None,
        *,
        value_dim: int | None = None,
        out_width: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.value_dim = value_dim or head_dim
        self.qkv = nn.Linear(width, num_heads * (2 * head_dim + self.value_dim))
        self.bias = bias
        self.proj: nn.Module = nn.Linear(num_heads * self.value_dim, out_width or width)

    def forward(self, x: Tensor, *size: int) -> Tensor:
        B, G, N, _ = x.shape  # noqa: N806 (shapes are capitals)
        heads, keys = self.num_heads, self.num_heads * self.head_dim
        bias = None if self.bias is None else self.bias(*size)
        together = bias is None or bias.shape[0] == heads  # every group alike: groups join the batch
        shape = (B * G, heads) if together else (B, G * heads)
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(2, 3).reshape(*shape, N, -1)
            for part in self.qkv(x).split([keys, keys, heads * self.value_dim], dim=-1)
        )
        x = attend(q, k, v, None if bias is None else bias.to(q.dtype))
        out: Tensor = self.proj(x.view(B, G, heads, N, self.value_dim).transpose(2, 3).flatten(3))
        return out


class PreNormBlock(nn.Module):
    """x + mix(norm(x), *size), then x + mlp(norm(x)), over the last dimension, which holds the channels."""

    def __init__(
        self,
        width: int,
        mix: nn.Module,
        expand: float,
        drop_path: float,
        *,
        eps: float = 1e-6,
        layer_scale: bool = False,
    ) -> None:
        super().__init__()
        check_expand(expand, width)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.mix = mix
        self.scale1 = LayerScale(width, LAYER_SCALE_INIT) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, int(width * expand), act_layer=nn.GELU)
        self.scale2 = LayerScale(width, LAYER_SCALE_INIT) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, *size: int) -> Tensor:
        x = x + self.drop_path(self.scale1(self.mix(self.norm1(x), *size)))
        out: Tensor = x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))
        return out


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v by whichever way is faster: (B, heads, N, D) each, bias (heads, N, N).

    torch's fused kernels take no values that are wider than the keys and, on a CPU, no bias that wants a gradient; what
    it does then is slower than plain products. A bias must have four dimensions, or they refuse it too.
    """
    learning = bias is not None and q.device.type == "cpu" and torch.is_grad_enabled()
    if v.shape[-1] == q.shape[-1] and (not learning or torch.compiler.is_compiling()):
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.unsqueeze(0))
        # Kernels leave the result in different layouts; a graph must not count on that of the one it was traced with.
        return out.clone(memory_format=torch.contiguous_format) if torch.compiler.is_compiling() else out
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    weights: Tensor = (scores if bias is None else scores + bias).softmax(dim=-1)
    return weights @ v


def check_heads(width: int, head_dim: int) -> int:
    """The number of heads of `head_dim` channels that make up `width`."""
    if head_dim < 1 or width % head_dim:
        raise ValueError(f"width {width} is not a multiple of head_dim {head_dim}")
    return width // head_dim


def visibility(groups: Tensor) -> Tensor:
    """Additive mask (G, N, N) from region numbers (G, N): tokens see those of their own region only."""
    apart = groups.unsqueeze(1) != groups.unsqueeze(2)
    return torch.zeros(apart.shape, device=groups.device).masked_fill(apart, float("-inf"))
