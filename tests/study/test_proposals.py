"""What samplers are shown of the trials."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState

from hybridnas import SearchSpace
from hybridnas.cost.budget import Cost
from hybridnas.study import proposals
from hybridnas.study.objective import Objective
from hybridnas.study.proposals import ENOUGH, Proposals
from hybridnas.study.records import TrialRecord
from hybridnas.study.sampler import to_params
from hybridnas.study.storage import Storage


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace.load("tiny")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "BEST", 3)
    monkeypatch.setattr(proposals, "LATEST", 10)


def records(space: SearchSpace, count: int) -> list[TrialRecord]:
    """Of which the earlier are the better, and every fifth is over the budget."""
    generator = random.Random(0)
    found = []
    for number in range(count):
        design = space.sample(lambda _, values: generator.choice(values))
        cost = Cost(1000, 100, 2.0, 2.0, 2.0, "cpu", 1)
        over = number % 5 == 4
        accuracies = () if over else (0.9 - 0.01 * number,)
        status = "infeasible" if over else "pruned"
        found.append(TrialRecord(number, design, "", status, "", (cost,), accuracies, 1.0, 0, None if over else 2.0))
    return found


def told(space: SearchSpace, trials: list[TrialRecord]) -> Proposals:
    asked = Proposals(space, Objective(), 2, 0)
    for record in trials:
        asked.tell(0, record, 0.5 if record.status == "infeasible" else -0.5, {"noted": record.number})
    return asked


def shown(asked: Proposals) -> list[int]:
    """Numbers of the finished trials that the next sampler sees."""
    asked.next("random", 0, 0)
    found = asked._level().get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [trial.system_attrs["noted"] for trial in found]


def test_samplers_see_all_of_a_short_study_and_the_best_and_latest_of_a_long_one(space: SearchSpace) -> None:
    trials = records(space, 47)
    assert shown(told(space, trials[:19])) == list(range(19))
    assert shown(told(space, trials[:20])) == [0, 1, 2, *range(10, 20)]
    assert shown(told(space, trials)) == [0, 1, 2, *range(30, 47)]


def test_a_search_that_goes_on_is_shown_what_one_without_a_stop_is(space: SearchSpace) -> None:
    trials = records(space, 47)
    growing = told(space, [])
    for count, record in enumerate(trials, 1):
        growing.tell(0, record, 0.5 if record.status == "infeasible" else -0.5, {"noted": record.number})
        assert shown(growing) == shown(told(space, trials[:count]))


def test_a_design_in_flight_is_shown_until_it_ends(space: SearchSpace) -> None:
    *trials, flying = records(space, 40)
    asked = told(space, trials[:15])
    asked.begin(flying.architecture)

    def running() -> int:
        return len(asked._level().get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    assert running() == 1
    for record in trials[15:]:
        asked.tell(0, record, -0.5, {"noted": record.number})
        assert running() == 1
    asked.end(flying.architecture)
    assert running() == 0


def test_samplers_learn_from_the_highest_rung_that_enough_trials_ended(space: SearchSpace) -> None:
    trials = [each for each in records(space, 60) if each.status == "pruned"]
    flying = trials.pop()
    asked = told(space, trials[:ENOUGH])
    asked.begin(flying.architecture)
    first = asked._rungs[0].study
    for record in trials[: ENOUGH - 1]:
        asked.tell(1, replace(record, accuracies=(*record.accuracies, 0.9)), -0.5)
    assert asked._level() is first
    asked.tell(1, replace(trials[ENOUGH - 1], accuracies=(0.8, 0.9)), -0.5)
    assert asked._level() is asked._rungs[1].study
    (running,) = asked._level().get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    assert running.params == to_params(space, space.encode(flying.architecture))
    assert not first.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def test_what_is_over_the_budget_is_shown_on_every_rung_as_a_constraint_alone(space: SearchSpace) -> None:
    asked = told(space, records(space, 5))
    first, last = (rung.told for rung in asked._rungs)
    assert [each.record.number for each in last] == [4] and len(first) == 5
    trial = asked.frozen(*last[0])
    assert trial.state == TrialState.PRUNED and trial.values is None and trial.constraints == {"budget": 0.5}


def test_a_trial_that_went_on_keeps_what_its_sampler_noted_but_not_its_constraint(space: SearchSpace) -> None:
    asked = Proposals(space, Objective(), 2, 0)
    (record,) = records(space, 1)
    asked.tell(0, record, -0.5, {"noted": 7, "constraints:budget": -0.5})
    asked.tell(1, record, -0.2)
    trial = asked.frozen(record, -0.2)
    assert trial.system_attrs["noted"] == 7 and trial.constraints == {"budget": -0.2}


def test_a_search_that_goes_on_is_shown_both_rungs_as_they_were_told(tmp_path: Path, space: SearchSpace) -> None:
    """Half of what went on was over the budget when it was timed."""
    alive, storage = Proposals(space, Objective(), 2, 0), Storage(tmp_path, 2, Objective().directions)
    kept: list[TrialRecord] = []

    def keep(rung: int, record: TrialRecord, attrs: dict[str, int] | None = None) -> None:
        record = replace(record, ended=float(len(kept)))
        kept.append(record)
        excess = 0.5 if record.status == "infeasible" else -0.5
        alive.tell(rung, record, excess, attrs)
        storage.add(rung, alive.frozen(record, excess), [record])

    for record in records(space, 60):
        keep(0, record, {"noted": record.number})
        if record.status == "pruned" and record.number % 2:
            over = replace(record, status="infeasible", worst_latency=None, rung=1)
            keep(1, over if record.number % 4 == 3 else replace(record, status="complete", rung=1))
    storage.close()
    again, storage = Proposals(space, Objective(), 2, 0), Storage(tmp_path, 2, Objective().directions)
    for rung, record, attrs in storage.load():
        again.tell(rung, record, 0.5 if record.status == "infeasible" else -0.5, attrs)
    storage.close()
    for one, other in zip(alive._rungs, again._rungs, strict=True):
        assert one.told == other.told and len(one.told) > 30
    assert shown(alive) == shown(again)


def test_the_folder_of_a_search_is_read_as_it_was_told(tmp_path: Path, space: SearchSpace) -> None:
    trials = records(space, 6)
    asked = told(space, trials)
    storage = Storage(tmp_path, 2, Objective().directions)
    for record in trials:
        storage.add(0, asked.frozen(record, 0.5 if record.status == "infeasible" else -0.5), trials)
    assert storage.load() == []
    storage.close()
    again = Storage(tmp_path, 2, Objective().directions)
    found = again.load()
    assert [(rung, record) for rung, record, _ in found] == [(0, record) for record in trials]
    assert [attrs["noted"] for _, _, attrs in found] == list(range(6))
    assert again.load() == []
    again.close()
