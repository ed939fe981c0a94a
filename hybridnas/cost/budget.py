"""What an architecture costs on every target, in figures, and the budget that it must hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ConfigDict

#: How far under a budget in milliseconds a median must stay: what two timings of one network, minutes apart, differ by
#: (experiments/latency).
MARGIN = 0.03


@dataclass(frozen=True)
class Cost:
    """What one architecture costs on one target.

    Latencies are None where it was not timed: counting, or predicting from its parts, told whether it holds the budget.

    Attributes:
        macs: Multiply-adds of one image.
        params: Parameters.
        latency_ms_p50: The median, `latency_ms_low` to `latency_ms_high` its 95 % interval.
        latency_ms_p95: The 95th percentile.
        predicted_ms: The median that was predicted before it was timed.
        target: What was timed, with `runtime` and `precision`.
        batch_size: Images a pass.
        num_samples: Passes that were timed.
        machine: Fingerprint of what the figures depend on; environment.json says what it stands for.
        stage_ms: What stem, each stage (with its transition) and head take of the milliseconds, by the table of parts;
            empty where it lacks one.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    macs: int
    params: int
    latency_ms_p50: float | None
    latency_ms_p95: float | None
    predicted_ms: float | None
    target: str
    batch_size: int
    latency_ms_low: float | None = None
    latency_ms_high: float | None = None
    num_samples: int | None = None
    runtime: str = "torch"
    precision: str = "fp32"
    machine: str = ""
    stage_ms: tuple[float, ...] = ()

    @property
    def milliseconds(self) -> float | None:
        """The median that was measured, or else predicted."""
        return self.latency_ms_p50 if self.latency_ms_p50 is not None else self.predicted_ms


@dataclass(frozen=True)
class Budget:
    """Upper bounds; None does not bind.

    Attributes:
        ms: Of the median latency: one for all targets, or one a target. A median must stay under it by `MARGIN`.
        macs: Of the multiply-adds.
        params: Of the parameters.
    """

    ms: float | Sequence[float] | None = None
    macs: float | None = None
    params: float | None = None

    def ms_on(self, i: int) -> float | None:
        """The bound for target `i`, counted from 0."""
        return self.ms[i] if isinstance(self.ms, Sequence) else self.ms

    def only_ms(self, num_targets: int) -> float | None:
        """The bound in milliseconds where nothing else is bounded and there is one target; else None."""
        return self.ms_on(0) if num_targets == 1 and not self.macs and not self.params else None

    def excess(self, costs: Sequence[Cost]) -> float:
        """By what share the worst figure is over its bound, the margin included; <= 0 holds the budget."""
        pairs: list[tuple[float | None, float | None]] = [(costs[0].macs, self.macs), (costs[0].params, self.params)]
        for i, cost in enumerate(costs):
            figure = cost.milliseconds
            pairs.append((figure and figure * (1 + MARGIN), self.ms_on(i)))
        return max((figure / bound - 1 for figure, bound in pairs if bound and figure is not None), default=-1.0)

    def surely_held(self, costs: Sequence[Cost]) -> bool:
        """Whether not even the high end of an interval is over the budget."""
        bounds = [self.ms_on(i) for i in range(len(costs))]
        highs = [cost.latency_ms_high for cost in costs]
        return self.excess(costs) <= 0 and all(
            high <= bound for high, bound in zip(highs, bounds, strict=True) if bound and high is not None
        )

    def worst_latency(self, costs: Sequence[Cost], reference_ms: Sequence[float]) -> float:
        """One figure for all targets: the milliseconds on the only one, else the worst latency over its bound.

        Where nothing bounds it, over the milliseconds of the reference network: targets of different speed compare.
        """
        medians = [cost.milliseconds for cost in costs if cost.milliseconds is not None]
        if len(costs) == 1:
            return medians[0]
        return max(ms / (self.ms_on(i) or reference_ms[i]) for i, ms in enumerate(medians))

    def worst_allowed(self, num_targets: int) -> float | None:
        """The bound of that figure; None where nothing bounds it."""
        bounds = [self.ms_on(i) for i in range(num_targets)]
        if num_targets == 1:
            return bounds[0]
        return 1.0 if all(bounds) else None

    def __str__(self) -> str:
        """'10 ms and 2 MMAC'."""
        each = self.ms if isinstance(self.ms, Sequence) else [self.ms] if self.ms else []
        parts = [" and ".join(f"{ms:g} ms" for ms in each), f"{self.macs / 1e6:g} MMAC" if self.macs else ""]
        parts.append(f"{self.params / 1e6:g} M parameters" if self.params else "")
        return " and ".join(part for part in parts if part) or "none"
