"""Confirming: who takes part, and what an interval says. The whole is tested by the searches of test_search."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from hybridnas.errors import BudgetError
from hybridnas.proxy.evaluation import Outcome, Task
from hybridnas.proxy.training import Recipe
from hybridnas.study import confirm as confirm_module
from hybridnas.study.confirm import (
    LONGER,
    MOST_IN_VAIN,
    NUM_CONFIRMED,
    Confirmed,
    _train_longer,
    best_known,
    confirm,
    each_ended,
    margins,
    spread,
)
from hybridnas.study.executors import Serial
from hybridnas.study.objective import NUM_MOST_ACCURATE, Objective


def record(number, accuracy=0.5, design="", status="complete"):
    return SimpleNamespace(
        number=number, accuracy=accuracy, accuracies=(accuracy,), design=design, status=status, rung=0
    )


def test_the_most_accurate_are_chosen_from_though_another_is_as_accurate_and_quicker():
    figures = [(0.9, 5.0), (0.89, 6.0), (0.88, 5.5), (0.87, 7.0), (0.4, 1.0), (0.3, 2.0)]
    records = [SimpleNamespace(accuracy=a, worst_latency=ms, status="complete") for a, ms in figures]
    assert Objective().best(records) == [records[i] for i in (0, 1, 2, 4)]
    assert Objective().best([*records[4:]]) == records[4:] and Objective().best([]) == []


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 6, 20])
def test_the_most_accurate_and_some_of_the_rest_come_first(count):
    front = [record(number) for number in range(count)]
    found = [each.number for each in spread(front)]
    assert sorted(found) == [*range(count)]
    assert found[:NUM_MOST_ACCURATE] == [*range(min(count, NUM_MOST_ACCURATE))]
    if count == 20:
        assert found[NUM_MOST_ACCURATE:NUM_CONFIRMED] == [8, 14]


def test_the_best_known_design():
    records = [record(0, 0.9), record(1, 0.6, "C-C"), record(2, 0.7, "C-T"), record(3, 0.8, "T-T", "failed")]
    assert best_known(records).number == 2
    assert best_known(records[:1]) is None


def confirmed(*accuracies, searched=0.5):
    each = Confirmed(record(0, searched), ())
    for i, accuracy in enumerate(accuracies):
        each.add(accuracy, Path(f"network {i}"))
    return each


def test_the_mean_counts_and_the_best_network_is_kept():
    each = confirmed(0.7, 0.9, 0.8)
    assert each.accuracy == pytest.approx(0.8) and each.weights == Path("network 1") and each.longer
    assert confirmed(searched=0.4).accuracy == 0.4 and not confirmed().longer


def test_an_interval_follows_from_the_seeds():
    # Two designs of two seeds that differ by 0.02 and 0.04: pooled variance 5e-4, two degrees of freedom, t = 4.303.
    found = margins([confirmed(0.70, 0.72), confirmed(0.60, 0.64), confirmed(0.5)], 10**6)
    half = 4.3027 * 5e-4**0.5
    assert found == pytest.approx([half / 2**0.5, half / 2**0.5, half], rel=1e-4)


def test_without_several_seeds_or_where_these_agree_by_chance_it_follows_from_the_images():
    half = 0.039219  # Agresti and Coull's for 320 of 400
    assert margins([confirmed(0.8)], 400) == pytest.approx([half], rel=1e-4)
    assert margins([confirmed(0.8), confirmed(0.8, 0.8)], 400) == pytest.approx([half, half], rel=1e-4)
    assert margins([confirmed(1.0)], 54) == pytest.approx([0.046177], rel=1e-4)  # all right, and yet not sure


def test_a_first_training_may_take_what_is_kept_for_baselines():
    given: list[Task] = []

    def evaluate(task, on_step):
        given.append(task)
        return Outcome((0.5, 0.6), 1.0)

    one = record(3)
    one.architecture, one.seconds = SimpleNamespace(key="k"), 5.0
    search = SimpleNamespace(
        storage=SimpleNamespace(confirmed=lambda number, seed: Path(f"{number}-{seed}")),
        recipe=Recipe(1),
        seed=0,
        places=Serial(evaluate),
    )
    each = Confirmed(one, (SimpleNamespace(latency_ms_p50=1.0),))
    for seed, more_s in ((0, 30.0), (1, 0.0)):
        _train_longer(search, [each], seed, lambda: 20.0, lambda line: None, more_s)
    assert [task.seconds_left for task in given] == [50.0, 20.0] and each.accuracies == [0.6, 0.6]
    assert given[0].seed != given[1].seed and {task.recipe.epochs for task in given} == {LONGER}


@pytest.mark.parametrize(("more_s", "taking_part"), [(0.0, [0]), (40.0, [0, 1])])
def test_the_best_known_design_may_take_it_too(
    monkeypatch: pytest.MonkeyPatch, more_s: float, taking_part: list[int]
) -> None:
    trained = []

    def train(search, confirmed, seed, *_):
        trained.append([each.record.number for each in confirmed])
        for each in confirmed:
            each.add(0.8, Path("network"))

    def time_again(search, record, confirmed, say):
        confirmed.append(Confirmed(record, ()))
        return True

    monkeypatch.setattr(confirm_module, "_time_again", time_again)
    monkeypatch.setattr(confirm_module, "_train_longer", train)
    monkeypatch.setattr(confirm_module, "with_weights", lambda *_: None)
    monkeypatch.setattr(confirm_module, "_seconds", lambda *_: 25.0)
    records = [record(0, 0.9), record(1, 0.6, "C-T")]
    for each in records:
        each.architecture = None
    search = SimpleNamespace(
        records=records,
        objective=SimpleNamespace(best=lambda records: records[:1], aim="front"),
        places=SimpleNamespace(num_places=1),
        storage=SimpleNamespace(clear_confirmed=lambda: None),
        trainer=SimpleNamespace(dataset=SimpleNamespace(num_classes=2)),
    )
    found = confirm(search, lambda: 30.0, lambda line: None, more_s=more_s)
    assert trained[0] == taking_part and sorted(each.record.number for each in found) == taking_part


@pytest.mark.parametrize(
    ("left", "num_timed", "said"),
    [
        (-1.0, MOST_IN_VAIN, f"None of the {MOST_IN_VAIN} best designs holds .* Repeat with --resume and more --time"),
        (1.0, 30, "No design holds the budget of 10 ms when timed again; .* Repeat with --resume, or"),
    ],
)
def test_without_time_it_is_not_all_that_are_timed_in_vain(
    monkeypatch: pytest.MonkeyPatch, left: float, num_timed: int, said: str
) -> None:
    timed: list[int] = []
    monkeypatch.setattr(confirm_module, "_time_again", lambda search, record, *_: timed.append(record.number))
    monkeypatch.setattr(confirm_module, "_seconds", lambda *_: 25.0)
    search = SimpleNamespace(
        records=[record(number) for number in range(30)],
        objective=SimpleNamespace(best=lambda records: records, aim="front"),
        storage=SimpleNamespace(),
        budget="10 ms",
    )
    with pytest.raises(BudgetError, match=said):
        confirm(search, lambda: left, lambda line: None)
    assert len(timed) == num_timed


def test_a_task_is_asked_for_when_there_is_a_place():
    asked: list[int] = []

    def tasks():
        for number in (1, 2, 3):
            asked.append(number)
            yield number

    ended = each_ended(Serial(lambda task, on_step: len(asked)), tasks())
    assert list(ended) == [(1, 1), (2, 2), (3, 3)]
