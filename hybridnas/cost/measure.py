"""Finding what an architecture costs on every target, all figures of its deploy form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hybridnas.architecture import Architecture
from hybridnas.cost.budget import MARGIN, Budget, Cost
from hybridnas.cost.latency import Latency, Timer
from hybridnas.cost.parts import parts_of
from hybridnas.cost.predict import Counter, Predictor
from hybridnas.cost.table import Table
from hybridnas.errors import CannotRun, ConfigError

#: How long a network of a search is timed; confirming takes longer.
SEARCH_S = 1.0


class Costing:
    """Counts, predicts and times architectures on every target of a run.

    Args:
        timers: One a target.
        num_classes: Scores of the networks.
        table: Where the figures of parts are kept.
        frozen: Whether latencies are what the table says, and nothing is timed.
    """

    def __init__(self, timers: Sequence[Timer], num_classes: int, table: Table, *, frozen: bool = False) -> None:
        self.timers = timers
        self.frozen = frozen
        self.counter = Counter(table, num_classes)
        self.predictors = [Predictor(self.counter, timer) for timer in timers]

    @property
    def reference_ms(self) -> list[float]:
        """The reference network's milliseconds on every target."""
        return [timer.reference_ms for timer in self.timers]

    def count(self, architecture: Architecture) -> tuple[Cost, ...]:
        """MACs and parameters alone, one a target."""
        return untimed(*self.counter.count(architecture), self.timers)

    def foresee(self, architecture: Architecture) -> tuple[Cost, ...] | None:
        """What the table alone knows: counts and predictions; None where it lacks a part. Nothing is built or timed."""
        parts = [part for part, _ in parts_of(architecture, self.counter.num_classes)]
        if self.counter.lacking(parts) or any(predictor.missing([architecture]) for predictor in self.predictors):
            return None
        return self._predicted(architecture)

    def assess(self, architecture: Architecture, budget: Budget) -> tuple[Cost, ...]:
        """What it costs on every target, as far as needed to tell whether it holds the budget.

        Nothing is timed of which the counts, or the whole interval of a prediction, tell. The rest is timed for real.
        Parts that the table lacks are timed on the way, in turns with the network.

        Raises:
            ConfigError: the table is frozen and lacks a part.
            CannotRun: a target cannot run it.
            TargetError: a target is gone.
        """
        if self.frozen:
            return self._read(architecture)
        costs = list(self.count(architecture))
        for i, predictor in enumerate(self.predictors):
            if budget.excess(costs) > 0:
                break
            bound = budget.ms_on(i)
            if not predictor.missing([architecture]):
                foreseen = predictor.predict(architecture)
                if not bound or foreseen.low > bound or foreseen.high * (1 + MARGIN) <= bound:
                    costs[i] = replace(costs[i], predicted_ms=foreseen.ms)
                    continue
            costs[i] = self._timed(architecture, i, costs[i])
        return self._by_stage(architecture, costs)

    def measure(self, architecture: Architecture, costs: Sequence[Cost]) -> tuple[Cost, ...]:
        """The costs, with what was only predicted timed for real, unless the table is frozen.

        Raises:
            CannotRun: a target cannot run it.
            TargetError: a target is gone.
        """
        if all(cost.latency_ms_p50 is not None for cost in costs) or self.frozen:
            return tuple(costs)
        every = [
            cost if cost.latency_ms_p50 is not None else self._timed(architecture, i, cost)
            for i, cost in enumerate(costs)
        ]
        return self._by_stage(architecture, every)

    def _timed(self, architecture: Architecture, target: int, cost: Cost) -> Cost:
        # Each call of a program is dear: its parts are timed only by `table build`.
        with_parts = not cost.target.startswith("command:")
        latency, expected = self.predictors[target].measure(architecture, seconds=SEARCH_S, with_parts=with_parts)
        return timed(cost, latency, expected.ms if expected else None)

    def _by_stage(self, architecture: Architecture, costs: Sequence[Cost]) -> tuple[Cost, ...]:
        """The costs, with what each stage takes of the milliseconds wherever the table knows."""
        return tuple(
            replace(
                cost, stage_ms=tuple(round(cost.milliseconds * share, 4) for share in predictor.shares(architecture))
            )
            if cost.milliseconds is not None and not predictor.missing([architecture])
            else cost
            for cost, predictor in zip(costs, self.predictors, strict=True)
        )

    def _read(self, architecture: Architecture) -> tuple[Cost, ...]:
        for predictor in self.predictors:
            missing = predictor.missing([architecture])
            refused = predictor.table.refusals(predictor.context) if missing else {}
            unknown = [timing for timing in missing if timing.key not in refused]
            if unknown:
                raise ConfigError(
                    f"--frozen-table: the table has no time for {unknown[0].part} on {predictor.timer.target}; build "
                    f"it for the whole space by `hybridnas table build SPACE --num-classes {self.counter.num_classes}`"
                    "; an --image-size must stand in the space's file."
                )
            if missing:
                raise CannotRun(refused[missing[0].key])
        return self._by_stage(architecture, self._predicted(architecture))

    def _predicted(self, architecture: Architecture) -> tuple[Cost, ...]:
        return tuple(
            replace(cost, predicted_ms=predictor.predict(architecture).ms)
            for cost, predictor in zip(self.count(architecture), self.predictors, strict=True)
        )


def untimed(macs: int, params: int, timers: Sequence[Timer]) -> tuple[Cost, ...]:
    """What counting alone tells of a network, one cost a timer."""
    return tuple(
        Cost(
            macs,
            params,
            None,
            None,
            None,
            timer.target,
            timer.setting.batch_size,
            runtime=timer.setting.runtime,
            precision=timer.setting.precision,
            machine=timer.fingerprint,
        )
        for timer in timers
    )


def timed(cost: Cost, latency: Latency, predicted_ms: float | None) -> Cost:
    """The cost with what was measured."""
    return replace(
        cost,
        latency_ms_p50=latency.p50,
        latency_ms_p95=latency.p95,
        latency_ms_low=latency.low,
        latency_ms_high=latency.high,
        num_samples=latency.num_samples,
        predicted_ms=predicted_ms,
    )
