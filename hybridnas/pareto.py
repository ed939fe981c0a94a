"""Dominance between trials: which are on the front, and how much the front covers."""

from __future__ import annotations

import math
from collections.abc import Sequence


def front(accuracy: Sequence[float], cost: Sequence[float]) -> list[int]:
    """Indices of the non-dominated points, cheapest first; accuracy is maximised, cost minimised.

    A point with NaN in either value is never on the front. Of equal points the first is kept.

    >>> front([0.5, 0.7, 0.6], [1.0, 2.0, 3.0])
    [0, 1]
    """
    if len(accuracy) != len(cost):
        raise ValueError(f"accuracy and cost must have one length, got {len(accuracy)} and {len(cost)}")
    known = [i for i in range(len(cost)) if not (math.isnan(cost[i]) or math.isnan(accuracy[i]))]
    best = -math.inf
    kept = []
    for i in sorted(known, key=lambda i: (cost[i], -accuracy[i], i)):
        if accuracy[i] > best:
            kept.append(i)
            best = accuracy[i]
    return kept


def hypervolume(accuracy: Sequence[float], cost: Sequence[float], *, worst_cost: float) -> float:
    """Area that the front dominates, down to accuracy 0 and up to `worst_cost`; points beyond it count nothing.

    >>> hypervolume([0.5], [1.0], worst_cost=3.0)
    1.0
    """
    area = 0.0
    below = 0.0
    for i in front(accuracy, cost):
        if cost[i] < worst_cost:
            area += (worst_cost - cost[i]) * (accuracy[i] - below)
            below = accuracy[i]
    return area
