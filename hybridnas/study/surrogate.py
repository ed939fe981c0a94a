"""What the cost-aware sampler knows of designs: choices as numbers, Gaussian processes on them, what they promise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from hybridnas.pareto import front

Floats = NDArray[np.float64]
#: Choices as Optuna stores them, by name.
Params = dict[str, Any]
#: Mean and standard deviation (N,) of points (N, D).
Model = Callable[[Floats], tuple[Floats, Floats]]

#: A kernel is fitted on so many observations at most: that is most of a proposal's time.
MOST_FITTED = 100


class Encoding:
    """Choices as numbers 0..1: of words one column each, of numbers their place in their range.

    A choice that a point does not have is 0 in all its columns.

    Args:
        points: Between them they hold every choice.
    """

    def __init__(self, points: Sequence[Params]) -> None:
        values: dict[str, set[Any]] = {}
        for params in points:
            for name, value in params.items():
                values.setdefault(name, set()).add(value)
        self._columns: dict[tuple[str, Any], tuple[int, float]] = {}
        width = 0
        for name in sorted(values):
            several = sorted(values[name], key=repr)
            if all(type(value) in (int, float) for value in several):
                low, high = min(several), max(several)
                for value in several:
                    self._columns[name, value] = width, 0.25 + 0.75 * (value - low) / (high - low or 1)
                width += 1
                continue
            for value in several:
                self._columns[name, value] = width, 1.0
                width += 1
        self.width = max(1, width)

    def __call__(self, points: Sequence[Params]) -> Floats:
        """(N, D)."""
        found = np.zeros((len(points), self.width))
        for row, params in zip(found, points, strict=True):
            for item in params.items():
                if item in self._columns:
                    column, value = self._columns[item]
                    row[column] = value
        return found


def regress(seen: Floats, values: Floats) -> Model:
    """A Gaussian process over `seen` (M, D), where `values` (M,) were observed.

    The deviation that it gives is that of the value itself, without the noise of observing it.
    """
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(2.0, (0.2, 20.0), nu=2.5) + WhiteKernel(0.1, (1e-4, 1.0))
    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    some = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_FITTED)).astype(int))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bound of the kernel was reached
        model.fit(seen[some], values[some])
        if len(some) < len(values):
            model = GaussianProcessRegressor(model.kernel_, optimizer=None, normalize_y=True).fit(seen, values)
    noise = model.kernel_.k2.noise_level * np.var(values)

    def predict(points: Floats) -> tuple[Floats, Floats]:
        mean, deviation = model.predict(points, return_std=True)
        variance = np.maximum(np.asarray(deviation, np.float64) ** 2 - noise, 1e-12)
        return np.asarray(mean, np.float64), np.sqrt(variance)

    return predict


def corrected(prior: Model | None, seen: Floats, values: Floats) -> Model:
    """A model of values whose mean, before any was seen, is a prior's, scaled."""
    if prior is None:
        return regress(seen, values)
    before = prior(seen)[0]
    slope = max(0.0, float(np.polyfit(before, values, 1)[0]))  # of a few, the order may be upside down by chance
    offset = float(np.mean(values - slope * before))
    rest = regress(seen, values - slope * before - offset)

    def predict(points: Floats) -> tuple[Floats, Floats]:
        (mean, doubt), (more, deviation) = prior(points), rest(points)
        return slope * mean + offset + more, np.hypot(slope * doubt, deviation)

    return predict


def expected_hypervolume_improvement(
    mean: Floats,
    deviation: Floats,
    cost: Floats,
    accuracy: Floats,
    known_cost: Floats,
    *,
    floor: float,
    worst_cost: float,
) -> Floats:
    """By how much area a point of known cost and normally distributed accuracy is expected to raise the front.

    At each cost the front has one accuracy; a new point gains what it is above that, from its own cost on. So the
    expectation is a sum over the front's steps, of their width times the expected improvement over their height (Jones
    et al., 1998, equation 15).

    Args:
        mean: Of the accuracy (N,).
        deviation: Its standard deviation (N,), > 0.
        cost: (N,).
        accuracy: Of the points that the front is drawn from (M,).
        known_cost: Theirs (M,).
        floor: The accuracy below which nothing counts.
        worst_cost: The cost beyond which nothing counts.
    """
    steps = front(accuracy.tolist(), known_cost.tolist())
    heights = np.array([floor, *accuracy[steps]])
    lower = np.array([-np.inf, *known_cost[steps]])
    upper = np.array([*known_cost[steps], np.inf])
    width = np.minimum(upper, worst_cost) - np.maximum(lower, cost[:, None])
    z = (mean[:, None] - heights) / deviation[:, None]
    improvement = deviation[:, None] * (z * ndtr(z) + np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))
    gain: Floats = (np.maximum(width, 0.0) * improvement).sum(1)
    return gain
