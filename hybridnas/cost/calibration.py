"""From the sum of the parts' times to the time of the network, and how far that can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

#: How far a network may lie from the sum of its parts before any was timed: in common, and for each kind of part.
COMMON, OWN = 0.1, 0.1
#: What a part costs more alone than inside a network, over what calling an empty one costs (measured: 1.1 to 1.5), and
#: how far that may be off.
CALL, CALL_SPREAD = 1.2, 0.4
#: By what share the blocks after the two that were timed may be quicker or slower: their code is in the caches already.
REPEAT = 0.15
#: Spread of networks about the fit that is believed before any was timed, worth so many networks, and the least of all.
SPREAD, WORTH, LEAST = 0.06, 4.0, 0.015
#: Degrees of freedom of the residuals: a network that was timed in a bad moment counts little.
TAILS = 4.0
LEVEL = 0.95


@dataclass(frozen=True)
class Sum:
    """The times of a network's parts over the reference's, summed by kind of part; bodies by family.

    Attributes:
        by_kind: The sums.
        calls: What calling an empty part as often costs: 18 times for a body of 36 blocks, timed as two.
        repeats: What of the sum are blocks after those that were timed: 17 of the 18.
    """

    by_kind: Mapping[str, float]
    calls: float = 0.0
    repeats: float = 0.0

    @property
    def total(self) -> float:
        """Of all kinds."""
        return sum(self.by_kind.values())


class Calibration:
    """A network's time over the sum of its parts: near 1, a little else for each kind of part.

    Bayesian linear regression of that quotient on the share that each kind, calls and repeats have of the sum, so that
    errors are relative; iteratively reweighted for heavy tails (Student's t). Without any network it is the prior.

    Args:
        sums: Of the networks that were timed.
        ratios: Their times over the reference's.
    """

    def __init__(self, sums: Sequence[Sum] = (), ratios: Sequence[float] = ()) -> None:
        self.num_networks = len(sums)
        kinds = sorted({kind for each in sums for kind in each.by_kind})
        self._column = {kind: i + 3 for i, kind in enumerate(kinds)}
        prior = np.array([COMMON**2, CALL_SPREAD**2, REPEAT**2, *[OWN**2] * len(kinds)])
        expected = np.array([0.0, CALL, *[0.0] * (1 + len(kinds))])
        x = np.array([self._features(each) for each in sums]).reshape(len(sums), len(prior))
        y = np.array([ratio / each.total for each, ratio in zip(sums, ratios, strict=True)]) - 1
        variance, weights = SPREAD**2, np.ones(len(sums))
        self._mean: NDArray[np.float64] = expected
        self._covariance: NDArray[np.float64] = np.diag(prior)
        for _ in range(20 if len(sums) else 0):
            precision = np.diag(1 / prior) + (x.T * weights) @ x / variance
            self._covariance = np.linalg.inv(precision)
            self._mean = expected + self._covariance @ ((x.T * weights) @ (y - x @ expected)) / variance
            residuals = y - x @ self._mean
            weights = (TAILS + 1) / (TAILS + residuals**2 / variance)
            # What the fit has taken up of the residuals is given back: so many columns less are free.
            taken = float(np.einsum("ij,jk,ik,i->", x, self._covariance, x, weights)) / variance
            free = max(1.0, len(sums) - taken)
            variance = max(LEAST**2, (float(weights @ residuals**2) + WORTH * SPREAD**2) / (free + WORTH))
        self._variance = variance
        self._quantile = float(stdtrit(TAILS, 0.5 + LEVEL / 2))

    def predict(self, parts: Sum) -> tuple[float, float]:
        """The network's time over the reference's, and half the width of its 95 % interval."""
        x = self._features(parts)
        others = sum(time for kind, time in parts.by_kind.items() if kind not in self._column) / parts.total
        spread = self._variance + float(x @ self._covariance @ x) + (OWN * others) ** 2
        total = parts.total
        return total * (1 + float(x @ self._mean)), total * self._quantile * spread**0.5

    def _features(self, parts: Sum) -> NDArray[np.float64]:
        x = np.zeros(len(self._column) + 3)
        x[0] = 1
        x[1] = -parts.calls / parts.total
        x[2] = parts.repeats / parts.total
        for kind, time in parts.by_kind.items():
            if kind in self._column:
                x[self._column[kind]] = time / parts.total
        return x
