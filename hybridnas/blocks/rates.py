"""Stochastic-depth rates of a stage's blocks (Huang et al., 2016, arXiv:1603.09382)."""

from __future__ import annotations

from collections.abc import Sequence


def rates_for(depth: int, drop_path: Sequence[float]) -> Sequence[float]:
    """One rate a block; an empty `drop_path` means zero everywhere."""
    if drop_path and len(drop_path) != depth:
        raise ValueError(f"drop_path must hold one rate for each of {depth} blocks, got {len(drop_path)}")
    return drop_path or [0.0] * depth
