"""What a run prints at its end."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.table import Table

from hybridnas.study.run import Run

NUM_ROWS = 12


def front_table(run: Run) -> Table:
    """The front, fastest first, and the known designs that are not on it; the winner is marked.

    With several targets it is the robust front, with the milliseconds on each.
    """
    targets = run.config.targets
    columns = [run.latency_column(target) for target in targets] if len(targets) > 1 else []
    front = run.front()
    known = run.trials[(run.trials.status == "complete") & (run.trials.design != "")]
    others = known[~known.number.isin(front.number)]
    winner = run.result.get("winner")
    which = (
        "Robust front (accuracy against the worst latency over its budget)"
        if columns
        else "Pareto front (short-training accuracy against latency)"
    )
    table = Table(title=f"{which}", title_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("layout")
    table.add_column("families", overflow="fold")
    table.add_column("px", justify="right")
    table.add_column("accuracy", justify="right")
    for name in targets if columns else ("p50 ms", "p95 ms"):
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("MMAC", justify="right")
    table.add_column("params", justify="right")
    for part, style in ((front.tail(NUM_ROWS), ""), (others, "dim")):
        for _, row in part.sort_values("worst_latency").iterrows():
            table.add_row(
                *_cells(row, columns or ["latency_ms_p50", "latency_ms_p95"]),
                style="bold green" if row.number == winner else style,
            )
        table.add_section()
    if len(others):
        table.caption = "below the line: known designs that are not on the front"
    return table


def _cells(row: pd.Series[Any], latencies: list[str]) -> list[str]:
    return [
        str(row.number),
        row.layout,
        row.families + (f" ({row.design})" if row.design else ""),
        str(row.image_size),
        f"{100 * row.accuracy:.1f} %",
        *(f"{row[name]:.2f}" for name in latencies),
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
        lines.append(
            f"Winner: trial {result['winner']}, {run.best.layout} ({run.best.families}) at {run.best.image_size} px."
        )
        lines += [_contract(target) for target in result["targets"]]
        lines.append(
            f"  accuracy {100 * result['accuracy']:.1f} % on validation after {result['epochs']} epochs, "
            f"{100 * result['test_accuracy']:.1f} % on the test images"
        )
    return "\n".join(lines)


def _contract(target: dict[str, Any]) -> str:
    """What was asked of one target, what was foreseen, and what the exported file does."""
    budget = f"budget {target['budget_ms']:g} ms, " if target["budget_ms"] else ""
    foreseen = f"predicted {target['predicted_ms']:.2f}, " if target["predicted_ms"] else ""
    return (
        f"  {target['target']}, {target['runtime']} {target['precision']}: {budget}{foreseen}the exported file "
        f"p50 {target['latency_ms_p50']:.2f} ms ({target['latency_ms_low']:.2f} to {target['latency_ms_high']:.2f}), "
        f"p95 {target['latency_ms_p95']:.2f}; plain median just now {target['latency_ms_raw_p50']:.2f}"
    )
