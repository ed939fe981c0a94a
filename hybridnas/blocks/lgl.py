"""Local-global-local: gather neighbours, attend among every r-th position, hand the result back to the others.

EdgeViT (Pan et al., 2022, arXiv:2205.03436, section 3.1 and figure 3); where the paper and the authors' code differ,
the code is followed (github.com/saic-fi/edgevit).
"""

from __future__ import annotations

from collections.abc import Sequence

from timm.layers import DropPath, Mlp
from timm.models.fastvit import RepConditionalPosEnc
from torch import Tensor, nn

from hybridnas.blocks.attention import PreNormBlock, SelfAttention, check_heads
from hybridnas.blocks.fold import fold_into_next
from hybridnas.blocks.options import check_count, check_expand, check_kernel, rates_for
from hybridnas.blocks.row import Row


class LocalAggregation(nn.Module):
    """Position, then depthwise mixing, then a network, all convolutions: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, width: int, kernel: int, expand: float, drop_path: float) -> None:
        super().__init__()
        self.position = RepConditionalPosEnc(width, spatial_shape=(3, 3))
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 1)
        self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.conv2 = nn.Conv2d(width, width, 1)
        self.norm2 = nn.BatchNorm2d(width)
        self.mlp = Mlp(width, int(width * expand), act_layer=nn.GELU, use_conv=True)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def reparameterize(self) -> None:
        """Deploy form: each norm goes into the 1x1 convolution after it."""
        for name, conv in (("norm1", self.conv1), ("norm2", self.mlp.fc1)):
            norm = getattr(self, name)
            fold_into_next(norm, conv)
            setattr(self, name, nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        x = self.position(x)
        x = x + self.drop_path(self.conv2(self.depthwise(self.conv1(self.norm1(x)))))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class SparseAttention(nn.Module):
    """Attention among every `sample`-th position of each side: (B, H, W, C) -> (B, H, W, C).

    A transposed convolution spreads each sampled position's result over the square that it stands for.
    """

    def __init__(self, width: int, num_heads: int, sample: int) -> None:
        super().__init__()
        self.sample = sample
        self.attention = SelfAttention(width, num_heads, width // num_heads, bias=None)
        if sample > 1:
            self.propagate = nn.ConvTranspose2d(width, width, sample, stride=sample, groups=width)
            self.norm = nn.LayerNorm(width)
            # The authors project after the propagation, at every position.
            self.proj: nn.Module = self.attention.proj
            self.attention.proj = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1:3]  # noqa: N806
        x = x[:, :: self.sample, :: self.sample]
        sampled: Tensor = self.attention(x.flatten(1, 2).unsqueeze(1)).view(x.shape)
        if self.sample == 1:
            return sampled
        spread = self.propagate(sampled.permute(0, 3, 1, 2))[..., :H, :W]
        out: Tensor = self.proj(self.norm(spread.permute(0, 2, 3, 1)))
        return out


class LGLBlock(nn.Module):
    """Local aggregation, then a sparse transformer; with `sample` 1 there is nothing to aggregate for."""

    def __init__(self, width: int, num_heads: int, sample: int, kernel: int, expand: float, drop_path: float) -> None:
        super().__init__()
        self.local = LocalAggregation(width, kernel, expand, drop_path) if sample > 1 else nn.Identity()
        self.position = RepConditionalPosEnc(width, spatial_shape=(3, 3))
        self.transformer = PreNormBlock(width, SparseAttention(width, num_heads, sample), expand, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.position(self.local(x))
        out: Tensor = self.transformer(x.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)


class LGL(Row):
    """A stage of local-global-local blocks.

    Args:
        width: C.
        depth: Number of blocks.
        resolution: H = W.
        drop_path: One rate a block.
        head_dim: Channels of a head; must divide the width, unless num_heads is given.
        sample: The paper's r; with 1 every position attends, and nothing is aggregated or propagated.
        kernel: Of the aggregation's depthwise convolution.
        expand: Hidden width of the networks over C.
        num_heads: Compat. So many heads, which must divide the width (EdgeViT doubles them from stage to stage); 0
            stands for width / head_dim.
    """

    COMPAT = ("num_heads",)

    def __init__(
        self,
        width: int,
        depth: int,
        resolution: int,
        drop_path: Sequence[float] = (),
        *,
        head_dim: int = 32,
        sample: int = 2,
        kernel: int = 5,
        expand: float = 4.0,
        num_heads: int = 0,
    ) -> None:
        self.check(
            width,
            resolution,
            head_dim=head_dim,
            sample=sample,
            kernel=kernel,
            expand=expand,
            num_heads=num_heads,
        )
        num_heads = num_heads or width // head_dim
        super().__init__(
            *(LGLBlock(width, num_heads, sample, kernel, expand, rate) for rate in rates_for(depth, drop_path))
        )

    @staticmethod
    def check(
        width: int,
        resolution: int,
        *,
        head_dim: int,
        sample: int,
        kernel: int,
        expand: float,
        num_heads: int,
        **_: object,
    ) -> None:
        """Refuse what cannot be built."""
        check_count("num_heads", num_heads, least=0)
        if num_heads and width % num_heads:
            raise ValueError(f"num_heads must divide the width {width}, got {num_heads}")
        if not num_heads:
            check_heads(width, head_dim)
        check_count("sample", sample)
        check_kernel(kernel)
        check_expand(expand, width)
