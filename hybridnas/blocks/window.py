"""Window attention, shifted in every second block, at any resolution.

Swin Transformer (Liu et al., 2021, arXiv:2103.14030, section 3.2). Where the window does not divide the feature map,
the map is padded and the padding masked: no position attends to what is not there (timm's Swin lets it).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hybridnas.blocks.attention import (
    PositionBias,
    PreNormBlock,
    SelfAttention,
    check_heads,
    relative_index,
    visibility,
)
from hybridnas.blocks.options import check_count, check_expand, rates_for
from hybridnas.blocks.row import Row


class WindowBias(PositionBias):
    """By offset with sign, inside windows of a side x side map; padding, and what a shift joined, is masked."""

    def __init__(self, side: int, num_heads: int, window: int, shift: int = 0) -> None:
        mask = window_mask(side, side, window, shift)
        super().__init__(num_heads, side, relative_index(window, window), 2 * window - 1, mask)
        self.window = window
        self.shift = shift

    def elsewhere(self, height: int, width: int) -> tuple[Tensor, Tensor, Tensor | None]:
        mask = window_mask(height, width, self.window, self.shift)
        return self.table, self.index, None if mask is None else mask.to(self.table)


@register_notrace_module  # what it does depends on the size of the map
class ShiftedWindow(nn.Module):
    """Attention inside windows of `window` x `window` positions: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, width: int, head_dim: int, resolution: int, window: int, shift: int) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        num_heads = check_heads(width, head_dim)
        self.attention = SelfAttention(width, num_heads, head_dim, WindowBias(resolution, num_heads, window, shift))

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1:3]  # noqa: N806
        x = pad_to_windows(x, self.window)
        height, width = x.shape[1:3]
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        x = merge_windows(self.attention(split_windows(x, self.window), H, W), height, width, self.window)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), dims=(1, 2))
        return x[:, :H, :W] if (height, width) != (H, W) else x


class WindowAttention(nn.Module):
    """A stage of window-attention blocks; every second one shifts by half a window."""

    def __init__(
        self,
        width: int,
        depth: int,
        resolution: int,
        drop_path: Sequence[float] = (),
        *,
        window: int = 7,
        head_dim: int = 32,
        expand: float = 4.0,
    ) -> None:
        super().__init__()
        self.check(width, resolution, window=window, head_dim=head_dim, expand=expand)
        window = min(window, resolution)  # one window covers the map: nothing to shift into
        shift = window // 2 if window < resolution else 0
        self.blocks = Row(
            *(
                PreNormBlock(
                    width, ShiftedWindow(width, head_dim, resolution, window, shift * (i % 2)), expand, rate, eps=1e-5
                )
                for i, rate in enumerate(rates_for(depth, drop_path))
            )
        )

    @staticmethod
    def check(width: int, resolution: int, *, window: int, head_dim: int, expand: float, **_: object) -> None:
        """Refuse what cannot be built."""
        check_count("window", window, least=2)
        check_heads(width, head_dim)
        check_expand(expand, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)


def split_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B, G, N, C) with G = H/window * W/window groups of N = window^2 tokens, row by row."""
    B, H, W, C = x.shape  # noqa: N806
    x = x.view(B, H // window, window, W // window, window, C).transpose(2, 3)
    return x.reshape(B, -1, window * window, C)


def merge_windows(x: Tensor, height: int, width: int, window: int) -> Tensor:
    """Undo `split_windows`: (B, G, N, C) -> (B, height, width, C)."""
    B, C = x.shape[0], x.shape[-1]  # noqa: N806
    x = x.view(B, height // window, width // window, window, window, C).transpose(2, 3)
    return x.reshape(B, height, width, C)


def pad_to_windows(x: Tensor, window: int) -> Tensor:
    """Zero-pad the bottom and right of (B, H, W, C) up to a multiple of `window`."""
    bottom, right = -x.shape[1] % window, -x.shape[2] % window
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def window_mask(height: int, width: int, window: int, shift: int) -> Tensor | None:
    """Additive mask (G, N, N): after padding and the cyclic shift, only positions that were neighbours may attend.

    Padding forms a region of its own, so that no row is masked as a whole. None where there is neither.
    """
    if not shift and height % window == 0 and width % window == 0:
        return None
    wrapped, padded = [], []
    for side in (height, width):
        whole = side + -side % window
        position = (torch.arange(whole) + shift) % whole  # where the rolled row came from
        wrapped.append(position < shift)
        padded.append(position >= side)
    region = 2 * wrapped[0].long().unsqueeze(1) + wrapped[1].long().unsqueeze(0)  # (height, width), both padded
    region = region.masked_fill(padded[0].unsqueeze(1) | padded[1].unsqueeze(0), 4)
    return visibility(split_windows(region[None, :, :, None], window).view(-1, window * window))
