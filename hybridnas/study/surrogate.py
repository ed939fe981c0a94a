"""What the cost-aware sampler knows of designs: choices as numbers, Gaussian processes on them, what they promise."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import ndtr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from hybridnas.architecture import Architecture, Value
from hybridnas.pareto import front
from hybridnas.space.points import question

Floats = NDArray[np.float64]
#: Mean and standard deviation (N,) of points (N, D).
Model = Callable[[Floats], tuple[Floats, Floats]]

#: How columns count beside a word that is chosen: an option of what was chosen, a design's place among others by a sum
#: (0..1), and the share of the stages that a block family or transition has.
OPTION_WEIGHT, SUM_WEIGHT, SHARE_WEIGHT = 0.5, 6.0, 2.0
#: A kernel is fitted on so many observations at most: that is most of a proposal's time.
MOST_FITTED = 100
#: Bounds of a kernel: of the function's variance and the noise's, in that of the values, and of its length, in the
#: distance of two designs. Of few values likelihood alone takes all for noise, or each to tell of itself only.
VARIANCE, NOISE, LENGTH = (0.1, 100.0), (1e-4, 0.5), (0.5, 20.0)
#: A kernel is fitted until a step raises the likelihood by less, relatively: to the last digit takes twice as long and
#: foresees no better (experiments/search).
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Candidate:
    """A design and the choices that make it."""

    architecture: Architecture
    choices: dict[str, Value]

    @cached_property
    def sums(self) -> tuple[float, float, float]:
        """Compute, parameters and depth, roughly: a layer has as many weights as its width squared."""
        compute = weights = layers = 0.0
        design = self.architecture
        for stage, resolution in zip(design.stages, design.resolutions[1:], strict=True):
            here = stage.depth + (stage.transition.type != "none")
            layers, weights = layers + here, weights + here * stage.width**2
            compute += here * (stage.width * (resolution or 1)) ** 2
        return compute, weights, layers

    @cached_property
    def shares(self) -> dict[str, float]:
        """Of the stages, those of each block family and with each transition."""
        found: dict[str, float] = {}
        stages = self.architecture.stages
        for stage in stages:
            for kind in (f"-> {stage.transition.type}", *([stage.block] if stage.depth else [])):
                found[kind] = found.get(kind, 0.0) + 1 / len(stages)
        return found


class Encoding:
    """Designs as numbers, such that two of those between which it is made are 1 apart on average (root mean square).

    Choices are 0..1: of words one column each, of numbers their place in order; a choice that a design does not have is
    0 in all its columns. Options of what was chosen count less: there are many, each deciding little.
    What the choices sum up to, which a distance over many columns hides, are columns of their own: where a design's
    compute, parameters and depth stand among those of the others, and the share of each block family and transition.
    (From 20 random designs of `tiny` this foresees twice as much of the others' order: experiments/search.)

    Args:
        designs: Between them they hold every choice.
    """

    def __init__(self, designs: Sequence[Candidate]) -> None:
        values: dict[str, set[Value]] = {}
        for design in designs:
            for name, value in design.choices.items():
                values.setdefault(question(name), set()).add(value)
        self._columns: dict[tuple[str, Value], tuple[int, float]] = {}
        self._num_choices = 0
        for name in sorted(values):
            weight = OPTION_WEIGHT if name.count(".") > 1 else 1.0
            ordered = all(type(value) in (int, float) for value in values[name])
            for rank, value in enumerate(sorted(values[name], key=None if ordered else repr)):
                place = 0.25 + 0.75 * rank / (len(values[name]) - 1 or 1) if ordered else 1.0
                self._columns[name, value] = self._num_choices, weight * place
                self._num_choices += not ordered
            self._num_choices += ordered
        self._kinds = sorted({kind for design in designs for kind in design.shares})
        self._sums = np.sort([design.sums for design in designs], axis=0)
        self._unit = 1.0
        self._unit = math.sqrt(2 * self(designs).var(0).sum()) or 1.0

    def __call__(self, designs: Sequence[Candidate]) -> Floats:
        """(N, D)."""
        choices = np.zeros((len(designs), self._num_choices))
        for row, design in zip(choices, designs, strict=True):
            for name, chosen in design.choices.items():
                if (item := (question(name), chosen)) in self._columns:
                    column, value = self._columns[item]
                    row[column] = value
        sums = np.array([design.sums for design in designs]).reshape(len(designs), self._sums.shape[1])
        places = [_place(column, among) for column, among in zip(sums.T, self._sums.T, strict=True)]
        shares = [[design.shares.get(kind, 0.0) for design in designs] for kind in self._kinds]
        return np.vstack([choices.T, SUM_WEIGHT * np.array(places), SHARE_WEIGHT * np.array(shares)]).T / self._unit


def _place(values: Floats, among: Floats) -> Floats:
    """What share of others, in order, is less, halfway where some are as much."""
    return (np.searchsorted(among, values, "left") + np.searchsorted(among, values, "right")) / (2 * len(among))


def regress(seen: Floats, values: Floats) -> Model:
    """A Gaussian process over `seen` (M, D), where `values` (M,) were observed.

    The deviation that it gives is that of the value itself, without the noise of observing it.
    """
    kernel = ConstantKernel(1.0, VARIANCE) * Matern(2.0, LENGTH, nu=2.5) + WhiteKernel(0.1, NOISE)
    model = GaussianProcessRegressor(kernel, optimizer=_fitted, normalize_y=True)
    some = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_FITTED)).astype(int))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bound of the kernel was reached
        model.fit(seen[some], values[some])
        if len(some) < len(values):
            model = GaussianProcessRegressor(model.kernel_, optimizer=None, normalize_y=True).fit(seen, values)
    noise = model.kernel_.k2.noise_level * (np.var(values) or 1.0)

    def predict(points: Floats) -> tuple[Floats, Floats]:
        mean, deviation = model.predict(points, return_std=True)
        variance = np.maximum(np.asarray(deviation, np.float64) ** 2 - noise, 1e-12)
        return np.asarray(mean, np.float64), np.sqrt(variance)

    return predict


def _fitted(loss: Callable[[Floats], tuple[float, Floats]], start: Floats, bounds: Floats) -> tuple[Floats, float]:
    """Where a loss, which comes with its gradient, is least, and how much it is there."""
    found = minimize(loss, start, method="L-BFGS-B", jac=True, bounds=bounds, options={"ftol": TOLERANCE})
    return found.x, found.fun


def corrected(prior: Model | None, seen: Floats, values: Floats) -> Model:
    """A model of values whose mean, before any was seen, is a prior's, scaled."""
    if prior is None:
        return regress(seen, values)
    before = prior(seen)[0]
    # Of a few, the order may be upside down by chance; where all are foreseen alike, nothing can be told.
    slope = max(0.0, float(np.polyfit(before, values, 1)[0])) if np.ptp(before) > 1e-9 else 0.0
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
