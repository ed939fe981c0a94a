"""Params, MACs and latency of architectures, side by side."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from hybridnas.architecture import Architecture
from hybridnas.cost.latency import Timer, best_device
from hybridnas.cost.measure import Budget, measure_cost


def profile_models(
    architectures: Mapping[str, Architecture],
    *,
    num_classes: int = 1000,
    batch_size: int = 1,
    target: str | None = None,
    threads: int = 1,
) -> pd.DataFrame:
    """Measure the deploy form of each architecture on `target` (default: the best local device), one a row.

    Columns: name, layout, image_size, params, macs, latency_ms_p50, latency_ms_p95, batch_size, target.
    """
    timer = Timer(target or best_device(), batch_size=batch_size, threads=threads)
    rows = []
    for name, architecture in architectures.items():
        cost = measure_cost(architecture, num_classes, timer, Budget())
        rows.append(
            {
                "name": name,
                "layout": architecture.layout,
                "image_size": architecture.image_size,
                "params": cost.params,
                "macs": cost.macs,
                "latency_ms_p50": cost.latency_ms_p50,
                "latency_ms_p95": cost.latency_ms_p95,
                "batch_size": batch_size,
                "target": timer.target,
            }
        )
    return pd.DataFrame(rows)
