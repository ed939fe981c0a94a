"""Multi-scale linear attention, then an inverted residual: cost linear in the number of positions.

EfficientViT of MIT (Cai et al., 2023, arXiv:2205.14756, section 3.1 and figure 2).
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import DropPath
from timm.models.efficientvit_mit import LiteMLA
from torch import Tensor, nn

from hybridnas.blocks.attention import check_heads
from hybridnas.blocks.mbconv import fewer_norms
from hybridnas.blocks.options import check_act, check_expand, check_kernel, rates_for
from hybridnas.blocks.row import Row


class LinearBlock(nn.Module):
    """x + attention(x), then x + mbconv(x); of the seven convolutions only the last of each part has a batch norm."""

    def __init__(self, width: int, head_dim: int, scale: int, expand: float, act: str, drop_path: float) -> None:
        super().__init__()
        self.attention = LiteMLA(width, width, dim=head_dim, norm_layer=(None, nn.BatchNorm2d), scales=(scale,))
        self.local = fewer_norms(width, width, expand=expand, act=act)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(x))
        out: Tensor = x + self.drop_path(self.local(x))
        return out


class LinearAttention(Row):
    """A stage of ReLU linear attention over the map as it is and over a `scale` x `scale` neighbourhood of it."""

    def __init__(
        self,
        width: int,
        depth: int,
        resolution: int,
        drop_path: Sequence[float] = (),
        *,
        head_dim: int = 16,
        scale: int = 5,
        expand: float = 4.0,
        act: str = "hard_swish",
    ) -> None:
        self.check(width, resolution, head_dim=head_dim, scale=scale, expand=expand, act=act)
        super().__init__(
            *(LinearBlock(width, head_dim, scale, expand, act, rate) for rate in rates_for(depth, drop_path))
        )

    @staticmethod
    def check(width: int, resolution: int, *, head_dim: int, scale: int, expand: float, act: str, **_: object) -> None:
        """Refuse what cannot be built."""
        check_heads(width, head_dim)
        check_kernel(scale, "scale")
        check_expand(expand, width)
        check_act(act)
