"""The search itself: propose an architecture, cost it, train it if it holds the budget, let the best train on.

The trials on disk are the truth (`storage`): all else is made from them.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import NamedTuple

from optuna.samplers import BaseSampler

from hybridnas.architecture import Architecture
from hybridnas.cost.budget import MARGIN, Budget, Cost
from hybridnas.cost.measure import Costing
from hybridnas.errors import BudgetError, CannotRun, ConfigError, OutOfTime, TrainingFailed
from hybridnas.proxy.evaluation import Result, Task, evaluate
from hybridnas.proxy.rungs import num_places, standings
from hybridnas.proxy.training import Recipe, Trainer
from hybridnas.seeds import derive_seed
from hybridnas.space import SearchSpace
from hybridnas.study.executors import Executor, Serial
from hybridnas.study.objective import Objective
from hybridnas.study.proposals import Proposal, Proposals
from hybridnas.study.records import Status, TrialRecord
from hybridnas.study.sampler import NUM_STARTUP
from hybridnas.study.sharing import Alone
from hybridnas.study.storage import Storage

#: After so many designs that all were over the budget, none of them trained, the budget is taken to be out of reach.
HOPELESS = 60
#: After so many of which none could be run at all, not one is taken to be.
UNRUNNABLE = 16
#: After so many in a row, some having been trained before, nothing else is taken to hold it.
BARREN = 500
#: After so many known layouts that were timed at middle size, and not one held the budget, no other's is tried.
TOO_MUCH = 2
#: After so many proposals of the sampler in a row that were tried before, points are drawn at random; after so many of
#: these, the space is taken to be searched through.
STUBBORN, EXHAUSTED = 3, 100
#: So many times those that go on from a rung are kept where they stopped: they may yet, in the last seconds at least.
NEAR = 2
#: A search ends after so many trainings in a row that did not fit into the time that is left.
TOO_LONG = 3

#: What proposes, and when another than the cost-aware one pays: a proposal of gp takes so long (at 50 to 200 trials,
#: one thread), and may take such a share of a training.
COST_AWARE = "cost-aware"
GP_ASK_S, MOST_ASKING = 2.0, 0.05


@dataclass(frozen=True)
class Progress:
    """Told to the caller as the search goes: the share of the training in flight, or a trial that ended a rung."""

    records: list[TrialRecord]
    ended: TrialRecord | None = None
    share: float = 0.0


class Running(NamedTuple):
    """A trial in training: as it was before, up to which rung, and what the sampler noted of it."""

    record: TrialRecord
    rung: int
    attrs: Mapping[str, object] | None


@dataclass
class Search:
    """A search, with all that one trial needs.

    Args:
        storage: Where trials are kept, and where those of an earlier process are found; None keeps nothing.
        space: What is searched.
        budget: What must hold before anything is trained.
        costing: Counts, predicts and times on every target.
        trainer: Trains on the data, in this process.
        recipe: How.
        rungs: Epochs after which trials are compared and the best go on, ascending; the last are the recipe's.
        seed: Of proposals and trainings.
        report: Called as the search goes.
        designs: Designs to try first, by name.
        sampler: `cost-aware`, a name that `make_sampler` knows, or `auto`: cost-aware, but where a third objective is
            in its way gp, if trainings take so long that it pays, or else tpe.
        objective: What is best.
        say: Told what was decided, in a sentence.
        started: `time.monotonic()` when it began.
        executor: Where trainings run; None is here, one after the other.

    Raises:
        SpaceError: the space does not hold one of the designs.
    """

    storage: Storage | None
    space: SearchSpace
    budget: Budget
    costing: Costing
    trainer: Trainer
    recipe: Recipe
    rungs: Sequence[int]
    seed: int
    report: Callable[[Progress], None] = lambda progress: None
    designs: Mapping[str, Architecture] = field(default_factory=dict)
    sampler: str = "auto"
    objective: Objective = field(default_factory=Objective)
    say: Callable[[str], None] = lambda sentence: None
    started: float = field(default_factory=time.monotonic)
    executor: Executor | None = None
    records: list[TrialRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places: Executor = self.executor or Serial(partial(evaluate, self.trainer))
        self._running: dict[int, Running] = {}  # by number
        self._places: dict[str, int] = {}
        self._ordered: dict[int, tuple[list[TrialRecord], list[int]]] = {}  # by rung, until a record changes
        self.spent: defaultdict[str, float] = defaultdict(float)  # seconds, by what was done
        self._decided = False
        self._in_vain = 0  # designs tried since one was trained
        self._proposals = Proposals(self.space, self.objective, len(self.rungs), self.seed)
        self.designs = {name: self._in_space(design) for name, design in self.designs.items()}
        self._elsewhere: set[str] = set()  # what other searches are at, by what is claimed
        self._theirs: dict[str, Architecture] = {}  # designs that are in training elsewhere, by key
        self._did_not_fit: set[tuple[str, int]] = set()  # keys and rungs that there was no time for
        self._claims = self.storage.claims if self.storage else Alone()
        self._learn()
        self._before = max((record.ended for record in self.records), default=0.0)

    def run(self, *, trials: int | None, seconds_left: Callable[[], float]) -> None:
        """Search until `trials` were begun, and those of them that earn it trained to the end, or time is up.

        Raises:
            BudgetError: nothing that was seen holds the budget.
        """
        too_long = 0
        while True:
            while too_long < TOO_LONG and len(self._running) < self.places.num_places:
                if not self._begin_next(trials, seconds_left):
                    break
            if not self._running:
                break
            with self.clock("training"):
                task, result = self.places.wait(lambda share: self.report(Progress(self.records, share=share)))
            too_long = too_long + 1 if isinstance(result, OutOfTime) else 0
            self._ended(self._running.pop(task.number), task, result)
        if self._none_held:
            raise self._over_budget(hurried=seconds_left() < 0)

    def _begin_next(self, trials: int | None, seconds_left: Callable[[], float]) -> bool:
        """Let the best train on or try a new design; False if there is nothing to do, or no time for it."""
        if self._is_shared:
            self._look_around()
        several = len(self.rungs) > 1 and not self._is_shared
        late = several and seconds_left() < self._seconds_to_the_end()
        going_on = (self._promoted(seconds_left()) if late else None) or self._promoted()
        fresh = sum(running.record.rung == 0 and not running.record.accuracies for running in self._running.values())
        if going_on is None and (late or (trials is not None and self.num_begun + fresh >= trials)):
            return False
        if seconds_left() < self._typical_seconds(going_on) or (going_on is None and self._in_vain >= BARREN):
            if going_on is not None:
                self._release(going_on, going_on.rung + 1)
            return False
        if going_on is not None:
            self._go_on(going_on, seconds_left)
            return True
        with self.clock("proposing"):
            proposal = self._propose()
        if proposal is not None:
            self._try(proposal, seconds_left)
        elif not self._running:
            self.say("hardly a design of the space is left that was not tried: no more are")
        return proposal is not None

    @property
    def _is_shared(self) -> bool:
        """Whether other searches work at the same trials."""
        return self.storage is not None and self.storage.is_shared

    @property
    def num_begun(self) -> int:
        """Trials that were trained, whether or not to the end, and whether or not that went well."""
        return sum(record.was_begun for record in self.records)

    @property
    def _none_held(self) -> bool:
        """Whether some were over the budget and all others cannot be run at all."""
        others = [record for record in self.records if record.status != "infeasible"]
        return len(others) < len(self.records) and all(record.cost.milliseconds is None for record in others)

    @cached_property
    def _sampler(self) -> str | BaseSampler:
        name = self.sampler
        if name == "auto":
            name = COST_AWARE if self.objective.third is None else "tpe"
            if name == COST_AWARE:
                self.say(f"sampler {COST_AWARE}: costs are known, accuracy is learnt from the trainings")
        if name != COST_AWARE:
            return name
        from hybridnas.study.cost_aware import CostAwareSampler  # scikit-learn takes two seconds

        return CostAwareSampler(
            self.space,
            self.records,
            self.budget,
            self.costing.foresee,
            self.costing.reference_ms,
            self.seed,
            self.rungs,
            latency_counts=self.objective.aim != "accuracy",
        )

    def _choose_sampler(self) -> None:
        """With `auto` and a third objective: gp instead of tpe as soon as trainings are seen to take long enough."""
        seconds = [record.seconds for record in self.records if record.accuracies]
        if self._decided or self.sampler != "auto" or self.objective.third is None or len(seconds) < NUM_STARTUP:
            return
        self._decided = True
        typical = statistics.median(seconds)
        self._sampler = "gp" if GP_ASK_S <= MOST_ASKING * typical else "tpe"
        self.say(f"sampler {self._sampler}: a training takes {typical:.3g} s, a proposal of gp about {GP_ASK_S:.0f} s")

    def _in_space(self, design: Architecture) -> Architecture:
        """A design as the space has it, which does not tell all of a published one's details apart."""
        choices = self.space.encode(design)
        return self.space.sample(lambda name, _: choices[name])

    @contextmanager
    def clock(self, doing: str) -> Iterator[None]:
        """Count the seconds of what is done inside under a name."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent[doing] += time.perf_counter() - start

    def _propose(self) -> Proposal | None:
        """A design that was not tried before, None if there seems to be none."""
        taken = {*self._places, *(running.record.architecture.key for running in self._running.values())}

        def free(design: Architecture) -> bool:
            if design.key in taken or (design.key, 0) in self._did_not_fit:
                return False
            if self._claimed(design.key, lambda: design.key not in self._places):
                return True
            taken.add(design.key)
            if design.key not in self._places:  # another search is at it: it counts as in flight here, too
                self._proposals.begin(design)
                self._theirs[design.key] = design
            return False

        for known in self._known_designs():
            if free(known.architecture):
                return known
        self._choose_sampler()
        number = self._next_number()
        for attempt in range(STUBBORN):
            found = self._proposals.next(self._sampler, number, attempt)
            if free(found.architecture):
                return found
        generator = random.Random(derive_seed(self.seed, number))
        for _ in range(EXHAUSTED):
            architecture = self.space.sample(lambda _, values: generator.choice(values))
            if free(architecture):
                return Proposal(architecture)
        return None

    def _next_number(self) -> int:
        """Of a new trial."""
        return max([-1, *(record.number for record in self.records), *self._running]) + 1

    def _claimed_number(self) -> int:
        number = self._next_number()
        while not self._claimed(f"number {number}", lambda: True) or number < self._next_number():
            number = max(number + 1, self._next_number())
        return number

    def _claimed(self, what: str, still: Callable[[], bool]) -> bool:
        """Whether this search may do something: no other is at it, nor did it just now, when it is `still` to do."""
        if what in self._elsewhere:
            return False
        if not self._claims.claim(what):
            self._elsewhere.add(what)
            return False
        if self._is_shared:
            self._learn()
        if not still():
            self._claims.release(what)
            return False
        return True

    def _look_around(self) -> None:
        """Another search may have ended what it was at, or given it up."""
        self._elsewhere.clear()
        for key, design in [*self._theirs.items()]:
            if self._claims.claim(key):
                self._claims.release(key)
                self._proposals.end(design)
                del self._theirs[key]
        self._learn()

    def _learn(self) -> None:
        """Take in the trials that are kept and not known here: those of before, and of other searches."""
        for rung, record, attrs in self.storage.load() if self.storage else ():
            place = self._places.get(record.architecture.key)
            if place is None or self.records[place].rung <= rung:
                self._put(record)
            self._proposals.end(record.architecture)
            self._proposals.tell(rung, record, self.budget.excess(record.costs), attrs)

    def _known_designs(self) -> Iterator[Proposal]:
        """Those that were given, then each known layout at middle size, and at its least where that is too much.

        Where the first few that were timed were all too much, of the other layouts the least alone are tried.
        """
        yield from (Proposal(architecture, name) for name, architecture in self.designs.items())
        num_held = num_over = 0
        for name, families in self.space.layouts().items():
            middle = self.space.design(families, size=0.5)
            if middle is None:
                continue
            too_much = num_over >= TOO_MUCH and not num_held
            if not too_much:
                yield Proposal(middle, name)
                place = self._places.get(middle.key)
                if place is None:
                    continue
                then = self.records[place]
                too_much = then.status == "infeasible"
                num_held += then.was_begun and not too_much
                num_over += too_much and then.cost.latency_ms_p50 is not None
            least = self.space.design(families, size=0.0) if too_much else None
            if least is not None:
                yield Proposal(least, name)

    def _try(self, proposal: Proposal, seconds_left: Callable[[], float]) -> None:
        """Cost a new design; if it holds the budget, train it up to the first rung."""
        architecture = proposal.architecture
        status: Status = "infeasible"
        try:
            with self.clock("costing"):
                costs = self.costing.assess(architecture, self.budget)
                if len(self.rungs) == 1 and self.budget.excess(costs) <= 0:
                    costs = self.costing.measure(architecture, costs)
            reason = over_budget(costs, self.budget)
        except CannotRun as problem:
            costs = self.costing.count(architecture)
            status, reason = "failed", str(problem)
        seed = derive_seed(self.seed, architecture.key)
        record = TrialRecord(
            self._claimed_number(), architecture, proposal.design, status, reason, costs, (), 0.0, seed
        )
        if status == "failed" or self.budget.excess(costs) > 0:
            self._end(record, attrs=proposal.attrs)
            self._in_vain += 1
            if self._in_vain == BARREN:
                self.say(f"{BARREN} designs in a row are over the budget or cannot be run: no more are tried")
            none_runs = not self._running and all(r.status == "failed" and not r.was_begun for r in self.records)
            if none_runs and len(self.records) >= UNRUNNABLE:
                raise ConfigError(f"None of {len(self.records)} designs can be run; the last: {reason}.")
            if len(self.records) >= HOPELESS and self._none_held and not self._running:
                raise self._over_budget()
            return
        self._in_vain = 0
        self._train(record, 0, seconds_left, proposal.attrs)

    def _go_on(self, record: TrialRecord, seconds_left: Callable[[], float]) -> None:
        """Time a design for real that earned the next rung, and train it up to there if it does hold the budget."""
        rung = record.rung + 1
        try:
            with self.clock("costing"):
                costs = self.costing.measure(record.architecture, record.costs)
        except CannotRun as problem:
            self._end(replace(record, status="failed", reason=str(problem), rung=rung))
            return
        if self.budget.excess(costs) > 0:
            reason = over_budget(costs, self.budget)
            self._end(replace(record, status="infeasible", reason=reason, costs=costs, rung=rung, worst_latency=None))
            return
        self._train(replace(record, costs=costs), rung, seconds_left)

    def _train(
        self,
        record: TrialRecord,
        rung: int,
        seconds_left: Callable[[], float],
        attrs: Mapping[str, object] | None = None,
    ) -> None:
        """Begin to train a design up to a rung."""
        task = Task(
            record.number,
            record.architecture,
            self.recipe,
            record.seed,
            self.rungs[rung],
            self.storage.checkpoint(record.number) if self.storage else None,
            self.storage.weights(record.number) if self.storage else None,
            seconds_left(),
        )
        self._running[record.number] = Running(record, rung, attrs)
        if self.places.num_places > 1:
            self._proposals.begin(record.architecture)
        self.places.submit(task)

    def _ended(self, running: Running, task: Task, result: Result) -> None:
        """A training ended: keep what it gave. One that there was no time for is as if it had never begun."""
        record, rung = running.record, running.rung
        if isinstance(result, OutOfTime):
            self._proposals.end(record.architecture)
            self._did_not_fit.add((record.architecture.key, rung))
            self._release(record, rung)
            return
        if isinstance(result, TrainingFailed):
            self._end(replace(record, status="failed", reason=str(result), rung=rung), attrs=running.attrs)
            return
        self._end(
            replace(
                record,
                status="pruned" if rung + 1 < len(self.rungs) else "complete",
                accuracies=result.accuracies,
                seconds=record.seconds + result.seconds,
                worst_latency=self.budget.worst_latency(record.costs, self.costing.reference_ms),
                rung=rung,
            ),
            attrs=running.attrs,
        )

    def _end(self, record: TrialRecord, attrs: Mapping[str, object] | None = None) -> None:
        """Keep a trial that ended a rung, or was tried for one in vain; it is in flight no more."""
        self._proposals.end(record.architecture)
        if self._is_shared:
            record = self._with_own_number(record)
        record = replace(record, ended=self._before + time.monotonic() - self.started)
        with self.clock("keeping"):
            self._keep(record, attrs)
        self.report(Progress(self.records, ended=record))

    def _with_own_number(self, record: TrialRecord) -> TrialRecord:
        """With another number where another search took its own: a claim to it is lost with the server's connection."""
        assert self.storage
        self._learn()
        if not any(
            other.number == record.number and other.architecture.key != record.architecture.key
            for other in self.records
        ):
            return record
        self._claims.release(f"number {record.number}")
        number = self._claimed_number()
        for place in (self.storage.checkpoint, self.storage.weights):
            with suppress(FileNotFoundError):
                place(record.number).rename(place(number))
        return replace(record, number=number)

    def _keep(self, record: TrialRecord, attrs: Mapping[str, object] | None) -> None:
        self._put(record)
        excess = self.budget.excess(record.costs)
        self._proposals.tell(record.rung, record, excess, attrs)
        if self.storage:
            self.storage.add(record.rung, self._proposals.frozen(record, excess), self.records)
            kept = self.objective.kept(self.records)
            self.storage.clear([r.number for r in kept], [r.number for r in self._contenders()], self._running)
        self._release(record, record.rung)

    def _release(self, record: TrialRecord, rung: int) -> None:
        key = record.architecture.key
        for what in (f"{key} {rung}",) if rung else (key, f"number {record.number}"):
            self._claims.release(what)

    def _put(self, record: TrialRecord) -> None:
        place = self._places.setdefault(record.architecture.key, len(self.records))
        if record.accuracies or place < len(self.records):
            self._ordered.clear()
        self.records[place : place + 1] = [record]

    def _promoted(self, in_time: float | None = None) -> TrialRecord | None:
        """The trial that goes on to the next rung, from the highest rung that has one.

        Args:
            in_time: Seconds that are left, where no new design would come to its end in them. Then twice as many may
                go on, and those alone that would.
        """
        for rung in reversed(range(len(self.rungs) - 1)):
            ended, order, gone_on = self._standings(rung)
            places = num_places(len(ended)) * (1 if in_time is None else NEAR)
            for row in order[:places]:
                if len(gone_on) >= places:
                    break
                if in_time is not None and self._seconds_to_the_end(ended[row]) > in_time:
                    continue
                if row not in gone_on and self._claimed_rung(ended[row], rung + 1):
                    return ended[row]
                if (ended[row].architecture.key, rung + 1) not in self._did_not_fit:
                    gone_on.add(row)  # another search lets it go on
        return None

    def _claimed_rung(self, record: TrialRecord, rung: int) -> bool:
        """Whether this search may let a trial train on to a rung."""
        key = record.architecture.key
        if (key, rung) in self._did_not_fit:
            return False
        return self._claimed(f"{key} {rung}", lambda: self.records[self._places[key]].rung < rung)

    def _contenders(self) -> list[TrialRecord]:
        """Trials that were stopped and may yet go on."""
        found = []
        for rung in range(len(self.rungs) - 1):
            ended, order, gone_on = self._standings(rung)
            near = order[: NEAR * num_places(len(ended))]
            found += [ended[row] for row in near if row not in gone_on]
        return found

    def _standings(self, rung: int) -> tuple[list[TrialRecord], list[int], set[int]]:
        """The trials that ended a rung, their places in the order in which they go on, and those that have gone on."""
        if rung not in self._ordered:
            epochs = self.rungs[rung]
            ended = [r for r in self.records if len(r.accuracies) >= epochs and r.status in ("complete", "pruned")]
            # Attention starts more slowly than convolution.
            families = [record.architecture.main_family for record in ended] if rung == 0 else None
            order = standings(self.objective.scores(ended, epochs), families) if ended else []
            self._ordered[rung] = ended, order
        ended, order = self._ordered[rung]
        gone_on = {row for row, r in enumerate(ended) if r.rung > rung or r.number in self._running}
        return ended, order, gone_on

    def _typical_seconds(self, going_on: TrialRecord | None) -> float:
        """What the next training takes, at least: half of what an epoch took so far for each of its epochs."""
        rung = going_on.rung + 1 if going_on else 0
        epochs = self.rungs[rung] - (len(going_on.accuracies) if going_on else 0)
        return 0.5 * epochs * self._seconds_an_epoch(going_on)

    def _seconds_to_the_end(self, going_on: TrialRecord | None = None) -> float:
        """What training takes up to the last epoch, of one that goes on or of a new design, by what epochs took."""
        epochs = self.rungs[-1]
        if going_on and (not self.storage or self.storage.checkpoint(going_on.number).is_file()):
            epochs -= len(going_on.accuracies)
        return epochs * self._seconds_an_epoch(going_on)

    def _seconds_an_epoch(self, going_on: TrialRecord | None) -> float:
        """What one took so far, of a trial or of a typical one."""
        trained = [going_on] if going_on else [record for record in self.records if record.accuracies]
        return statistics.median([record.seconds / len(record.accuracies) for record in trained] or [0.0])

    def _over_budget(self, *, hurried: bool = False) -> BudgetError:
        timed = [r for r in self.records if r.cost.milliseconds is not None]
        seen = f"of {len(self.records)} designs tried none holds it"
        if timed:
            fastest = min(timed, key=lambda r: r.cost.milliseconds or math.inf)
            seen += (
                f"; the fastest took {fastest.cost.milliseconds:.3g} ms on {fastest.cost.target}: "
                f"{describe(fastest.architecture)}"
            )
        else:
            smallest = min(self.records, key=lambda r: r.cost.macs)
            seen += (
                f"; the smallest has {smallest.cost.macs / 1e6:.3g} MMAC and "
                f"{smallest.cost.params / 1e6:.3g} M parameters: {describe(smallest.architecture)}"
            )
        if hurried:
            return BudgetError(
                f"No design of the space {self.space.name} that holds the budget of {self.budget} was found in time: "
                f"{seen}. Go on with --resume and more --time, or begin anew with a larger budget or a smaller "
                "--image-size."
            )
        return BudgetError(f"The budget of {self.budget} is out of reach in the space {self.space.name}: {seen}.")


def over_budget(costs: Sequence[Cost], budget: Budget) -> str:
    """Why a design is infeasible: the figures and their bounds."""
    parts = []
    for i, cost in enumerate(costs):
        ms, bound = cost.milliseconds, budget.ms_on(i)
        if ms and bound and ms * (1 + MARGIN) > bound:
            foreseen = " predicted" if cost.latency_ms_p50 is None else ""
            under = f" less {MARGIN:.0%}" if ms <= bound else ""
            on = f" on {cost.target}" if len(costs) > 1 else ""
            parts.append(f"{ms:.3g} ms{foreseen} over {bound:g} ms{under}{on}")
    if budget.macs and costs[0].macs > budget.macs:
        parts.append(f"{costs[0].macs / 1e6:.4g} MMAC over {budget.macs / 1e6:g}")
    if budget.params and costs[0].params > budget.params:
        parts.append(f"{costs[0].params / 1e6:.4g} M parameters over {budget.params / 1e6:g}")
    return ", ".join(parts)


def describe(architecture: Architecture) -> str:
    """An architecture in one line: 'mbconv x2 32, global x4 96 at 32 px'."""
    stages = ", ".join(f"{stage.block} x{stage.depth} {stage.width}" for stage in architecture.stages if stage.depth)
    return f"{stages} at {architecture.image_size} px"
