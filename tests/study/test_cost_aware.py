"""The sampler that knows costs: its arithmetic, and that it learns what it is meant to."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from scipy.stats import kendalltau

from hybridnas.architecture import Architecture, Stage, Stem, Transition, Value
from hybridnas.cost.budget import Budget, Cost
from hybridnas.pareto import front, hypervolume
from hybridnas.space import SearchSpace
from hybridnas.study import cost_aware
from hybridnas.study.cost_aware import (
    MOST_LEARNT,
    CostAwareSampler,
    _best_and_latest,
)
from hybridnas.study.records import TrialRecord
from hybridnas.study.sampler import suggest, to_params
from hybridnas.study.surrogate import (
    Candidate,
    Encoding,
    Floats,
    corrected,
    expected_hypervolume_improvement,
    regress,
)

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


def searched(count: int, seed: int, *, table: bool, latency_counts: bool = True) -> list[TrialRecord]:
    return list(_searched(count, seed, table, latency_counts))


@cache
def _searched(count: int, seed: int, table: bool, latency_counts: bool) -> list[TrialRecord]:
    records: list[TrialRecord] = []
    known = (lambda architecture: [cost(truth(architecture)[1], timed=False)]) if table else lambda architecture: None
    sampler = CostAwareSampler(TINY, records, BUDGET, known, [1.0], seed, latency_counts=latency_counts)
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


def candidate(choices: dict[str, Value], *stages: Stage, image_size: int = 32) -> Candidate:
    return Candidate(Architecture(image_size, Stem("conv", 16), stages or (layers(1),)), choices)


def layers(depth: int, width: int = 16, stride: int = 2, block: str = "mbconv", transition: str = "conv") -> Stage:
    return Stage(Transition(transition, stride), block, depth, width)


def test_choices_become_numbers() -> None:
    points: list[dict[str, Value]] = [
        {"stage1.block(x|y)": "x", "n": 2},
        {"stage1.block": "y", "n": 6, "stage1.x.flag": True},
        {"stage1.x.flag": False, "n": 3},
    ]
    encoding = Encoding([candidate(choices) for choices in points])
    more: list[dict[str, Value]] = [
        {"stage1.block": "x", "n": 2},
        {"n": 3},
        {"stage1.x.flag": True},
        {"n": "unheard of"},
    ]
    found = encoding([candidate(each) for each in more])[:, :5]
    found /= found.max()
    assert found[0].tolist() == [0.25, 1, 0, 0, 0]  # the least n of three, x or y, whatever rules leave of them
    assert found[1] == pytest.approx([0.625, 0, 0, 0, 0])
    assert sorted(found[2]) == [0, 0, 0, 0, 0.5] and not found[3].any()  # an option counts half; nobody has the last
    assert encoding([]).shape == (0, encoding([candidate({})]).shape[1])


def test_what_choices_sum_up_to() -> None:
    design = candidate({}, layers(2, 16), layers(1, 32, 1, "window", "patch"), layers(3, 32, 1, transition="none"))
    compute, weights, depth = design.sums  # the stem halves 32 px, the first stage again; a transition is a layer
    assert depth == 3 + 2 + 3 and weights == 3 * 16**2 + 5 * 32**2 and compute == weights * 8**2
    assert candidate({}, layers(2), image_size=64).sums[0] == 4 * candidate({}, layers(2)).sums[0]
    assert design.shares == pytest.approx(
        {"mbconv": 2 / 3, "window": 1 / 3, "-> conv": 1 / 3, "-> patch": 1 / 3, "-> none": 1 / 3}
    )


def test_what_choices_sum_up_to_becomes_numbers() -> None:
    designs = [candidate({}, layers(depth, 16)) for depth in (1, 1, 2, 9)]
    designs.append(candidate({}, layers(2, 64, block="window")))
    beyond = candidate({}, layers(40, 128))
    found = Encoding(designs)([*designs, beyond])
    places = found[:, :3] / found[-1, :3]
    assert places[:, 2].tolist() == pytest.approx([0.2, 0.2, 0.6, 0.9, 0.6, 1.0])  # of five less, or half as much
    assert places[:, 1].tolist() == pytest.approx([0.2, 0.2, 0.5, 0.7, 0.9, 1.0])
    blocks = found[:, 4:]  # mbconv, window; before them the transition that all share
    assert blocks[0, 0] == blocks[2, 0] == blocks[4, 1] > 0 and blocks[0, 1] == blocks[4, 0] == 0


def test_two_designs_are_one_apart() -> None:
    generator = random.Random(0)
    sampler = CostAwareSampler(TINY, [], BUDGET, lambda _: None, [1.0], 0)
    designs = [sampler._made(lambda _, values: generator.choice(values)) for _ in range(400)]
    found = sampler._encoding(designs)
    apart = ((found[:200] - found[200:]) ** 2).sum(1)
    assert np.sqrt(apart.mean()) == pytest.approx(1.0, abs=0.05)


def test_of_few_designs_a_regression_tells_more_than_chance() -> None:
    """Twelve random designs each: likelihood alone took them for noise, and foresaw one value for all."""
    generator = random.Random(1)
    sampler = CostAwareSampler(TINY, [], BUDGET, lambda _: None, [1.0], 0)
    orders = []
    for _ in range(6):
        designs = [sampler._made(lambda _, values: generator.choice(values)) for _ in range(80)]
        accuracy, ms = np.array([truth(each.architecture) for each in designs]).T
        points = sampler._encoding(designs)
        for values in (accuracy, np.log(ms)):
            mean, deviation = regress(points[:12], values[:12])(points[12:])
            orders.append(kendalltau(mean, values[12:]).statistic)
            assert np.median(deviation) > 0.2 * values[:12].std()  # it knows how little it knows
    assert np.mean(orders) > 0.3


def test_a_regression_learns_and_leaves_the_noise_out() -> None:
    generator = np.random.default_rng(0)
    x = generator.uniform(size=(150, 3))
    mean, deviation = regress(x, x[:, 0] + generator.normal(0, 0.05, 150))(x[:5])
    assert np.abs(mean - x[:5, 0]).max() < 0.05 and (deviation < 0.04).all()


def test_of_many_trials_the_best_and_the_latest_are_learnt_from() -> None:
    values = np.random.default_rng(0).uniform(size=1000)
    kept = set(_best_and_latest(values).tolist())
    assert len(kept) <= MOST_LEARNT and int(values.argmax()) in kept and set(range(900, 1000)) <= kept
    assert _best_and_latest(values[:5]).tolist() == [0, 1, 2, 3, 4]


def test_what_was_not_taken_is_not_proposed_again() -> None:
    records = searched(12, 0, table=True)
    sampler = CostAwareSampler(TINY, records, BUDGET, lambda architecture: [cost(truth(architecture)[1])], [1.0], 0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    asked = []
    for _ in range(3):
        trial = study.ask()
        asked.append(suggest(trial, TINY).key)
        study.tell(trial, state=TrialState.FAIL)
    assert len(set(asked)) == 3


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
        sampler = CostAwareSampler(TINY, records, BUDGET, lambda _: None, [1.0], 3)
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        proposed.append(suggest(study.ask(), TINY).key)
    assert proposed[0] == proposed[1]


def test_what_turned_out_over_the_budget_is_no_part_of_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    records = searched(16, 4, table=True)
    place = next(i for i, each in enumerate(records) if each.status == "complete")
    # It was trained, went on as the best of all, and was timed then.
    records[place] = replace(records[place], status="infeasible", accuracies=(0.99,), worst_latency=None)
    fronts = []
    monkeypatch.setattr(cost_aware, "front", lambda *given: fronts.append(given) or front(*given))  # type: ignore[func-returns-value]
    sampler = CostAwareSampler(TINY, records, BUDGET, lambda _: None, [1.0], 4)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    suggest(study.ask(), TINY)
    assert len(fronts) > 1 and all(0.99 not in accuracies for accuracies, _ in fronts)


def test_what_is_in_flight_is_not_proposed_again() -> None:
    records = searched(16, 4, table=True)
    sampler = CostAwareSampler(TINY, records, BUDGET, lambda _: None, [1.0], 4)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    keys = [suggest(study.ask(), TINY).key for _ in range(4)]
    assert len(set(keys)) == 4


def test_what_is_in_flight_counts_as_if_it_had_come_out_as_foreseen() -> None:
    """At the milliseconds that the table knows, less than those of all others here."""
    records = searched(16, 4, table=True)
    sampler = CostAwareSampler(TINY, records, BUDGET, lambda _: [cost(0.1, timed=False)], [1.0], 4)
    costed = list(range(len(records)))
    cost_model = regress(sampler._features(costed), sampler._latencies(costed))
    ended = {1: sampler._ended(1)}
    mean, _ = sampler._foreseen(ended)[2](sampler._pool_features)
    best = sampler._pool[int(np.argmax(mean))]
    gains = [
        sampler._expected_gain(ended, cost_model, waiting)(sampler._encoding([best]), np.array([0.1])).item()
        for waiting in ([], [best])
    ]
    assert 0 < gains[1] < 0.5 * gains[0]  # what it promised is taken


def test_what_is_in_flight_is_part_of_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    records = searched(16, 4, table=True)
    fronts = []

    def spied(mean, deviation, at, accuracy, known, **options):  # type: ignore[no-untyped-def]
        fronts.append((accuracy, known))
        return expected_hypervolume_improvement(mean, deviation, at, accuracy, known, **options)

    monkeypatch.setattr(cost_aware, "expected_hypervolume_improvement", spied)
    sampler = CostAwareSampler(TINY, records, BUDGET, lambda _: None, [1.0], 4)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    suggest(study.ask(), TINY)
    first = fronts[0]
    suggest(study.ask(), TINY)
    second = fronts[-1]
    assert set(second[0]) - set(first[0]) and set(second[1]) - set(first[1])


def test_what_is_in_flight_is_known_by_its_network() -> None:
    """However it was chosen: two sets of choices may make one network."""
    records = searched(16, 4, table=True)
    sampler = CostAwareSampler(TINY, records, BUDGET, lambda _: None, [1.0], 4)
    first = sampler._propose(random.Random(0), {})
    assert sampler._is_new(first, {}) and not sampler._is_new(replace(first, choices={}), {first.architecture.key})


def test_the_most_accurate_alone_is_searched_where_latency_does_not_count() -> None:
    def best(records: list[TrialRecord]) -> float:
        return max(each.accuracy or 0.0 for each in records)

    generator = random.Random(0)
    blind = [record(n, TINY.sample(lambda _, values: generator.choice(values))) for n in range(150)]
    own = searched(45, 0, table=True, latency_counts=False)
    assert best(own) > best(blind)
    late = [each.worst_latency or 0.0 for each in own[25:] if each.status == "complete"]
    of_the_front = [each.worst_latency or 0.0 for each in searched(45, 0, table=True)[25:] if each.worst_latency]
    assert np.median(late) > np.median(of_the_front)  # nothing is given for being quick


def test_another_answer_that_makes_a_tried_network_is_not_proposed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Where a stage is nothing, what its width would be makes no difference."""
    file = tmp_path / "aliases.yaml"
    file.write_text(
        "image_size: 16\nstem: {type: conv, width: [8, 16, 24]}\nstages:\n"
        "  - {transition: conv, block: [mbconv, convnext], depth: [1, 2, 3, 4], width: [8, 16]}\n"
        "  - {transition: [conv, patch], block: [mbconv, convnext], depth: [0, 1], width: [8, 16, 24, 32]}\n"
    )
    space = SearchSpace.load(file)
    drawn: dict[str, Architecture] = {}
    generator = random.Random(0)
    while len(drawn) < 40:
        design = space.sample(lambda _, values: generator.choice(values))
        drawn.setdefault(design.key, design)
    records = [
        TrialRecord(n, each, "", "complete", "", (cost(1.0),), (0.9 - 0.4 * bool(each.stages[1].depth),), 1.0, 0, 1.0)
        for n, each in enumerate(drawn.values())
    ]
    sampler = CostAwareSampler(space, records, Budget(), lambda _: None, [1.0], 0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    assert suggest(study.ask(), space).key not in drawn


def test_an_enqueued_design_is_taken_as_it_is() -> None:
    design = TINY.design(("mbconv", "mbconv", "global", "global"))
    assert design is not None
    sampler = CostAwareSampler(TINY, [], BUDGET, lambda _: None, [1.0], 0)
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
    sampler = CostAwareSampler(space, records, Budget(), lambda _: None, [1.0], 0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    assert suggest(study.ask(), space).key in points


def test_a_trial_that_was_stopped_while_it_was_proposed_is_proposed_anew() -> None:
    sampler = CostAwareSampler(TINY, [], BUDGET, lambda _: None, [1.0], 0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for params in ({}, {"stage1.width": 32}):
        study.enqueue_trial(params)
        design = suggest(study.ask(), TINY)
        assert not params or design.stages[0].width == 32


def test_a_budget_that_is_not_of_milliseconds_is_learnt_from_what_was_never_timed() -> None:
    budget = Budget(macs=2e6)
    records: list[TrialRecord] = []
    sampler = CostAwareSampler(TINY, records, budget, lambda _: None, [1.0], 0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    held = []
    for number in range(40):
        trial = study.ask()
        design = suggest(trial, TINY)
        macs = int(1e6 * truth(design)[1])
        held.append(macs <= budget.macs)  # type: ignore[operator]
        own = Cost(macs, 1, *((macs / 1e6,) * 3 if held[-1] else (None, None, None)), "cpu", 1)
        accuracy = (truth(design)[0],) if held[-1] else ()
        status = "complete" if held[-1] else "infeasible"
        latency = macs / 1e6 if held[-1] else None
        records.append(TrialRecord(number, design, "", status, "", (own,), accuracy, 1.0, 0, latency))  # type: ignore[arg-type]
        study.tell(trial, state=TrialState.PRUNED) if not held[-1] else study.tell(trial, [accuracy[0], latency])
    assert sum(held[25:]) > sum(held[:10])


def test_several_targets_are_in_one_unit() -> None:
    """Without a bound a latency is a share of the reference's, of what is foreseen as of what was timed."""
    generator = random.Random(0)
    records = []
    for number in range(12):
        design = TINY.sample(lambda _, values: generator.choice(values))
        accuracy, ms = truth(design)
        costs = (cost(ms), replace(cost(20 * ms), target="other"))
        records.append(TrialRecord(number, design, "", "complete", "", costs, (accuracy,), 1.0, 0, ms / 2))
    sampler = CostAwareSampler(TINY, records, Budget(), lambda _: None, [2.0, 40.0], 0)
    assert [sampler._latency(each.costs) for each in records] == pytest.approx(
        [np.log(each.worst_latency) for each in records]
    )


def test_what_ended_a_lower_rung_alone_helps_to_foresee_the_highest() -> None:
    """Ten designs trained to the end, sixty others stopped early, where the early figure is the late one, halved."""
    generator = random.Random(5)
    drawn = {d.key: d for d in (TINY.sample(lambda _, values: generator.choice(values)) for _ in range(200))}
    records, others = [], []
    for number, design in enumerate(drawn.values()):
        whole = record(number, design)
        whole = replace(whole, status="complete", worst_latency=truth(design)[1], costs=(cost(truth(design)[1]),))
        late = truth(design)[0]
        if number < 70:
            stopped = number >= 10
            reached = (0.5 * late,) if stopped else (0.5 * late, 0.7 * late, late)
            records.append(replace(whole, accuracies=reached, status="pruned" if stopped else "complete"))
        else:
            others.append((design, late))

    def error(rungs: tuple[int, ...], known: list[TrialRecord]) -> float:
        sampler = CostAwareSampler(TINY, known, BUDGET, lambda design: None, [1.0], 0, rungs)
        pool = [sampler._known_as(design) for design, _ in others]
        ended = {epochs: sampler._ended(epochs) for epochs in rungs}
        rows, accuracy, model = sampler._foreseen(ended)
        mean, deviation = model(sampler._encoding(pool))
        assert rows == list(range(10)) and accuracy.max() == max(r.accuracy for r in known[:10])
        assert len(mean) == len(deviation) == len(others) and (deviation > 0).all()
        return float(np.abs(mean - [late for _, late in others]).mean())

    assert error((1, 3), records) < 0.6 * error((3,), records[:10])


@pytest.mark.parametrize(
    ("ms", "num_targets", "worst"),
    [(4.0, 1, 4.0), (None, 1, None), ((4.0, 9.0), 2, 1.0), (None, 2, None), (4.0, 2, 1.0)],
)
def test_what_the_area_ends_at(ms: float | tuple[float, ...] | None, num_targets: int, worst: float | None) -> None:
    assert Budget(ms).worst_allowed(num_targets) == worst


def proposed(budget: Budget, foresee: Callable[[Architecture], list[Cost] | None], count: int = 16) -> dict[str, Any]:
    """After so many trained designs."""
    generator = random.Random(3)
    records: list[TrialRecord] = []
    while len(records) < count:
        each = record(len(records), TINY.sample(lambda _, values: generator.choice(values)))
        records += [each] if each.accuracies else []
    sampler = CostAwareSampler(TINY, records, budget, foresee, [1.0], 0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    trial = study.ask()
    suggest(trial, TINY)
    return trial.params


def test_a_loose_budget_is_as_good_as_none() -> None:
    def unknown(architecture: Architecture) -> None:
        return None

    assert proposed(Budget(ms=1e6), unknown) == proposed(Budget(), unknown)


def test_where_all_that_was_looked_up_is_over_the_budget_more_is_looked_up() -> None:
    said: dict[str, bool] = {}

    def foresee(architecture: Architecture) -> list[Cost]:
        held = said.setdefault(architecture.key, len(said) >= cost_aware.SHORTLIST)
        return [cost(2.0 if held else 9.0, timed=False)]

    params = proposed(BUDGET, foresee)
    chosen = suggest(optuna.trial.FixedTrial(params), TINY)
    assert len(said) > cost_aware.SHORTLIST and said[chosen.key]


SMALL = """\
image_size: 16
stem: {type: conv, width: 8}
stages:
  - {transition: conv, block: [mbconv, convnext, global], depth: [1, 2], width: [8, 16]}
  - {transition: conv, block: [mbconv, global], depth: [1, 2], width: 16}
blocks: {global: {head_dim: 8}}
"""


def test_a_small_space_is_looked_through_to_the_one_design_that_holds_the_budget() -> None:
    space = SearchSpace.parse(SMALL, name="small", file="small.yaml")
    generator = random.Random(1)
    drawn = {d.key: d for d in (space.sample(lambda _, values: generator.choice(values)) for _ in range(2000))}
    designs = list(drawn.values())
    records = [record(number, design) for number, design in enumerate(designs[:8])]
    assert len(designs) == 48 == space.size and all(each.accuracies for each in records)
    for only in designs[8::10]:

        def foresee(architecture: Architecture, only: Architecture = only) -> list[Cost]:
            return [cost(2.0 if architecture.key == only.key else 9.0, timed=False)]

        sampler = CostAwareSampler(space, records, BUDGET, foresee, [1.0], 0)
        assert sampler._propose(random.Random(0), {}).architecture.key == only.key
        assert len(sampler._pool) == len({each.architecture.key for each in sampler._pool}) == 48


def test_neighbours_keep_what_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another answer changes what a rule leaves of a question."""
    monkeypatch.setattr(cost_aware, "MOST_CHANGES", 1)
    text = SMALL.replace("transition: conv", "transition: [conv, none]", 1)
    space = SearchSpace.parse(text + "rules: [{no_global_above_tokens: 16}]\n", name="small", file="small.yaml")
    generator = random.Random(1)
    while (parent := space.sample(lambda _, values: generator.choice(values))).stages[0].transition.type == "none":
        pass
    for block in ("convnext", "global"):
        stage = replace(parent.stages[0], block=block, options={"head_dim": 8} if block == "global" else {})
        sampler = CostAwareSampler(space, [], BUDGET, lambda _: None, [1.0], 0)
        like = sampler._known_as(replace(parent, stages=(stage, *parent.stages[1:])))
        near = [each.architecture.stages[0] for each in sampler._neighbours([like], random.Random(0), set())]
        blocks = {each.block for each in near if each.transition.type == "none"}  # 8 x 8: global no more
        assert blocks == ({"convnext"} if block == "convnext" else {"mbconv", "convnext"})


def test_a_rung_at_which_all_did_alike_tells_nothing_of_the_next() -> None:
    seen = np.random.default_rng(0).uniform(size=(6, 2))

    def alike(points: Floats) -> tuple[Floats, Floats]:
        return np.zeros(len(points)), np.full(len(points), 0.1)

    mean, deviation = corrected(alike, seen, np.full(6, 0.25))(seen)
    assert mean == pytest.approx(np.full(6, 0.25)) and np.isfinite(deviation).all()


def test_a_later_rung_of_a_few_trials_does_not_turn_the_first_upside_down() -> None:
    def first(points: Floats) -> tuple[Floats, Floats]:
        return points[:, 0], np.full(len(points), 0.1)

    seen = np.array([[0.50], [0.51], [0.52], [0.53]])
    _, doubt = corrected(first, seen, np.array([0.80, 0.79, 0.77, 0.76]))(np.array([[0.5]]))
    assert doubt < 0.1  # of the first rung's own doubt nothing is left where its order tells nothing
