"""Padding to a multiple, so that patches and windows fit any size."""

from __future__ import annotations

from timm.layers import register_notrace_module
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


@register_notrace_module  # what it does depends on the size of the map
class PadTo(nn.Module):
    """Zero-pad the bottom and right of (B, C, H, W) up to a multiple of `multiple`."""

    def __init__(self, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple

    def forward(self, x: Tensor) -> Tensor:
        bottom, right = -x.shape[2] % self.multiple, -x.shape[3] % self.multiple
        return F.pad(x, (0, right, 0, bottom)) if bottom or right else x
