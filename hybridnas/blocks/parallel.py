"""Convolution and window attention side by side on the same input, joined by a projection: the dual path.

MixFormer (Chen et al., 2022, arXiv:2204.02557, section 3.1 and figure 2), with its two interactions: the convolution
path weighs the channels of attention's values, attention weighs the positions of the convolution path.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import ConvNormAct, register_notrace_module
from torch import Tensor, nn

from hybridnas.blocks.attention import PreNormBlock, attend, check_heads
from hybridnas.blocks.options import check_count, check_expand, check_kernel, rates_for
from hybridnas.blocks.row import Row
from hybridnas.blocks.window import WindowBias, merge_windows, pad_to_windows, split_windows


@register_notrace_module  # what it does depends on the size of the map
class DualPath(nn.Module):
    """(B, H, W, C) -> (B, H, W, C); attention and convolution each deliver half of the channels."""

    def __init__(self, width: int, head_dim: int, resolution: int, window: int, kernel: int, interact: bool) -> None:
        super().__init__()
        half = width // 2
        self.window = window
        self.head_dim = head_dim
        self.num_heads = check_heads(half, head_dim)

        self.into_attention = nn.Sequential(nn.Linear(width, half), nn.LayerNorm(half))
        self.qkv = nn.Linear(half, 3 * half)
        self.bias = WindowBias(resolution, self.num_heads, window)
        self.attention_norm = nn.LayerNorm(half)

        self.into_conv = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
        self.depthwise = ConvNormAct(width, width, kernel, groups=width, act_layer=nn.GELU)
        self.narrow = nn.Conv2d(width, half, 1)
        self.conv_norm: nn.Module = nn.BatchNorm2d(half)

        self.channels = Gate(width, max(1, width // 8), half) if interact else None
        self.positions = Gate(half, max(1, half // 8), 1) if interact else None
        self.proj = nn.Linear(width, width)

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Deploy form: the norm after the positions' weights goes half into the convolution before, half after."""
        norm, half = self.conv_norm, self.narrow.out_channels
        if not isinstance(norm, nn.BatchNorm2d):
            return
        assert norm.running_mean is not None and norm.running_var is not None and self.narrow.bias is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        self.narrow.weight *= scale.view(-1, 1, 1, 1)
        self.narrow.bias *= scale
        self.proj.bias.add_(self.proj.weight[:, half:] @ shift)
        self.conv_norm = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        conv = self.depthwise(self.into_conv(x).permute(0, 3, 1, 2))  # (B, C, H, W)
        channels = None if self.channels is None else self.channels(conv.mean((2, 3), keepdim=True))
        conv = self.narrow(conv)
        attended = self.attend(self.into_attention(x), channels)  # (B, H, W, C/2)
        if self.positions is not None:
            conv = conv * self.positions(attended.permute(0, 3, 1, 2))
        conv = self.conv_norm(conv).permute(0, 2, 3, 1)
        out: Tensor = self.proj(torch.cat((self.attention_norm(attended), conv), dim=-1))
        return out

    def attend(self, x: Tensor, channels: Tensor | None) -> Tensor:
        """Window attention, (B, H, W, C/2) to the same; `channels` (B, C/2, 1, 1) weighs the values."""
        B, H, W, C = x.shape  # noqa: N806
        x = pad_to_windows(x, self.window)
        height, width = x.shape[1:3]
        qkv = self.qkv(split_windows(x, self.window))  # (B, G, N, 3C)
        q, k, v = qkv.chunk(3, dim=-1)
        if channels is not None:
            v = v * channels.view(B, 1, 1, C)
        G, N = q.shape[1:3]  # noqa: N806
        bias = self.bias(H, W)
        shape = (B * G, self.num_heads) if bias.shape[0] == self.num_heads else (B, G * self.num_heads)
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(2, 3).reshape(*shape, N, -1) for part in (q, k, v)
        )
        x = attend(q, k, v, bias.to(q.dtype))
        x = x.view(B, G, self.num_heads, N, -1).transpose(2, 3).flatten(3)
        return merge_windows(x, height, width, self.window)[:, :H, :W]


class Gate(nn.Sequential):
    """Two 1x1 convolutions and a sigmoid: a weight for what it is multiplied with."""

    def __init__(self, in_width: int, inner_width: int, width: int) -> None:
        super().__init__(
            ConvNormAct(in_width, inner_width, 1, act_layer=nn.GELU), nn.Conv2d(inner_width, width, 1), nn.Sigmoid()
        )


class Parallel(nn.Module):
    """A stage of dual-path blocks.

    Args:
        width: C, even.
        depth: Number of blocks.
        resolution: H = W; where the window does not divide it, the map is padded and the padding masked.
        drop_path: One rate a block.
        window: Side of the attention's windows, which are not shifted: the convolution crosses their borders.
        head_dim: Channels of a head; divides C / 2.
        kernel: Of the depthwise convolution.
        expand: Hidden width of the network over C.
        interact: Whether the paths weigh each other.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        resolution: int,
        drop_path: Sequence[float] = (),
        *,
        window: int = 7,
        head_dim: int = 8,
        kernel: int = 3,
        expand: float = 4.0,
        interact: bool = True,
    ) -> None:
        super().__init__()
        self.check(width, resolution, window=window, head_dim=head_dim, kernel=kernel, expand=expand)
        window = min(window, resolution)
        self.blocks = Row(
            *(
                PreNormBlock(
                    width, DualPath(width, head_dim, resolution, window, kernel, interact), expand, rate, eps=1e-5
                )
                for rate in rates_for(depth, drop_path)
            )
        )

    @staticmethod
    def check(
        width: int, resolution: int, *, window: int, head_dim: int, kernel: int, expand: float, **_: object
    ) -> None:
        """Refuse what cannot be built."""
        if width % 2:
            raise ValueError(f"width must be even, half for each path, got {width}")
        check_heads(width // 2, head_dim)
        check_count("window", window, least=2)
        check_kernel(kernel)
        check_expand(expand, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.blocks(x.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)
