"""How far the accuracy of short training may be believed, by networks that were trained much longer.

What a search needs of its proxy is the order of networks that cost the same: that the larger of two is more accurate
needs no training to know. So pairs of equal latency are asked, and of these the pairs that the long training itself can
tell apart; the same is asked of two predictors that train nothing, more multiply-adds and more parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Two latencies are equal if the one is at most so much over the other.
EQUAL = 1.2
#: The long training tells two networks apart if their means differ by so many standard errors.
APART = 2.0
#: Of fewer pairs nothing is said.
LEAST_PAIRS = 10
NUM_RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % bootstrap interval over networks; NaN where there is nothing to tell it from."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """'0.86 (0.79 to 0.92)', or 'unknown'."""
        return "unknown" if math.isnan(self.value) else f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Trust:
    """What the comparison found.

    Attributes:
        num_networks: Networks that were trained longer.
        num_pairs: Pairs of equal latency that the long training tells apart.
        accuracy: Share of these pairs that the short training puts in the right order; ties count half.
        tau: Kendall's tau-b of short and long accuracy over all networks.
        more_macs: As `accuracy`, if the network with more multiply-adds were always taken for the better.
        more_params: Likewise.
        ceiling: As `accuracy`, if one seed of the long training had to foretell the mean of the others.
        bias: By how much more accuracy (0..1) attention gains by training longer than convolution does: the offset of
            networks with mostly attention in a least-squares fit of long accuracy by short.
    """

    num_networks: int
    num_pairs: int
    accuracy: Estimate
    tau: Estimate
    more_macs: Estimate
    more_params: Estimate
    ceiling: Estimate
    bias: Estimate

    @property
    def beats_nulls(self) -> bool:
        """Whether the short training is above the intervals of both that need no training."""
        return self.accuracy.value > max(self.more_macs.high, self.more_params.high)


def compare(
    short: Sequence[float],
    long: Sequence[Sequence[float]],
    latency_ms: Sequence[float],
    macs: Sequence[int],
    params: Sequence[int],
    attention: Sequence[float],
    seed: int = 0,
) -> Trust:
    """Compare short with long training of the same networks.

    Args:
        short: Accuracy (N,) in the search.
        long: Accuracy of each seed (N, S), S >= 2.
        latency_ms: Medians (N,).
        macs: Multiply-adds (N,).
        params: Parameters (N,).
        attention: Share of attention blocks (N,), 0..1.
        seed: Of the resampling.

    Raises:
        ValueError: fewer than three networks, or fewer than two seeds.
    """
    reference = np.array(long, np.float64)
    if reference.ndim != 2 or len(reference) < 3 or reference.shape[1] < 2:
        raise ValueError(f"long must be accuracies of at least 3 networks and 2 seeds, got shape {reference.shape}")
    proxy, cost = np.array(short, np.float64), np.array(latency_ms, np.float64)
    mostly = np.array(attention, np.float64) > 0.5
    variance = float(reference.var(1, ddof=1).mean())  # pooled: two or three seeds of one network say little
    pairs = comparable(reference, variance, cost).astype(np.float64)
    mean = reference.mean(1)
    # A seed is judged by the others alone, which also say what pairs it is asked about.
    others = [np.delete(reference, s, 1) for s in range(reference.shape[1])]
    asked = [comparable(other, variance, cost).astype(np.float64) for other in others]
    # How often each network is drawn: once in the first row, whose figures are those reported.
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(proxy), [1 / len(proxy)] * len(proxy), NUM_RESAMPLES)
    times = np.vstack([np.ones(len(proxy)), drawn]).astype(np.float64)
    return Trust(
        num_networks=len(proxy),
        num_pairs=int(pairs.sum()) // 2,
        accuracy=_estimate(_share_ordered(proxy, mean, pairs, times)),
        tau=_estimate(_tau(proxy, mean, times)),
        more_macs=_estimate(_share_ordered(np.array(macs, np.float64), mean, pairs, times)),
        more_params=_estimate(_share_ordered(np.array(params, np.float64), mean, pairs, times)),
        ceiling=_estimate(
            np.mean(
                [
                    _share_ordered(reference[:, s], other.mean(1), which, times)
                    for s, (other, which) in enumerate(zip(others, asked, strict=True))
                ],
                axis=0,
            )
        ),
        bias=_estimate(np.array([_bias(proxy, mean, mostly, weights) for weights in times])),
    )


def comparable(long: Floats, variance: float, latency_ms: Floats) -> NDArray[np.bool_]:
    """(N, N): which pairs cost the same and are told apart by the long training; never a network and itself.

    Args:
        long: Accuracies (N, S).
        variance: Of a seed about its network's mean.
        latency_ms: Medians (N,).
    """
    ratio = latency_ms[:, None] / latency_ms[None]
    error = float(np.sqrt(2 * variance / long.shape[1]))
    mean = long.mean(1)
    equal: NDArray[np.bool_] = np.maximum(ratio, 1 / ratio) <= EQUAL
    apart: NDArray[np.bool_] = np.abs(mean[:, None] - mean[None]) > APART * error
    return equal & apart


def _share_ordered(by: Floats, truth: Floats, pairs: Floats, times: Floats) -> Floats:
    """Share of `pairs` (N, N) that `by` puts in the order of `truth`, for each row of `times` (R, N)."""
    with np.errstate(invalid="ignore"):  # no pair among those drawn
        right = _over_pairs(_order(by) * _order(truth) * pairs, times)
        return (1 + right / _over_pairs(pairs, times)) / 2


def _tau(by: Floats, truth: Floats, times: Floats) -> Floats:
    """Kendall's tau-b for each row of `times` (R, N)."""
    untied = [_over_pairs(np.abs(_order(values)), times) for values in (by, truth)]
    with np.errstate(invalid="ignore"):  # all drawn are tied
        found: Floats = _over_pairs(_order(by) * _order(truth), times) / np.sqrt(untied[0] * untied[1])
    return found


def _order(values: Floats) -> Floats:
    signs: Floats = np.sign(values[:, None] - values[None])
    return signs


def _over_pairs(matrix: Floats, times: Floats) -> Floats:
    """The sum of a matrix (N, N) with each network drawn so often, for each row of `times` (R, N)."""
    total: Floats = ((times @ matrix) * times).sum(1)
    return total


def _bias(short: Floats, long: Floats, attention: NDArray[np.bool_], weights: Floats) -> float:
    drawn = weights > 0
    columns = np.column_stack([np.ones(drawn.sum()), short[drawn], attention[drawn]])
    scale = np.sqrt(weights[drawn])
    found, _, rank, _ = np.linalg.lstsq(columns * scale[:, None], long[drawn] * scale, rcond=None)
    return float(found[2]) if rank == 3 else float("nan")


def _estimate(figures: Floats) -> Estimate:
    """The first figure, with the interval of the others."""
    value, found = float(figures[0]), figures[1:][np.isfinite(figures[1:])]
    if not np.isfinite(value) or not len(found):
        return Estimate(float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value))


def verdict(trust: Trust) -> str:
    """What it means, in plain words, and what to raise where the proxy is no better than counting."""
    if trust.num_pairs < LEAST_PAIRS:
        return (
            f"Only {trust.num_pairs} pairs of equal latency are told apart by the long training, and {LEAST_PAIRS} are "
            "needed: nothing can be said. Compare more networks (--networks), or train them longer (--epochs)."
        )
    figures = (
        f"{trust.accuracy} of pairs right, against {trust.more_macs} by more multiply-adds and {trust.more_params} by "
        "more parameters"
    )
    if trust.beats_nulls:
        return f"Short training orders networks of equal latency better than counting does: {figures}."
    return (
        f"Short training does NOT order networks of equal latency better than counting does: {figures}. Do not believe "
        "the order of this search; raise --epochs or --train-images."
    )
