"""The sampler that knows costs: its arithmetic, and that it learns what it is meant to."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from hybridnas.architecture import Architecture
from hybridnas.cost.measure import Budget, Cost
from hybridnas.pareto import hypervolume
from hybridnas.space import SearchSpace
from hybridnas.study.cost_aware import CostAwareSampler, Encoding, expected_hypervolume_improvement, regress
from hybridnas.study.records import TrialRecord
from hybridnas.study.sampler import suggest, to_params

TINY = SearchSpace.load("tiny")
BUDGET = Budget(ms=4.0)


def truth(architecture: Architecture) -> tuple[float, float]:
    """Accuracy and milliseconds that follow from depths and widths; attention is better late, convolution early."""
    stages = architecture.stages
    ms = sum(stage.depth * stage.width**0.5 for stage in stages) / 20
    good = [(s.block == "global") == (i > 1) for i, s in enumerate(stages)]
    work = sum(min(s.depth, 6) * (1.5 if fits else 1.0) for s, fits in zip(stages, good, strict=True))
    return work / (work + 8), ms


def cost(ms: float, *, timed: bool = True) -> Cost:
    return Cost(1, 1, ms if timed else None, ms if timed else None, ms, "cpu", 1)


def record(number: int, architecture: Architecture) -> TrialRecord:
    accuracy, ms = truth(architecture)
    held = BUDGET.excess([cost(ms)]) <= 0
    return TrialRecord(
        number,
        architecture,
        "",
        "complete" if held else "infeasible",
        "",
        (cost(ms, timed=held),),
        (accuracy,) if held else (),
        1.0,
        0,
        ms if held else None,
    )


def searched(count: int, seed: int, *, table: bool) -> list[TrialRecord]:
    records: list[TrialRecord] = []
    known = (lambda architecture: [cost(truth(architecture)[1], timed=False)]) if table else lambda architecture: None
    sampler = CostAwareSampler(TINY, records, BUDGET, known, seed)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for number in range(count):
        trial = study.ask()
        records.append(record(number, suggest(trial, TINY)))
        values = [records[-1].accuracy, records[-1].worst_latency]
        if records[-1].status == "complete":
            study.tell(trial, values)
        else:
            study.tell(trial, state=TrialState.PRUNED)
    return records


def covered(records: list[TrialRecord]) -> float:
    done = [each for each in records if each.status == "complete"]
    return hypervolume([r.accuracy or 0 for r in done], [r.worst_latency or 0 for r in done], worst_cost=4.0)


def test_expected_improvement_is_the_mean_of_what_is_gained() -> None:
    generator = np.random.default_rng(0)
    accuracy, known = generator.uniform(0.3, 0.9, 12), generator.uniform(1, 3, 12)
    mean, deviation, at = (
        np.array([0.5, 0.8, 0.95, 0.7]),
        np.array([0.1, 0.05, 0.02, 0.3]),
        np.array([0.8, 2, 2.9, 3.6]),
    )
    found = expected_hypervolume_improvement(mean, deviation, at, accuracy, known, floor=0.0, worst_cost=3.5)
    before = hypervolume(accuracy.tolist(), known.tolist(), worst_cost=3.5)
    for i in range(len(mean)):
        drawn = np.maximum(generator.normal(mean[i], deviation[i], 3000), 0.0)
        gains = [hypervolume([*accuracy, one], [*known, at[i]], worst_cost=3.5) - before for one in drawn.tolist()]
        assert found[i] == pytest.approx(np.mean(gains), rel=0.1, abs=2e-3)
    assert found[3] == 0  # beyond the worst cost


def test_choices_become_numbers() -> None:
    encoding = Encoding([{"a": "x", "n": 2}, {"a": "y", "n": 6, "flag": True}, {"flag": False}])
    found = encoding([{"a": "x", "n": 2}, {"a": "y", "n": 6}, {"flag": True}, {"a": "unheard of"}])
    assert found.shape == (4, 5) and found.min() == 0 and found.max() == 1
    assert found[0].tolist() == [1, 0, 0, 0, 0.25] and found[1].tolist() == [0, 1, 0, 0, 1]
    assert found[2].sum() == 1 and not found[3].any()


def test_a_regression_over_more_trials_than_it_may_learn_from() -> None:
    x = np.random.default_rng(0).uniform(size=(400, 3))
    mean, deviation = regress(x, x[:, 0], x[:5])
    assert np.abs(mean - x[:5, 0]).max() < 0.05 and (deviation > 0).all()


def test_it_finds_more_than_chance_and_wastes_nothing_where_the_table_knows() -> None:
    own = searched(45, 0, table=True)
    assert sum(each.status == "infeasible" for each in own) <= 2
    generator = random.Random(0)
    blind = [record(n, TINY.sample(lambda _, values: generator.choice(values))) for n in range(150)]
    assert covered(own) > covered(blind)
    assert len({each.architecture.key for each in own}) == len(own)


def test_it_learns_costs_where_the_table_knows_nothing() -> None:
    records = searched(40, 1, table=False)
    late = [each.status for each in records[20:]]
    assert late.count("complete") >= 12


def test_a_proposal_depends_on_the_trials_alone() -> None:
    records = searched(14, 3, table=True)
    proposed = []
    for _ in range(2):
        sampler = CostAwareSampler(TINY, records, BUDGET, lambda _: None, 3)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        proposed.append(suggest(study.ask(), TINY).key)
    assert proposed[0] == proposed[1]


def test_what_is_in_flight_is_not_proposed_again() -> None:
    records = searched(16, 4, table=True)
    sampler = CostAwareSampler(TINY, records, BUDGET, lambda _: None, 4)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    keys = [suggest(study.ask(), TINY).key for _ in range(4)]
    assert len(set(keys)) == 4


def test_an_enqueued_design_is_taken_as_it_is() -> None:
    design = TINY.design(("mbconv", "mbconv", "global", "global"))
    assert design is not None
    sampler = CostAwareSampler(TINY, [], BUDGET, lambda _: None, 0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.enqueue_trial(to_params(TINY, TINY.encode(design)))
    assert suggest(study.ask(), TINY).key == design.key


def test_nothing_new_is_left_in_a_small_space(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "two.yaml"
    file.write_text(
        "image_size: 16\nstem: {type: conv, width: 8}\nstages:\n"
        "  - {transition: conv, block: mbconv, depth: [1, 2], width: 8}\n"
    )
    space = SearchSpace.load(file)
    points = {each.key: each for each in (space.sample(lambda _, v, i=i: v[i % len(v)]) for i in range(2))}
    records = [replace(record(n, each), accuracies=(0.5,)) for n, each in enumerate(points.values())]
    sampler = CostAwareSampler(space, records, Budget(), lambda _: None, 0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    assert suggest(study.ask(), space).key in points
