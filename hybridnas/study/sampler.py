"""How Optuna's trials answer a space's questions, and which sampler proposes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import BaseTrial

from hybridnas.architecture import Architecture, Value
from hybridnas.seeds import derive_seed
from hybridnas.space import SearchSpace

#: Random designs before a sampler learns, and the designs of a generation.
NUM_STARTUP, POPULATION = 12, 20


def distribution(values: Sequence[Value]) -> BaseDistribution:
    """Numbers are ordered: a range of integers where they are evenly spaced, else positions in the sorted list."""
    ordered, step = _scale(values)
    if ordered is None:
        return CategoricalDistribution(list(values))
    return IntDistribution(ordered[0], ordered[-1], step=step) if step else IntDistribution(0, len(values) - 1)


def suggest(trial: BaseTrial, space: SearchSpace) -> Architecture:
    """Let `trial` choose an architecture."""

    def choose(name: str, values: Sequence[Any]) -> Any:
        kind = distribution(values)
        if isinstance(kind, CategoricalDistribution):
            return trial.suggest_categorical(name, kind.choices)
        assert isinstance(kind, IntDistribution)
        drawn = trial.suggest_int(name, kind.low, kind.high, step=kind.step)
        ordered, step = _scale(values)
        return ordered[drawn] if ordered and not step else drawn

    return space.sample(choose)


def to_params(space: SearchSpace, chosen: Mapping[str, Value]) -> dict[str, Any]:
    """What Optuna stores (see `distribution`) for the choices of `SearchSpace.encode`: for `Study.enqueue_trial`."""
    params: dict[str, Any] = {}

    def choose(name: str, values: Sequence[Any]) -> Any:
        ordered, step = _scale(values)
        params[name] = chosen[name] if ordered is None or step else ordered.index(chosen[name])
        return chosen[name]

    space.sample(choose)
    return params


def make_sampler(name: str, seed: int, *asked: int) -> BaseSampler:
    """One of Optuna's, seeded for one asking alone: a resumed search goes on as if never stopped.

    Args:
        name: `tpe`: multivariate and grouped; `gp`: a Gaussian process over what all designs choose, TPE for the rest;
            `nsga2`; `random`.
        seed: The run's.
        asked: Which asking it is: of what trial, the how manieth.
    """
    own = derive_seed(seed, *asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # group=True
        if name == "nsga2":
            return NSGAIISampler(population_size=POPULATION, seed=own)
        if name == "random":
            return RandomSampler(seed=own)
        tpe = TPESampler(multivariate=True, group=True, n_startup_trials=NUM_STARTUP, seed=own)
        if name == "gp":
            return GPSampler(
                seed=own, independent_sampler=tpe, n_startup_trials=NUM_STARTUP, warn_independent_sampling=False
            )
        return tpe


def _scale(values: Sequence[Any]) -> tuple[list[Any] | None, int]:
    """Values in order, None where they are not all numbers; and the step between evenly spaced integers, else 0."""
    types = {type(value) for value in values}
    if not types <= {int, float}:
        return None, 0
    ordered = sorted(values)
    steps = {b - a for a, b in zip(ordered, ordered[1:], strict=False)}
    return ordered, steps.pop() if types == {int} and len(steps) == 1 else 0
