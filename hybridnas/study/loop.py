"""The search itself: ask for an architecture, cost it, train it if it holds the budget, tell.

Optuna's study in `study.db` is the truth; each trial carries its `TrialRecord` as a user attribute, written before it
is told. `trials.csv` is rewritten from it after each trial.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from hybridnas.architecture import Architecture
from hybridnas.cost.measure import MARGIN, Budget, Cost, Costing
from hybridnas.errors import BudgetError, CannotRun, OutOfTime, RunError, TrainingFailed
from hybridnas.files import write_atomic
from hybridnas.model import HybridNet
from hybridnas.proxy.training import Recipe, Trainer, TrainingResult
from hybridnas.seeds import derive_seed
from hybridnas.space import SearchSpace
from hybridnas.study.records import Status, TrialRecord, front_of, table
from hybridnas.study.sampler import make_sampler, suggest, to_params

#: After so many designs that all were over the budget, none of them trained, the budget is taken to be out of reach.
HOPELESS = 60
#: After so many proposals in a row that were tried before, the space is taken to be searched through.
EXHAUSTED = 100
#: A random point instead of the sampler's after so many proposals in a row that were tried before.
STUBBORN = 3

RECORD = "record"
COST_AWARE = "cost-aware"

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Progress:
    """Told to the caller as the search goes: the share of the trial in flight, or a trial that ended."""

    records: list[TrialRecord]
    ended: TrialRecord | None = None
    share: float = 0.0


@dataclass
class Search:
    """A study in a run folder, with all that one trial needs.

    Args:
        folder: The run folder.
        space: What is searched.
        budget: What must hold before anything is trained.
        costing: Counts, predicts and times on every target.
        trainer: Trains on the data.
        recipe: How.
        seed: Of proposals and trainings.
        report: Called as the search goes.
        designs: Published designs to try first, by name.
        sampler: `cost-aware`, or a name that `make_sampler` knows.
    """

    folder: Path
    space: SearchSpace
    budget: Budget
    costing: Costing
    trainer: Trainer
    recipe: Recipe
    seed: int
    report: Callable[[Progress], None] = lambda progress: None
    designs: Mapping[str, Architecture] = field(default_factory=dict)
    sampler: str = "tpe"
    records: list[TrialRecord] = field(default_factory=list)
    _known: dict[str, TrialRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.study = open_study(self.folder)
        for trial in self.study.get_trials(deepcopy=False):
            if RECORD in trial.user_attrs:
                self._keep(TrialRecord.from_json(trial.user_attrs[RECORD]))
        if not self.study.get_trials(deepcopy=False):
            for name, architecture in self.designs.items():
                self._enqueue_point(architecture, {"design": name})
            for name, families in self.space.layouts().items():
                self._enqueue(name, families, size=0.5)
        self._requeue_lost()

    def run(self, *, trials: int | None, seconds_left: Callable[[], float]) -> None:
        """Search until `trials` were trained or no other fits into the time that is left.

        Raises:
            BudgetError: nothing that was seen holds the budget.
        """
        repeats = 0
        dropped = 0
        while trials is None or self.num_trained < trials:
            if seconds_left() < self._typical_seconds() or dropped == 3:
                break
            trial, architecture = self._ask(stubborn=repeats >= STUBBORN)
            known = self._known.get(architecture.key)
            if known is not None:
                repeats += 1
                self._tell_again(trial, known)
                if repeats >= EXHAUSTED:
                    break
                continue
            repeats = 0
            try:
                self._try(trial, architecture, seconds_left)
            except OutOfTime:
                # Stays as a trial in flight: a resumed search begins it again.
                dropped += 1
        if not any(record.status in ("complete", "failed") for record in self.records) and self.records:
            raise self._over_budget()

    @cached_property
    def _cost_aware(self) -> BaseSampler:
        from hybridnas.study.cost_aware import CostAwareSampler  # scikit-learn takes two seconds

        costing = self.costing
        return CostAwareSampler(self.space, self.records, self.budget, costing.foresee, costing.reference_ms, self.seed)

    @property
    def num_trained(self) -> int:
        """Trials that were trained, whether or not that went well."""
        return sum(record.status in ("complete", "failed") for record in self.records)

    def checkpoint(self, number: int) -> Path:
        """Where the weights of a trial on the front lie."""
        return self.folder / "checkpoints" / f"trial-{number}.safetensors"

    def _ask(self, *, stubborn: bool) -> tuple[optuna.Trial, Architecture]:
        number = len(self.study.get_trials(deepcopy=False))
        if stubborn:
            self.study.sampler = make_sampler("random", self.seed, number)
        elif self.sampler == COST_AWARE:
            self.study.sampler = self._cost_aware
        else:
            self.study.sampler = make_sampler(self.sampler, self.seed, number)
        trial = self.study.ask()
        return trial, suggest(trial, self.space)

    def _try(self, trial: optuna.Trial, architecture: Architecture, seconds_left: Callable[[], float]) -> None:
        try:
            costs = self.costing.assess(architecture, self.budget)
        except CannotRun as problem:
            self._end(trial, architecture, "failed", str(problem), self.costing.count(architecture))
            return
        excess = self.budget.excess(costs)
        trial.set_constraint("budget", excess)
        if excess > 0:
            self._end(trial, architecture, "infeasible", over_budget(costs, self.budget), costs)
            self._try_smaller(trial)
            if len(self.records) >= HOPELESS and all(r.status == "infeasible" for r in self.records):
                raise self._over_budget()
            return
        seed = derive_seed(self.seed, architecture.key)
        try:
            result = self.trainer.train(
                architecture,
                self.recipe,
                seed=seed,
                seconds_left=seconds_left(),
                on_step=lambda share: self.report(Progress(self.records, share=share)),
            )
        except TrainingFailed as failure:
            self._end(trial, architecture, "failed", str(failure), costs, seed=seed)
        else:
            self._end(trial, architecture, "complete", "", costs, result, seed=seed)

    def _end(
        self,
        trial: optuna.Trial,
        architecture: Architecture,
        status: Status,
        reason: str,
        costs: tuple[Cost, ...],
        result: TrainingResult | None = None,
        seed: int = 0,
    ) -> None:
        """Write one finished trial: its record, then Optuna's state, then the table."""
        record = TrialRecord(
            number=trial.number,
            architecture=architecture,
            design=trial.user_attrs.get("design", ""),
            status=status,
            reason=reason,
            costs=costs,
            accuracies=result.accuracies if result else (),
            seconds=result.seconds if result else 0.0,
            seed=seed,
            worst_latency=self.budget.worst_latency(costs, self.costing.reference_ms) if result else None,
        )
        self._keep(record)
        if result:
            self._keep_front(record.number, result.model)
        trial.set_user_attr(RECORD, record.to_json())
        self._tell(trial, record)
        write_atomic(self.folder / "trials.csv", table(self.records).to_csv(index=False))
        self.report(Progress(self.records, ended=record))

    def _tell(self, trial: optuna.Trial | int, record: TrialRecord) -> None:
        if record.status == "complete":
            assert record.accuracy is not None and record.worst_latency is not None
            self.study.tell(trial, [record.accuracy, record.worst_latency])
        else:
            # A constraint with state PRUNED teaches TPE that the point is infeasible, without any accuracy.
            state = TrialState.PRUNED if record.status == "infeasible" else TrialState.FAIL
            self.study.tell(trial, state=state)

    def _tell_again(self, trial: optuna.Trial, known: TrialRecord) -> None:
        """A proposal that was tried before: never trained again, its stored value is told."""
        trial.set_constraint("budget", self.budget.excess(known.costs))
        trial.set_user_attr("duplicate_of", known.number)
        self._tell(trial, known)

    def _keep(self, record: TrialRecord) -> None:
        self.records.append(record)
        self._known[record.architecture.key] = record

    def _keep_front(self, number: int, model: HybridNet) -> None:
        """Keep the weights of the trials on the front and of no others."""
        from safetensors.torch import save_file

        on_front = {int(n) for n in front_of(table(self.records)).number}
        if number in on_front:
            weights = {name: value.contiguous() for name, value in model.state_dict().items()}
            write_atomic(self.checkpoint(number), lambda path: save_file(weights, path))
        for path in (self.folder / "checkpoints").glob("trial-*.safetensors"):
            if int(path.stem.removeprefix("trial-")) not in on_front:
                path.unlink(missing_ok=True)

    def _enqueue_point(self, architecture: Architecture, attrs: Mapping[str, object]) -> None:
        params = to_params(self.space, self.space.encode(architecture))
        self.study.enqueue_trial(params, user_attrs=dict(attrs), skip_if_exists=True)

    def _enqueue(self, name: str, families: tuple[str, ...], *, size: float) -> None:
        design = self.space.design(families, size=size)
        if design is not None:
            self._enqueue_point(design, {"design": name, "size": size})

    def _try_smaller(self, trial: optuna.Trial) -> None:
        """A known layout that is over the budget at middle size gets a second chance at its smallest."""
        if trial.user_attrs.get("size") == 0.5:
            name = trial.user_attrs["design"]
            self._enqueue(name, self.space.layouts()[name], size=0.0)

    def _requeue_lost(self) -> None:
        """Trials that were in flight when an earlier process ended are begun again."""
        lost = [t for t in self.study.get_trials(deepcopy=False) if t.state == TrialState.RUNNING]
        for trial in lost:
            self._settle(trial)

    def _settle(self, trial: FrozenTrial) -> None:
        """Finish telling what was recorded; of the rest, fail the old trial and enqueue its design anew."""
        if RECORD in trial.user_attrs:
            self._tell(trial.number, TrialRecord.from_json(trial.user_attrs[RECORD]))
            return
        self.study.tell(trial.number, state=TrialState.FAIL)
        if "duplicate_of" not in trial.user_attrs:
            attrs: Mapping[str, object] = {k: trial.user_attrs[k] for k in ("design", "size") if k in trial.user_attrs}
            params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            self.study.enqueue_trial(params, user_attrs={**attrs, "retry_of": trial.number})

    def _typical_seconds(self) -> float:
        """What a trial that is trained takes, at least: half the median of those so far."""
        seconds = [record.seconds for record in self.records if record.accuracies]
        return 0.5 * statistics.median(seconds) if seconds else 0.0

    def _over_budget(self) -> BudgetError:
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
        return BudgetError(f"The budget of {self.budget} is out of reach in the space {self.space.name}: {seen}.")


def open_study(folder: Path) -> optuna.Study:
    """The study of a run folder, made if there is none: accuracy up, latency down.

    Raises:
        RunError: study.db is damaged.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return optuna.create_study(
            storage=f"sqlite:///{folder / 'study.db'}",
            study_name="search",
            directions=["maximize", "minimize"],
            load_if_exists=True,
        )
    except (SQLAlchemyError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        raise RunError(f"{folder / 'study.db'} cannot be opened: {first}.") from None


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
