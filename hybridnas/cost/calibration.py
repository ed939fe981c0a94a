"""From the sum of the parts' times to the time of the network, and how far that can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

#: How far a network may lie from the sum of its parts before any was timed: in common, and for each kind of part.
COMMON, OWN = 0.1, 0.1
#: What calling a part on its own costs over calling it inside a network, in times of the reference: about 30 us.
CALL = 0.003
#: Spread of networks about the fit that is believed before any was timed, worth so many networks, and the least of all.
SPREAD, WORTH, LEAST = 0.06, 4.0, 0.015
#: Degrees of freedom of the residuals: a network that was timed in a bad moment counts little.
TAILS = 4.0
LEVEL = 0.95


@dataclass(frozen=True)
class Sum:
    """The times of a network's parts over the reference's, summed by kind of part; bodies by family.

    `num_calls` timed parts are in the sum, each as often as its time is: 18 for a body of 36 blocks, timed as two.
    """

    by_kind: Mapping[str, float]
    num_calls: float

    @property
    def total(self) -> float:
        """Of all kinds."""
        return sum(self.by_kind.values())


class Calibration:
    """A network's time over the sum of its parts: near 1, a little else for each kind of part.

    Bayesian linear regression of that quotient on the share that each kind has of the sum, so that errors are
    relative; iteratively reweighted for heavy tails (Student's t). Without any network it is the prior.

    Args:
        sums: Of the networks that were timed.
        ratios: Their times over the reference's.
    """

    def __init__(self, sums: Sequence[Sum] = (), ratios: Sequence[float] = ()) -> None:
        self.num_networks = len(sums)
        kinds = sorted({kind for each in sums for kind in each.by_kind})
        self._column = {kind: i + 2 for i, kind in enumerate(kinds)}
        prior = np.array([COMMON**2, 1.0, *[OWN**2] * len(kinds)])  # the second is in units of CALL
        x = np.array([self._features(each) for each in sums]).reshape(len(sums), len(prior))
        y = np.array([ratio / each.total for each, ratio in zip(sums, ratios, strict=True)]) - 1
        variance, weights = SPREAD**2, np.ones(len(sums))
        self._mean: NDArray[np.float64] = np.zeros(len(prior))
        self._covariance: NDArray[np.float64] = np.diag(prior)
        for _ in range(20 if len(sums) else 0):
            precision = np.diag(1 / prior) + (x.T * weights) @ x / variance
            self._covariance = np.linalg.inv(precision)
            self._mean = self._covariance @ ((x.T * weights) @ y) / variance
            residuals = y - x @ self._mean
            weights = (TAILS + 1) / (TAILS + residuals**2 / variance)
            # What the fit has taken up of the residuals is given back: so many columns less are free.
            taken = float(np.einsum("ij,jk,ik,i->", x, self._covariance, x, weights)) / variance
            free = max(1.0, len(sums) - taken)
            variance = max(LEAST**2, (float(weights @ residuals**2) + WORTH * SPREAD**2) / (free + WORTH))
        self._variance = variance
        self._quantile = float(stats.t.ppf(0.5 + LEVEL / 2, TAILS))

    def predict(self, parts: Sum) -> tuple[float, float]:
        """The network's time over the reference's, and half the width of its 95 % interval."""
        x = self._features(parts)
        others = sum(time for kind, time in parts.by_kind.items() if kind not in self._column) / parts.total
        spread = self._variance + float(x @ self._covariance @ x) + (OWN * others) ** 2
        total = parts.total
        return total * (1 + float(x @ self._mean)), total * self._quantile * spread**0.5

    def _features(self, parts: Sum) -> NDArray[np.float64]:
        x = np.zeros(len(self._column) + 2)
        x[0] = 1
        x[1] = -CALL * parts.num_calls / parts.total
        for kind, time in parts.by_kind.items():
            if kind in self._column:
                x[self._column[kind]] = time / parts.total
        return x
