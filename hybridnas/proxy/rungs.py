"""Which trainings go on: every design is trained for a few epochs, the best third of these longer, and so on.

Asynchronous successive halving (Li et al., 2020, arXiv:1810.05934, algorithm 2), whose ranking is by non-dominated
fronts: with accuracy and latency as objectives no single figure says which trial is better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hybridnas.pareto import ranking

#: One trial in so many goes on to the next rung, and epochs of a rung are so many times those of the one before.
ETA = 3
#: Trials that ended a rung before a sampler learns from that rung and no longer from the one below.
ENOUGH = 15


def default_rungs(epochs: int) -> tuple[int, ...]:
    """The epochs after which trials are compared, the last being the end.

    >>> default_rungs(9), default_rungs(2)
    ((1, 3, 9), (2,))
    """
    found = [epochs]
    while found[0] // ETA:
        found.insert(0, found[0] // ETA)
    return tuple(found)


def rungs_of(asked: Sequence[int] | None, epochs: int) -> tuple[int, ...]:
    """The rungs that were asked for and the end of a training; None asks for the default.

    >>> rungs_of((2,), 4), rungs_of((), 4), rungs_of(None, 4)
    ((2, 4), (4,), (1, 4))
    """
    return default_rungs(epochs) if asked is None else tuple(dict.fromkeys([*asked, epochs]))


def num_places(num_trials: int) -> int:
    """How many of the trials that ended a rung go on."""
    return -(-num_trials // ETA)


def standings(scores: NDArray[np.float64], families: Sequence[str] | None = None) -> list[int]:
    """The order in which the trials of a rung go on.

    Args:
        scores: Of all that ended the rung, a row each (N, M); all columns are minimised.
        families: What each is; given, half of the places are dealt out to families by their number of trials, as some
            start more slowly than others.
    """
    order = ranking(scores)
    return order if families is None else list(dict.fromkeys([*_quota(order, families), *order]))


def _quota(order: Sequence[int], families: Sequence[str]) -> list[int]:
    """The best of each family, for half of the places."""
    places = num_places(len(order))
    left = {family: places * count // (2 * len(order)) for family, count in Counter(families).items()}
    found = []
    for row in order:
        if left[families[row]]:
            left[families[row]] -= 1
            found.append(row)
    return found
