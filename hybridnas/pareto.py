"""Dominance between trials: which are on the front, who comes before whom, and how much the front covers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray


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


def ranking(scores: NDArray[np.float64]) -> list[int]:
    """All rows of (N, M), best first, where every column is minimised: front after front, each the least crowded first.

    Crowding is that of NSGA-II (Deb et al., 2002, section III-B).

    >>> ranking(np.array([[3.0, 3.0], [1.0, 2.0], [2.0, 1.0]]))
    [1, 2, 0]
    """
    ranks = moocore.pareto_rank(scores)
    room = np.empty(len(scores))
    for rank in np.unique(ranks):
        rows = np.flatnonzero(ranks == rank)
        room[rows] = _crowding(scores[rows])
    order: list[int] = np.lexsort((np.arange(len(scores)), -room, ranks)).tolist()
    return order


def _crowding(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far apart the neighbours of each point of a front are (N,), summed over the objectives; ends are infinite."""
    room = np.zeros(len(scores))
    for column in scores.T:
        order = np.argsort(column, kind="stable")
        gaps = column[order][2:] - column[order][:-2]
        room[order[1:-1]] += gaps / (np.ptp(column) or 1.0)
        room[order[[0, -1]]] = math.inf
    return room


def hypervolume(accuracy: Sequence[float], cost: Sequence[float], *, worst_cost: float) -> float:
    """Area that the front dominates, down to accuracy 0 and up to `worst_cost`; points beyond it count nothing.

    >>> hypervolume([0.5], [1.0], worst_cost=3.0)
    1.0
    """
    if not len(cost):
        return 0.0
    points = np.column_stack([-np.asarray(accuracy, np.float64), np.asarray(cost, np.float64)])
    return float(moocore.hypervolume(points, ref=[0.0, worst_cost]))
