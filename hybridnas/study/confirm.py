"""The end of a search: the best few are timed again and trained longer, and one of them wins."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from hybridnas.cost.latency import Latency
from hybridnas.errors import BudgetError, OutOfTime, TrainingFailed
from hybridnas.model import HybridNet, build
from hybridnas.study.loop import Search
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
    latency: Latency
    accuracy: float
    longer: bool
    model: HybridNet


def confirm(search: Search, seconds_left: Callable[[], float], say: Callable[[str], None]) -> list[Confirmed]:
    """The most accurate designs of the front that hold the budget when timed again, most accurate first.

    Each is trained from a seed of its own for twice the epochs, while time is left; where none is, the network of the
    search is taken. With a budget in milliseconds both the drift-corrected and the plain median must hold it.

    Raises:
        BudgetError: none of the designs on the front holds the budget any more.
    """
    best_first = front_of(table(search.records)).number[::-1]
    by_number = {record.number: record for record in search.records}
    confirmed: list[Confirmed] = []
    for number in best_first:
        record = by_number[int(number)]
        expected = LONGER * record.seconds + TIMING_S
        if confirmed and (len(confirmed) == NUM_CONFIRMED or expected > seconds_left()):
            break
        latency = _time_again(search, record)
        if _slowest(latency) > (search.budget.ms or math.inf):
            say(f"trial {number} took {_slowest(latency):.3g} ms when timed again, over {search.budget}: passed over")
            continue
        confirmed.append(_train_longer(search, record, latency, seconds_left, say))
    if not confirmed:
        raise BudgetError(
            f"No design holds the budget of {search.budget} when timed again; the machine may have become slower. "
            "Repeat with --resume, or allow more milliseconds."
        )
    trained = [c for c in confirmed if c.longer] or confirmed
    return sorted(trained, key=lambda c: -c.accuracy) + [c for c in confirmed if c not in trained]


def _time_again(search: Search, record: TrialRecord) -> Latency:
    """Time a design longer than the search did; once more if it is over the budget: the machine may have been busy."""
    network = build(record.architecture, search.trainer.dataset.num_classes).deploy()
    size = record.architecture.image_size
    latency = search.timer.measure(network, size, seconds=TIMING_S)
    if _slowest(latency) > (search.budget.ms or math.inf):
        latency = search.timer.measure(network, size, seconds=TIMING_S)
    return latency


def _slowest(latency: Latency) -> float:
    """The greater of the drift-corrected and the plain median."""
    return max(latency.p50, latency.raw_p50)


def _train_longer(
    search: Search,
    record: TrialRecord,
    latency: Latency,
    seconds_left: Callable[[], float],
    say: Callable[[str], None],
) -> Confirmed:
    recipe = replace(search.recipe, epochs=LONGER * search.recipe.epochs)
    seed = derive_seed(search.seed, "confirm", record.architecture.key)
    try:
        result = search.trainer.train(record.architecture, recipe, seed=seed, seconds_left=seconds_left())
    except (OutOfTime, TrainingFailed) as reason:
        say(f"trial {record.number} keeps the network of the search: {reason}")
        return Confirmed(record, latency, record.accuracies[-1], False, _searched_model(search, record))
    say(
        f"trial {record.number} confirmed: accuracy {result.accuracy:.3f} after {recipe.epochs} epochs "
        f"({record.accuracies[-1]:.3f} in the search), {latency.p50:.3g} ms"
    )
    return Confirmed(record, latency, result.accuracy, True, result.model)


def _searched_model(search: Search, record: TrialRecord) -> HybridNet:
    from safetensors.torch import load_file

    model = build(record.architecture, search.trainer.dataset.num_classes)
    model.load_state_dict(load_file(search.checkpoint(record.number)))
    return model.eval()
