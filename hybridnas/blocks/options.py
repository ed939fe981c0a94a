"""Checks of the options that several families share; each is a ValueError that names option, bound and value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from timm.layers import get_act_layer


def check_kernel(kernel: int) -> None:
    """A depthwise kernel has a centre."""
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd and positive, got {kernel}")


def check_expand(expand: float) -> None:
    """An expansion ratio is a positive number."""
    if not (expand > 0 and math.isfinite(expand)):
        raise ValueError(f"expand must be a positive number, got {expand}")


def check_act(act: str) -> None:
    """An activation is one that timm knows by this name."""
    try:
        get_act_layer(act)
    except KeyError:
        raise ValueError(f"act {act!r} is no activation of timm's, such as relu, gelu, silu or hard_swish") from None


def rates_for(depth: int, drop_path: Sequence[float]) -> Sequence[float]:
    """One stochastic-depth rate a block (Huang et al., 2016, arXiv:1603.09382); none given means zero everywhere."""
    if drop_path and len(drop_path) != depth:
        raise ValueError(f"drop_path must hold one rate for each of {depth} blocks, got {len(drop_path)}")
    return drop_path or [0.0] * depth
