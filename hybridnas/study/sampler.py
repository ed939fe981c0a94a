"""How Optuna's trials answer a space's questions, and which sampler proposes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler

from hybridnas.architecture import Architecture, Value
from hybridnas.seeds import derive_seed
from hybridnas.space import SearchSpace


def distribution(values: Sequence[Value]) -> BaseDistribution:
    """Numbers are ordered: a range of integers where they are evenly spaced, else positions in the sorted list."""
    if not _ordered(values):
        return CategoricalDistribution(list(values))
    ordered: list[Any] = sorted(values)
    step = _even_step(ordered)
    return IntDistribution(ordered[0], ordered[-1], step=step) if step else IntDistribution(0, len(values) - 1)


def suggest(trial: optuna.Trial, space: SearchSpace) -> Architecture:
    """Let `trial` choose an architecture."""

    def choose(name: str, values: Sequence[Any]) -> Any:
        kind = distribution(values)
        if isinstance(kind, CategoricalDistribution):
            return trial.suggest_categorical(name, kind.choices)
        assert isinstance(kind, IntDistribution)
        drawn = trial.suggest_int(name, kind.low, kind.high, step=kind.step)
        return drawn if _even_step(sorted(values)) else sorted(values)[drawn]

    return space.sample(choose)


def to_params(space: SearchSpace, chosen: Mapping[str, Value]) -> dict[str, Any]:
    """What Optuna stores for the choices of `SearchSpace.encode`: for `Study.enqueue_trial`."""
    params: dict[str, Any] = {}

    def choose(name: str, values: Sequence[Any]) -> Any:
        value = chosen[name]
        by_value = not _ordered(values) or _even_step(sorted(values))
        params[name] = value if by_value else sorted(values).index(value)
        return value

    space.sample(choose)
    return params


def make_sampler(seed: int, number: int) -> BaseSampler:
    """Multivariate grouped TPE, seeded for trial `number` alone: a resumed search goes on as if never stopped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group=True
        return TPESampler(multivariate=True, group=True, n_startup_trials=12, seed=derive_seed(seed, number))


def _ordered(values: Sequence[Value]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _even_step(ordered: Sequence[Any]) -> int:
    """The step between integers that are evenly spaced, else 0."""
    if not all(isinstance(value, int) for value in ordered):
        return 0
    steps = {b - a for a, b in zip(ordered, ordered[1:], strict=False)}
    return steps.pop() if len(steps) == 1 else 0
