"""What a winner is compared with: designs of the zoo, or timm's models, that hold the same budget, trained alike."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from hybridnas import zoo
from hybridnas.architecture import Architecture
from hybridnas.cost.budget import Cost
from hybridnas.cost.macs import UncountedOperatorError, count_macs
from hybridnas.cost.measure import timed, untimed
from hybridnas.errors import ArchitectureError, CannotRun, ConfigError, OutOfTime, TrainingFailed
from hybridnas.model import build, num_params
from hybridnas.proxy.evaluation import Outcome, Task
from hybridnas.proxy.training import FINE_TUNING_RATE, Design, made
from hybridnas.study.confirm import NUM_SEEDS, TIMING_S, each_ended, longer, longer_seed
from hybridnas.study.loop import Search
from hybridnas.zoo.of_timm import BACKBONES, TimmModel, cached_weights, downloaded_weights, given_weights, hub_answers

#: How many are trained.
NUM_TRAINED = 2
#: Finding them takes no larger share of the time, and no more seconds; of these so many go into timing one of the zoo.
FINDING_SHARE, MOST_FINDING_S, LOOK_S = 1 / 4, 90.0, 0.4
#: The zoo is walked by multiply-adds; after so many in a row over the budget the rest is taken to be, too.
TOO_LARGE = 6
#: Fetching the weights of one takes no larger share of the time that is left.
FETCHING_SHARE = 1 / 4
#: In fewer seconds nothing is begun.
LEAST_S = 5.0
#: What a training of a known latency takes at least, as a share of what those of the search let expect (of six designs
#: of the zoo at 32 px, on a CPU, 0.59 to 1.76).
AT_LEAST = 0.25

Say = Callable[[str], None]
SecondsLeft = Callable[[], float]


@dataclass
class Baseline:
    """A design that holds the budget, and what training it like the winner gave: `accuracies` by seed.

    `kind` is zoo or timm; `targets_ms` has the milliseconds on each target, `worst_latency` is `Budget.worst_latency`.
    `pretrained` says whether it began with weights that others had trained, and `seconds` what its last training took.
    """

    name: str
    kind: str
    design: Design
    macs: int
    params: int
    targets_ms: list[float]
    worst_latency: float | None
    accuracies: list[float] = field(default_factory=list)
    test_accuracy: float | None = None
    pretrained: bool = False
    seconds: float = 0.0

    @classmethod
    def costing(cls, name: str, kind: str, design: Design, costs: Sequence[Cost], search: Search) -> Baseline:
        """One that was timed, or whose milliseconds a frozen table says."""
        targets_ms = [cost.milliseconds for cost in costs if cost.milliseconds is not None]
        worst = search.budget.worst_latency(costs, search.costing.reference_ms)
        return cls(name, kind, design, costs[0].macs, costs[0].params, targets_ms, worst)

    @property
    def latency_ms(self) -> float | None:
        """On the first target."""
        return self.targets_ms[0] if self.targets_ms else None

    def add(self, accuracy: float, test_accuracy: float) -> None:
        """One more seed; on the test images the best network counts, as of the winner."""
        if accuracy >= max(self.accuracies, default=0.0):
            self.test_accuracy = test_accuracy
        self.accuracies.append(accuracy)

    def row(self) -> dict[str, Any]:
        """What result.json says of it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "layout": self.design.layout if isinstance(self.design, Architecture) else "",
            "image_size": self.design.image_size,
            "macs": self.macs,
            "params": self.params,
            "latency_ms": self.latency_ms,
            "targets_ms": self.targets_ms,
            "worst_latency": self.worst_latency,
            "accuracies": self.accuracies,
            "accuracy": statistics.mean(self.accuracies),
            "test_accuracy": self.test_accuracy,
            "pretrained": self.pretrained,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any], weights: Path | None = None) -> Baseline:
        """One that was trained before; its weights, if it had some, are looked for again, first in a folder."""
        size = row["image_size"]
        design: Design
        if row["kind"] == "zoo":
            design = replace(zoo.load(row["name"]), image_size=size)
        else:
            given = weights and given_weights(row["name"], weights)
            design = TimmModel(row["name"], size, (given or cached_weights(row["name"])) if row["pretrained"] else None)
        return cls(
            row["name"],
            row["kind"],
            design,
            row["macs"],
            row["params"],
            list(row["targets_ms"]),
            row.get("worst_latency"),
            list(row["accuracies"]),
            row["test_accuracy"],
            row["pretrained"],
        )

    @property
    def lacks_weights(self) -> bool:
        """Whether the weights that it began with are gone."""
        return self.pretrained and isinstance(self.design, TimmModel) and self.design.weights is None


def find_designs(search: Search, image_size: int, seconds_left: SecondsLeft) -> tuple[list[Baseline], list[str]]:
    """Designs of the zoo, rebuilt for the image size, that hold the budget on every target, and what was found.

    The first has the best published accuracy. Those that the search itself tried are left out. With a frozen table
    latencies are what that says, as in the search.
    """
    tried = {record.architecture.key for record in search.records}
    found: list[Baseline] = []
    counts: Counter[str] = Counter()
    in_a_row = 0
    for name in sorted(zoo.names(), key=lambda name: zoo.entry(name).published.macs):
        if in_a_row == TOO_LARGE or seconds_left() <= 0:
            counts["not timed: larger" if in_a_row == TOO_LARGE else "not timed for lack of time"] += 1
            continue
        design = replace(zoo.load(name), image_size=image_size)
        if design.key in tried:
            counts["tried by the search itself"] += 1
            continue
        try:
            costs = _costs(search, design, LOOK_S)
        except (ArchitectureError, UncountedOperatorError):
            counts[f"cannot be built for {image_size} px"] += 1
            continue
        except CannotRun:
            counts["cannot be run"] += 1
            continue
        except ConfigError:  # of the costing, only where the table is frozen
            counts["not in the frozen table"] += 1
            continue
        if search.budget.excess(costs) > 0:
            counts["over the budget"] += 1
            in_a_row += 1
            continue
        in_a_row = 0
        counts["within the budget"] += 1
        found.append(Baseline.costing(name, "zoo", design, costs, search))
    found.sort(key=lambda each: -zoo.entry(each.name).top1)
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    return found, [f"Of the {len(zoo.names())} designs of the zoo, at {image_size} px: {told}."]


def find_models(search: Search, image_size: int, seconds_left: SecondsLeft) -> tuple[list[Baseline], list[str]]:
    """Of each kind of timm's backbones the slowest that holds the budget on every target, the slowest kind first.

    timm says nothing offline of how accurate they are; what uses up more of the budget is mostly larger. All are timed
    for real, with a frozen table, too, since they have no parts that it knows.
    """
    best: dict[str, Baseline] = {}
    going = set(BACKBONES)
    remarks: list[str] = []
    tried = 0
    for step in range(max(map(len, BACKBONES.values()))):
        for kind, names in BACKBONES.items():
            if kind not in going or step >= len(names):
                continue
            if seconds_left() <= 0:
                remarks = remarks or ["There was no time to time all of timm's models."]
                continue
            model = TimmModel(names[step], image_size)
            tried += 1
            try:
                costs = _costs(search, model, TIMING_S)
            except (CannotRun, UncountedOperatorError, RuntimeError, AssertionError, ValueError):
                going.remove(kind)
                remarks.append(f"timm's {model.name} cannot be run at {image_size} px.")
                continue
            if search.budget.excess(costs) > 0:
                going.remove(kind)
                continue
            best[kind] = Baseline.costing(model.name, "timm", model, costs, search)
    found = sorted(best.values(), key=lambda each: -(each.latency_ms or 0.0))
    names_found = f": {', '.join(each.name for each in found)}" if found else ""
    return found, [
        f"Of timm's models ({len(BACKBONES)} kinds, {tried} models timed) {len(found)} kinds have one within the "
        f"budget{names_found}; the slowest of different kinds are trained.",
        *remarks,
    ]


def _costs(search: Search, design: Design, seconds: float) -> tuple[Cost, ...]:
    """What a design costs on every target, as far as needed to tell whether it holds the budget.

    It is timed whole: nobody else asks for its parts, and timing them takes most of the time. A frozen table tells.
    """
    costing, num_classes = search.costing, search.trainer.dataset.num_classes
    if isinstance(design, TimmModel):
        network: nn.Module = design.deploy(num_classes)
        costs = untimed(count_macs(network, design.image_size), num_params(network), costing.timers)
    elif costing.frozen:
        return costing.assess(design, search.budget)
    else:
        costs = costing.count(design)
        if search.budget.excess(costs) > 0:
            return costs
        network = build(design, num_classes).deploy()
    for i, timer in enumerate(costing.timers):
        if search.budget.excess(costs) > 0:
            break
        latency = timer.measure(network, design.image_size, seconds=seconds)
        costs = (*costs[:i], timed(costs[i], latency, None), *costs[i + 1 :])
    return costs


def train_baselines(
    search: Search,
    candidates: Sequence[Baseline],
    seconds_left: SecondsLeft,
    say: Say,
    keep: Callable[[], None],
    weights: Path | None = None,
) -> list[str]:
    """Train the first two candidates that the time allows as the winner was: each from one seed, then from another.

    Those of timm begin with weights where these are given, in the cache, or the hub answers, at a lower learning
    rate. What some have from before counts. One whose given weights cannot be used is left out.

    Args:
        search: What was searched; its places train.
        candidates: The best first; accuracies are added to them.
        seconds_left: Until all must end.
        say: Told what each training gave.
        keep: Called when a training has ended.
        weights: A folder of given weights.

    Returns:
        Why some were left out, in sentences.
    """
    failed: dict[int, TrainingFailed | OutOfTime] = {}
    gone: list[str] = []
    begun = {i for i, each in enumerate(candidates) if each.accuracies}

    def tasks(number: int) -> Iterator[Task]:
        for i, each in enumerate(candidates):
            if len(each.accuracies) != number:
                continue
            if not number and (i in failed or len(begun - failed.keys()) >= NUM_TRAINED):
                continue
            left = seconds_left()
            if left < LEAST_S or each.seconds > left or _least_seconds(search, each) > left:
                if not number:
                    failed[i] = OutOfTime(f"{left:.0f} s are left")
                continue
            if not number:
                try:
                    each.design = _with_weights(each.design, search.trainer.dataset.num_classes, weights, left)
                except TrainingFailed as problem:
                    failed[i] = problem
                    continue
                each.pretrained = isinstance(each.design, TimmModel) and each.design.weights is not None
                left = seconds_left()  # weights may have been fetched
                if left < LEAST_S or _least_seconds(search, each) > left:
                    failed[i] = OutOfTime(f"{left:.0f} s are left")
                    continue
            elif each.lacks_weights:
                gone.append(f"{each.name} was trained from one seed: the weights that it began with are gone.")
                continue
            begun.add(i)
            yield _task(search, each, i, number, left)

    for number in range(NUM_SEEDS):
        num_failed = -1
        while num_failed < len(failed):  # of several at once another takes the place of one that failed
            num_failed = len(failed)
            for task, result in each_ended(search.places, tasks(number)):
                each = candidates[task.number]
                if not isinstance(result, Outcome):
                    if not each.accuracies:
                        failed[task.number] = result
                    continue
                assert task.weights
                each.seconds = result.seconds
                each.add(result.accuracies[-1], _test_accuracy(search, each.design, task.weights))
                keep()
                again = " again" if number else ""
                say(
                    f"{each.kind}'s {each.name}{again}: accuracy {result.accuracies[-1]:.3f} after "
                    f"{task.recipe.epochs} epochs, {each.latency_ms:.3g} ms"
                )
    return [*_left_out([(candidates[i].name, reason) for i, reason in failed.items()]), *gone]


def _left_out(reasons: Sequence[tuple[str, TrainingFailed | OutOfTime]]) -> list[str]:
    late = [name for name, reason in reasons if isinstance(reason, OutOfTime)]
    said = [f"{name} was left out: {reason}." for name, reason in reasons if name not in late]
    return [f"There was no time left to train {', '.join(late)}.", *said] if late else said


def _task(search: Search, each: Baseline, place: int, number: int, left: float) -> Task:
    assert search.storage
    recipe = longer(search.recipe)
    if each.pretrained:
        recipe = replace(recipe, learning_rate=FINE_TUNING_RATE)
    return Task(
        place,
        each.design,
        recipe,
        longer_seed(search.seed, each.design.key, number),
        recipe.epochs,
        weights=search.storage.baseline(each.name),
        seconds_left=left,
    )


def _least_seconds(search: Search, each: Baseline) -> float:
    """What a training takes at the very least, from those of the search: even to begin a hopeless one costs time."""
    per_ms = [
        record.seconds / len(record.accuracies) / record.cost.milliseconds
        for record in search.records
        if record.accuracies and record.cost.milliseconds
    ]
    if not per_ms or not each.latency_ms:
        return 0.0
    return AT_LEAST * statistics.median(per_ms) * each.latency_ms * longer(search.recipe).epochs


@cache
def _hub_answers() -> bool:
    return hub_answers()


def _with_weights(design: Design, num_classes: int, folder: Path | None, seconds_left: float) -> Design:
    """One of timm's models with the weights of a folder, or with timm's, if they can be had in time and fit.

    Raises:
        TrainingFailed: those of the folder do not fit.
    """
    if not isinstance(design, TimmModel):
        return design
    given = folder and given_weights(design.name, folder)
    file = given or cached_weights(design.name)
    if file is None and _hub_answers():
        file = downloaded_weights(design.name, FETCHING_SHARE * seconds_left)
    if file is None:
        return design
    trained = replace(design, weights=file)
    try:
        trained.build(num_classes)
    except TrainingFailed:
        if given:
            raise
        return design
    return trained


def _test_accuracy(search: Search, design: Design, weights: Path) -> float:
    """Of the network whose weights a training left, which are removed."""
    from safetensors.torch import load_file

    trainer = search.trainer
    fresh = replace(design, weights=None) if isinstance(design, TimmModel) else design
    network = made(fresh, trainer.dataset.num_classes)
    network.load_state_dict(load_file(weights))
    weights.unlink()
    return trainer.evaluate(network.to(trainer.device), "test", image_size=design.image_size)
