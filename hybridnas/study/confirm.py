"""The end of a search: the best few are timed again and trained longer, and one of them wins."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from hybridnas.cost.measure import Cost, timed
from hybridnas.errors import BudgetError, OutOfTime, TrainingFailed
from hybridnas.model import HybridNet, build
from hybridnas.study.loop import Search, over_budget
from hybridnas.study.records import TrialRecord, front_of, table
from hybridnas.study.sampler import derive_seed

#: How many designs are confirmed at most, and how much longer than in the search they train.
NUM_CONFIRMED = 3
LONGER = 2
TIMING_S = 2.0


@dataclass(frozen=True)
class Confirmed:
    """A design that held the budget when it was timed again. `longer` says whether it was trained longer, too."""

    record: TrialRecord
    costs: tuple[Cost, ...]
    accuracy: float
    longer: bool
    model: HybridNet


def confirm(
    search: Search,
    seconds_left: Callable[[], float],
    say: Callable[[str], None],
    passed_over: Collection[int] = (),
) -> list[Confirmed]:
    """The most accurate designs of the front that hold the budget when timed again, most accurate first.

    Each is trained from a seed of its own for twice the epochs, while time is left; where none is, the network of the
    search is taken. Trials that were `passed_over` are not looked at again.

    Raises:
        BudgetError: none of the designs on the front holds the budget any more.
    """
    best_first = front_of(table(search.records)).number[::-1]
    by_number = {record.number: record for record in search.records}
    confirmed: list[Confirmed] = []
    for number in best_first:
        if number in passed_over:
            continue
        record = by_number[int(number)]
        expected = LONGER * record.seconds + TIMING_S
        if confirmed and (len(confirmed) == NUM_CONFIRMED or expected > seconds_left()):
            break
        costs = _time_again(search, record)
        if search.budget.excess(costs) > 0:
            say(f"trial {number} is over the budget when timed again: {over_budget(costs, search.budget)}")
            continue
        confirmed.append(_train_longer(search, record, costs, seconds_left, say))
    if not confirmed:
        raise BudgetError(
            f"No design holds the budget of {search.budget} when timed again; the machine may have become slower. "
            "Repeat with --resume, or allow more milliseconds."
        )
    trained = [c for c in confirmed if c.longer] or confirmed
    return sorted(trained, key=lambda c: -c.accuracy) + [c for c in confirmed if c not in trained]


def _time_again(search: Search, record: TrialRecord) -> tuple[Cost, ...]:
    """Time a design longer than the search did; once more if it is over the budget: the machine may have been busy."""
    network = build(record.architecture, search.trainer.dataset.num_classes).deploy()
    costs = record.costs
    for _ in range(2):
        costs = tuple(
            timed(cost, timer.measure(network, record.architecture.image_size, seconds=TIMING_S), cost.predicted_ms)
            for cost, timer in zip(record.costs, search.costing.timers, strict=True)
        )
        if search.budget.excess(costs) <= 0:
            break
    return costs


def _train_longer(
    search: Search,
    record: TrialRecord,
    costs: tuple[Cost, ...],
    seconds_left: Callable[[], float],
    say: Callable[[str], None],
) -> Confirmed:
    recipe = replace(search.recipe, epochs=LONGER * search.recipe.epochs)
    seed = derive_seed(search.seed, "confirm", record.architecture.key)
    try:
        result = search.trainer.train(record.architecture, recipe, seed=seed, seconds_left=seconds_left())
    except (OutOfTime, TrainingFailed) as reason:
        say(f"trial {record.number} keeps the network of the search: {reason}")
        return Confirmed(record, costs, record.accuracies[-1], False, _searched_model(search, record))
    say(
        f"trial {record.number} confirmed: accuracy {result.accuracy:.3f} after {recipe.epochs} epochs "
        f"({record.accuracies[-1]:.3f} in the search), {costs[0].latency_ms_p50:.3g} ms"
    )
    return Confirmed(record, costs, result.accuracy, True, result.model)


def _searched_model(search: Search, record: TrialRecord) -> HybridNet:
    from safetensors.torch import load_file

    model = build(record.architecture, search.trainer.dataset.num_classes)
    model.load_state_dict(load_file(search.checkpoint(record.number)))
    return model.eval()
