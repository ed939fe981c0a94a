"""The networks that timings are ratios to: one like the networks for small images, one like those for large ones.

A reference must slow down as the networks do that are compared with it. Networks for 32 px live in a core's own caches,
and what slows them down is a neighbour on the other half of the core; those for 224 px wait for memory as well. What
follows them best is a network of their own making: over the same hours, the same networks of `tiny` repeated within 3 %
in the median against `SMALL` and 20 % against one for 112 px (experiments/latency).
"""

from __future__ import annotations

import torch
from torch import nn

from hybridnas.architecture import Architecture, Stage, Stem, Transition
from hybridnas.cost.runtimes import Input
from hybridnas.model import build

#: The largest images, pixels a side, whose networks are compared with the small reference.
SMALL_LIMIT = 64

#: About 3 ms on a CPU core.
SMALL = Architecture(
    32,
    Stem("conv", 16),
    (
        Stage(Transition("conv", 2), "mbconv", 1, 16, {"expand": 2, "kernel": 3, "se": False}),
        Stage(Transition("conv", 1), "convnext", 2, 32, {"expand": 2, "kernel": 5}),
        Stage(Transition("conv", 2), "window", 4, 64, {"expand": 2, "head_dim": 8, "window": 2}),
        Stage(Transition("conv", 1), "global", 2, 96, {"expand": 2, "head_dim": 8}),
    ),
)
#: About 20 ms on a CPU core.
LARGE = Architecture(
    128,
    Stem("conv", 32),
    (
        Stage(Transition("conv", 2), "mbconv", 1, 48, {"expand": 4, "kernel": 3, "se": False}),
        Stage(Transition("conv", 2), "convnext", 2, 128, {"expand": 4, "kernel": 7}),
        Stage(Transition("conv", 2), "window", 2, 256, {"expand": 4, "head_dim": 32, "window": 4}),
        Stage(Transition("conv", 1), "global", 2, 384, {"expand": 4, "head_dim": 32}),
    ),
)
REFERENCES = {"small": SMALL, "large": LARGE}


def reference(name: str = "large") -> tuple[nn.Module, Input]:
    """A reference in the deploy form, and what it is given, whatever the candidate's batch and size are.

    The same weights everywhere.
    """
    architecture = REFERENCES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(architecture, 10).deploy()
    return network, Input((1, 3, architecture.image_size, architecture.image_size))


def reference_for(image_size: int) -> str:
    """The reference that networks for images of so many pixels a side are compared with."""
    return "small" if image_size <= SMALL_LIMIT else "large"
