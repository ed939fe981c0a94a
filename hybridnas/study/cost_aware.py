"""A sampler that knows what designs cost, and learns only how accurate they are.

Ordinary samplers learn both objectives from the trials. Here what the table knows is asked of it, and what it lacks is
learnt from all that was costed, trained or not. So a proposal is the design, of thousands, whose accuracy, uncertain as
it is, promises the largest gain in hypervolume at its cost: for a known cost that expectation has a closed form.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Container, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from scipy.special import ndtr
from threadpoolctl import ThreadpoolController

from hybridnas.architecture import Architecture, Value
from hybridnas.cost.budget import MARGIN, Budget, Cost
from hybridnas.pareto import front
from hybridnas.seeds import derive_seed
from hybridnas.space import SearchSpace
from hybridnas.space.points import question
from hybridnas.study.records import TrialRecord
from hybridnas.study.sampler import suggest, to_params
from hybridnas.study.surrogate import (
    Candidate,
    Encoding,
    Floats,
    Model,
    corrected,
    expected_hypervolume_improvement,
    regress,
)

#: Trained designs before accuracies are modelled, and costed ones before costs are.
NUM_STARTUP, NUM_STARTUP_COSTS = 6, 4
#: Trials that ended a rung before it is the one that is modelled.
NUM_LEVEL = 4
#: Candidates drawn once for a search, and those made for each proposal by changing one to three choices: of the front,
#: and then, in so many steps, of the few that promise most (experiments/search: worth 3 to 5 % of the area).
NUM_RANDOM, NUM_NEIGHBOURS = 2000, 80
MOST_CHANGES = 3
NUM_CLIMBS, NUM_CLIMBING = 3, 10
#: So many of the best candidates are looked up in the table at once, and how often at most.
SHORTLIST, MOST_LOOKS = 16, 4
#: A model learns from so many trials at most.
MOST_LEARNT = 240
#: Latency beyond which nothing counts, over the worst of what was trained, where the budget is not less.
BEYOND = 1.5


class CostAwareSampler(BaseSampler):
    """Proposes whole designs. One serves a search, also one that goes on: a proposal depends on trials and table alone.

    (Where one was not taken, another is proposed until a new design ended.)

    Args:
        space: What is searched.
        records: All trials so far, a list that grows.
        budget: What a design must hold.
        foresee: What the table knows of a design's costs, None where it lacks a part.
        reference_ms: The reference network's milliseconds on every target.
        seed: Of the candidates.
        rungs: Epochs after which trials are compared. Accuracies of the lower ones help to foresee those of the highest
            that enough trials ended.
        latency_counts: Whether latency is an objective, or bounded alone.
    """

    def __init__(
        self,
        space: SearchSpace,
        records: Sequence[TrialRecord],
        budget: Budget,
        foresee: Callable[[Architecture], Sequence[Cost] | None],
        reference_ms: Sequence[float],
        seed: int,
        rungs: Sequence[int] = (1,),
        *,
        latency_counts: bool = True,
    ) -> None:
        self.space = space
        self.records = records
        self.budget = budget
        self.foresee = foresee
        self.reference_ms = reference_ms
        self.seed = seed
        self.rungs = rungs
        self.latency_counts = latency_counts
        self._proposal: dict[str, Any] = {}  # as Optuna stores it; empty where a trial was enqueued
        self._known: dict[str, Candidate] = {}
        self._asked: list[Candidate] = []  # since a new design ended: what was not taken is not proposed again
        self._asked_at = 0
        self._tried: set[str] = set()  # keys

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Choose the design, unless the trial was enqueued with one."""
        self._proposal = {}
        if not trial.system_attrs.get("fixed_params"):
            running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            others = [suggest(FixedTrial(each.params), self.space) for each in running if each.number != trial.number]
            if self._asked_at != len(self.records):
                self._asked_at, self._asked = len(self.records), []
            waiting = {each.key: self._known_as(each) for each in others}
            waiting |= {each.architecture.key: each for each in self._asked}
            with self._libraries.limit(limits=1, user_api="blas"):  # for small matrices threads are slower
                generator = random.Random(derive_seed(self.seed, len(self.records)))
                proposal = self._propose(generator, waiting)
            self._proposal = to_params(self.space, proposal.choices)
            self._asked.append(proposal)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """None: which choices there are depends on others."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is relative."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The chosen design's answer; at random where a trial was enqueued with half of one."""
        if param_name in self._proposal:
            return self._proposal[param_name]
        sampler = RandomSampler(seed=derive_seed(self.seed, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    @cached_property
    def _libraries(self) -> ThreadpoolController:
        """Those for linear algebra, looked for once: a Ctrl-C just then is lost in a callback of the loader's."""
        return ThreadpoolController()

    @cached_property
    def _pool(self) -> list[Candidate]:
        """Different designs, of a small space nearly all."""
        generator = random.Random(derive_seed(self.seed, "pool"))
        made = (self._made(lambda _, values: generator.choice(values)) for _ in range(NUM_RANDOM))
        return list({each.architecture.key: each for each in made}.values())

    @cached_property
    def _encoding(self) -> Encoding:
        return Encoding(self._pool)

    @cached_property
    def _pool_features(self) -> Floats:
        return self._encoding(self._pool)

    def _made(self, choose: Callable[[str, Sequence[Any]], Any]) -> Candidate:
        choices: dict[str, Value] = {}

        def noted(name: str, values: Sequence[Any]) -> Any:
            choices[name] = choose(name, values)
            return choices[name]

        return Candidate(self.space.sample(noted), choices)

    def _propose(self, generator: random.Random, waiting: Mapping[str, Candidate]) -> Candidate:
        ended = {epochs: self._ended(epochs) for epochs in self.rungs}
        first, *others = self.rungs
        levels = [first, *(epochs for epochs in others if len(ended[epochs]) >= NUM_LEVEL)]
        if len(ended[levels[-1]]) >= MOST_LEARNT:  # it has enough of its own to learn from
            levels = levels[-1:]
        trained = [self.records[i] for i in ended[levels[-1]] if self._held(i)]
        scores = [record.accuracies[levels[-1] - 1] for record in trained]
        self._tried.update(record.architecture.key for record in self.records[len(self._tried) :])
        places = [i for i, each in enumerate(self._pool) if self._is_new(each, waiting)]
        made = {*waiting, *(self._pool[i].architecture.key for i in places)}
        best = front(scores, [self.latency_counts * (record.worst_latency or 0.0) for record in trained])
        near = self._neighbours([self._known_as(trained[i].architecture) for i in best], generator, made)
        candidates = [*(self._pool[i] for i in places), *near]
        if not candidates:  # a small space, searched through
            return generator.choice(self._pool)
        latest = (i for i in reversed(range(len(self.records))) if self._latency(self.records[i].costs) is not None)
        costed = sorted(islice(latest, MOST_LEARNT))
        if len(costed) < NUM_STARTUP_COSTS:
            return self._first_that_holds(generator.sample(candidates, len(candidates)))
        pool = np.vstack([self._pool_features[places], self._encoding(near)])
        cost_model = regress(self._features(costed), self._latencies(costed))
        feasibility = self._feasibility()
        if len(ended[first]) < NUM_STARTUP:
            feasible = feasibility(pool, *cost_model(pool))
            likely = np.flatnonzero(feasible >= min(0.5, feasible.max())).tolist()
            return self._first_that_holds([candidates[i] for i in generator.sample(likely, len(likely))])
        modelled = {epochs: ended[epochs] for epochs in levels}
        expected_gain = self._expected_gain(modelled, cost_model, list(waiting.values()))

        def promise(points: Floats) -> Floats:
            latency, doubt = cost_model(points)
            return expected_gain(points, np.exp(latency)) * feasibility(points, latency, doubt)

        value = promise(pool)
        for _ in range(NUM_CLIMBS):
            near = self._neighbours([candidates[i] for i in _descending(value)[:NUM_CLIMBING]], generator, made)
            if not near:
                break
            candidates += near
            features = self._encoding(near)
            pool, value = np.vstack([pool, features]), np.append(value, promise(features))
        looked_up: set[int] = set()
        for _ in range(MOST_LOOKS):  # until what promises most is what the table was asked about
            shortlist = _descending(value)[:SHORTLIST]
            if shortlist[0] in looked_up:
                break
            unseen = [i for i in shortlist if i not in looked_up]
            looked_up.update(unseen)
            known = {i: costs for i in unseen if (costs := self.foresee(candidates[i].architecture)) is not None}
            if known:
                latency = np.array([self._latency(costs) for costs in known.values()], np.float64)
                held_surely = [self.budget.excess(costs) <= 0 for costs in known.values()]
                gain = expected_gain(pool[[*known]], np.exp(latency))
                value[[*known]] = np.where(held_surely, gain, -1.0)  # what is over the budget comes last of all
        foremost, found = _descending(value)[0], max(looked_up, key=lambda i: value[i])
        return candidates[found if value[found] > 0 or value[found] == value[foremost] else foremost]

    def _expected_gain(
        self, ended: Mapping[int, list[int]], cost_model: Model, waiting: Sequence[Candidate]
    ) -> Callable[[Floats, Floats], Floats]:
        """The gain in hypervolume that is expected of points with some latency.

        Args:
            ended: Who ended the rungs that are modelled, by their epochs.
            cost_model: Of latency.
            waiting: What is in flight counts as if it had come out as expected: the next one is to be elsewhere.
        """
        rows, accuracy, foreseen = self._foreseen(ended)
        taken = np.exp(self._latencies(rows))
        if waiting:
            flying = self._encoding(waiting)
            accuracy = np.append(accuracy, foreseen(flying)[0])
            known = (self.foresee(each.architecture) for each in waiting)
            guessed = cost_model(flying)[0]
            costs = [self._latency(told) if told else guess for told, guess in zip(known, guessed, strict=True)]
            taken = np.append(taken, np.exp(np.array(costs, np.float64)))
        if not self.latency_counts:
            taken = np.zeros_like(taken)
        floor = float(accuracy.min())
        bound = self.budget.worst_allowed(len(self.reference_ms)) or math.inf
        worst = min(bound, BEYOND * float(taken.max()) or 1.0)
        held = [i for i in range(len(taken)) if i >= len(rows) or self._held(rows[i])]
        accuracy, taken = accuracy[held], taken[held]
        steps = front(accuracy.tolist(), taken.tolist())

        def gain(points: Floats, latency: Floats) -> Floats:
            mean, deviation = foreseen(points)
            cost = latency if self.latency_counts else np.zeros_like(latency)
            return expected_hypervolume_improvement(
                mean, deviation, cost, accuracy[steps], taken[steps], floor=floor, worst_cost=worst
            )

        return gain

    def _foreseen(self, ended: Mapping[int, list[int]]) -> tuple[list[int], Floats, Model]:
        """Accuracy at the highest rung that enough trials ended: who these are, theirs, and what is foreseen of others.

        What a rung's model says of a design is, scaled, the prior mean of the next one's (Kennedy and O'Hagan, 2000).
        All is learnt from the trials that `_best_and_latest` leaves.

        Args:
            ended: Who ended the rungs that are modelled, by their epochs.
        """
        rows, accuracy = np.empty(0, int), np.empty(0)
        model: Model | None = None
        for epochs, trials in ended.items():
            rows = np.array(trials)
            accuracy = np.array([self.records[i].accuracies[epochs - 1] for i in rows])
            kept = _best_and_latest(accuracy)
            model = corrected(model, self._features(rows[kept].tolist()), accuracy[kept])
        assert model
        return rows.tolist(), accuracy, model

    def _held(self, i: int) -> bool:
        """Whether a trained trial holds the budget, also as it was timed when it went on to the next rung."""
        return self.records[i].worst_latency is not None

    def _ended(self, epochs: int) -> list[int]:
        """Which trials were trained for so long at least."""
        return [
            i for i, record in enumerate(self.records) if len(record.accuracies) >= epochs and record.status != "failed"
        ]

    def _first_that_holds(self, candidates: Sequence[Candidate]) -> Candidate:
        """Of the first few the one that the table says holds the budget, else one that it does not know."""
        unknown = []
        for each in candidates[:SHORTLIST]:
            costs = self.foresee(each.architecture)
            if costs is None:
                unknown.append(each)
            elif self.budget.excess(costs) <= 0:
                return each
        return (unknown or candidates)[0]

    def _is_new(self, candidate: Candidate, others: Container[str]) -> bool:
        """Whether a design was not tried, and its key is none of some others, in flight or made before."""
        return candidate.architecture.key not in self._tried and candidate.architecture.key not in others

    def _known_as(self, architecture: Architecture) -> Candidate:
        if architecture.key not in self._known:
            self._known[architecture.key] = Candidate(architecture, self.space.encode(architecture))
        return self._known[architecture.key]

    def _features(self, rows: Sequence[int]) -> Floats:
        """Of some of the trials (N, D)."""
        return self._encoding([self._known_as(self.records[i].architecture) for i in rows])

    def _latencies(self, rows: Sequence[int]) -> Floats:
        """Of some of the trials (N,), in log scale; NaN where one lacks."""
        return np.array([self._latency(self.records[i].costs) for i in rows], np.float64)

    def _neighbours(self, parents: Sequence[Candidate], generator: random.Random, made: set[str]) -> list[Candidate]:
        """New designs that answer one to three questions otherwise than one of some others.

        What a rule forbids after that is answered anew, too. Keys in `made` are left out, and theirs are added to it.
        """
        found = []
        for _ in range(NUM_NEIGHBOURS if parents else 0):
            choices = {question(name): value for name, value in generator.choice(parents).choices.items()}
            changed = generator.sample(list(choices), min(len(choices), generator.randint(1, MOST_CHANGES)))

            def choose(
                name: str,
                values: Sequence[Any],
                choices: Mapping[str, Value] = choices,
                changed: Sequence[str] = changed,
            ) -> Any:
                kept = choices.get(question(name))
                return kept if kept in values and question(name) not in changed else generator.choice(values)

            near = self._made(choose)
            if self._is_new(near, made):
                made.add(near.architecture.key)
                found.append(near)
        return found

    def _feasibility(self) -> Callable[[Floats, Floats, Floats], Floats]:
        """The probability that points hold the budget, whose latency and its doubt are told, too.

        Where that is of milliseconds on one target alone, what is known of its latency, as `_latency` says it, tells;
        else it is learnt from all that were costed, as far as that went.
        """
        if (bound := self.budget.only_ms(len(self.reference_ms))) is not None:
            most = math.log(bound / (1 + MARGIN))
            return lambda points, latency, doubt: np.asarray(ndtr((most - latency) / doubt), np.float64)
        latest = range(len(self.records))[-MOST_LEARNT:]
        excess = np.log1p([max(self.budget.excess(self.records[i].costs), -0.99) for i in latest])
        if np.ptp(excess) == 0:  # nothing bounds the designs
            return lambda points, latency, doubt: np.ones(len(points))
        over = regress(self._features(latest), excess)

        def feasible(points: Floats, latency: Floats, doubt: Floats) -> Floats:
            mean, deviation = over(points)
            return np.asarray(ndtr(-mean / deviation), np.float64)

        return feasible

    def _latency(self, costs: Sequence[Cost]) -> float | None:
        """Log of the worst latency of all targets, measured or else predicted; None where one lacks."""
        if any(cost.milliseconds is None for cost in costs):
            return None
        return float(np.log(self.budget.worst_latency(costs, self.reference_ms)))


def _descending(value: Floats) -> list[int]:
    """Places by value, the highest first."""
    return [int(i) for i in np.argsort(-value, kind="stable")]


def _best_and_latest(values: Floats) -> NDArray[np.intp]:
    """Which trials a model of accuracy learns from: all, or the best third of so many and the latest."""
    if len(values) <= MOST_LEARNT:
        return np.arange(len(values))
    latest = np.arange(len(values) - 2 * MOST_LEARNT // 3, len(values))
    return np.union1d(np.argsort(values)[-MOST_LEARNT // 3 :], latest)
