"""A timer without a clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from hybridnas.architecture import Architecture
from hybridnas.cost.budget import Cost
from hybridnas.cost.latency import Latency, Timer
from hybridnas.cost.runtimes import Input, Setting
from hybridnas.model import HybridNet, num_params
from hybridnas.study.records import TrialRecord

Opened = nn.Module | Path


class CountingTimer(Timer):
    """Milliseconds in proportion to the parameters: figures that repeat exactly and take no time.

    Args:
        target: Its name.
        slowness: A factor.
        before: Called with what is opened; may raise what a target raises.
    """

    def __init__(
        self, target: str = "cpu", slowness: float = 1.0, before: Callable[[Opened], object] = lambda opened: None
    ) -> None:
        self.target = target
        self.setting = Setting()
        self.reference_ms = 1.0
        self.measured = True
        self.slowness = slowness
        self.before = before
        self.networks = 0

    @property
    def machine(self) -> dict[str, object]:  # type: ignore[override]
        return {"target": self.target}

    def open(self, model: Opened, given: Input) -> Opened:
        self.before(model)
        self.networks += isinstance(model, HybridNet)
        return model

    def measure_opened(self, opened: Sequence[nn.Module], **_: object) -> list[Latency]:
        every = [self.slowness * (num_params(network) + 1) / 1e4 for network in opened]
        return [Latency(ms, 1.1 * ms, 0.99 * ms, 1.01 * ms, ms, 1) for ms in every]

    def measure_apart(self, model: Opened, image_size: int, **_: object) -> Latency:  # type: ignore[override]
        return self.measure(model, image_size)

    def drift(self) -> float:
        return 1.0

    def slowdown_by_threads(self) -> float:
        return 1.0


def made_up_record(number: int, architecture: Architecture) -> TrialRecord:
    """A trial that was trained for an epoch, without a training."""
    cost = Cost(1000, 100, 1.0, 1.1, None, "cpu", 1)
    return TrialRecord(number, architecture, "", "complete", "", (cost,), (0.5,), 1.0, number, 1.0, ended=float(number))
