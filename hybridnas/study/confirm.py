"""The end of a search: the best few are timed again and trained longer with several seeds, and the best mean wins."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scipy.special import ndtri, stdtrit

from hybridnas.cost.budget import Cost
from hybridnas.cost.measure import timed
from hybridnas.errors import BudgetError, CannotRun, RunError
from hybridnas.model import HybridNet, build
from hybridnas.proxy.evaluation import Outcome, Result, Task
from hybridnas.proxy.training import Recipe
from hybridnas.seeds import derive_seed
from hybridnas.study.executors import Executor
from hybridnas.study.loop import Search, over_budget
from hybridnas.study.objective import NUM_MOST_ACCURATE
from hybridnas.study.records import TrialRecord
from hybridnas.study.run import with_weights

#: How many designs are confirmed at most: the most accurate, and others that are spread over the rest of the front.
NUM_CONFIRMED = 5
#: After so many that do not hold it, others are timed again only while there is time.
MOST_IN_VAIN = 10
#: How much longer than in the search they train, and with how many seeds.
LONGER, NUM_SEEDS = 2, 2
TIMING_S = 2.0
LEVEL = 0.95


@dataclass
class Confirmed:
    """A design that held the budget when it was timed again, and what training it longer gave.

    `accuracies` has one figure for each seed of the longer training, and `weights` is where the best of these networks
    lies. Where there was no time, they are those of the search. `model` is that network, once all is done.
    """

    record: TrialRecord
    costs: tuple[Cost, ...]
    accuracies: list[float] = field(default_factory=list)
    weights: Path | None = None
    model: HybridNet | None = None

    @property
    def longer(self) -> bool:
        """Whether it was trained longer."""
        return bool(self.accuracies)

    @property
    def accuracy(self) -> float:
        """The mean over seeds, or that of the search."""
        return statistics.mean(self.accuracies or self.record.accuracies[-1:])

    def add(self, accuracy: float, weights: Path) -> None:
        """One more seed."""
        if accuracy >= max(self.accuracies, default=0.0):
            self.weights = weights
        self.accuracies.append(accuracy)


def confirm(
    search: Search,
    seconds_left: Callable[[], float],
    say: Callable[[str], None],
    passed_over: Collection[int] = (),
    more_s: float = 0.0,
) -> list[Confirmed]:
    """Of the best designs those that hold the budget when timed again, the best mean first.

    They are trained for twice the epochs: each from one seed, then each from another, while time is left; where none
    is, the network of the search is taken. The best known design takes part, on the front or not: what the winner is
    worth is seen beside it. Trials that were `passed_over` are not looked at again. First trainings, the best known
    design's among them, may take `more_s` over what is left: without them there is nothing to compare.

    Raises:
        BudgetError: none of the best holds the budget any more.
    """
    assert search.storage
    best = [record for record in search.objective.best(search.records) if record.number not in passed_over]
    confirmed: list[Confirmed] = []
    planned = 0.0
    is_cut = False

    def fits(record: TrialRecord, more_s: float = 0.0) -> bool:
        return planned + _seconds(search, record) + TIMING_S <= seconds_left() + more_s

    for tried, record in enumerate(best if search.objective.aim == "accuracy" else spread(best)):
        if confirmed and (len(confirmed) == NUM_CONFIRMED or not fits(record)):
            break
        if not confirmed and tried >= MOST_IN_VAIN and seconds_left() < 0:
            is_cut = True
            break
        if _time_again(search, record, confirmed, say):
            planned += _seconds(search, record) / search.places.num_places
    if not confirmed:
        which, more = (f"None of the {MOST_IN_VAIN} best designs", " and more --time") if is_cut else ("No design", "")
        raise BudgetError(
            f"{which} holds the budget of {search.budget} when timed again; the machine may have become slower. "
            f"Repeat with --resume{more}, or allow more milliseconds."
        )
    known = best_known(search.records)
    if (
        known
        and known.number not in {*passed_over, *(each.record.number for each in confirmed)}
        and fits(known, more_s)
    ):
        _time_again(search, known, confirmed, say)
    for seed in range(NUM_SEEDS):
        _train_longer(search, confirmed, seed, seconds_left, say, 0.0 if seed else more_s)
    # Of what is not among the best the search keeps no network, nor of what another search trained.
    has_network = [each for each in confirmed if each.longer or search.storage.weights(each.record.number).is_file()]
    if not has_network:
        raise RunError(
            f"{search.storage.folder}: there was no time to train any of the best longer, and their networks are not "
            "kept here; go on with --resume and more --time."
        )
    confirmed = has_network
    for each in confirmed:
        weights = each.weights or search.storage.weights(each.record.number)
        each.model = with_weights(each.record.architecture, weights, search.trainer.dataset.num_classes)
    search.storage.clear_confirmed()
    return sorted(confirmed, key=lambda each: (not each.longer, -each.accuracy))


def spread(best_first: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The best in the order in which they are confirmed: the most accurate, some spread over the rest, all others."""
    rest = list(best_first[NUM_MOST_ACCURATE:])
    count = min(NUM_CONFIRMED - NUM_MOST_ACCURATE, len(rest))
    some = [rest[(k + 1) * len(rest) // (count + 1)] for k in range(count)] if count else []
    others = [record for record in rest if record not in some]
    return [*best_first[:NUM_MOST_ACCURATE], *some, *others]


def best_known(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The most accurate trial that is a known design, of those that came the furthest."""
    known = [record for record in records if record.design and record.status in ("complete", "pruned")]
    return max(known, key=lambda record: (record.rung, record.accuracy or 0.0), default=None)


def margins(confirmed: Sequence[Confirmed], num_images: float) -> list[float]:
    """Half the 95 % interval of each one's accuracy.

    From the spread of seeds, pooled over the designs that were trained with several, but no less than the number of
    images leaves open (`Dataset.num_weighed`): two seeds may agree by chance. Where none was, that leaves the luck of a
    training out.
    """
    luck = _luck([each.accuracies for each in confirmed]) or 0.0
    return [
        max(luck / math.sqrt(max(1, len(each.accuracies))), _of_images([each.accuracy], num_images))
        for each in confirmed
    ]


def margin_of_difference(
    one: Sequence[float], other: Sequence[float], every: Sequence[Sequence[float]], num_images: float
) -> float:
    """Half the 95 % interval of the difference between two designs' mean accuracies, as `margins` finds it.

    Args:
        one: Accuracies of a design, by seed.
        other: Those of another.
        every: Those of all whose seeds tell how much luck there is.
        num_images: That accuracies are shares of (`Dataset.num_weighed`).
    """
    means = [statistics.mean(one), statistics.mean(other)]
    luck = _luck(every) or 0.0
    return max(luck * math.sqrt(1 / len(one) + 1 / len(other)), _of_images(means, num_images))


def _luck(every: Sequence[Sequence[float]]) -> float | None:
    """Half the interval of one training, pooled over designs with several seeds; None where there are none."""
    several = [accuracies for accuracies in every if len(accuracies) > 1]
    freedom = sum(len(accuracies) - 1 for accuracies in several)
    if not freedom:
        return None
    deviation = math.sqrt(sum((len(found) - 1) * statistics.variance(found) for found in several) / freedom)
    return float(stdtrit(freedom, (1 + LEVEL) / 2)) * deviation


def _of_images(accuracies: Sequence[float], num_images: float) -> float:
    """Half the interval that the number of images leaves open, of an accuracy or a difference of two.

    Nothing is sure of few images, though all of them were right (Agresti and Coull, 1998: as if there were a few more,
    half of them right).
    """
    z = float(ndtri((1 + LEVEL) / 2))
    count = num_images + z**2
    shares = [(each * num_images + z**2 / 2) / count for each in accuracies]
    return z * math.sqrt(sum(share * (1 - share) for share in shares) / count)


def longer(recipe: Recipe) -> Recipe:
    """How what is confirmed trains, and what is compared with it."""
    return replace(recipe, epochs=LONGER * recipe.epochs)


def longer_seed(search_seed: int, key: str, number: int) -> int:
    """The seed of a design's longer training, the first or another."""
    return derive_seed(search_seed, "confirm", key, *([number] if number else []))


def each_ended(places: Executor, tasks: Iterator[Task]) -> Iterator[tuple[Task, Result]]:
    """Do tasks, as many at once as there are places for; each is asked for when there is a place."""
    in_flight = 0
    while True:
        while in_flight < places.num_places and (task := next(tasks, None)):
            places.submit(task)
            in_flight += 1
        if not in_flight:
            return
        ended = places.wait(lambda share: None)
        in_flight -= 1
        yield ended


def _time_again(search: Search, record: TrialRecord, confirmed: list[Confirmed], say: Callable[[str], None]) -> bool:
    """Time a design longer than the search did, once more if it is over the budget: the machine may have been busy.

    One that holds it joins the confirmed.
    """
    network = build(record.architecture, search.trainer.dataset.num_classes).deploy()
    costs = record.costs
    for _ in range(2):
        try:
            costs = tuple(
                timed(cost, timer.measure(network, record.architecture.image_size, seconds=TIMING_S), cost.predicted_ms)
                for cost, timer in zip(record.costs, search.costing.timers, strict=True)
            )
        except CannotRun as problem:
            say(f"trial {record.number} cannot be run when timed again: {problem}")
            return False
        if search.budget.excess(costs) <= 0:
            confirmed.append(Confirmed(record, costs))
            return True
    say(f"trial {record.number} is over the budget when timed again: {over_budget(costs, search.budget)}")
    return False


def _train_longer(
    search: Search,
    confirmed: Sequence[Confirmed],
    number: int,
    seconds_left: Callable[[], float],
    say: Callable[[str], None],
    more_s: float,
) -> None:
    """Train all from one more seed, as many at once as there are places for."""
    recipe = longer(search.recipe)
    by_number = {each.record.number: each for each in confirmed}

    def tasks() -> Iterator[Task]:
        assert search.storage
        for each in confirmed:
            record = each.record
            if number and (not each.longer or _seconds(search, record) > seconds_left()):
                continue
            yield Task(
                record.number,
                record.architecture,
                recipe,
                longer_seed(search.seed, record.architecture.key, number),
                recipe.epochs,
                weights=search.storage.confirmed(record.number, number),
                seconds_left=seconds_left() + more_s,
            )

    for task, result in each_ended(search.places, tasks()):
        each = by_number[task.number]
        record = each.record
        if not isinstance(result, Outcome):
            if not each.longer:
                say(f"trial {record.number} keeps the network of the search: {result}")
            continue
        assert task.weights
        each.add(result.accuracies[-1], task.weights)
        say(
            f"trial {record.number} confirmed{' again' if number else ''}: accuracy {result.accuracies[-1]:.3f} after "
            f"{recipe.epochs} epochs ({record.accuracies[-1]:.3f} after {len(record.accuracies)} in the search), "
            f"{each.costs[0].latency_ms_p50:.3g} ms"
        )


def _seconds(search: Search, record: TrialRecord) -> float:
    """What training a design longer takes."""
    return LONGER * search.recipe.epochs * record.seconds / len(record.accuracies)
