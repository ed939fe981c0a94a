"""Window attention, shifted in every second block, at any resolution.

Swin Transformer (Liu et al., 2021, arXiv:2103.14030, section 3.2). Where the window does not divide the feature map,
the map is padded and the padding masked: no position attends to what is not there (timm's Swin lets it).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hybridnas.blocks.attention import PreNormBlock, SelfAttention, check_heads, relative_bias, visibility
from hybridnas.blocks.options import check_count, check_expand, rates_for


class ShiftedWindow(nn.Module):
    """Attention inside windows of `window` x `window` positions: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, width: int, head_dim: int, resolution: int, window: int, shift: int) -> None:
        super().__init__()
        self.window = window
        self.shift = shift
        self.padding = -resolution % window
        masked = shift or self.padding
        mask = window_mask(resolution, window, shift) if masked else None
        num_heads = check_heads(width, head_dim)
        self.attention = SelfAttention(width, num_heads, head_dim, relative_bias(window, num_heads, mask))

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1:3]  # noqa: N806
        if self.padding:
            x = F.pad(x, (0, 0, 0, self.padding, 0, self.padding))
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        x = merge_windows(self.attention(split_windows(x, self.window)), x.shape[1], self.window)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), dims=(1, 2))
        return x[:, :H, :W] if self.padding else x


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
        self.blocks = nn.Sequential(
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


def merge_windows(x: Tensor, side: int, window: int) -> Tensor:
    """Undo `split_windows` for a square map: (B, G, N, C) -> (B, side, side, C)."""
    B, C = x.shape[0], x.shape[-1]  # noqa: N806
    count = side // window
    x = x.view(B, count, count, window, window, C).transpose(2, 3)
    return x.reshape(B, side, side, C)


def window_mask(resolution: int, window: int, shift: int) -> Tensor:
    """Additive mask (G, N, N): after padding and the cyclic shift, only positions that were neighbours may attend.

    Padding forms a region of its own, so that no row is masked as a whole.
    """
    side = resolution + -resolution % window
    position = (torch.arange(side) + shift) % side  # where the rolled row came from
    wrapped = (position < shift).long()
    region = 2 * wrapped.unsqueeze(1) + wrapped.unsqueeze(0)
    padded = position >= resolution
    region = region.masked_fill(padded.unsqueeze(1) | padded.unsqueeze(0), 4)
    return visibility(split_windows(region.view(1, side, side, 1), window).view(-1, window * window))
