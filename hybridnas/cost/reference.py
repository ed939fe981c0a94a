"""The network that every timing is a ratio to."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from hybridnas.cost.runtimes import Input

#: Of the reference's input; fixed, whatever the candidate's batch and size are.
GIVEN = Input((1, 3, 112, 112))


class Reference(nn.Module):
    """Images (1, 3, 112, 112) to features (1, 256), made of what ours are made of, about 10 ms on a CPU core.

    Large and small maps, depthwise and dense convolution, attention, a matrix that no second-level cache holds:
    whatever slows one of them down slows the reference, too. One a tenth as long, without the large matrix, followed
    the machine worse: the largest difference between two timings of a network was 30 % instead of 8 (experiments/
    latency).
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 64, 4, stride=4)
        self.mixers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(64, 64, 7, padding=3, groups=64), nn.Conv2d(64, 256, 1), nn.GELU(), nn.Conv2d(256, 64, 1)
            )
            for _ in range(3)
        )
        self.narrow = nn.Conv2d(64, 256, 2, stride=2)
        self.norm = nn.LayerNorm(256)
        self.qkv = nn.Linear(256, 768)
        self.wide = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 1024), nn.Linear(1024, 256))
        self.dense = nn.Sequential(
            nn.Conv2d(256, 256, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x)  # (1, 64, 28, 28)
        for mixer in self.mixers:
            x = x + mixer(x)
        tokens = self.narrow(x).flatten(2).transpose(1, 2)  # (1, 196, 256)
        qkv = self.qkv(self.norm(tokens)).view(1, 196, 3, 8, 32).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])  # (1, 8, 196, 32)
        tokens = tokens + attended.transpose(1, 2).flatten(2)
        tokens = tokens + self.wide(tokens)
        out: Tensor = self.dense(tokens.transpose(1, 2).reshape(1, 256, 14, 14)).mean((2, 3))
        return out


def reference() -> nn.Module:
    """The reference in inference form; the same weights everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Reference().eval().requires_grad_(False)
