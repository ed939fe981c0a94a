"""Heads: what turns the last feature map into class scores. `HEADS` is their table.

    head(width, num_classes, **options): (B, width, H, W) -> (B, num_classes)

The keyword-only arguments are the head's options.
"""

from __future__ import annotations

from torch import Tensor, nn


class LinearHead(nn.Module):
    """Average pooling, layer norm, one linear layer (ConvNeXt's and Swin's head): (B, C, H, W) -> (B, classes)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.norm(x.mean((2, 3)))
        return x if pre_logits else self.fc(x)


HEADS: dict[str, type[nn.Module]] = {"linear": LinearHead}
