"""Global attention: every position attends to every other.

CoAtNet's transformer block (Dai et al., 2021, arXiv:2106.04803, section 2.1) in the pre-norm form, and its kin by the
way it knows positions: ViT (Dosovitskiy et al., 2021, arXiv:2010.11929), FastViT (Vasu et al., 2023,
arXiv:2303.14189, section 3.2.3) and EfficientFormer's 3D block (Li et al., 2022, arXiv:2206.01191, section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.layers import register_notrace_module, trunc_normal_
from timm.models.fastvit import AttentionBlock, RepConditionalPosEnc
from torch import Tensor, nn

from hybridnas.blocks.attention import (
    DistanceBias,
    PositionBias,
    PreNormBlock,
    RelativeBias,
    SelfAttention,
    check_heads,
    to_map,
)
from hybridnas.blocks.options import (
    LAYER_SCALE_INIT,
    check_count,
    check_eps,
    check_expand,
    check_one_of,
    check_ratio,
    rates_for,
)
from hybridnas.blocks.row import Row

FASTVIT_HEAD_DIM = 32
POSITIONS = ("relative", "distance", "conv", "none")


@register_notrace_module  # what it does depends on the size of the map
class GlobalAttention(nn.Module):
    """A stage of global-attention blocks, flattened to tokens once.

    Args:
        width: C.
        depth: Number of blocks.
        resolution: H = W.
        drop_path: One rate a block.
        head_dim: Channels of a head; must divide the width, unless num_heads is given.
        expand: Hidden width of the feed-forward network over C.
        position: A bias by `relative` offset (CoAtNet) or by absolute `distance` (EfficientFormer), a 7x7 depthwise
            `conv` before the blocks (FastViT), or `none`, for stems that add learned positions (ViT).
        num_heads: Compat. So many heads, whatever the width (EfficientFormer); 0 stands for width / head_dim.
        value_ratio: Compat. Channels of a head's values over head_dim (EfficientFormer: 4).
        layer_scale: Compat. A learned factor a channel after attention and network (EfficientFormer, DINOv2).
        eps: Compat. Of the layer norms.
        class_token: Compat. A learned token attends along, and the stage ends in tokens (B, 1 + H*W, C) instead of a
            map (ViT); for the last stage.
        fastvit: Compat. FastViT's block: batch norm, no bias on the queries, depthwise convolution in the network.
    """

    COMPAT = ("num_heads", "value_ratio", "layer_scale", "eps", "class_token", "fastvit")

    def __init__(
        self,
        width: int,
        depth: int,
        resolution: int,
        drop_path: Sequence[float] = (),
        *,
        head_dim: int = 32,
        expand: float = 4.0,
        position: str = "relative",
        num_heads: int = 0,
        value_ratio: float = 1.0,
        layer_scale: bool = False,
        eps: float = 1e-6,
        class_token: bool = False,
        fastvit: bool = False,
    ) -> None:
        super().__init__()
        self.check(
            width,
            resolution,
            head_dim=head_dim,
            expand=expand,
            position=position,
            num_heads=num_heads,
            value_ratio=value_ratio,
            eps=eps,
            class_token=class_token,
            fastvit=fastvit,
        )
        num_heads = num_heads or width // head_dim

        self.position = RepConditionalPosEnc(width) if position == "conv" else nn.Identity()
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        if self.class_token is not None:
            trunc_normal_(self.class_token, std=0.02)
        self.tokens = not fastvit

        def block(rate: float) -> nn.Module:
            if fastvit:
                made: nn.Module = AttentionBlock(
                    width, mlp_ratio=expand, drop_path=rate, layer_scale_init_value=LAYER_SCALE_INIT
                )
                return made
            bias: PositionBias | None = None
            if position == "relative":
                bias = RelativeBias(resolution, num_heads)
            elif position == "distance":
                bias = DistanceBias(resolution, num_heads)
            attention = SelfAttention(width, num_heads, head_dim, bias, value_dim=int(value_ratio * head_dim))
            return PreNormBlock(width, attention, expand, rate, eps=eps, layer_scale=layer_scale)

        self.blocks = Row(*map(block, rates_for(depth, drop_path)))

    @staticmethod
    def check(
        width: int,
        resolution: int,
        *,
        head_dim: int,
        expand: float,
        position: str,
        num_heads: int,
        value_ratio: float,
        eps: float,
        class_token: bool,
        fastvit: bool,
        **_: object,
    ) -> None:
        """Refuse what cannot be built."""
        check_expand(expand, width)
        check_one_of("position", position, POSITIONS)
        check_count("num_heads", num_heads, least=0)
        check_count("head_dim", head_dim)
        check_ratio("value_ratio", value_ratio, of=head_dim)
        check_eps(eps)
        if not num_heads:
            check_heads(width, head_dim)
        if fastvit and head_dim != FASTVIT_HEAD_DIM:
            raise ValueError(f"fastvit fixes head_dim at {FASTVIT_HEAD_DIM}, got {head_dim}")
        if fastvit and num_heads:
            raise ValueError(f"fastvit has as many heads as the width holds: num_heads must be 0, got {num_heads}")
        if (class_token or fastvit) and position in ("relative", "distance"):
            raise ValueError(f"class_token and fastvit go with position conv or none, not {position}")
        if class_token and fastvit:
            raise ValueError("class_token and fastvit exclude each other: batch norm works on maps")

    def forward(self, x: Tensor) -> Tensor:
        x = self.position(x)
        if not self.tokens:
            return self.blocks(x)  # type: ignore[no-any-return]
        B, _, H, W = x.shape  # noqa: N806
        tokens: Tensor = x.flatten(2).transpose(1, 2)  # (B, H*W, C)
        if self.class_token is not None:
            tokens = torch.cat((self.class_token.expand(B, -1, -1), tokens), dim=1)
        tokens = self.blocks(tokens.unsqueeze(1), H, W).squeeze(1)
        return tokens if self.class_token is not None else to_map(tokens, H, W)
