"""The cost of an architecture, all figures of its deploy form, and the budget that it must hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hybridnas.architecture import Architecture
from hybridnas.cost.latency import Timer
from hybridnas.cost.macs import count_macs
from hybridnas.model import build, num_params


@dataclass(frozen=True)
class Cost:
    """What one architecture costs on one target. Latencies are None where counting alone showed it over budget."""

    macs: int
    params: int
    latency_ms_p50: float | None
    latency_ms_p95: float | None
    predicted_ms: float | None
    target: str
    batch_size: int


@dataclass(frozen=True)
class Budget:
    """Upper bounds; None does not bind. `ms` bounds the median latency."""

    ms: float | None = None
    macs: float | None = None
    params: float | None = None

    def excess(self, cost: Cost) -> float:
        """By what share the worst figure is over its bound; <= 0 holds the budget."""
        pairs = ((cost.latency_ms_p50, self.ms), (cost.macs, self.macs), (cost.params, self.params))
        return max((figure / bound - 1 for figure, bound in pairs if bound and figure is not None), default=-1.0)

    def __str__(self) -> str:
        """'10 ms and 2 MMAC'."""
        parts = [f"{self.ms:g} ms" if self.ms else "", f"{self.macs / 1e6:g} MMAC" if self.macs else ""]
        parts.append(f"{self.params / 1e6:g} M parameters" if self.params else "")
        return " and ".join(part for part in parts if part) or "none"


def measure_cost(architecture: Architecture, num_classes: int, timer: Timer, budget: Budget) -> Cost:
    """Count and, unless the counts alone are over the budget, time the deploy form of `architecture`."""
    torch.manual_seed(0)
    deployed = build(architecture, num_classes).deploy()
    macs, params = count_macs(deployed, architecture.image_size), num_params(deployed)
    cost = Cost(macs, params, None, None, None, timer.target, timer.batch_size)
    if budget.excess(cost) > 0:
        return cost
    latency = timer.measure(deployed, architecture.image_size)
    return Cost(macs, params, latency.p50, latency.p95, None, timer.target, timer.batch_size)
