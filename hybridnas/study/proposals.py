"""What a sampler proposes, and what it is told.

Samplers ask studies in memory, one a rung, that are built from the trials on disk: a proposal depends on the run's seed
and the trials that ended alone, and a search that goes on proposes what it would have without a stop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from hybridnas.architecture import Architecture
from hybridnas.pareto import ranking
from hybridnas.proxy.rungs import ENOUGH
from hybridnas.space import SearchSpace
from hybridnas.study.objective import Objective
from hybridnas.study.records import TrialRecord
from hybridnas.study.sampler import make_sampler, suggest, to_params
from hybridnas.study.storage import RECORD

#: Of a long study samplers see the best and the latest trials, so many of each at least: their time grows with what
#: they see. What is left out is found anew each time that so many more have ended.
BEST, LATEST = 250, 250


class Proposal(NamedTuple):
    """An architecture to try.

    `design` names the known design that it is, or is empty; `attrs` is what the sampler noted of it.
    """

    architecture: Architecture
    design: str = ""
    attrs: Mapping[str, Any] = {}


class _Told(NamedTuple):
    """A trial, and by what share it is over the budget (`Budget.excess`)."""

    record: TrialRecord
    excess: float


class _Rung:
    """What is known of the trials of a rung, and the study in memory that samplers ask."""

    def __init__(self, objective: Objective) -> None:
        self.told: list[_Told] = []
        self.num_ended = 0  # with an accuracy
        self.study = optuna.create_study(directions=objective.directions)
        self.left_out = 0  # of the first so many, all but the best
        self.num_shown = 0


class Proposals:
    """Asks samplers and tells them what became of all trials.

    Args:
        space: What is searched.
        objective: Which figures of a trial are its values.
        num_rungs: Of the search.
        seed: Of the run.
    """

    def __init__(self, space: SearchSpace, objective: Objective, num_rungs: int, seed: int) -> None:
        self.space = space
        self.objective = objective
        self.seed = seed
        self._rungs = [_Rung(objective) for _ in range(num_rungs)]
        self._attrs: dict[int, Mapping[str, Any]] = {}
        self._in_flight: dict[str, tuple[Architecture, optuna.Study, optuna.Trial]] = {}

    def next(self, sampler: str | BaseSampler, number: int, attempt: int) -> Proposal:
        """What a sampler, or the one that `make_sampler` knows by a name, would try as trial `number`.

        `attempt` counts the askings for it.
        """
        study = self._level()
        study.sampler = make_sampler(sampler, self.seed, number, attempt) if isinstance(sampler, str) else sampler
        trial = study.ask()
        architecture = suggest(trial, self.space)
        attrs = study.get_trials(deepcopy=False)[-1].system_attrs
        study.tell(trial, state=TrialState.FAIL)  # what becomes of it is told as a trial of its own
        return Proposal(architecture, attrs=attrs)

    def _level(self) -> optuna.Study:
        """The study that is asked: of the highest rung that enough trials ended."""
        place = max((i for i, rung in enumerate(self._rungs) if rung.num_ended >= ENOUGH), default=0)
        rung = self._rungs[place]
        left_out = max(0, len(rung.told) - LATEST) // LATEST * LATEST
        if left_out > rung.left_out:
            rung.study = optuna.create_study(directions=self.objective.directions)
            self._show(rung, self._best(rung.told[:left_out]))
            rung.left_out = rung.num_shown = left_out
        self._show(rung, rung.told[rung.num_shown :])
        rung.num_shown = len(rung.told)
        for design in [design for design, study, _ in self._in_flight.values() if study is not rung.study]:
            self.end(design)
            self._begin(rung.study, design)
        return rung.study

    def _show(self, rung: _Rung, told: Sequence[_Told]) -> None:
        rung.study.add_trials([self.frozen(*each) for each in told])

    def _best(self, told: Sequence[_Told]) -> list[_Told]:
        ended = [each for each in told if each.record.status in ("complete", "pruned")]
        if not ended:
            return []
        epochs = len(ended[0].record.accuracies)
        order = ranking(self.objective.scores([each.record for each in ended], epochs))
        return [ended[place] for place in sorted(order[:BEST])]

    def begin(self, architecture: Architecture) -> None:
        """A design is in training, and others will be asked for meanwhile: samplers are to look elsewhere."""
        if architecture.key not in self._in_flight:
            self._begin(self._level(), architecture)

    def _begin(self, study: optuna.Study, architecture: Architecture) -> None:
        study.sampler = RandomSampler()  # not asked: the point is given
        study.enqueue_trial(to_params(self.space, self.space.encode(architecture)))
        trial = study.ask()
        suggest(trial, self.space)
        self._in_flight[architecture.key] = architecture, study, trial

    def end(self, architecture: Architecture) -> None:
        """A design is in training no more; what became of it is told as a trial of its own."""
        if architecture.key in self._in_flight:
            _, study, trial = self._in_flight.pop(architecture.key)
            study.tell(trial, state=TrialState.FAIL)

    def tell(self, rung: int, record: TrialRecord, excess: float, attrs: Mapping[str, Any] | None = None) -> None:
        """A trial that ended a rung, or none.

        Args:
            rung: That it was tried on last.
            record: The trial.
            excess: By what share it is over the budget (`Budget.excess`).
            attrs: What the sampler noted of the proposal; None where it was told before, on a lower rung.
        """
        # Whether it holds the budget is told anew on each rung: what was foreseen then may be measured now.
        noted = {name: value for name, value in (attrs or {}).items() if not name.startswith("constraints")}
        self._attrs.setdefault(record.number, noted)
        told = _Told(record, excess)
        for each in self._rungs if record.status == "infeasible" else [self._rungs[rung]]:
            each.told.append(told)
            each.num_ended += record.status in ("complete", "pruned")

    def frozen(self, record: TrialRecord, excess: float) -> FrozenTrial:
        """A trial that was told as Optuna stores it; what is over the budget has no values."""
        trial = FixedTrial(to_params(self.space, self.space.encode(record.architecture)))
        suggest(trial, self.space)
        trained = record.status in ("complete", "pruned")
        # A constraint with state PRUNED teaches TPE that the point is infeasible, without any accuracy.
        state = TrialState.COMPLETE if trained else TrialState.FAIL
        if record.status == "infeasible":
            state = TrialState.PRUNED
        return create_trial(
            state=state,
            values=self.objective.values(record) if trained else None,
            params=trial.params,
            distributions=trial.distributions,
            constraints={"budget": excess},
            user_attrs={RECORD: record.to_json(), "design": record.design, "key": record.architecture.key},
            system_attrs=dict(self._attrs.get(record.number, {})),
        )
