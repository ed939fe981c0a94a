"""What a sampler proposes, and what it is told.

Samplers ask studies in memory, one a rung, that are built from the trials on disk: a proposal depends on the run's seed
and the trials that ended alone, and a search that goes on proposes what it would have without a stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import optuna
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from hybridnas.architecture import Architecture
from hybridnas.space import SearchSpace
from hybridnas.study.objective import Objective
from hybridnas.study.records import TrialRecord
from hybridnas.study.sampler import make_sampler, suggest, to_params
from hybridnas.study.storage import RECORD

#: Trials that ended a rung before a sampler learns from that rung and no longer from the one below.
ENOUGH = 15


class Proposal(NamedTuple):
    """An architecture to try.

    `design` names the known design that it is, or is empty; `attrs` is what the sampler noted of it.
    """

    architecture: Architecture
    design: str = ""
    attrs: Mapping[str, Any] = {}


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
        self._studies = [optuna.create_study(directions=objective.directions) for _ in range(num_rungs)]
        self._ended = [0] * num_rungs
        self._attrs: dict[int, Mapping[str, Any]] = {}
        self._in_flight: dict[str, tuple[optuna.Study, optuna.Trial]] = {}

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
        return self._studies[max((rung for rung, ended in enumerate(self._ended) if ended >= ENOUGH), default=0)]

    def begin(self, architecture: Architecture) -> None:
        """A design is in training, and others will be asked for meanwhile: samplers are to look elsewhere."""
        study = self._level()
        study.sampler = RandomSampler()  # not asked: the point is given
        study.enqueue_trial(to_params(self.space, self.space.encode(architecture)))
        trial = study.ask()
        suggest(trial, self.space)
        self._in_flight[architecture.key] = study, trial

    def end(self, architecture: Architecture) -> None:
        """A design is in training no more; what became of it is told as a trial of its own."""
        if architecture.key in self._in_flight:
            study, trial = self._in_flight.pop(architecture.key)
            study.tell(trial, state=TrialState.FAIL)

    def frozen(self, record: TrialRecord, excess: float, attrs: Mapping[str, Any] | None = None) -> FrozenTrial:
        """A record as Optuna stores it, whose sampler noted `attrs`, at first; what is over the budget has no values.

        Args:
            record: The trial.
            excess: By what share it is over the budget (`Budget.excess`).
            attrs: What the sampler noted of the proposal; None where it was told before, on a lower rung.
        """
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
            system_attrs=dict(self._attrs[record.number] if attrs is None else attrs),
        )

    def tell(self, rung: int, record: TrialRecord, trial: FrozenTrial) -> None:
        """A trial that ended a rung, or none."""
        # Whether it holds the budget is told anew on each rung: what was foreseen then may be measured now.
        noted = {name: value for name, value in trial.system_attrs.items() if not name.startswith("constraints")}
        self._attrs.setdefault(record.number, noted)
        if record.status == "infeasible":
            for study in self._studies:
                study.add_trial(trial)
            return
        self._studies[rung].add_trial(trial)
        self._ended[rung] += trial.state == TrialState.COMPLETE
