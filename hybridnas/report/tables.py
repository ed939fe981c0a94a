"""What a run prints at its end."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.table import Table

from hybridnas.study.run import Run

NUM_ROWS = 12


def front_table(run: Run) -> Table:
    """The front, fastest first, and the known designs that are not on it; the winner is marked."""
    front = run.front()
    known = run.trials[(run.trials.status == "complete") & (run.trials.design != "")]
    others = known[~known.number.isin(front.number)]
    winner = run.result.get("winner")
    table = Table(title="Pareto front (short-training accuracy against latency)", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("layout")
    table.add_column("families", overflow="fold")
    table.add_column("px", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("p50 ms", justify="right")
    table.add_column("p95 ms", justify="right")
    table.add_column("MMAC", justify="right")
    table.add_column("params", justify="right")
    for part, style in ((front.tail(NUM_ROWS), ""), (others, "dim")):
        for _, row in part.sort_values("latency_ms_p50").iterrows():
            table.add_row(*_cells(row), style="bold green" if row.number == winner else style)
        table.add_section()
    if len(others):
        table.caption = "below the line: known designs that are not on the front"
    return table


def _cells(row: pd.Series[Any]) -> list[str]:
    return [
        str(row.number),
        row.layout,
        row.families + (f" ({row.design})" if row.design else ""),
        str(row.image_size),
        f"{100 * row.accuracy:.1f} %",
        f"{row.latency_ms_p50:.2f}",
        f"{row.latency_ms_p95:.2f}",
        f"{row.macs / 1e6:.2f}",
        f"{row.params / 1e3:.0f} k",
    ]


def summary(run: Run) -> str:
    """The run in a few plain sentences."""
    counts = run.trials.status.value_counts()
    parts = [f"{counts.get('complete', 0)} trained"]
    parts += [f"{counts[name]} {name}" for name in ("infeasible", "failed", "pruned") if counts.get(name, 0)]
    lines = [f"{len(run.trials)} architectures tried: {', '.join(parts)}."]
    if "winner" in run.result:
        result = run.result
        bound = f" of {run.config.budget_ms:g} ms allowed" if run.config.budget_ms else ""
        lines += [
            f"Winner: trial {result['winner']}, {run.best.layout} ({run.best.families}) at {run.best.image_size} px.",
            f"  latency p50 {result['latency_ms_p50']:.2f} ms{bound} (p95 {result['latency_ms_p95']:.2f}; "
            f"timed again just now, plain median {result['latency_ms_raw_p50']:.2f})",
            f"  accuracy {100 * result['accuracy']:.1f} % on validation after {result['epochs']} epochs, "
            f"{100 * result['test_accuracy']:.1f} % on the test images",
        ]
    return "\n".join(lines)
