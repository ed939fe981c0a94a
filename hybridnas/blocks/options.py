"""Checks of the options that several families share; each is a ValueError that names option, bound and value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from timm.layers import get_act_layer

# The papers start layer scale at 1e-5 or 1e-6, which leaves a block near the identity for longer than a short run
# lasts; CaiT (arXiv:2103.17239, section 2) uses 0.1 up to 18 blocks. Trained or loaded weights overwrite it either way.
LAYER_SCALE_INIT = 0.1


def check_kernel(kernel: int, name: str = "kernel") -> None:
    """A depthwise kernel has a centre."""
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"{name} must be odd and positive, got {kernel}")


def check_expand(expand: float, width: int | None = None) -> None:
    """An expansion ratio is a positive number, and leaves a channel of `width`: timm takes none for as many again."""
    check_ratio("expand", expand, of=width)


def check_ratio(name: str, ratio: float, of: int | None = None) -> None:
    """A ratio of widths is a positive number, and leaves a channel `of` so many."""
    if not (ratio > 0 and math.isfinite(ratio)):
        raise ValueError(f"{name} must be a positive number, got {ratio}")
    if of is not None and int(ratio * of) < 1:
        raise ValueError(f"{name} must leave at least one of {of} channels, got {ratio}")


def check_count(name: str, count: int, least: int = 1) -> None:
    """A count has a least value."""
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")


def check_eps(eps: float) -> None:
    """What keeps a norm from dividing by zero is a positive number."""
    if not (eps > 0 and math.isfinite(eps)):
        raise ValueError(f"eps must be a positive number, got {eps}")


def check_one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    """A word is one of a few."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


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
