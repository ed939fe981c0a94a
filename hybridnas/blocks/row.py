"""A stage's blocks, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Row(nn.Sequential):
    """Blocks in a row; each gets the last one's output and whatever else the row is called with.

    With `grad_checkpointing` a pass backward computes each block again instead of keeping what was inside it (Chen et
    al., 2016, arXiv:1604.06174).
    """

    grad_checkpointing = False

    def forward(self, x: Tensor, *size: int) -> Tensor:
        for block in self:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, *size, use_reentrant=False)
            else:
                x = block(x, *size)
        return x
