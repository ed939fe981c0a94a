from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
from fakes import CountingTimer, made_up_record
from optuna.trial import TrialState
from safetensors.torch import load_file

from hybridnas.architecture import Architecture
from hybridnas.cost.budget import Budget
from hybridnas.cost.latency import Latency, Timer
from hybridnas.cost.measure import Costing
from hybridnas.cost.table import Table
from hybridnas.data.loading import Loading
from hybridnas.data.sources import open_source
from hybridnas.errors import BudgetError, CannotRun, ConfigError, OutOfTime, RunError, TargetError, TrainingFailed
from hybridnas.model import HybridNet, build, num_params
from hybridnas.proxy.evaluation import Outcome, Result, Task, evaluate
from hybridnas.proxy.training import Recipe, Trainer
from hybridnas.seeds import derive_seed
from hybridnas.space import SearchSpace
from hybridnas.study import loop as loop_module
from hybridnas.study import sampler as sampler_module
from hybridnas.study.cost_aware import CostAwareSampler
from hybridnas.study.executors import Serial
from hybridnas.study.loop import HOPELESS, TOO_LONG, UNRUNNABLE, Search
from hybridnas.study.objective import NUM_BEST, NUM_MOST_ACCURATE, Aim, Objective
from hybridnas.study.records import TrialRecord, front_of
from hybridnas.study.run import Run
from hybridnas.study.sampler import NUM_STARTUP
from hybridnas.study.storage import Storage

MakeSearch = Callable[..., Search]

FOUR_POINTS = """\
image_size: 16
stem: {type: conv, width: 8}
stages:
  - {transition: conv, block: [mbconv, convnext], depth: [1, 2], width: 8}
"""


@pytest.fixture(scope="module")
def trainer(npz_file: Path) -> Trainer:
    return Trainer(open_source(str(npz_file)).load(Loading(16)), torch.device("cpu"), threads=1)


@pytest.fixture
def make_costing(tmp_path: Path, trainer: Trainer) -> Iterator[Callable[..., Costing]]:
    tables = []

    def make(*timers: Timer) -> Costing:
        tables.append(Table(tmp_path / f"{len(tables)}.sqlite"))
        return Costing(timers or [CountingTimer()], trainer.dataset.num_classes, tables[-1])

    yield make
    for made in tables:
        made.close()


@pytest.fixture
def make_search(tmp_path: Path, space_file: Path, trainer: Trainer, make_costing: Callable[..., Costing]) -> MakeSearch:
    def make(
        budget: Budget = Budget(),  # noqa: B008
        folder: str = "run",
        space: SearchSpace | None = None,
        timers: Sequence[Timer] = (),
        rungs: Sequence[int] = (1,),
        sampler: str = "tpe",
        aim: Aim = "front",
        costing: Costing | None = None,
    ) -> Search:
        (tmp_path / folder).mkdir(exist_ok=True)
        space = space or SearchSpace.load(space_file)
        objective = Objective(aim)
        return Search(
            Storage(tmp_path / folder, len(rungs), objective.directions),
            space,
            budget,
            costing or make_costing(*timers),
            trainer,
            Recipe(rungs[-1], batch_size=64),
            rungs,
            seed=0,
            sampler=sampler,
            objective=objective,
        )

    return make


def table(records: Sequence[TrialRecord]) -> pd.DataFrame:
    return pd.DataFrame([record.row() for record in records])


def forever() -> float:
    return float("inf")


def test_known_layouts_come_first_and_every_trial_is_on_disk(make_search: MakeSearch, tmp_path: Path) -> None:
    search = make_search()
    on_disk: list[int] = []

    def look(progress: object) -> None:
        path = tmp_path / "run" / "trials.csv"
        on_disk.append(len(path.read_text().splitlines()) - 1 if path.exists() else 0)

    search.report = look
    search.run(trials=8, seconds_left=forever)
    names = list(search.space.layouts())
    assert [record.design for record in search.records] == [*names, *[""] * (8 - len(names))]
    assert all(record.status == "complete" and 0 <= record.accuracies[-1] <= 1 for record in search.records)
    assert on_disk[-1] == 8 and set(on_disk) == set(range(9))


def test_what_is_over_budget_is_never_trained(make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    search = make_search(Budget(macs=84_000))
    trained = []
    real = search.trainer.train

    def train(architecture, *args, **kwargs):  # type: ignore[no-untyped-def]
        trained.append(architecture.key)
        return real(architecture, *args, **kwargs)

    monkeypatch.setattr(search.trainer, "train", train)
    search.run(trials=4, seconds_left=forever)
    infeasible = [record for record in search.records if record.status == "infeasible"]
    complete = [record for record in search.records if record.status == "complete"]
    assert infeasible and len(complete) == 4
    assert all(r.cost.macs > 84_000 and r.cost.latency_ms_p50 is None for r in infeasible)
    assert all(r.cost.macs <= 84_000 for r in complete)
    assert "MMAC over 0.084" in infeasible[0].reason
    assert sorted(trained) == sorted(r.architecture.key for r in complete)
    told = search.storage.studies[0].get_trials(deepcopy=False)
    assert all(told[r.number].state == TrialState.PRUNED for r in infeasible)
    assert all(told[r.number].constraints["budget"] > 0 for r in infeasible)


def test_a_layout_over_budget_is_tried_again_at_its_smallest(make_search: MakeSearch) -> None:
    search = make_search()
    middle = search.space.design(("global", "global"), size=0.5)
    smallest = search.space.design(("global", "global"), size=0.0)
    search = make_search(Budget(macs=84_000), folder="again")
    search.run(trials=6, seconds_left=forever)
    tried = {r.architecture: r.status for r in search.records if r.design == "all global"}
    assert tried[middle] == "infeasible" and smallest in tried


def test_where_middle_sizes_are_far_too_slow_the_least_come_soon(make_search: MakeSearch, space_file: Path) -> None:
    wide = space_file.read_text().replace("[8, 16]", "[8, 16, 24]").replace("[16, 24]", "[16, 24, 32]")
    space = SearchSpace.parse(wide, name="wide", file="wide.yaml")
    families = list(space.layouts().values())
    sizes = {size: [space.design(each, size=size) for each in families] for size in (0.5, 0.0)}
    bound = min(num_params(build(each, 3).deploy()) for each in sizes[0.5] if each) / 1e4  # as CountingTimer has it
    search = make_search(Budget(ms=bound), folder="slow", space=space, timers=[CountingTimer()])
    search.run(trials=len(families), seconds_left=forever)
    tried = [record.architecture for record in search.records if record.design]
    assert tried[:5] == [sizes[0.5][0], sizes[0.0][0], sizes[0.5][1], sizes[0.0][1], sizes[0.0][2]]
    assert not {*tried} & {*sizes[0.5][2:]}


def test_a_search_that_had_no_time_says_so_and_can_go_on(make_search: MakeSearch) -> None:
    search, left = make_search(Budget(ms=1e-3)), iter([5.0] * 6 + [-1.0] * 99)
    with pytest.raises(BudgetError, match=r"^No design .* was found in time: of \d+ designs .* Go on with --resume"):
        search.run(trials=5, seconds_left=lambda: next(left))
    assert 0 < len(search.records) < HOPELESS


def test_an_unreachable_budget_ends_with_the_nearest_design(make_search: MakeSearch) -> None:
    search = make_search(Budget(ms=1e-3))
    with pytest.raises(
        BudgetError, match=r"0\.001 ms is out of reach .* the fastest took .* ms on cpu: \w+ x1"
    ) as caught:
        search.run(trials=5, seconds_left=forever)
    fastest = min(record.cost.latency_ms_p50 for record in search.records if record.cost.latency_ms_p50)
    assert f"took {fastest:.3g} ms" in str(caught.value)
    assert len(search.records) == HOPELESS


def test_what_cannot_be_run_makes_no_budget_reachable(make_search: MakeSearch) -> None:
    def lacks_attention(model: object) -> None:
        if "GlobalAttention" in repr(model):
            raise CannotRun("no such operator")

    search = make_search(Budget(ms=1e-3), timers=[CountingTimer(before=lacks_attention)])
    with pytest.raises(BudgetError, match="is out of reach"):
        search.run(trials=None, seconds_left=forever)
    assert {record.status for record in search.records} == {"failed", "infeasible"}


def test_where_nothing_can_be_run_the_search_ends(make_search: MakeSearch) -> None:
    def lacks_all(model: object) -> None:
        raise CannotRun("no such operator")

    search = make_search(timers=[CountingTimer(before=lacks_all)])
    with pytest.raises(ConfigError, match=rf"None of {UNRUNNABLE} designs can be run; the last: .*no such operator\."):
        search.run(trials=3, seconds_left=forever)
    assert len(search.records) == UNRUNNABLE and search.num_begun == 0


def test_where_hardly_anything_holds_the_budget_the_search_ends(
    make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "BARREN", 25)
    space = make_search().space
    generator = random.Random(0)
    drawn = [space.sample(lambda _, values: generator.choice(values)) for _ in range(60)]
    params = sorted(num_params(build(each, 3).deploy()) for each in drawn)
    search, said = make_search(Budget(params=params[4]), folder="barren", sampler="random"), []
    search.say = said.append
    search.run(trials=30, seconds_left=forever)
    assert 0 < search.num_begun < 30
    assert all(record.status == "infeasible" for record in search.records[-25:])
    assert said == ["25 designs in a row are over the budget or cannot be run: no more are tried"]


def test_a_space_searched_through_ends_and_nothing_is_trained_twice(make_search: MakeSearch) -> None:
    space = SearchSpace.parse(FOUR_POINTS, name="four", file="four.yaml")
    assert space.size == 4
    search = make_search(space=space)
    search.run(trials=50, seconds_left=forever)
    keys = [record.architecture.key for record in search.records]
    assert len(keys) == len(set(keys)) == 4


def test_a_failed_training_is_kept_with_its_reason_and_the_search_goes_on(
    make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = make_search()
    real = search.trainer.train
    calls = []

    def train(*args, **kwargs):  # type: ignore[no-untyped-def]
        calls.append(1)
        if len(calls) == 2:
            raise TrainingFailed("diverged: the loss is nan at step 3 of 4")
        return real(*args, **kwargs)

    monkeypatch.setattr(search.trainer, "train", train)
    search.run(trials=4, seconds_left=forever)
    assert [record.status for record in search.records] == ["complete", "failed", "complete", "complete"]
    assert search.records[1].reason == "diverged: the loss is nan at step 3 of 4"
    assert search.storage.studies[0].trials[1].state == TrialState.FAIL


def test_stopped_and_resumed_it_makes_the_same_trials(make_search: MakeSearch, tmp_path: Path) -> None:
    whole = make_search(folder="whole")
    whole.run(trials=9, seconds_left=forever)
    for trials in (1, 7, 9):
        make_search(folder="parts").run(trials=trials, seconds_left=forever)
    parts = make_search(folder="parts")
    compare = [(r.number, r.architecture.key, r.accuracies, r.design) for r in whole.records]
    assert [(r.number, r.architecture.key, r.accuracies, r.design) for r in parts.records] == compare


def test_a_trial_in_flight_is_begun_again(make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_search(folder="whole")
    whole.run(trials=9, seconds_left=forever)

    def die(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    for killed in (trainer_of, storage_of):  # in a training, and when it ended but was not stored
        search = make_search(folder=killed.__name__)
        search.run(trials=8, seconds_left=forever)
        with monkeypatch.context() as patch:
            patch.setattr(*killed(search), die)
            with pytest.raises(KeyboardInterrupt):
                search.run(trials=9, seconds_left=forever)
        again = make_search(folder=killed.__name__)
        assert len(again.records) == 8
        again.run(trials=9, seconds_left=forever)
        assert [r.architecture for r in again.records] == [r.architecture for r in whole.records]


def trainer_of(search: Search) -> tuple[object, str]:
    return search.trainer, "train"


def storage_of(search: Search) -> tuple[object, str]:
    return search.storage, "add"


def test_what_does_not_fit_into_the_time_is_dropped(make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    search, tried = make_search(), []

    def too_long(design: Architecture, *args: object, **kwargs: object) -> None:
        tried.append(design.key)
        raise OutOfTime("would take 9 s, 3 s are left")

    monkeypatch.setattr(search.trainer, "train", too_long)
    search.run(trials=5, seconds_left=forever)
    assert search.records == [] and len(tried) == TOO_LONG == len(set(tried))


def test_weights_are_kept_for_the_front_and_the_most_accurate_alone(make_search: MakeSearch, tmp_path: Path) -> None:
    search = make_search()
    search.run(trials=8, seconds_left=forever)
    (tmp_path / "run" / "config.json").write_text("{}")
    run = Run.load(tmp_path / "run")
    kept = {*run.front().number, *(record.number for record in most_accurate(search.records))}
    assert len(kept) < 8
    files = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert files == {f"trial-{number}.safetensors" for number in kept}


def most_accurate(records: list[TrialRecord]) -> list[TrialRecord]:
    return sorted(records, key=lambda r: (-r.accuracies[-1], r.worst_latency or 0.0))[:NUM_MOST_ACCURATE]


def test_seeds_differ_between_trials(make_search: MakeSearch) -> None:
    search = make_search()
    search.run(trials=4, seconds_left=forever)
    assert len({record.seed for record in search.records}) == 4
    assert (
        replace(search.records[0]).to_json() == type(search.records[0]).from_json(search.records[0].to_json()).to_json()
    )


def test_with_two_targets_a_design_must_hold_the_budget_on_each(make_search: MakeSearch) -> None:
    timers = [CountingTimer("cpu"), CountingTimer("ssh://pi@edge", slowness=10)]
    every = make_search(timers=timers)
    every.run(trials=8, seconds_left=forever)
    on_pi = [r.costs[1].latency_ms_p50 for r in every.records]
    assert on_pi == [pytest.approx(10 * r.cost.latency_ms_p50) for r in every.records]
    bound = sorted(on_pi)[4]
    search = make_search(Budget(ms=(1e6, bound)), folder="bounded", timers=timers)
    search.run(trials=4, seconds_left=forever)
    complete = [r for r in search.records if r.status == "complete"]
    infeasible = [r for r in search.records if r.status == "infeasible"]
    assert infeasible and len(complete) == 4
    assert all(r.costs[1].latency_ms_p50 <= bound for r in complete)
    assert all("on ssh://pi@edge" in r.reason for r in infeasible)
    assert [r.worst_latency for r in complete] == [pytest.approx(r.costs[1].latency_ms_p50 / bound) for r in complete]


def test_each_target_has_a_front_and_all_have_one(make_search: MakeSearch) -> None:
    class Odd(CountingTimer):
        """Slow where the other is fast."""

        def measure_opened(self, opened, **options):  # type: ignore[no-untyped-def]
            return [replace(each, p50=1 / each.p50) for each in super().measure_opened(opened, **options)]

    search = make_search(timers=[CountingTimer("cpu"), Odd("command:odd {model}")])
    search.run(trials=8, seconds_left=forever)
    trials = table(search.records)
    odd = "latency_ms_p50 command:odd {model}"
    assert trials[odd].tolist() == [pytest.approx(1 / ms) for ms in trials.latency_ms_p50]
    for column in ("latency_ms_p50", odd):
        found = front_of(trials, column)
        assert found[column].is_monotonic_increasing and found.accuracy.is_monotonic_increasing
        assert found[column].iloc[0] == trials[column].min()
    assert trials.worst_latency.tolist() == [pytest.approx(max(ms, 1 / ms)) for ms in trials.latency_ms_p50]


def test_a_target_that_dies_ends_the_search_with_everything_kept(make_search: MakeSearch, tmp_path: Path) -> None:
    opened = []

    def dies(model: object) -> None:
        opened.append(model)
        if len(opened) == 30:
            raise TargetError("The target ssh://pi@edge stopped answering")

    search = make_search(timers=[CountingTimer(before=dies)])
    with pytest.raises(TargetError):
        search.run(trials=8, seconds_left=forever)
    done = len(search.records)
    assert 0 < done < 8
    again = make_search()
    assert [r.to_json() for r in again.records] == [r.to_json() for r in search.records]
    again.run(trials=8, seconds_left=forever)
    expected = make_search(folder="undisturbed")
    expected.run(trials=8, seconds_left=forever)
    assert {r.architecture.key for r in again.records} == {r.architecture.key for r in expected.records}


def test_what_a_runtime_cannot_run_fails_alone_and_is_named(make_search: MakeSearch) -> None:
    def lacks_attention(model: object) -> None:
        if "GlobalAttention" in repr(model):
            raise CannotRun("no such operator")

    search = make_search(timers=[CountingTimer(before=lacks_attention)])
    search.run(trials=8, seconds_left=forever)
    failed = [r for r in search.records if r.status == "failed"]
    assert failed and all("global" in r.architecture.families for r in failed)
    assert all(r.reason.startswith("block global") and "no such operator" in r.reason for r in failed)
    assert any(r.status == "complete" for r in search.records)


def test_a_frozen_table_tells_what_cannot_be_run_from_what_it_lacks(tmp_path: Path, space_file: Path) -> None:
    def lacks_attention(model: object) -> None:
        if "GlobalAttention" in repr(model):
            raise CannotRun("no such operator")

    space, timer, left_out = SearchSpace.load(space_file), CountingTimer(before=lacks_attention), []
    good, bad, unknown = (space.design(("mbconv", second), size=1) for second in ("mbconv", "global", "window"))
    assert good and bad and unknown
    with closing(Table(tmp_path / "table.sqlite")) as table:
        predictor = Costing([timer], 3, table).predictors[0]
        predictor.fill(predictor.missing([good, bad]), leave_out=left_out.append)
        table.copy(tmp_path / "copy.sqlite", [predictor.context])
    with closing(Table(tmp_path / "copy.sqlite")) as table:
        frozen = Costing([timer], 3, table, frozen=True)
        assert left_out and frozen.assess(good, Budget())[0].predicted_ms
        with pytest.raises(CannotRun, match="^block global.*no such operator"):
            frozen.assess(bad, Budget())
        with pytest.raises(ConfigError, match="--frozen-table: the table has no time for block window"):
            frozen.assess(unknown, Budget())


def test_what_the_table_shows_to_be_over_the_budget_is_not_timed(make_search: MakeSearch, tmp_path: Path) -> None:
    timer = CountingTimer()
    search = make_search(timers=[timer])
    search.run(trials=8, seconds_left=forever)
    (predictor,) = search.costing.predictors
    assert predictor.num_networks == timer.networks == 8
    slowest = max(search.records, key=lambda r: r.cost.latency_ms_p50 or 0)
    assert slowest.cost.latency_ms_p50
    (cost,) = search.costing.assess(slowest.architecture, Budget(ms=slowest.cost.latency_ms_p50 / 3))
    assert timer.networks == 8  # nothing was built
    assert cost.latency_ms_p50 is None
    assert cost.predicted_ms == pytest.approx(slowest.cost.latency_ms_p50, rel=0.2)
    (cost,) = search.costing.assess(slowest.architecture, Budget(ms=1.02 * slowest.cost.latency_ms_p50))
    assert timer.networks == 9 and cost.latency_ms_p50 == slowest.cost.latency_ms_p50
    assert Budget(ms=1.02 * slowest.cost.latency_ms_p50).excess([cost]) > 0  # within, but not by the margin
    assert Budget(ms=1.04 * slowest.cost.latency_ms_p50).excess([cost]) < 0


def test_what_the_table_shows_to_hold_the_budget_is_timed_when_it_goes_on(
    make_search: MakeSearch, make_costing: Callable[..., Costing]
) -> None:
    timer = CountingTimer()
    costing = make_costing(timer)
    make_search(costing=costing, folder="fills the table").run(trials=12, seconds_left=forever)
    known = timer.networks
    search = make_search(costing=costing, rungs=(1, 2))
    search.run(trials=6, seconds_left=forever)
    foreseen = [record for record in search.records if record.status == "pruned"]
    whole = [record for record in search.records if record.status == "complete"]
    assert len(foreseen) == 4 and all(record.cost.latency_ms_p50 is None for record in foreseen)
    assert len(whole) == 2 and all(record.cost.latency_ms_p50 for record in whole)
    assert timer.networks == known + 2
    for record in search.records:
        assert record.cost.milliseconds == record.worst_latency
        assert sum(record.cost.stage_ms) == pytest.approx(record.worst_latency, rel=1e-2)
        assert len(record.cost.stage_ms) == len(record.architecture.stages) + 2


def test_what_turns_out_over_the_budget_when_it_goes_on_is_infeasible(
    make_search: MakeSearch, make_costing: Callable[..., Costing]
) -> None:
    timer = CountingTimer()
    costing = make_costing(timer)
    fill = make_search(costing=costing, folder="fills the table")
    fill.run(trials=12, seconds_left=forever)
    slowest = max(record.worst_latency or 0 for record in fill.records)
    timer.slowness = 100.0  # of which the table knows nothing
    search = make_search(Budget(ms=2 * slowest), costing=costing, rungs=(1, 2))
    with pytest.raises(BudgetError, match="out of reach"):
        search.run(trials=3, seconds_left=forever)
    first = search.records[0]
    assert first.status == "infeasible" and first.rung == 1 and len(first.accuracies) == 1
    assert (first.cost.latency_ms_p50 or 0) > 2 * slowest and "over" in first.reason
    assert not any(record.status == "complete" for record in search.records)
    again = make_search(Budget(ms=2 * slowest), costing=costing, rungs=(1, 2))
    assert [record.to_json() for record in again.records] == [record.to_json() for record in search.records]
    trial = search.storage.studies[1].get_trials()[0]
    assert trial.state == TrialState.PRUNED and trial.constraints["budget"] > 0


@pytest.mark.parametrize("sampler", ["gp", "nsga2", "random", "cost-aware"])
def test_every_sampler_proposes_designs_and_goes_on(make_search: MakeSearch, sampler: str) -> None:
    whole = make_search(folder="whole", sampler=sampler)
    parts = make_search(folder="parts", sampler=sampler)
    whole.run(trials=14, seconds_left=forever)
    parts.run(trials=12, seconds_left=forever)
    later = make_search(folder="parts", sampler=sampler, costing=parts.costing)  # the table outlives a process
    later.run(trials=14, seconds_left=forever)
    assert [r.architecture.key for r in later.records] == [r.architecture.key for r in whole.records]
    assert len({record.architecture.key for record in whole.records}) == 14


def test_the_best_third_of_each_rung_goes_on(make_search: MakeSearch, tmp_path: Path) -> None:
    search = make_search(rungs=(1, 2, 4))
    order = []
    search.report = lambda progress: order.append(progress.ended) if progress.ended else None
    search.run(trials=9, seconds_left=forever)
    assert len(search.records) == 9
    lengths = sorted(len(record.accuracies) for record in search.records)
    assert lengths == [1] * 6 + [2] * 2 + [4]
    for record in search.records:
        assert (record.rung, record.status) == {1: (0, "pruned"), 2: (1, "pruned"), 4: (2, "complete")}[
            len(record.accuracies)
        ]
    assert len(order) == 9 + 3 + 1
    assert [len(study.trials) for study in search.storage.studies] == [9, 3, 1]
    assert [r.number for r in search.objective.best(search.records)] == [
        r.number for r in search.records if r.status == "complete"
    ]
    assert table(search.records).status.value_counts().to_dict() == {"pruned": 8, "complete": 1}


@pytest.mark.parametrize(("left", "begun", "ended"), [(2.4, 6, 3), (1.9, 6, 2), (3.4, 7, 2)])
def test_in_the_last_seconds_what_may_yet_end_goes_on(
    make_search: MakeSearch, left: float, begun: int, ended: int
) -> None:
    """An epoch takes a second; whole trainings have three, and those that were stopped need two more."""
    search = make_search(rungs=(1, 3))
    search.run(trials=6, seconds_left=forever)
    search.records[:] = [replace(record, seconds=len(record.accuracies)) for record in search.records]
    search._ordered.clear()
    trials, order, gone_on = search._standings(0)
    best = next(trials[row].number for row in order if row not in gone_on)
    before = list(search.records)
    search.run(trials=None, seconds_left=lambda: left if search.records == before else 0.0)
    assert len(search.records) == begun
    done = {record.number for record in search.records if record.status == "complete"}
    assert len(done) == ended and (best in done) == (ended == 3)


def test_at_a_rung_it_goes_on_from_where_it_stopped(make_search: MakeSearch, tmp_path: Path) -> None:
    search = make_search(rungs=(1, 3))
    search.run(trials=6, seconds_left=forever)
    done = [record for record in search.records if record.status == "complete"]
    assert len(done) == 2
    for record in done:
        whole = search.trainer.train(record.architecture, search.recipe, seed=record.seed)
        assert whole.accuracies == record.accuracies
        kept = search.storage.weights(record.number)
        if kept.is_file():
            weights = load_file(kept)
            assert all(torch.equal(value, weights[name]) for name, value in whole.model.state_dict().items())
    stopped = {path.name for path in (tmp_path / "run" / "checkpoints").glob("stopped-*")}
    assert stopped <= {f"stopped-{r.number}.pt" for r in search.records if r.status == "pruned"}


def test_what_was_trained_is_not_trained_again(make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    real = Trainer.train

    def train(self: Trainer, *args: object, on_step: Callable[[float], None], **options: object) -> object:
        return real(self, *args, on_step=lambda share: steps.append(share) or on_step(share), **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "train", train)
    search = make_search(rungs=(1, 3))
    search.run(trials=6, seconds_left=forever)
    epochs = sum(len(record.accuracies) for record in search.records)
    assert epochs == 4 * 1 + 2 * 3
    assert len(steps) == epochs * (len(search.trainer.dataset.train) // search.recipe.batch_size)


def told_by_key(accuracy: Callable[[Architecture], float]) -> Serial:
    """Trainings that reach at once what is known of each design."""
    return Serial(lambda task, _: Outcome((accuracy(task.architecture),) * task.until, 1.0))


def test_who_goes_on_is_the_best_of_those_that_ended(make_search: MakeSearch) -> None:
    """In a space of one family, so that no place is dealt out."""
    text = """\
image_size: 16
stem: {type: conv, width: [8, 16]}
stages:
  - {transition: [conv, patch], block: convnext, depth: [1, 2, 3, 4], width: [8, 16, 24]}
"""
    search = make_search(
        space=SearchSpace.parse(text, name="one", file="one.yaml"), rungs=(1, 3), sampler="random", aim="accuracy"
    )
    search.places = told_by_key(lambda design: derive_seed(design.key) / 2**31)
    events: list[TrialRecord] = []
    search.report = lambda progress: events.append(progress.ended) if progress.ended else None
    search.run(trials=25, seconds_left=forever)
    ended: dict[int, float] = {}
    gone: set[int] = set()
    for record in events:
        order = sorted(ended, key=lambda number: -ended[number])
        earned = [number for number in order[: -(-len(ended) // 3)] if number not in gone]
        if len(gone) >= -(-len(ended) // 3) or not earned:
            assert record.rung == 0 and record.number not in ended
            ended[record.number] = record.accuracies[0]
        else:
            assert record.rung == 1 and record.number == earned[0]
            gone.add(record.number)
    assert len(ended) == 25 and len(gone) == 9


def test_some_of_each_family_go_on_from_the_first_rung(make_search: MakeSearch) -> None:
    attention = ("window", "global")
    search = make_search(rungs=(1, 3), sampler="random", aim="accuracy")
    search.places = told_by_key(
        lambda design: (design.main_family not in attention) / 2 + derive_seed(design.key) / 2**33
    )
    events: list[TrialRecord] = []
    search.report = lambda progress: events.append(progress.ended) if progress.ended else None
    search.run(trials=36, seconds_left=forever)
    late = [r.architecture.main_family for r in events[24:] if r.rung == 1]
    assert any(family in attention for family in late) and any(family not in attention for family in late)


def test_auto_knows_costs_and_says_so(make_search: MakeSearch) -> None:
    search, said = make_search(sampler="auto"), []
    search.say = said.append
    search.run(trials=8, seconds_left=forever)
    assert isinstance(search._sampler, CostAwareSampler)
    assert said == ["sampler cost-aware: costs are known, accuracy is learnt from the trainings"]


def test_the_most_accurate_within_the_budget_is_searched_where_latency_does_not_count(make_search: MakeSearch) -> None:
    search = make_search(Budget(macs=84_000), aim="accuracy", sampler="cost-aware")
    search.run(trials=14, seconds_left=forever)
    assert isinstance(search._sampler, CostAwareSampler) and not search._sampler.latency_counts
    assert all(record.cost.macs <= 84_000 for record in search.objective.best(search.records))


def test_hardly_any_that_was_trained_turns_out_over_the_budget(
    make_search: MakeSearch, make_costing: Callable[..., Costing]
) -> None:
    """Though a network takes up to 4 % longer or shorter than its parts."""

    class Uneven(CountingTimer):
        def measure_opened(self, opened: Sequence[torch.nn.Module], **_: object) -> list[Latency]:
            found = super().measure_opened(opened)
            return [
                replace(one, p50=one.p50 * (0.96 + 0.08 * derive_seed(one.p50) / 2**31))
                if isinstance(network, HybridNet)
                else one
                for one, network in zip(found, opened, strict=True)
            ]

    costing = make_costing(Uneven())
    fill = make_search(costing=costing, folder="fills the table")
    fill.run(trials=12, seconds_left=forever)
    middle = statistics.median(record.worst_latency or 0 for record in fill.records)
    search = make_search(Budget(ms=middle), costing=costing, rungs=(1, 2), sampler="cost-aware")
    search.places = told_by_key(lambda design: derive_seed(design.key) / 2**31)
    search.run(trials=32, seconds_left=forever)
    trained = [record for record in search.records if record.accuracies]
    over = [record for record in trained if record.status == "infeasible"]
    assert len(trained) >= 32 and len(over) < 0.05 * len(trained)


def test_stopped_among_rungs_it_makes_the_same_trials(make_search: MakeSearch, tmp_path: Path) -> None:
    whole = make_search(folder="whole", rungs=(1, 2))
    whole.run(trials=9, seconds_left=forever)
    for trials in (2, 5, 9):
        parts = make_search(folder="parts", rungs=(1, 2))
        parts.run(trials=trials, seconds_left=forever)
        for path in (tmp_path / "parts" / "checkpoints").glob("stopped-*"):  # what is gone is trained again
            path.unlink() if trials == 2 else path.write_bytes(b"torn")
    again = make_search(folder="parts", rungs=(1, 2)).records
    assert [(r.number, r.architecture, r.accuracies, r.status, r.rung) for r in again] == [
        (r.number, r.architecture, r.accuracies, r.status, r.rung) for r in whole.records
    ]


def test_one_objective_finds_the_most_accurate(make_search: MakeSearch) -> None:
    search = make_search(aim="accuracy")
    search.run(trials=8, seconds_left=forever)
    assert search.storage.studies[0].directions == [optuna.study.StudyDirection.MAXIMIZE]
    best = search.objective.best(search.records)
    assert [r.accuracy for r in best] == sorted((r.accuracy for r in search.records), reverse=True)[:NUM_BEST]
    front = Objective("front").best(search.records)  # it is exported on request
    assert all(search.storage.weights(record.number).is_file() for record in (*best, *front))


@pytest.mark.parametrize(
    ("sampler", "aim"),
    [("tpe", "front+params"), ("nsga2", "front+macs"), ("gp", "front+params"), ("tpe", "front+macs")],
)
def test_a_third_objective_widens_the_front(make_search: MakeSearch, sampler: str, aim: Aim) -> None:
    search = make_search(aim=aim, sampler=sampler)
    third = aim.partition("+")[2]

    def row(record: TrialRecord) -> tuple[float, float, int]:
        return -record.accuracies[-1], record.worst_latency or 0.0, getattr(record.cost, third)

    search.run(trials=14, seconds_left=forever)
    best = {r.number for r in search.objective.best(search.records)}
    assert best >= {r.number for r in Objective("front").best(search.records)}
    for record in search.records:
        beaten = any(
            all(b <= a for a, b in zip(row(record), row(other), strict=True)) and row(record) != row(other)
            for other in search.records
        )
        assert (record.number in best) == (not beaten or record in most_accurate(search.records))


def test_a_damaged_study_is_said(make_search: MakeSearch, tmp_path: Path) -> None:
    make_search().run(trials=1, seconds_left=forever)
    with pytest.raises(RunError, match=r"study.db is of a search with another objective"):
        make_search(aim="accuracy")
    (tmp_path / "run" / "study.db").write_bytes(b"nothing" * 1000)
    with pytest.raises(RunError, match=r"study.db cannot be opened: .*not a database"):
        make_search()


@pytest.mark.parametrize(("seconds", "chosen"), [(1.0, "tpe"), (60.0, "gp")])
def test_with_a_third_objective_gp_proposes_where_trainings_take_long(
    make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch, seconds: float, chosen: str
) -> None:
    real = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda *a, **k: replace(real(*a, **k), seconds=seconds))
    said: list[str] = []
    asked: list[str] = []
    make = sampler_module.make_sampler
    monkeypatch.setattr(
        "hybridnas.study.proposals.make_sampler", lambda name, *rest: asked.append(name) or make(name, *rest)
    )
    for trials in (NUM_STARTUP + 1, NUM_STARTUP + 2):  # and again when it goes on
        search = make_search(aim="front+params", sampler="auto")
        search.say = said.append
        search.run(trials=trials, seconds_left=forever)
    assert said == 2 * [f"sampler {chosen}: a training takes {seconds:.3g} s, a proposal of gp about 2 s"]
    assert asked[0] == "tpe" and asked[-1] == chosen


class Several:
    """Trains here, but takes some tasks at once and ends them in any order."""

    def __init__(self, search: Search, places: int) -> None:
        self.num_places = places
        self.begun: list[Task] = []
        self._in_flight: list[Task] = []
        self._generator = random.Random(places)
        self._trainer = search.trainer

    def submit(self, task: Task) -> None:
        assert len(self._in_flight) < self.num_places
        assert not any(task.number == other.number for other in self._in_flight)
        self.begun.append(task)
        self._in_flight.append(task)

    def wait(self, on_step: Callable[[float], None]) -> tuple[Task, Result]:
        task = self._in_flight.pop(self._generator.randrange(len(self._in_flight)))
        return task, evaluate(self._trainer, task, on_step)

    def close(self) -> None: ...


@pytest.mark.parametrize("sampler", ["cost-aware", "tpe", "random"])
def test_several_trainings_at_once(make_search: MakeSearch, sampler: str) -> None:
    def search_on() -> tuple[Search, Several]:
        search = make_search(rungs=(1, 2, 4), sampler=sampler)
        search.places = places = Several(search, 3)
        return search, places

    search, places = search_on()
    search.run(trials=12, seconds_left=forever)
    assert search.num_begun == 12 == len({record.architecture.key for record in search.records})
    assert sorted(record.number for record in search.records) == [*range(12)]
    assert [task.number for task in places.begun] != sorted(task.number for task in places.begun)
    going_on = [(task.number, task.until) for task in places.begun]
    assert len(going_on) == len(set(going_on)), "nothing is trained twice"
    # Each went on from its checkpoint, which was there, and those on the front have their networks.
    for task in places.begun:
        assert task.until == 1 or (task.number, {2: 1, 4: 2}[task.until]) in going_on
    assert search.storage
    kept = {path.name for path in (search.storage.folder / "checkpoints").iterdir()}
    for record in search.objective.best(search.records):
        assert search.storage.weights(record.number).name in kept
    whole = next(record for record in search.records if record.status == "complete")
    alone = search.trainer.train(whole.architecture, search.recipe, seed=whole.seed)
    assert alone.accuracies == whole.accuracies

    again, places = search_on()
    assert sorted(again.records, key=lambda r: r.number) == sorted(search.records, key=lambda r: r.number)
    again.run(trials=14, seconds_left=forever)
    assert {task.number for task in places.begun if task.until == 1} == {12, 13}


class Held:
    """Claims of a study in which another search has some for a while: the first so many times that they are asked."""

    def __init__(self, held: dict[str, int]) -> None:
        self.held = held

    def claim(self, what: str) -> bool:
        self.held[what] = self.held.get(what, 0) - 1
        return self.held[what] < 0

    def release(self, what: str) -> None: ...

    def close(self) -> None: ...


def test_what_another_search_gave_up_is_tried_after_all(
    make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "is_shared", True)
    space = SearchSpace.parse(FOUR_POINTS, name="four", file="four.yaml")
    search = make_search(space=space)
    given_up = space.design(("mbconv",), size=0.5)
    assert given_up
    search._claims = Held({given_up.key: 2})
    search.run(trials=4, seconds_left=forever)
    tried = [record.architecture.key for record in search.records]
    assert len(tried) == 4 and tried[0] != given_up.key and given_up.key in tried[1:]


def test_what_another_search_is_at_is_in_flight_until_it_gives_it_up(
    make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Storage, "is_shared", True)
    search = make_search(space=SearchSpace.parse(FOUR_POINTS, name="four", file="four.yaml"))
    theirs = next(search._known_designs()).architecture
    search._claims = Held({theirs.key: 2})
    search._propose()
    in_flight = [theirs.key in search._proposals._in_flight]
    for _ in range(2):
        search._look_around()
        in_flight.append(theirs.key in search._proposals._in_flight)
    assert in_flight == [True, True, False]


def test_what_other_searches_let_go_on_takes_places(make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four that ended a rung two go on: one that does, and the one that another search is at."""
    search = make_search(rungs=(1, 2))
    designs = [search.space.design(families, size=0.5) for families in search.space.layouts().values()]
    ended = [made_up_record(number, design) for number, design in enumerate(designs[:4]) if design]
    for record in ended:
        search._put(replace(record, status="pruned"))
    search._put(replace(search.records[3], accuracies=(0.5, 0.6), rung=1, status="complete"))
    monkeypatch.setattr("hybridnas.study.loop.standings", lambda scores, families: [0, 1, 2, 3])
    assert [record.number for record in search.records] == [0, 1, 2, 3]
    first = search._promoted()
    assert first and first.number == 0, "a place is free"
    search._claims = Held({f"{ended[0].architecture.key} 1": 99})
    assert search._promoted() is None
    search._elsewhere.clear()
    search._did_not_fit.add((ended[0].architecture.key, 1))  # which takes none
    other = search._promoted()
    assert other and other.number == 1


def test_a_number_that_another_search_took_is_given_up(
    make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a server was gone for a while, and with it this search's claim to the number."""
    monkeypatch.setattr(Storage, "is_shared", True)
    search = make_search()
    theirs, own = [search.space.design(families, size=0.5) for families in list(search.space.layouts().values())[:2]]
    assert theirs and own and search.storage
    record = made_up_record(0, own)
    assert search._with_own_number(record) is record
    search._put(made_up_record(0, theirs))
    search.storage.weights(0).parent.mkdir()
    search.storage.weights(0).write_bytes(b"own")
    again = search._with_own_number(record)
    assert again == replace(record, number=1)
    assert search.storage.weights(1).read_bytes() == b"own" and not search.storage.weights(0).exists()


def test_what_counts_as_begun(make_search: MakeSearch) -> None:
    search = make_search()
    design = search.space.design(next(iter(search.space.layouts().values())), size=0.5)
    assert design
    trained = made_up_record(0, design)
    not_timed = replace(trained.cost, latency_ms_p50=None, predicted_ms=None)
    assert trained.was_begun
    assert replace(trained, status="infeasible").was_begun  # as it was timed after its first rung
    assert replace(trained, status="failed", accuracies=()).was_begun
    assert not replace(trained, status="infeasible", accuracies=()).was_begun
    assert not replace(trained, status="failed", accuracies=(), costs=(not_timed,)).was_begun  # it cannot be run


def test_a_search_that_stops_for_lack_of_time_waits_for_what_is_in_flight(make_search: MakeSearch) -> None:
    search = make_search()
    search.places = places = Several(search, 2)
    search.run(trials=None, seconds_left=lambda: 0.0 if len(places.begun) >= 5 else 1e9)
    assert len(search.records) == 5 == len(places.begun)
    assert all(record.status == "complete" for record in search.records)
